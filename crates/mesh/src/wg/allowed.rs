//! Cryptokey routing: which peer an address of the network belongs to.
//!
//! One table for all peers, so that a prefix has one owner and the most specific prefix decides, for what is sent and
//! for what is received alike. [`AllowedIps`] is what may be changed; [`Routes`] is what is asked, for each packet, by
//! threads that share it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use portway_model::Cidr;

use super::PeerId;

/// Prefixes and their owners.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedIps {
    owners: BTreeMap<Cidr, PeerId>,
    /// The same the other way round: one peer of many changes in time that does not grow with them.
    owned: BTreeMap<PeerId, BTreeSet<Cidr>>,
}

/// The same as ranges of addresses in order, one after the other without a gap: a question is a binary search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routes {
    v4: Ranges<u32>,
    v6: Ranges<u128>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Ranges<N> {
    /// First address of each range; the first one of all is 0.
    starts: Vec<N>,
    /// Whose the range is.
    owners: Vec<Option<PeerId>>,
}

impl AllowedIps {
    /// Gives `prefix` to `owner`; returns whose it was.
    pub fn assign(&mut self, prefix: Cidr, owner: PeerId) -> Option<PeerId> {
        let before = self.owners.insert(prefix, owner);
        if before != Some(owner) {
            self.disown(before, prefix);
            self.owned.entry(owner).or_default().insert(prefix);
        }
        before
    }

    fn disown(&mut self, owner: Option<PeerId>, prefix: Cidr) {
        let Some(owner) = owner else { return };
        if let Some(owned) = self.owned.get_mut(&owner) {
            owned.remove(&prefix);
            if owned.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    /// Takes `prefix` from whoever has it.
    pub fn remove(&mut self, prefix: Cidr) -> Option<PeerId> {
        let before = self.owners.remove(&prefix);
        self.disown(before, prefix);
        before
    }

    /// Makes `prefixes` all that `owner` has. Those that others had are moved.
    pub fn replace(&mut self, owner: PeerId, prefixes: &[Cidr]) {
        for prefix in self.owned.remove(&owner).unwrap_or_default() {
            self.owners.remove(&prefix);
        }
        for prefix in prefixes {
            self.assign(*prefix, owner);
        }
    }

    /// Each prefix and its owner, those of IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Cidr, PeerId)> + '_ {
        self.owners.iter().map(|(prefix, owner)| (*prefix, *owner))
    }

    /// The table to be asked.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let of = |v4: bool| {
            let blocks = self.owners.iter().filter(move |(cidr, _)| cidr.ip().is_ipv4() == v4);
            blocks.map(|(cidr, owner)| (bounds(*cidr), *owner))
        };
        Routes { v4: flatten(of(true)), v6: flatten(of(false)) }
    }
}

impl Routes {
    /// Whose `ip` is, by the longest prefix it is in. An IPv4-mapped address is nobody's.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<PeerId> {
        match ip {
            IpAddr::V4(ip) => self.v4.owner(u32::from(ip)),
            IpAddr::V6(ip) => self.v6.owner(u128::from(ip)),
        }
    }
}

impl Default for Routes {
    fn default() -> Routes {
        AllowedIps::default().routes()
    }
}

impl<N: Ord + Copy> Ranges<N> {
    fn owner(&self, address: N) -> Option<PeerId> {
        let after = self.starts.partition_point(|start| *start <= address);
        self.owners.get(after.checked_sub(1)?).copied().flatten()
    }
}

/// First and last address of a block, as numbers.
fn bounds(cidr: Cidr) -> (u128, u128) {
    let (first, bits) = match cidr.ip() {
        IpAddr::V4(ip) => (u128::from(u32::from(ip)), 32),
        IpAddr::V6(ip) => (u128::from(ip), 128),
    };
    let host = u32::from(cidr.prefix().abs_diff(bits));
    (first, first | 1_u128.checked_shl(host).map_or(u128::MAX, |next| next - 1))
}

/// Blocks, by first address and then the wider one first (the order of [`Cidr`]), lie beside or in each other: those
/// that are open at a place are a stack, and the innermost owns it.
fn flatten<N: TryFrom<u128> + PartialEq>(blocks: impl Iterator<Item = ((u128, u128), PeerId)>) -> Ranges<N> {
    let mut ranges = Ranges { starts: Vec::new(), owners: Vec::new() };
    let mut open: Vec<(u128, PeerId)> = Vec::new();
    ranges.begin(0, None);
    for ((first, last), owner) in blocks {
        ranges.close(&mut open, Some(first));
        ranges.begin(first, Some(owner));
        open.push((last, owner));
    }
    ranges.close(&mut open, None);
    ranges
}

impl<N: TryFrom<u128> + PartialEq> Ranges<N> {
    /// A range of `owner` begins at `start`, which is the last one's start or after it. Past the last address of the
    /// family none begins.
    fn begin(&mut self, start: u128, owner: Option<PeerId>) {
        let Ok(start) = N::try_from(start) else { return };
        if self.starts.last() == Some(&start) {
            self.starts.pop();
            self.owners.pop();
        }
        self.starts.push(start);
        self.owners.push(owner);
    }

