//! How many clients are let in: a rate, and a count for each source. Each question takes constant time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// What a bucket that was not asked for this long has: all its tokens.
const FULL_AFTER: Duration = Duration::from_secs(1);

/// A token bucket that holds what comes in within a second, and is full at first. It keeps one time: when it
/// would be full again (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Time in which one token comes in.
    every: Duration,
    full_at: Option<Instant>,
}

impl Bucket {
    /// A full bucket of `per_second` tokens.
    #[must_use]
    pub fn new(per_second: NonZeroU32) -> Self {
        Self { every: FULL_AFTER / per_second.get(), full_at: None }
    }

    /// Takes a token at `now`; false when there is none. A time before the last one is as good as that.
    pub fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        if full_at.saturating_duration_since(now) > FULL_AFTER.saturating_sub(self.every) {
            return false;
        }
        self.full_at = full_at.checked_add(self.every);
        true
    }
}

/// Whom connections are counted for: an IPv4 address, or the 64 bits of an IPv6 network. One client has all of
/// such a network to choose addresses from (RFC 4291, 2.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Of IPv4, mapped or not.
    V4(Ipv4Addr),
    /// Of IPv6: its first 64 bits.
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::V4(ip),
            IpAddr::V6(ip) => {
                let [a, b, c, d, e, f, g, h, ..] = ip.octets();
                Self::V6(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

/// Connections by source. A source without any has no entry, so there are never more entries than connections.
#[derive(Debug, Default)]
pub struct Sources(HashMap<Source, u32>);

impl Sources {
    /// How many `source` has.
    #[must_use]
    pub fn count(&self, source: Source) -> u32 {
        self.0.get(&source).copied().unwrap_or(0)
    }

    /// How many sources have any.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `source` has one more.
    pub fn enter(&mut self, source: Source) {
        let count = self.0.entry(source).or_insert(0);
        *count = count.saturating_add(1);
    }

    /// `source` has one less. Of a source that has none nothing happens.
    pub fn leave(&mut self, source: Source) {
        if let Some(count) = self.0.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&source);
                self.shrink();
            }
        }
    }

    /// After a crowd its memory is given back, seldom enough to cost nothing by the piece.
    fn shrink(&mut self) {
        /// Entries for which room is always kept.
        const KEPT: usize = 1024;
        if self.0.capacity() > KEPT && self.0.len() < self.0.capacity() / 8 {
            self.0.shrink_to(KEPT.max(self.0.len() * 2));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket(per_second: u32) -> Bucket {
        Bucket::new(NonZeroU32::new(per_second).expect("not 0"))
    }

    #[test]
    fn a_second_full_at_once_and_then_one_by_one() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut bucket = bucket(10);
        assert_eq!((0..30).filter(|_| bucket.take(start)).count(), 10);
        assert!(!bucket.take(at(99)));
        assert!(bucket.take(at(100)) && !bucket.take(at(100)));
        assert!(bucket.take(at(200)) && !bucket.take(at(150)));
        // It does not grow over its size.
        assert_eq!((0..30).filter(|_| bucket.take(at(60_000))).count(), 10);
    }

    #[test]
    fn one_a_second() {
        let start = Instant::now();
        let mut bucket = bucket(1);
        assert!(bucket.take(start) && !bucket.take(start + Duration::from_millis(999)));
        assert!(bucket.take(start + Duration::from_secs(1)));
    }

    #[test]
    fn sources_are_addresses_or_networks() {
        let source = |text: &str| Source::from(text.parse::<IpAddr>().expect(text));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        let mut sources = Sources::default();
        sources.leave(source("::1"));
        sources.enter(source("::1"));
        sources.enter(source("::2"));
        assert_eq!((sources.count(source("::9")), sources.len()), (2, 1));
        sources.leave(source("::1"));
        sources.leave(source("::1"));
        assert!(sources.is_empty());
    }

    #[test]
    fn memory_of_a_crowd_is_given_back() {
        let mut sources = Sources::default();
        let all = || (0..100_000).map(|ip| Source::V4(Ipv4Addr::from(ip)));
        all().for_each(|source| sources.enter(source));
        all().for_each(|source| sources.leave(source));
        assert!(sources.0.capacity() < 10_000, "{}", sources.0.capacity());
    }

    proptest! {
        /// In no stretch of time more than its size and what comes in meanwhile.
        #[test]
        fn never_more_than_the_rate(per_second in 1..50u32, steps in proptest::collection::vec(0..300u64, 1..200)) {
            let start = Instant::now();
            let mut bucket = bucket(per_second);
            let mut now = start;
            let mut taken: Vec<Instant> = Vec::new();
            for step in steps {
                now += Duration::from_millis(step);
                if bucket.take(now) {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (more, to) in taken[first..].iter().enumerate() {
                    let came = (*to - *from).as_secs_f64() * f64::from(per_second);
                    prop_assert!((more as f64) < f64::from(per_second) + came + 1e-3);
                }
            }
        }
    }
}
