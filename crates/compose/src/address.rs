//! Subnets and addresses: which are free, and who gets which.
//!
//! What has an address keeps it. Everything is chosen from what is known, so the same question has the same answer.

use std::collections::BTreeSet;
use std::fmt;
use std::net::Ipv4Addr;

/// A subnet and the address of whoever routes for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Subnet {
    gateway: u32,
    prefix: u8,
}

/// Free subnets are looked for in 10.0.0.0/8 from here on: the lower half is where people number by hand.
const FIRST: u32 = 10 << 24 | 128 << 16;

/// How many /24 there are from there to the end of 10.0.0.0/8.
const COUNT: u32 = 1 << 15;

impl Subnet {
    /// Reads `10.1.2.1/24`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Subnet> {
        let (address, prefix) = text.split_once('/')?;
        let prefix: u8 = prefix.parse().ok().filter(|prefix| (1..=30).contains(prefix))?;
        Some(Subnet { gateway: u32::from(address.parse::<Ipv4Addr>().ok()?), prefix })
    }

    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.gateway)
    }

    /// Bits of the network's part.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn mask(self) -> u32 {
        u32::MAX << (32 - u32::from(self.prefix))
    }

    fn base(self) -> u32 {
        self.gateway & self.mask()
    }

    fn last(self) -> u32 {
        self.base() | !self.mask()
    }

    /// Whether the two have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.base() <= other.last() && other.base() <= self.last()
    }

    /// Whether an instance can have this address: inside, and neither the network's, the broadcast's nor the gateway's.
    #[must_use]
    pub fn offers(&self, address: Ipv4Addr) -> bool {
        let address = u32::from(address);
        address > self.base() && address < self.last() && address != self.gateway
    }

    /// The last quarter, which is left to whoever asks by DHCP: `10.1.2.192-10.1.2.254`.
    #[must_use]
    pub fn dhcp_range(&self) -> String {
        let from = self.base() + (self.last() - self.base() + 1) / 4 * 3;
        format!("{}-{}", Ipv4Addr::from(from), Ipv4Addr::from(self.last() - 1))
    }

    /// The lowest address that nobody has, from the first to the last of `range` where there is one.
    #[must_use]
    pub fn free(&self, range: Option<(Ipv4Addr, Ipv4Addr)>, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        let (first, last) = range.map_or((self.base() + 1, self.last()), |(first, last)| {
            (u32::from(first).max(self.base() + 1), u32::from(last).saturating_add(1).min(self.last()))
        });
        let addresses = (first..last).map(Ipv4Addr::from);
        addresses.filter(|address| self.offers(*address)).find(|address| !taken.contains(address))
    }

    /// A /24 that overlaps with none of `taken`. Where the search begins follows from `name`.
    #[must_use]
    pub fn unused(name: &str, taken: &[Subnet]) -> Option<Subnet> {
        let start = spread(name);
        let candidates = (0..COUNT).map(|step| {
            let nth = start.wrapping_add(step) % COUNT;
            Subnet { gateway: FIRST + (nth << 8) + 1, prefix: 24 }
        });
        let mut candidates = candidates.filter(|subnet| taken.iter().all(|other| !subnet.overlaps(other)));
        candidates.next()
    }
}

/// Where the search for something free begins: FNV-1a spreads names, and is the same on every machine.
pub(crate) fn spread(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.gateway(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        Subnet::parse(text).expect("a subnet")
    }

    #[test]
    fn a_subnet_is_read_and_printed() {
        assert_eq!(subnet("10.1.2.1/24").to_string(), "10.1.2.1/24");
        for text in ["", "10.1.2.1", "10.1.2.1/0", "10.1.2.1/31", "10.1.2.1/33", "fd00::1/64", "none", "auto"]
        {
            assert_eq!(Subnet::parse(text), None, "{text}");
        }
    }

    #[test]
    fn network_broadcast_and_gateway_are_nobodys() {
        let subnet = subnet("10.1.2.1/29");
        for (address, offered) in [(0, false), (1, false), (2, true), (6, true), (7, false), (8, false)] {
            assert_eq!(subnet.offers(Ipv4Addr::new(10, 1, 2, address)), offered, "{address}");
        }
        let taken = (2..=5).map(|last| Ipv4Addr::new(10, 1, 2, last)).collect();
        assert_eq!(subnet.free(None, &taken), Some(Ipv4Addr::new(10, 1, 2, 6)));
        let all = (2..=6).map(|last| Ipv4Addr::new(10, 1, 2, last)).collect();
        assert_eq!(subnet.free(None, &all), None);
        let range = |first, last| Some((Ipv4Addr::new(10, 1, 2, first), Ipv4Addr::new(10, 1, 2, last)));
        assert_eq!(subnet.free(range(4, 5), &BTreeSet::new()), Some(Ipv4Addr::new(10, 1, 2, 4)));
        assert_eq!(subnet.free(range(4, 5), &taken), None, "the rest is not its");
        assert_eq!(subnet.free(range(0, 255), &taken), Some(Ipv4Addr::new(10, 1, 2, 6)));
    }

    #[test]
    fn a_free_subnet_overlaps_with_nothing() {
        let first = Subnet::unused("p-default", &[]).expect("free");
        assert_eq!(Subnet::unused("p-default", &[]), Some(first), "the same question");
        let half = Subnet { gateway: first.base() + 129, prefix: 25 };
        let second = Subnet::unused("p-default", &[half]).expect("free");
        assert!(!second.overlaps(&half) && second != first);
        assert_eq!(Subnet::unused("x", &[subnet("10.0.0.1/8")]), None);
    }

    #[test]
    fn dhcp_has_the_last_quarter() {
        assert_eq!(subnet("10.1.2.1/24").dhcp_range(), "10.1.2.192-10.1.2.254");
    }
}