    /// Ends the blocks that end before `next`, or all.
    fn close(&mut self, open: &mut Vec<(u128, PeerId)>, next: Option<u128>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            if let Some(after) = last.checked_add(1) {
                self.begin(after, open.last().map(|(_, owner)| *owner));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition: of all prefixes that hold the address, the longest.
    fn naive(blocks: &[(Cidr, PeerId)], ip: IpAddr) -> Option<PeerId> {
        let holding = blocks.iter().filter(|(cidr, _)| cidr.contains(ip));
        holding.max_by_key(|(cidr, _)| cidr.prefix()).map(|(_, owner)| *owner)
    }

    /// Few addresses, so that blocks meet.
    fn address() -> impl Strategy<Value = IpAddr> {
        let byte = prop_oneof![Just(0_u8), Just(1), Just(127), Just(128), Just(255), any::<u8>()];
        let v4 = prop::array::uniform4(byte.clone()).prop_map(IpAddr::from);
        // Above the mapped ones, which are IPv4 to `Cidr`.
        let v6 = prop::array::uniform4(byte)
            .prop_map(|[a, b, c, d]| IpAddr::from([0xfd, a, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, b, c, d]));
        prop_oneof![v4, v6]
    }

    fn block() -> impl Strategy<Value = Cidr> {
        (address(), 0..=128_u8).prop_map(|(ip, prefix)| {
            let most = if ip.is_ipv4() { 32 } else { 128 };
            Cidr::around(ip, prefix.min(most)).expect("not longer than the address")
        })
    }

    proptest! {
        /// Fails when: a wider prefix wins, the end of an inner block does not give the place back to the outer one, or a
        /// prefix that was moved stays with its first owner.
        #[test]
        fn the_longest_prefix_owns(
            changes in prop::collection::vec((block(), prop::option::weighted(0.8, 0..6_u16)), 0..24),
            asked in prop::collection::vec(address(), 1..40),
        ) {
            let mut table = AllowedIps::default();
            let mut model: Vec<(Cidr, PeerId)> = Vec::new();
            for (cidr, owner) in changes {
                let before = model.iter().position(|(has, _)| *has == cidr).map(|at| model.remove(at).1);
                let said = match owner {
                    Some(owner) => {
                        model.push((cidr, PeerId(owner)));
                        table.assign(cidr, PeerId(owner))
                    }
                    None => table.remove(cidr),
                };
                prop_assert_eq!(said, before);
            }
            let routes = table.routes();
            let edges = model.iter().map(|(cidr, _)| cidr.ip()).collect::<Vec<_>>();
            for ip in asked.into_iter().chain(edges) {
                prop_assert_eq!(routes.owner(ip), naive(&model, ip), "{}", ip);
            }
        }
    }

    proptest! {
        /// Fails when: a peer that gets others keeps a prefix, or takes one with it that has become another's.
        #[test]
        fn what_is_replaced_was_its_own(
            changes in prop::collection::vec((0..4_u16, prop::collection::vec(block(), 0..4)), 0..12),
        ) {
            let mut table = AllowedIps::default();
            let mut model = BTreeMap::new();
            for (owner, prefixes) in changes {
                table.replace(PeerId(owner), &prefixes);
                model.retain(|_, has| *has != PeerId(owner));
                model.extend(prefixes.into_iter().map(|prefix| (prefix, PeerId(owner))));
                prop_assert_eq!(table.iter().collect::<BTreeMap<_, _>>(), model.clone());
            }
            for owner in (0..4).map(PeerId) {
                table.replace(owner, &[]);
            }
            prop_assert_eq!(table, AllowedIps::default());
        }
    }

    /// Fails when: the last address of a family is lost, or a block that ends there opens a range past it.
    #[test]
    fn the_ends_of_the_families() {
        let mut table = AllowedIps::default();
        let cidr =
            |text: &str, prefix| Cidr::new(text.parse().expect("an address"), prefix).expect("a block");
        table.assign(cidr("0.0.0.0", 0), PeerId(1));
        table.assign(cidr("255.255.255.255", 32), PeerId(2));
        table.assign(cidr("::", 0), PeerId(3));
        let routes = table.routes();
        let owner = |text: &str| routes.owner(text.parse().expect("an address"));
        assert_eq!(owner("255.255.255.255"), Some(PeerId(2)));
        assert_eq!(owner("255.255.255.254"), Some(PeerId(1)));
        assert_eq!(owner("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), Some(PeerId(3)));
        table.replace(PeerId(3), &[cidr("255.255.255.255", 32)]);
        let routes = table.routes();
        assert_eq!(routes.owner("::1".parse().expect("an address")), None);
        assert_eq!(routes.owner("255.255.255.255".parse().expect("an address")), Some(PeerId(3)));
    }
}
