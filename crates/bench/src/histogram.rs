//! Latencies in buckets of a fixed number: recording one is an addition, whatever its size.

/// Buckets per power of two, as a power of two: a value is off by less than 1 %.
const FINE_BITS: u32 = 7;

/// Buckets per power of two.
const FINE: u64 = 1 << FINE_BITS;

/// Everything from 2^40 ns (18 minutes) on is in the last bucket.
const BUCKETS: usize = 34 << FINE_BITS;

/// Counts of nanoseconds.
#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Histogram {
    /// Empty.
    pub(crate) fn new() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0 }
    }

    /// Counts one.
    pub(crate) fn record(&mut self, nanoseconds: u64) {
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
    }

    /// How many were counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency, in microseconds, that this share (in thousandths) of all was not above.
    pub(crate) fn quantile_us(&self, thousandths: u64) -> Option<f64> {
        let wanted = (self.total * thousandths).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Some(middle_ns(index) / 1000.0);
            }
        }
        None
    }
}

fn bucket(nanoseconds: u64) -> usize {
    let index = if nanoseconds < FINE {
        nanoseconds
    } else {
        let shift = nanoseconds.ilog2() - FINE_BITS;
        u64::from(shift) * FINE + (nanoseconds >> shift)
    };
    usize::try_from(index).unwrap_or(usize::MAX).min(BUCKETS - 1)
}

fn middle_ns(bucket: usize) -> f64 {
    let fine = 1 << FINE_BITS;
    if bucket < 2 * fine {
        return bucket as f64;
    }
    let width = 2_f64.powi(i32::try_from(bucket / fine - 1).unwrap_or(i32::MAX));
    ((bucket % fine + fine) as f64 + 0.5) * width
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: two neighbouring powers of two overlap or leave a gap.
    #[test]
    fn buckets_rise_without_a_gap_and_are_fine() {
        let mut last = 0;
        for value in (0..100_000).chain((17..40).map(|power| 1 << power)) {
            let index = bucket(value);
            assert!(index == last || index == last + 1 || value > 100_000, "{value}: {last} {index}");
            assert!((middle_ns(index) - value as f64).abs() <= value as f64 * 0.01, "{value}");
            last = index;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::new();
        assert_eq!(histogram.quantile_us(500), None);
        (1..=1000).for_each(|n| histogram.record(n * 1000));
        let (half, most) = (histogram.quantile_us(500).unwrap(), histogram.quantile_us(990).unwrap());
        assert!((half - 500.0).abs() < 5.0, "{half}");
        assert!((most - 990.0).abs() < 10.0, "{most}");
        assert_eq!(histogram.total(), 1000);
    }
}
