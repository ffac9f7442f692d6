//! Ports of this node for calls to others.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::ops::Range;

/// The kernel's own range: net.ipv4.ip_local_port_range.
const PORTS: Range<u16> = 32_768..61_000;

/// Which one is next: in turn, from a beginning that nobody knows and that is another one for each destination (RFC 6056,
/// 3.3.3). Whoever ends first keeps a connection for a minute and leaves a new one of the same port unanswered for a second;
/// by chance one in thirty met that, where a thousand connections were made in a second.
#[derive(Debug, Default)]
pub(super) struct Ports {
    key: RandomState,
    taken: u64,
}

impl Ports {
    /// The next one for a call to `to` that is free; `None`: none is.
    pub(super) fn next(&mut self, to: SocketAddr, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let count = u64::from(PORTS.end - PORTS.start);
        let first = self.key.hash_one(to) % count + self.taken % count;
        let port =
            |step: u64| u16::try_from((first + step) % count).map_or(PORTS.start, |at| PORTS.start + at);
        let step = (0..count).find(|step| is_free(port(*step)))?;
        self.taken = self.taken.wrapping_add(step + 1);
        Some(port(step))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{PORTS, Ports};

    /// Fails when: a port is used again before all others were, one that is taken is used, or where they begin can be told
    /// from another destination's.
    #[test]
    fn all_others_come_first() {
        let (mut ports, to) = (Ports::default(), "10.9.0.2:80".parse().unwrap());
        let odd = |port: u16| port % 2 == 1;
        let half = PORTS.len() / 2;
        let mut seen: BTreeSet<u16> = (0..half).map(|_| ports.next(to, odd).unwrap()).collect();
        assert!(seen.len() == half && seen.iter().all(|port| odd(*port) && PORTS.contains(port)));
        let again = ports.next(to, odd).unwrap();
        assert!(!seen.insert(again));
        assert_eq!(ports.next(to, |_| false), None);
        let each: Vec<_> =
            (1..100).map(|last| ports.next(([10, 9, 0, last], 80).into(), |_| true).unwrap()).collect();
        assert!(each.windows(2).filter(|two| two[1] == two[0] + 1).count() < 50);
    }
}
