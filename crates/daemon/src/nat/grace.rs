//! The time in which a table whose ways are not known is left as it is: until something was said of each device that may
//! have one, or until it takes too long. A table that were made before would cut connections that it is to lead.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use portway_model::DeviceKey;

use super::table::Change;

/// Longest time: a server that is away may stay away.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Grace {
    /// Devices of which nothing was said yet.
    awaited: BTreeSet<DeviceKey>,
    until: Option<Instant>,
}

impl Grace {
    /// None yet; `devices` may have ways that are not known.
    pub(super) const fn new(devices: BTreeSet<DeviceKey>) -> Grace {
        Grace { awaited: devices, until: None }
    }

    /// Whether there may be ways that are not known.
    pub(super) fn is_of_use(&self) -> bool {
        !self.awaited.is_empty()
    }

    /// Begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.until = Some(now + LIMIT);
    }

    /// Its end at the latest, while it lasts.
    pub(super) const fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Takes note of what is said. Whoever removes a device is told that it is led no more, and then that must be so:
    /// nobody is awaited any longer.
    pub(super) fn note(&mut self, changes: &[(DeviceKey, Change)]) {
        for (key, change) in changes {
            self.awaited.remove(key);
            if *change == Change::Gone {
                self.awaited.clear();
            }
        }
    }

    /// Ends when the time has come; whether it does.
    pub(super) fn ends(&mut self, now: Instant) -> bool {
        let is_over = self.until.is_some_and(|until| self.awaited.is_empty() || until <= now);
        if is_over {
            self.until = None;
        }
        is_over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: one of two is enough, the time has no end, or a removal waits.
    #[test]
    fn it_ends_when_everything_was_said() {
        let key = |name: &str| -> DeviceKey { format!("incus:default/c1/{name}").parse().unwrap() };
        let now = Instant::now();
        let begun = || {
            let mut grace = Grace::new([key("a"), key("b")].into());
            assert!(grace.is_of_use() && !grace.ends(now));
            grace.begin(now);
            grace.note(&[(key("a"), Change::Relayed)]);
            assert!(!grace.ends(now));
            grace
        };
        let mut said = begun();
        said.note(&[(key("b"), Change::Relayed)]);
        assert!(said.ends(now) && !said.ends(now) && said.until().is_none());
        assert!(begun().ends(now + LIMIT));
        let mut removed = begun();
        removed.note(&[(key("c"), Change::Gone)]);
        assert!(removed.ends(now));
        assert!(!Grace::new(BTreeSet::new()).is_of_use());
    }
}
