//! How a range of ports is led to another without a rule for each.
//!
//! With `NF_NAT_RANGE_PROTO_OFFSET` and a base of 0, which is what nf_tables gives, the kernel
//! (`nf_nat_l4proto_unique_tuple`) makes of a port `p` and the range `first..=last` the port
//! `first + p % n`, where `n` is the length of the range. So one range leads all of `a..=b` to
//! `t..=t + (b - a)` when `a..=b` lies between two multiples of its `n`, and `first` is `t - a % n`.

/// A part of the ports that are listened on, and the range they are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part {
    /// First port listened on.
    pub(crate) from: u16,
    /// Last port listened on.
    pub(crate) to: u16,
    /// First of the kernel's range.
    pub(crate) first: u16,
    /// Last of the kernel's range.
    pub(crate) last: u16,
}

/// Largest port.
const MAX: u32 = 65_535;

/// Leads `a..=b` to as many ports from `t` on, by as few parts as there can be.
///
/// One part does when the ports go up or stay (`n = b + 1`), and nearly always when they go down. Where
/// a range is longer than its first port is high and goes down, the multiples of any `n` cut it: then each
/// part at most doubles the port it begins with, so that there are never more than sixteen.
pub(crate) fn parts(a: u16, b: u16, t: u16) -> Vec<Part> {
    let (mut a, b, mut t) = (u32::from(a), u32::from(b), u32::from(t));
    let mut parts = Vec::new();
    while a <= b {
        let (n, to) = longest(a, b, t);
        let first = t - a % n;
        parts.extend(part(a, to, first, first + n - 1));
        t += to + 1 - a;
        a = to + 1;
    }
    parts
}

fn part(from: u32, to: u32, first: u32, last: u32) -> Option<Part> {
    let small = |number: u32| u16::try_from(number).ok();
    Some(Part { from: small(from)?, to: small(to)?, first: small(first)?, last: small(last)? })
}

/// The length of range that leads the most of `a..=b` to ports from `t` on, and the last port it leads.
fn longest(a: u32, b: u32, t: u32) -> (u32, u32) {
    if t >= a {
        return (b + 1, b);
    }
    // A range of one port leads one port anywhere.
    let mut best = (1, a);
    for n in (1..=MAX + 1).rev() {
        let skipped = a % n;
        if skipped > t || t - skipped + n - 1 > MAX {
            continue;
        }
        let to = (a - skipped + n - 1).min(b);
        if to > best.1 {
            best = (n, to);
        }
        if to == b {
            break;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The kernel's arithmetic, step by step.
    fn kernel(part: &Part, port: u16) -> u16 {
        let (min, max) = (u32::from(part.first.min(part.last)), u32::from(part.first.max(part.last)));
        let size = max - min + 1;
        u16::try_from(min + u32::from(port) % size).unwrap()
    }

    fn check(a: u16, b: u16, t: u16) -> usize {
        let parts = parts(a, b, t);
        let mut next = u32::from(a);
        for part in &parts {
            assert_eq!(u32::from(part.from), next, "{a}-{b} to {t}: {parts:?}");
            for port in part.from..=part.to {
                assert_eq!(kernel(part, port), t + (port - a), "{a}-{b} to {t}: port {port} by {part:?}");
            }
            next = u32::from(part.to) + 1;
        }
        assert_eq!(next, u32::from(b) + 1, "{a}-{b} to {t}: {parts:?}");
        parts.len()
    }

    /// Fails when: the modulus or the first port of a part is off by one.
    #[test]
    fn every_small_case_is_exact() {
        for a in 1..=24 {
            for b in a..=40 {
                for t in 1..=40 {
                    check(a, b, t);
                }
            }
        }
    }

    #[test]
    fn the_ends_are_exact() {
        for (a, b, t) in [
            (1, 65_535, 1),
            (1, 65_534, 2),
            (2, 65_535, 1),
            (65_535, 65_535, 1),
            (1, 1, 65_535),
            (64_536, 65_535, 1),
            (1, 1_000, 64_536),
            (60_000, 65_535, 54_464),
            (40_000, 65_535, 39_999),
        ] {
            check(a, b, t);
        }
    }

    #[test]
    fn a_thousand_ports_are_one_part() {
        for (a, t) in
            [(10_000, 20_000), (20_000, 10_000), (1_024, 80), (8_000, 7_999), (30_000, 1), (64_000, 63_000)]
        {
            assert_eq!(check(a, a + 999, t), 1, "{a} to {t}");
        }
        // Longer than its first port is high, and down: cut at the doubles of its first port.
        assert_eq!(check(1_000, 2_999, 80), 2);
        assert!(check(2, 65_535, 1) <= 16);
    }

    proptest! {
        #[test]
        fn large_cases_are_exact(a in 1_u16.., length in 0_u16..3_000, t in 1_u16..) {
            let length = length.min(u16::MAX - a).min(u16::MAX - t);
            let count = check(a, a + length, t);
            prop_assert!(count <= 16);
            if length < a && u32::from(a) + u32::from(t) <= MAX + 1 {
                prop_assert_eq!(count, 1);
            }
        }
    }
}
