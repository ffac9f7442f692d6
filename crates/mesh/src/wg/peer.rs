//! One peer: its sessions, the handshake that is under way, and when something is due.
//!
//! Times and limits are those of section 6 of the paper. [`Activity`] is what the sending thread leaves behind; all the
//! rest belongs to the thread that receives.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portway_proto::admission::Bucket;
use portway_sys::mmsg::LocalAddr;

use super::PeerId;
use super::cookie::{Jar, MacKeys};
use super::keypair::{Opener, REJECT_AFTER, Sealer};
use super::noise::{Secret, Timestamp, Waiting};
use super::sessions::Reach;
use super::watch::Watch;
use crate::spec::PublicKey;

/// Age at which the initiator makes new keys, when it sends.
pub(super) const REKEY_AFTER: Duration = Duration::from_secs(120);
/// How long a response is waited for.
pub(super) const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it is tried.
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// After what silence of ours what we received is acknowledged.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// After what silence of theirs, when we have sent something, new keys are tried.
const NO_ANSWER: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);
/// The same of a hub, which others depend on: another one is to be found soon.
const HUB_NO_ANSWER: Duration = Duration::from_secs(4);
/// How long a response of a hub is waited for, so that one message that is lost makes nobody leave it.
pub(super) const HUB_REKEY_TIMEOUT: Duration = Duration::from_secs(1);
/// After what silence of its own a hub acknowledges: well before it is taken for one that does not answer.
const HUB_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages of one peer that a hub passes on, a second: about as many as 1 Gbit/s.
const PASSED_ON_PER_SECOND: NonZeroU32 = NonZeroU32::new(100_000).expect("not 0");
/// Age at which the initiator makes new keys when it only receives.
const REKEY_RECEIVING: Duration = REJECT_AFTER.saturating_sub(NO_ANSWER);
/// Between two initiations of a peer that are looked into (`INITIATIONS_PER_SECOND` of the kernel).
pub(super) const INITIATION_EVERY: Duration = Duration::from_millis(20);

/// What is sent to a peer, noted by whoever sends: milliseconds since the tunnel began, plus one; 0 is never.
#[derive(Debug, Default)]
pub struct Activity {
    /// Anything.
    sent: AtomicU64,
    /// A packet.
    sent_data: AtomicU64,
    /// The first packet since something came back.
    unanswered: AtomicU64,
    /// Packets wait for a session.
    wants_session: AtomicBool,
    bytes: AtomicU64,
    packets: AtomicU64,
    /// What its way takes.
    pub(crate) watch: Watch,
}

