//! Medians and what they are worth.

/// A median and the interval that holds the true one with 95 % (order statistics: no assumption about how
/// the values are spread).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Median {
    pub(crate) value: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Median {
    /// Of these; `None` of nothing.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len();
        let last = count.checked_sub(1)?;
        let value = f64::midpoint(sorted[last / 2], sorted[count / 2]);
        let outside = left_out(count);
        Some(Self { value, low: sorted[outside], high: sorted[last - outside] })
    }
}

/// How many values of a sorted list may be left out at each end so that the median of all there could be
/// still lies between the rest with 95 %. With fewer than six values none may, and it is less than that.
fn left_out(count: usize) -> usize {
    let mut choose = 1.0;
    let mut below = 0.0;
    let all = 2_f64.powi(i32::try_from(count).unwrap_or(i32::MAX));
    for k in 0..count {
        below += choose;
        if 2.0 * below / all > 0.05 {
            return k.saturating_sub(1).min((count - 1) / 2);
        }
        choose = choose * (count - k) as f64 / (k + 1) as f64;
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(Median::of([]), None);
        assert_eq!(Median::of([3.0]), Some(Median { value: 3.0, low: 3.0, high: 3.0 }));
        let nine = Median::of((1..=9).rev().map(f64::from)).unwrap();
        assert_eq!(nine, Median { value: 5.0, low: 2.0, high: 8.0 });
        assert_eq!(Median::of([4.0, 1.0]).unwrap().value, 2.5);
        assert_eq!(Median::of([1.0, f64::NAN]).unwrap().value, 1.0);
    }

    /// The table of the sign test: P(X < k) for X of a fair binomial distribution.
    #[test]
    fn order_statistics() {
        for (count, outside) in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (15, 3), (20, 5)] {
            assert_eq!(left_out(count), outside, "{count}");
        }
    }
}
