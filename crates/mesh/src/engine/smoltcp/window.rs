//! How much of a connection is on its way at once, and when something of it is sent again.
//!
//! smoltcp counts acknowledgements, of which there are few, because what comes is joined; it leaves its recovery with the
//! first of several losses that is made good (RFC 6582 does not), and then waits for a timer of at least a second. So its
//! own window is left open, and this one bounds what is put into its buffer: what is not there is not sent. When something is to be
//! sent again, smoltcp is told three times what has been acknowledged last.
//!
//! Slow start until something is lost or round trips become long (after RFC 9406), then a segment more in each round trip;
//! seven tenths after a loss (RFC 9438, 4.6). The timer is that of RFC 6298 with Linux' least time.

use std::time::{Duration, Instant};

/// Segments that may be on their way at the beginning (RFC 6928), and at the least.
const FIRST: usize = 10;
const LEAST: usize = 2;

/// Acknowledgements of the same that say that something is lost (RFC 5681, 3.2).
const REPEATS: u32 = 3;

/// How long an acknowledgement is waited for, at least, and while no round trip was measured.
const LEAST_PATIENCE: Duration = Duration::from_millis(200);
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// How often that doubles, and up to what: smoltcp's own timer, of a second, begins again when something is sent again. It
/// must not run out, because it sends all again.
const DOUBLED: u32 = 8;
const MOST_PATIENCE: Duration = Duration::from_millis(900);

/// How much longer than the shortest a round trip is when something waits on its way, how many of them in a row are no
/// accident, and the least window that is a reason for it.
const LONGER: Duration = Duration::from_millis(8);
const IN_A_ROW: u32 = 3;
const LOW_BYTES: usize = 64 << 10;

/// What comes of something that was heard, or of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    Nothing,
    /// What has not been acknowledged first is to be sent again.
    Again,
}

/// See the module. Bytes of the stream are counted from its beginning.
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    threshold: usize,
    filled: u64,
    acknowledged: u64,
    repeats: u32,
    /// What had been filled when something was lost, and how far what was lost has been sent again since.
    recovery: Option<(u64, u64)>,
    /// What a round trip is measured by.
    sample: Option<(u64, Instant)>,
    shortest: Option<Duration>,
    smoothed: Option<(Duration, Duration)>,
    /// Round trips in a row that were long.
    longer: u32,
    /// When something was acknowledged last, or something put where nothing was.
    moved: Option<Instant>,
    doubled: u32,
    /// Window and threshold before the timer ran out, until it is known whether anything was lost.
    before: Option<(usize, usize)>,
}

impl Window {
    pub(super) fn new() -> Window {
        Window {
            bytes: 0,
            threshold: usize::MAX,
            filled: 0,
            acknowledged: 0,
            repeats: 0,
            recovery: None,
            sample: None,
            shortest: None,
            smoothed: None,
            longer: 0,
            moved: None,
            doubled: 0,
            before: None,
        }
    }

    /// Bytes that may be put to those that are not acknowledged yet.
    pub(super) fn room(&self, mss: usize) -> usize {
        let on_way = usize::try_from(self.filled - self.acknowledged).unwrap_or(usize::MAX);
        let window = self.bytes.max(if self.bytes == 0 { FIRST } else { LEAST } * mss);
        // Less than a segment is not worth one.
        Some(window.saturating_sub(on_way)).filter(|room| on_way == 0 || *room >= mss).unwrap_or(0)
    }

    /// So many were put.
    pub(super) fn fill(&mut self, now: Instant, count: usize) {
        if self.filled == self.acknowledged {
            self.moved = Some(now);
        }
        self.filled += count as u64;
        if self.sample.is_none() && self.recovery.is_none() {
            self.sample = Some((self.filled, now));
        }
    }