impl Activity {
    /// Packets were sent, at `millis` since the tunnel began.
    pub fn sent_packets(&self, millis: u64, packets: u64, bytes: u64) {
        let at = millis + 1;
        self.sent.store(at, Ordering::Relaxed);
        self.sent_data.store(at, Ordering::Relaxed);
        if self.unanswered.load(Ordering::Relaxed) == 0 {
            self.unanswered.store(at, Ordering::Relaxed);
        }
        self.packets.fetch_add(packets, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Asks for a session; true when nobody had asked yet.
    pub fn want_session(&self) -> bool {
        !self.wants_session.swap(true, Ordering::AcqRel)
    }

    /// Packets and bytes sent.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (self.packets.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }

    pub(super) fn sent_keepalive(&self, millis: u64) {
        self.sent.store(millis + 1, Ordering::Relaxed);
    }

    fn take_wish(&self) -> bool {
        self.wants_session.load(Ordering::Relaxed) && self.wants_session.swap(false, Ordering::AcqRel)
    }
}

/// Keys in use.
pub(super) struct Session {
    /// What we call it; the other side puts it into each message.
    pub(super) index: u32,
    pub(super) opener: Opener,
    pub(super) sealer: Arc<Sealer>,
    pub(super) born: Instant,
    /// Whether the initiation was ours.
    pub(super) ours: bool,
}

/// A handshake of ours that waits for its response.
pub(super) struct Attempt {
    pub(super) index: u32,
    pub(super) waiting: Waiting,
    pub(super) made: Instant,
    /// Since when one is tried.
    pub(super) since: Instant,
    /// When the next initiation goes out.
    pub(super) again_at: Instant,
    /// It was repeated at once, with a cookie that had come.
    pub(super) proved: bool,
}

/// Which of a peer's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    Current,
    /// Of the other side's making, and not used by it yet.
    Next,
    /// What was current before.
    Previous,
}

/// See the module.
pub(super) struct Peer {
    pub(super) public_key: PublicKey,
    pub(super) psk: Secret,
    /// What its static key and ours agree on.
    pub(super) shared: Secret,
    pub(super) macs: MacKeys,
    /// For each way its own: a cookie holds for where a message comes from.
    pub(super) jar: Jar,
    pub(super) jar_through: Jar,
    /// Its own address in the network, by which a hub knows whom a message is for.
    pub(super) address: Option<Ipv4Addr>,
    /// It passes messages on.
    pub(super) is_hub: bool,
    /// It is one, or has been.
    pub(super) was_hub: bool,
    pub(super) endpoint: Option<SocketAddr>,
    /// Which of this host's addresses it came to, if it came.
    pub(super) source: Option<LocalAddr>,
    /// Messages to it go through this hub, and not there.
    pub(super) through: Option<PeerId>,
    /// When something authentic last came by the way that messages to it go.
    pub(super) heard_on_way: Option<Instant>,
    pub(super) keepalive: Option<Duration>,
    /// What a hub passes on for it.
    pub(super) passing: Bucket,
    /// Of its initiations; no older one is taken.
    pub(super) newest: Timestamp,
    pub(super) initiated_at: Option<Instant>,
    pub(super) attempt: Option<Attempt>,
    /// A handshake that goes straight, while the peer is reached through a hub.
    pub(super) probe: Option<Attempt>,
    pub(super) current: Option<Session>,
    pub(super) next: Option<Session>,
    pub(super) previous: Option<Session>,
    pub(super) activity: Arc<Activity>,
    pub(super) heard: Option<Instant>,
    heard_data: Option<Instant>,
    /// Since when what has come is to be acknowledged.
    owes: Option<Instant>,
    pub(super) last_handshake: Option<Instant>,
    pub(super) received_packets: u64,
    pub(super) received_bytes: u64,
}

/// What is due for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Initiation,
    Keepalive,
}

impl Peer {
    pub(super) fn new(public_key: PublicKey, psk: Secret, shared: Secret) -> Peer {
        Peer {
            macs: MacKeys::of(public_key.as_bytes()),
            public_key,
            psk,
            shared,
            jar: Jar::default(),
            jar_through: Jar::default(),
            passing: Bucket::new(PASSED_ON_PER_SECOND),
            address: None,
            is_hub: false,
            was_hub: false,
            endpoint: None,
            source: None,
            through: None,
            heard_on_way: None,
            keepalive: None,
            newest: [0; 12],
            initiated_at: None,
            attempt: None,
            probe: None,
            current: None,
            next: None,
            previous: None,
            activity: Arc::default(),
            heard: None,
            heard_data: None,
            owes: None,
            last_handshake: None,
            received_packets: 0,
            received_bytes: 0,
        }
    }

    /// Where it is sent to, and from where.
    pub(super) fn reach(&self) -> Option<Reach> {
        self.endpoint.map(|to| Reach { to, from: self.source })
    }

    /// The session of ours that is called `index`.
    pub(super) fn session(&mut self, index: u32) -> Option<(Slot, &mut Session)> {
        let slots = [
            (Slot::Current, &mut self.current),
            (Slot::Next, &mut self.next),
            (Slot::Previous, &mut self.previous),
        ];
        let mut sessions = slots.into_iter().filter_map(|(slot, session)| Some((slot, session.as_mut()?)));
        sessions.find(|(_, session)| session.index == index)
    }

