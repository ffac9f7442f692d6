//! How often things are done and said: tries that come later each time, and words that are counted.

use std::time::{Duration, Instant};

/// Words that are passed on at once, and how long it takes until there is one more.
const WORDS: u32 = 10;
const WORD_EVERY: Duration = Duration::from_secs(6);

/// What a process of another user may have written to the log.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    filled: Instant,
    unsaid: u64,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Allowance {
        Allowance { left: WORDS, filled: now, unsaid: 0 }
    }

    /// Whether one more is passed on; then how many were not since the last one.
    pub(super) fn take(&mut self, now: Instant) -> Option<u64> {
        while self.left < WORDS && now.saturating_duration_since(self.filled) >= WORD_EVERY {
            self.left += 1;
            self.filled += WORD_EVERY;
        }
        if self.left == WORDS {
            self.filled = now;
        }
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.unsaid))
            }
            None => {
                self.unsaid += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a process fills the log, is never heard again, or what is left out is not counted.
    #[test]
    fn words_are_counted() {
        let begun = Instant::now();
        let mut allowance = Allowance::new(begun);
        assert!((0..WORDS).all(|_| allowance.take(begun) == Some(0)));
        assert!((0..100).all(|_| allowance.take(begun + WORD_EVERY / 2).is_none()));
        assert_eq!(allowance.take(begun + WORD_EVERY), Some(100));
        assert_eq!(allowance.take(begun + WORD_EVERY), None);
        let later = begun + WORD_EVERY * 1000;
        assert_eq!(allowance.take(later), Some(1));
        assert!((1..WORDS).all(|_| allowance.take(later) == Some(0)));
        assert_eq!(allowance.take(later), None);
    }
}
