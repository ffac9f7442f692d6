//! What a device counts of its dials, and which caps were hit.

use serde::{Deserialize, Serialize};

/// Upper bounds of [`DialTime::buckets`], microseconds; the last bucket has none.
pub const DIAL_BOUNDS_MICROS: [u64; 8] = [250, 1_000, 4_000, 16_000, 64_000, 256_000, 1_024_000, 4_096_000];

/// Why dials failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeviceFailures {
    /// Nobody listens there.
    pub refused: u64,
    /// No answer within `connect.timeout`.
    pub timed_out: u64,
    /// No route, or the network says that there is nobody.
    pub unreachable: u64,
    /// Reset before the connection was open.
    pub reset: u64,
    /// There is no such socket.
    pub absent: u64,
    /// The socket may not be used.
    pub forbidden: u64,
    /// Descriptors, memory or local ports were short: for a dial, or to take in clients, who waited.
    pub no_descriptors: u64,
    /// Anything else.
    pub other: u64,
}

impl DeviceFailures {
    /// Each with its name.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        let DeviceFailures {
            refused,
            timed_out,
            unreachable,
            reset,
            absent,
            forbidden,
            no_descriptors,
            other,
        } = *self;
        [
            ("refused", refused),
            ("timed_out", timed_out),
            ("unreachable", unreachable),
            ("reset", reset),
            ("absent", absent),
            ("forbidden", forbidden),
            ("no_descriptors", no_descriptors),
            ("other", other),
        ]
    }
}

/// How long dials took until they were answered. Failed ones are not in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DialTime {
    /// Dials that were answered.
    pub count: u64,
    /// Their times together, microseconds.
    pub micros: u64,
    /// How many took at most each of [`DIAL_BOUNDS_MICROS`] and more than the one before; last, those above.
    pub buckets: Vec<u64>,
}

impl DialTime {
    /// The bound, in microseconds, within which `share` of 100 dials were answered; `None` without dials, or when it is
    /// above all bounds.
    #[must_use]
    pub fn within(&self, share: u64) -> Option<u64> {
        let wanted = self.count.checked_mul(share)?.div_ceil(100);
        let mut seen: u64 = 0;
        let bounds = self.buckets.iter().zip(DIAL_BOUNDS_MICROS).map(|(count, bound)| {
            seen = seen.saturating_add(*count);
            (seen, bound)
        });
        let mut reached = bounds.filter(|(seen, _)| *seen >= wanted && wanted > 0);
        reached.next().map(|(_, bound)| bound)
    }
}

/// A cap that was hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitHits {
    /// Its name in docs/limits.md.
    pub limit: String,
    /// How often.
    pub hits: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_dials_is_within_a_bound() {
        let time = DialTime { count: 100, micros: 0, buckets: vec![90, 5, 4, 0, 0, 0, 0, 0, 1] };
        assert_eq!(time.within(50), Some(250));
        assert_eq!(time.within(95), Some(1_000));
        assert_eq!(time.within(99), Some(4_000));
        assert_eq!(time.within(100), None, "one is above all bounds");
        assert_eq!(DialTime::default().within(50), None);
    }
}