    /// Something has come, and `queued` bytes are not acknowledged now.
    pub(super) fn hear(&mut self, now: Instant, queued: usize, mss: usize) -> Wanted {
        let acknowledged = self.filled.saturating_sub(queued as u64);
        let count = acknowledged.saturating_sub(self.acknowledged);
        if count == 0 {
            return Wanted::Nothing;
        }
        self.acknowledged = acknowledged;
        (self.repeats, self.doubled, self.moved) = (0, 0, Some(now));
        if let Some((bytes, threshold)) = self.before.take_if(|_| count > 2 * mss as u64) {
            // One segment was sent again and much is acknowledged: the rest had arrived, or was never held back by the way.
            (self.bytes, self.threshold, self.recovery) = (bytes, threshold, None);
        }
        self.before = None;
        if let Some((until, again)) = self.recovery {
            if acknowledged < until {
                if acknowledged < again {
                    return Wanted::Nothing;
                }
                self.recovery = Some((until, acknowledged + mss as u64));
                return Wanted::Again;
            }
            self.recovery = None;
        }
        self.measure(now);
        self.grow(usize::try_from(count).unwrap_or(usize::MAX), mss);
        Wanted::Nothing
    }

    fn measure(&mut self, now: Instant) {
        let Some((_, at)) = self.sample.take_if(|(end, _)| *end <= self.acknowledged) else { return };
        let trip = now.saturating_duration_since(at);
        let shortest = self.shortest.map_or(trip, |shortest| shortest.min(trip));
        self.shortest = Some(shortest);
        self.smoothed = Some(match self.smoothed {
            None => (trip, trip / 2),
            Some((mean, spread)) => ((mean * 7 + trip) / 8, (spread * 3 + mean.abs_diff(trip)) / 4),
        });
        let is_long = self.bytes >= LOW_BYTES && trip > shortest + LONGER.max(shortest / 4);
        self.longer = if is_long { self.longer + 1 } else { 0 };
        if self.longer >= IN_A_ROW {
            self.threshold = self.threshold.min(self.bytes);
        }
    }

    fn grow(&mut self, count: usize, mss: usize) {
        self.bytes = self.bytes.max(FIRST * mss);
        // A window that is not used is no measure.
        if self.filled - self.acknowledged + (count as u64) < (self.bytes / 2) as u64 {
            return;
        }
        let more = if self.bytes < self.threshold { count } else { (count * mss / self.bytes).max(1) };
        self.bytes = self.bytes.saturating_add(more).min(MOST_BYTES);
    }

    /// The same was acknowledged once more. smoltcp sends again by itself when it hears it for the third time.
    pub(super) fn hear_again(&mut self, mss: usize) {
        self.repeats += 1;
        if self.repeats == REPEATS && self.recovery.is_none() {
            self.lose(mss, 7, LEAST);
        }
    }

    fn lose(&mut self, mss: usize, tenths: usize, least: usize) {
        self.threshold = (self.bytes / 10 * tenths).max(least * mss);
        self.bytes = self.threshold;
        self.recovery = Some((self.filled, self.acknowledged + mss as u64));
        self.sample = None;
    }

    /// When something is to be sent again at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let waits = self.filled > self.acknowledged;
        let patience =
            self.smoothed.map_or(FIRST_PATIENCE, |(mean, spread)| (mean + spread * 4).max(LEAST_PATIENCE));
        self.moved
            .filter(|_| waits)
            .map(|moved| moved + (patience * (1 << self.doubled)).min(patience.max(MOST_PATIENCE)))
    }

    /// Time has passed.
    pub(super) fn look(&mut self, now: Instant, mss: usize) -> Wanted {
        if self.due().is_none_or(|due| due > now) {
            return Wanted::Nothing;
        }
        self.before.get_or_insert((self.bytes, self.threshold));
        self.doubled = (self.doubled + 1).min(DOUBLED);
        self.moved = Some(now);
        self.lose(mss, 5, FIRST);
        Wanted::Again
    }
}

/// More is not on its way at once; buffers have no more.
const MOST_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests;
