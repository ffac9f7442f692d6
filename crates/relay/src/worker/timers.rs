//! What is to happen later. One ordered set; an entry is removed when it is no longer wanted, so the set holds
//! what is pending and nothing else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::slab::Key;

/// What a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A stream: its dial takes too long, or it is to be looked at again.
    Stream(Key),
    /// A listener that paused may accept again.
    Listener(Key),
    /// The first client that waits for this target port of a device is to be dialled for again.
    Probe(Key, u32),
    /// The hold of a device runs out.
    Hold(Key),
    /// Failures of a device are to be reported.
    Failures(Key),
    /// The target of a flow has not taken the call, or what it began or was sent is unfinished.
    Link(Key),
    /// The oldest UDP flow of a device may be idle for too long.
    Flows(Key),
    /// A newcomer on the adoption listener has not said hello.
    Newcomer(Key),
    /// Long-lived connections are looked at.
    Sweep,
    /// The worker ends.
    End,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Timer)>);

impl Timers {
    /// Sets `timer` for `at`.
    pub(super) fn set(&mut self, at: Instant, timer: Timer) {
        self.0.insert((at, timer));
    }

    /// Takes back `timer`, which was set for `at`.
    pub(super) fn cancel(&mut self, at: Instant, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    /// Takes the next timer that is due at `now`.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Timer> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first.1)
    }

    /// How long until the next one, from `now`; `None` when there is none.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.0.first().map(|(at, _)| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn come_in_order_and_can_be_taken_back() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let key = Key::from_parts(1, 2);
        let mut timers = Timers::default();
        timers.set(at(30), Timer::Sweep);
        timers.set(at(10), Timer::Stream(key));
        timers.set(at(20), Timer::End);
        timers.cancel(at(20), Timer::End);
        assert_eq!(timers.wait(start), Some(Duration::from_millis(10)));
        assert_eq!(timers.pop_due(start), None);
        assert_eq!(timers.pop_due(at(40)), Some(Timer::Stream(key)));
        assert_eq!(timers.pop_due(at(40)), Some(Timer::Sweep));
        assert_eq!(timers.wait(start), None);
    }
}