    /// Everything that may come under this index is of the past or the future, not of now: all indices in use.
    pub(super) fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        let sessions = [&self.current, &self.next, &self.previous];
        let attempt = [&self.attempt, &self.probe].into_iter().flatten().map(|attempt| attempt.index);
        sessions.into_iter().flatten().map(|session| session.index).chain(attempt)
    }

    /// Ends its sessions, for whoever still has their keys too.
    pub(super) fn retire(&mut self) {
        for session in [self.current.take(), self.next.take(), self.previous.take()].into_iter().flatten() {
            session.sealer.retire();
        }
        (self.attempt, self.probe) = (None, None);
    }

    /// Something authentic came.
    pub(super) fn hear(&mut self, now: Instant, packet: bool) {
        self.heard = Some(now);
        if packet {
            self.heard_data = Some(now);
        }
        if self.activity.unanswered.load(Ordering::Relaxed) != 0 {
            self.activity.unanswered.store(0, Ordering::Relaxed);
        }
    }

    /// Whether what has just come makes new keys due: only the initiator makes them, and well before they end.
    pub(super) fn should_rekey_receiving(&self, now: Instant) -> bool {
        self.attempt.is_none()
            && self.current.as_ref().is_some_and(|session| {
                session.ours && now.saturating_duration_since(session.born) >= REKEY_RECEIVING
            })
    }

    /// Drops keys and probes that have had their time; true when the current ones were among them.
    pub(super) fn expire(&mut self, now: Instant) -> bool {
        let old = |session: &mut Session| now.saturating_duration_since(session.born) >= REJECT_AFTER;
        self.probe.take_if(|probe| probe.again_at <= now);
        self.previous.take_if(old);
        self.next.take_if(old);
        self.current.take_if(old).is_some()
    }

    /// What is due at `now`, and when to ask again. `epoch` is when the tunnel began; `relays`: this node is a hub.
    pub(super) fn due(
        &mut self,
        now: Instant,
        epoch: Instant,
        relays: bool,
    ) -> (Option<Due>, Option<Instant>) {
        let wish = self.activity.take_wish();
        if let Some(attempt) = &self.attempt {
            if now < attempt.again_at {
                return (None, Some(attempt.again_at));
            }
            if now.saturating_duration_since(attempt.since) < REKEY_ATTEMPT {
                return (Some(Due::Initiation), None);
            }
            self.attempt = None;
            // Until there is something to send again.
            self.activity.unanswered.store(0, Ordering::Relaxed);
        }
        let at = |millis: u64| (millis > 0).then(|| epoch + Duration::from_millis(millis - 1));
        let sent = at(self.activity.sent.load(Ordering::Relaxed));
        let sent_data = at(self.activity.sent_data.load(Ordering::Relaxed));
        let unanswered = at(self.activity.unanswered.load(Ordering::Relaxed));
        let rekey = self.current.as_ref().is_some_and(|session| {
            session.ours && (sent_data > Some(session.born + REKEY_AFTER) || session.sealer.is_worn())
        });
        let patience = if self.is_hub { HUB_NO_ANSWER } else { NO_ANSWER };
        let silent_at = unanswered.map(|since| since + patience);
        if rekey || (wish && self.current.is_none()) || silent_at.is_some_and(|at| at <= now) {
            self.activity.unanswered.store(0, Ordering::Relaxed);
            return (Some(Due::Initiation), None);
        }
        let acknowledges = if relays { HUB_KEEPALIVE_TIMEOUT } else { KEEPALIVE_TIMEOUT };
        // The first of what has come since something was sent, however much comes behind it.
        let owed = |since: &Instant| sent <= Some(*since);
        self.owes = self.owes.filter(owed).or(self.heard_data.filter(owed));
        let answer_at = self.owes.map(|since| since + acknowledges);
        // A way through a hub is kept open by what is sent to the hub.
        let keepalive = self.keepalive.filter(|_| self.through.is_none());
        let keep_at = keepalive.map(|every| sent.max(self.heard).map_or(now, |last| last + every));
        let keepalive_at = match (answer_at.filter(|_| self.current.is_some()), keep_at) {
            (Some(one), Some(two)) => Some(one.min(two)),
            (one, two) => one.or(two),
        };
        if keepalive_at.is_some_and(|at| at <= now) {
            return match self.current {
                Some(_) => (Some(Due::Keepalive), None),
                None => (Some(Due::Initiation), None),
            };
        }
        // What the sending thread does is looked at once a second, as long as there are keys that it may use.
        let look_at = self.current.is_some().then(|| now + Duration::from_secs(1));
        (None, [silent_at, keepalive_at, look_at].into_iter().flatten().min())
    }
}
