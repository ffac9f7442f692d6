//! Addresses of an organization, and which one a device gets.
//!
//! The IPv6 address follows from the device's key and needs nobody's memory. The IPv4 address begins where the key
//! hashes to and goes on from there until one is free: a device that joins again mostly gets the one it had.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use blake2::{Blake2s256, Digest as _};
use portway_model::Cidr;
use thiserror::Error;

use crate::spec::PublicKey;

/// Most blocks that are reserved.
const RESERVED_MAX: usize = 16;

/// Why there is no such pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// IPv6, or too large or small.
    #[error("the network is an IPv4 block from /8 to /29")]
    Block,
    /// Not of this network's kind, or too many.
    #[error("reserved is at most {RESERVED_MAX} IPv4 blocks")]
    Reserved,
    /// Not an address that a device can have, in any network.
    #[error("the network is one that devices cannot have addresses of")]
    Special,
    /// Not one of RFC 4193.
    #[error("the IPv6 prefix is not a unique local one")]
    Prefix,
}

/// Addresses of an organization.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    block: Cidr,
    prefix6: [u8; 6],
    reserved: Vec<Cidr>,
}

impl Pool {
    /// `block` for IPv4, without what is in `reserved`, and the /48 `prefix6` for IPv6.
    ///
    /// # Errors
    /// [`PoolError`].
    pub fn new(block: Cidr, prefix6: [u8; 6], reserved: Vec<Cidr>) -> Result<Pool, PoolError> {
        let IpAddr::V4(first) = block.ip() else { return Err(PoolError::Block) };
        if !(8..=29).contains(&block.prefix()) {
            return Err(PoolError::Block);
        }
        if first.is_loopback() || first.is_multicast() || first.octets()[0] == 0 || first.octets()[0] >= 240 {
            return Err(PoolError::Special);
        }
        if reserved.len() > RESERVED_MAX || reserved.iter().any(|block| block.ip().is_ipv6()) {
            return Err(PoolError::Reserved);
        }
        // RFC 4193, 3.1: fc00::/7 with the L bit set.
        if prefix6[0] != 0xfd {
            return Err(PoolError::Prefix);
        }
        Ok(Pool { block, prefix6, reserved })
    }

    /// A /48 of one's own (RFC 4193, 3.2).
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn random_prefix6() -> Result<[u8; 6], getrandom::Error> {
        let mut prefix = [0; 6];
        getrandom::fill(&mut prefix)?;
        prefix[0] = 0xfd;
        Ok(prefix)
    }

    /// The IPv4 block.
    #[must_use]
    pub fn block(&self) -> Cidr {
        self.block
    }

    /// The IPv6 /48.
    #[must_use]
    pub fn prefix6(&self) -> [u8; 6] {
        self.prefix6
    }

    /// The IPv6 block.
    #[must_use]
    pub fn block6(&self) -> Option<Cidr> {
        Cidr::around(self.ip6_of([0; 8]).into(), 48)
    }

    /// What of the IPv4 block is given to nobody.
    #[must_use]
    pub fn reserved(&self) -> &[Cidr] {
        &self.reserved
    }

    /// Whether a device may have `ip`: it is in the block, neither its first nor its last address, and not reserved.
    #[must_use]
    pub fn has(&self, ip: Ipv4Addr) -> bool {
        let place = u32::from(ip).wrapping_sub(self.first());
        place > 0 && place < self.size() - 1 && !self.reserved.iter().any(|block| block.contains(ip.into()))
    }

    /// The IPv6 address of a device.
    #[must_use]
    pub fn ip6(&self, key: &PublicKey) -> Ipv6Addr {
        self.ip6_of(hash(key))
    }

    fn ip6_of(&self, id: [u8; 8]) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.prefix6;
        let [s, t, u, v, w, x, y, z] = id;
        Ipv6Addr::from([a, b, c, d, e, f, 0, 0, s, t, u, v, w, x, y, z])
    }

    /// The first address for `key` that a device may have and that is not `taken`. `None` when there is none.
    #[must_use]
    pub fn candidate(&self, key: &PublicKey, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let size = self.size();
        let start = u64::from_be_bytes(hash(key)) % u64::from(size);
        let start = u32::try_from(start).unwrap_or_default();
        let nth = |step: u32| {
            let place = (u64::from(start) + u64::from(step)) % u64::from(size);
            Ipv4Addr::from(self.first() + u32::try_from(place).unwrap_or_default())
        };
        (0..size).map(nth).find(|ip| self.has(*ip) && !taken(*ip))
    }

    fn first(&self) -> u32 {
        match self.block.ip() {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(_) => 0,
        }
    }

    /// Addresses in the IPv4 block, with those that are nobody's.
    fn size(&self) -> u32 {
        1 << (32 - u32::from(self.block.prefix()))
    }
}

fn hash(key: &PublicKey) -> [u8; 8] {
    let hash = Blake2s256::digest(key.as_bytes());
    let mut first = [0; 8];
    first.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    first
}
