//! Which counters of received messages have been seen: a sliding window (RFC 6479, in its plainest form).

/// Words of the window.
const WORDS: usize = 129;

const WORD_BITS: u64 = 64;

/// How far behind the greatest counter one may be and still be taken, as in other implementations of the protocol.
pub const WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// The counters of one session.
#[derive(Debug)]
pub struct Replay {
    /// One more than the greatest that was taken.
    next: u64,
    /// Bit `c % (WORDS * 64)` says whether `c` was taken, for those in the window. One word more than the window is
    /// long: the word of the greatest counter is filled while the oldest one still counts.
    seen: Box<[u64; WORDS]>,
}

impl Replay {
    /// Nothing has been seen.
    #[must_use]
    pub fn new() -> Replay {
        Replay { next: 0, seen: Box::new([0; WORDS]) }
    }

    /// Whether `counter` would be taken.
    #[must_use]
    pub fn is_new(&self, counter: u64) -> bool {
        if counter >= self.next {
            return true;
        }
        counter.saturating_add(WINDOW) >= self.next && self.word(counter) & bit(counter) == 0
    }

    /// Takes `counter`; false when it is not new. Only for a message that has been found authentic.
    pub fn take(&mut self, counter: u64) -> bool {
        if !self.is_new(counter) {
            return false;
        }
        if counter >= self.next {
            let (reached, reaches) = (self.next.saturating_sub(1) / WORD_BITS, counter / WORD_BITS);
            // The words between are of counters that did not come.
            for word in (reached + 1..=reaches).take(WORDS) {
                // Which word is cleared when all are does not matter.
                if let Some(seen) = self.seen.get_mut(place(word)) {
                    *seen = 0;
                }
            }
            self.next = counter.saturating_add(1);
        }
        if let Some(seen) = self.seen.get_mut(place(counter / WORD_BITS)) {
            *seen |= bit(counter);
        }
        true
    }

    fn word(&self, counter: u64) -> u64 {
        self.seen.get(place(counter / WORD_BITS)).copied().unwrap_or(u64::MAX)
    }
}

impl Default for Replay {
    fn default() -> Replay {
        Replay::new()
    }
}

fn place(word: u64) -> usize {
    usize::try_from(word % WORDS as u64).unwrap_or(0)
}

const fn bit(counter: u64) -> u64 {
    1 << (counter % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// Every counter by name.
    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn take(&mut self, counter: u64) -> bool {
            let next = self.0.last().map_or(0, |last| last + 1);
            (counter >= next || counter + WINDOW >= next) && self.0.insert(counter)
        }
    }

    proptest! {
        /// Fails when: one counter is taken twice, one in the window is refused, or a jump leaves marks behind.
        #[test]
        fn as_a_set_of_counters(
            steps in prop::collection::vec(
                prop_oneof![
                    4 => -70..70_i64,
                    1 => prop::sample::select(vec![-8193_i64, -8192, -8191, 8191, 8192, 8193, 8256, 8320, 20_000]),
                ],
                1..400,
            ),
        ) {
            let (mut window, mut model, mut at) = (Replay::new(), Naive::default(), 0_u64);
            for step in steps {
                let counter = at.saturating_add_signed(step);
                let taken = model.take(counter);
                prop_assert_eq!(window.is_new(counter), taken, "{}", counter);
                prop_assert_eq!(window.take(counter), taken, "{}", counter);
                at = at.max(counter);
            }
        }
    }

    #[test]
    fn the_edges() {
        let mut window = Replay::new();
        assert!(window.take(0) && !window.take(0));
        assert!(window.take(WINDOW) && !window.take(0));
        assert!(window.take(1) && !window.take(1), "the last one in the window");
        assert!(window.take(u64::MAX - WINDOW) && !window.take(2));
    }
}
