//! Lines of the audit log about forwards: each has one, as long as there are not so many that they would fill a disk.
//! What is beyond that is summed up.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::{Grant, lock};
use crate::wire::{ForwardEnd, Forwarded, Forwarding};

/// Lines of what was carried, and of what was refused: at once, and from then on in a second. A browser opens some
/// hundred; who looks for open ports asks for thousands.
const CARRIED: Rate = Rate { burst: 2000, every: Duration::from_millis(10) };
const REFUSED: Rate = Rate { burst: 100, every: Duration::from_millis(100) };

/// How often a sum is a line, at most.
const SUM: Duration = Duration::from_secs(10);

/// Forwards of one connection that are known before their end: more than it may have.
const OPEN: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// Lines that may be written, and what was not.
#[derive(Debug, Default)]
pub(super) struct Sums {
    carried: Used,
    refused: Used,
    more: More,
    /// Those that have begun, by their numbers, and when.
    open: BTreeMap<u64, (Forwarding, Instant)>,
    told: Option<Instant>,
}

/// When the lines that were written would have been, one after the other at the rate.
#[derive(Debug, Default)]
struct Used(Option<Instant>);

/// What has no line of its own.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct More {
    count: u64,
    refused: u64,
    bytes_in: u64,
    bytes_out: u64,
}

impl Used {
    /// Whether one more may be written now.
    fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let until = self.0.map_or(now, |until| until.max(now));
        let is_free = until.saturating_duration_since(now) < rate.every * rate.burst;
        if is_free {
            self.0 = Some(until + rate.every);
        }
        is_free
    }
}

impl Sums {
    /// One has begun.
    pub(super) fn begin(&mut self, forwarding: Forwarding, now: Instant) {
        if self.open.len() < OPEN {
            self.open.insert(forwarding.number, (forwarding, now));
        }
    }

    /// What the session has not told the end of.
    fn unfinished(&mut self, now: Instant) -> Vec<Forwarded> {
        let open = std::mem::take(&mut self.open).into_values();
        let unfinished = open.map(|(Forwarding { way, target, peer, .. }, begin)| Forwarded {
            number: None,
            way,
            target,
            peer,
            bytes_in: 0,
            bytes_out: 0,
            millis: u64::try_from(now.saturating_duration_since(begin).as_millis()).unwrap_or(u64::MAX),
            end: ForwardEnd::Unfinished,
            reason: None,
        });
        unfinished.collect()
    }

    /// Whether a forward gets a line of its own.
    fn has_line(&mut self, forwarded: &Forwarded, now: Instant) -> bool {
        let is_refused = forwarded.end == ForwardEnd::Refused;
        let (used, rate) =
            if is_refused { (&mut self.refused, REFUSED) } else { (&mut self.carried, CARRIED) };
        if used.take(rate, now) {
            return true;
        }
        self.more.count += 1;
        self.more.refused += u64::from(is_refused);
        self.more.bytes_in = self.more.bytes_in.saturating_add(forwarded.bytes_in);
        self.more.bytes_out = self.more.bytes_out.saturating_add(forwarded.bytes_out);
        false
    }

    /// The sum of what had none, when it is time for it, or at the end.
    fn sum(&mut self, now: Instant, at_end: bool) -> Option<More> {
        let is_time = at_end || self.told.is_none_or(|told| now.saturating_duration_since(told) >= SUM);
        if self.more.count == 0 || !is_time {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.more))
    }
}

impl Child {
    /// Notes a forward that has ended.
    pub(super) fn forwarded(&self, grant: &Grant, mut forwarded: Forwarded) {
        let now = Instant::now();
        let (has_line, sum) = {
            let mut sums = lock(&self.sums);
            // The number is for us.
            if let Some(number) = forwarded.number.take() {
                sums.open.remove(&number);
            }
            (sums.has_line(&forwarded, now), sums.sum(now, false))
        };
        if has_line {
            for text in [Some(&mut forwarded.target), forwarded.reason.as_mut()].into_iter().flatten() {
                *text = bounded(text);
            }
            self.note(&Event::Forwarded { grant, forwarded: &forwarded });
        }
        self.note_sum(grant, sum);
    }

    /// Notes what had no line, at the end of a connection, and what has not ended before it.
    pub(super) fn end_forwards(&self, grant: &Grant) {
        let unfinished = lock(&self.sums).unfinished(Instant::now());
        for forwarded in unfinished {
            self.forwarded(grant, forwarded);
        }
        let sum = lock(&self.sums).sum(Instant::now(), true);
        self.note_sum(grant, sum);
    }

    fn note_sum(&self, grant: &Grant, sum: Option<More>) {
        if let Some(More { count, refused, bytes_in, bytes_out }) = sum {
            self.note(&Event::ForwardedMore { grant, count, refused, bytes_in, bytes_out });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::ForwardWay;

    fn of(end: ForwardEnd) -> Forwarded {
        Forwarded {
            number: None,
            way: ForwardWay::Local,
            target: "h:1".to_owned(),
            peer: String::new(),
            bytes_in: 2,
            bytes_out: 3,
            millis: 1,
            end,
            reason: None,
        }
    }

    /// Fails when refusals take the place of what was carried, more lines are written than may be, or one is in no sum.
    #[test]
    fn many_are_summed_up() {
        let (mut sums, begin) = (Sums::default(), Instant::now());
        let refused = (0..5000).filter(|_| sums.has_line(&of(ForwardEnd::Refused), begin)).count();
        assert_eq!(refused, 100);
        assert!(sums.has_line(&of(ForwardEnd::Closed), begin));
        let sum = sums.sum(begin, false).expect("a sum");
        assert_eq!((sum.count, sum.refused, sum.bytes_in, sum.bytes_out), (4900, 4900, 9800, 14_700));
        let later = begin + Duration::from_secs(1);
        let refused = (0..5000).filter(|_| sums.has_line(&of(ForwardEnd::Refused), later)).count();
        assert_eq!(refused, 10);
        assert_eq!(sums.sum(later, false), None, "not so soon");
        assert_eq!(sums.sum(later, true).expect("the rest").count, 4990);
    }

    /// Fails when a forward that was open at the end leaves no trace, or a client may have as many noted as it likes.
    #[test]
    fn what_is_open_at_the_end_is_noted() {
        let (mut sums, begin) = (Sums::default(), Instant::now());
        for number in 0..1000 {
            let (target, peer) = (format!("h:{number}"), String::new());
            sums.begin(Forwarding { number, way: ForwardWay::Local, target, peer }, begin);
        }
        sums.open.remove(&0);
        let left = sums.unfinished(begin + Duration::from_millis(7));
        assert_eq!(left.len(), OPEN - 1);
        assert_eq!(
            (left[0].target.as_str(), left[0].millis, left[0].end),
            ("h:1", 7, ForwardEnd::Unfinished)
        );
        assert!(sums.unfinished(begin).is_empty());
    }
}
