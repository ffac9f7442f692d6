//! The way to a peer, and how long a packet may be on it.
//!
//! Messages are sent so that nobody on their way may cut them. What is longer than the way takes is lost: a router says so,
//! and the kernel then refuses such messages ([`Path::told`]), or nobody says so. That is seen by TCP in the tunnel, without a
//! packet of our own: of what is sent long one piece at a time is watched. When it is not acknowledged and its
//! connection has gone back to it, what is sent again is sent short. If that is acknowledged the way is narrow: all that
//! goes to this peer is kept short for [`NARROW`]. If it is not either, the length was not the reason, and all is as before.
//!
//! [`Path`] belongs to the thread that sends; the one that receives tells it by that.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::segment::Segment;
use crate::wg::Activity;
use crate::wg::message::OVERHEAD_BYTES;

/// Packets of this length, the outer one with all its headers, pass everywhere (RFC 8200, 5).
const EVERYWHERE_BYTES: usize = 1280;

/// How long a way is taken for narrow: as long as Linux keeps what routers say (`ip_rt_mtu_expires`).
const NARROW: Duration = Duration::from_secs(600);

/// What is sent again after this, on a way that has taken nothing long yet: less than Linux' least retransmission timer,
/// 200 ms. On one that has: less than the second try after that, and than smoltcp's first, a second.
const DOUBT: Duration = Duration::from_millis(180);
const DOUBT_IF_TAKEN: Duration = Duration::from_millis(900);

/// How long a piece is watched that its connection does not go back to: it has ended, perhaps.
const FORGOTTEN: Duration = Duration::from_millis(1500);

/// What is watched.
#[derive(Debug, Clone, Copy)]
struct Sample {
    flow: u32,
    begin: u32,
    at: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Path {
    /// What the tunnel's packets may have.
    most: usize,
    /// What they may have on this way.
    limit: usize,
    /// Bytes of headers around a packet.
    around: usize,
    /// When the length of before is tried again.
    until: Option<Instant>,
    /// Something long has arrived.
    taken: bool,
    /// Short ones are tried.
    on_trial: bool,
    /// They were, and did not arrive either.
    was_away: bool,
    sample: Option<Sample>,
    activity: Arc<Activity>,
}

impl Path {
    pub(super) fn new(most: usize, activity: Arc<Activity>) -> Path {
        let around = around(IpAddr::from([0; 4]));
        let mut path = Path {
            most,
            limit: most,
            around,
            until: None,
            taken: false,
            on_trial: false,
            was_away: false,
            sample: None,
            activity,
        };
        path.widen();
        path
    }

    /// Longest packet that is sent as it is.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// What passes everywhere.
    fn least(&self) -> usize {
        (EVERYWHERE_BYTES - self.around).min(self.most)
    }

    /// It leads somewhere else: nothing is known of it.
    pub(super) fn lead_to(&mut self, ip: IpAddr) {
        self.around = around(ip);
        self.widen();
    }

    fn widen(&mut self) {
        (self.until, self.taken, self.on_trial) = (None, false, false);
        self.set(self.most);
    }

    fn set(&mut self, limit: usize) {
        self.limit = limit;
        self.activity.watch.set_limit((limit < self.most).then_some(limit));
        self.unwatch();
    }

    fn unwatch(&mut self) {
        self.sample = None;
        self.activity.watch.forget();
    }

    /// The kernel takes packets of so many bytes for it, headers and all. Less than passes everywhere is not believed: what
    /// says so may be anybody's, and the kernel cuts what is longer.
    pub(super) fn told(&mut self, now: Instant, mtu: usize) {
        let limit = mtu.saturating_sub(self.around).clamp(self.least(), self.most);
        if limit < self.limit {
            (self.until, self.taken, self.on_trial) = (Some(now + NARROW), false, false);
            self.set(limit);
        }
    }

    /// Whether the length of before is to be tried again; asked before each packet.
    pub(super) fn widens(&mut self, now: Instant) -> bool {
        let widens = self.until.is_some_and(|until| until <= now);
        if widens {
            self.widen();
        }
        widens
    }

    /// A segment is about to be sent, the longest packet of which has `longest` bytes.
    pub(super) fn sends(&mut self, now: Instant, segment: &Segment, longest: usize) {
        if self.sample.is_some() && self.activity.watch.is_taken() {
            self.sample = None;
            if !self.on_trial {
                (self.taken, self.was_away) = (true, false);
            } else if std::mem::take(&mut self.was_away) {
                // The peer is back, perhaps by chance in this moment.
                self.widen();
            }
            self.on_trial = false;
        }
        match self.sample {
            Some(sample) if sample.flow == segment.flow => {
                let back = sample.begin.wrapping_sub(segment.begin) < 1 << 31;
                let doubt = if self.taken { DOUBT_IF_TAKEN } else { DOUBT };
                if back && now.saturating_duration_since(sample.at) >= doubt {
                    self.doubt(now, segment, longest);
                }
            }
            Some(sample) if now.saturating_duration_since(sample.at) < FORGOTTEN => {}
            // The one that was tried has ended: nothing is known by it.
            Some(_) if self.on_trial => {
                self.widen();
                self.take_sample(now, segment, longest);
            }
            _ if longest > self.least() => self.take_sample(now, segment, longest),
            _ => {}
        }
    }

    /// Of its pieces the first is watched, which has `longest` bytes with its headers.
    fn take_sample(&mut self, now: Instant, segment: &Segment, longest: usize) {
        let first = u32::try_from(longest.saturating_sub(segment.headers)).unwrap_or(u32::MAX);
        self.sample = Some(Sample { flow: segment.flow, begin: segment.begin, at: now });
        self.activity.watch.want(segment, segment.begin.wrapping_add(first.min(segment.length)));
    }

    /// It has been sent again, and has not been acknowledged.
    fn doubt(&mut self, now: Instant, segment: &Segment, longest: usize) {
        if self.on_trial {
            let taken = self.taken;
            self.widen();
            (self.taken, self.was_away) = (taken, true);
            self.take_sample(now, segment, longest);
        } else if self.limit > self.least() {
            (self.on_trial, self.until) = (true, Some(now + NARROW));
            self.set(self.least());
            self.take_sample(now, segment, self.least());
        } else {
            self.unwatch();
        }
    }
}

/// Bytes around a packet on the way to `ip`.
fn around(ip: IpAddr) -> usize {
    let network = if ip.to_canonical().is_ipv4() { 20 } else { 40 };
    network + 8 + OVERHEAD_BYTES
}

#[cfg(test)]
mod tests;
