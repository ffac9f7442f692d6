//! How long a program that has ended waits before it is started again.

use std::time::Duration;

/// The first wait, the longest, and the run that makes the next wait the first again: as of Docker's engine.
const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(60);
const LASTING: Duration = Duration::from_secs(10);

/// Waits that double, or are all the same.
#[derive(Debug)]
pub(super) struct Pace {
    said: Option<Duration>,
    next: Duration,
}

impl Pace {
    pub(super) fn new(said: Option<Duration>) -> Self {
        Self { said, next: FIRST }
    }

    /// The wait after a run that took so long.
    pub(super) fn after(&mut self, run: Duration) -> Duration {
        if let Some(said) = self.said {
            return said;
        }
        if run >= LASTING {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a program that fails at once is started as fast as it fails.
    #[test]
    fn waits_double_until_a_run_lasts() {
        let mut pace = Pace::new(None);
        let mut waits = |run: u64, count: usize| -> Vec<u128> {
            (0..count).map(|_| pace.after(Duration::from_millis(run)).as_millis()).collect()
        };
        assert_eq!(waits(0, 4), [100, 200, 400, 800]);
        assert_eq!(waits(9_999, 8).last(), Some(&60_000));
        assert_eq!(waits(10_000, 2), [100, 100]);
        assert_eq!(waits(0, 2), [200, 400]);
        let mut said = Pace::new(Some(Duration::from_secs(5)));
        assert_eq!([said.after(Duration::ZERO), said.after(LASTING)], [Duration::from_secs(5); 2]);
    }
}
