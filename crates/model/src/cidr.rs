//! Address blocks (`10.0.0.0/8`, `2001:db8::/32`), lists of them, and whose PROXY header is believed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::at::{ValueError, ValueErrorKind};
use crate::text::{quote, serde_by_text};

/// What a block has to look like, for messages.
const EXPECTED: &str = "an address block such as 10.0.0.0/8 or 2001:db8::/32";

/// A block of IP addresses: an address whose host bits are zero, and the length of its prefix. A block of
/// IPv4-mapped IPv6 addresses is the IPv4 block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    ip: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The block; `None` when the prefix is longer than the address, or a host bit is set.
    #[must_use]
    pub fn new(ip: IpAddr, prefix: u8) -> Option<Self> {
        let plain = ip.to_canonical();
        let mapped = ip.is_ipv6() && plain.is_ipv4() && prefix >= 96;
        let (ip, prefix) = if mapped { (plain, prefix - 96) } else { (ip, prefix) };
        (prefix <= bits(ip) && number(ip) == number(ip) & mask(ip, prefix)).then_some(Self { ip, prefix })
    }

    /// The block with a prefix of this length that `ip` is in; `None` when the prefix is longer than the address.
    #[must_use]
    pub fn around(ip: IpAddr, prefix: u8) -> Option<Self> {
        let first = number(ip) & mask(ip, prefix.min(bits(ip)));
        let first = match ip {
            IpAddr::V4(_) => IpAddr::from(u32::try_from(first).ok()?.to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from(first.to_be_bytes()),
        };
        Self::new(first, prefix)
    }

    /// Its first address.
    #[must_use]
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// Length of the prefix, bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether `ip` is in it. An IPv4-mapped address is its IPv4 address, and is in no IPv6 block.
    #[must_use]
    pub fn contains(self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.ip.is_ipv4() && number(ip) & mask(ip, self.prefix) == number(self.ip)
    }

    /// Whether every address of its family is in it.
    #[must_use]
    pub const fn is_everybody(self) -> bool {
        self.prefix == 0
    }

    /// Reads `text[start..end]`.
    fn parse(text: &str, start: usize, end: usize) -> Result<Self, ValueError> {
        let fail = |position, kind| Err(ValueError::new(text, position, kind));
        let item = text.get(start..end).unwrap_or_default();
        if item.is_empty() {
            return fail(start, ValueErrorKind::Empty { expected: EXPECTED });
        }
        let (address, prefix) = match item.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (item, None),
        };
        let Ok(ip) = address.parse::<IpAddr>() else {
            return fail(start, ValueErrorKind::NotOneOf { found: quote(item), expected: EXPECTED });
        };
        let length = match prefix {
            None => bits(ip),
            Some(digits) => {
                let plain = digits.bytes().all(|byte| byte.is_ascii_digit())
                    && (digits == "0" || !digits.starts_with('0'));
                match digits.parse::<u8>() {
                    Ok(length) if plain && length <= bits(ip) => length,
                    _ => {
                        let (min, max) = ("0".to_owned(), bits(ip).to_string());
                        let place = start + address.len() + 1;
                        return fail(place, ValueErrorKind::Bounds { found: quote(digits), min, max });
                    }
                }
            }
        };
        Self::new(ip, length).map_or_else(
            || {
                let block = format!("{}/{length}", with(ip, number(ip) & mask(ip, length)));
                fail(start, ValueErrorKind::HostBits { found: quote(item), block })
            },
            Ok,
        )
    }
}

/// Bits of an address.
const fn bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// An address as a number.
fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

/// The address `number` of the family of `ip`.
fn with(ip: IpAddr, number: u128) -> IpAddr {
    match (ip, u32::try_from(number)) {
        (IpAddr::V4(_), Ok(number)) => IpAddr::V4(Ipv4Addr::from(number)),
        _ => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// The bits of a prefix, of an address of the family of `ip`.
fn mask(ip: IpAddr, prefix: u8) -> u128 {
    let free = u32::from(bits(ip).saturating_sub(prefix));
    let all = if ip.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    all & u128::MAX.checked_shl(free).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// Address blocks, in order, each once: IPv4 before IPv6, then by address. Read from a list with commas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CidrList(Vec<Cidr>);

impl CidrList {
    /// Most blocks of a list: a device has to fit into one message to its worker, and each client is compared
    /// with all of them.
    pub const MAX_COUNT: usize = 128;

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The blocks.
    #[must_use]
    pub fn blocks(&self) -> &[Cidr] {
        &self.0
    }

    /// Whether one of them has `ip`.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|block| block.contains(ip))
    }

    /// Reads `text`; `check` may refuse a block, with the place where it stands.
    fn parse(text: &str, check: impl Fn(Cidr) -> Option<ValueErrorKind>) -> Result<Self, ValueError> {
        let mut blocks = Vec::new();
        let mut start = 0;
        for item in text.split(',') {
            if blocks.len() == Self::MAX_COUNT {
                return Err(ValueError::new(text, start, ValueErrorKind::TooMany(Self::MAX_COUNT)));
            }
            let block = Cidr::parse(text, start, start + item.len())?;
            if let Some(kind) = check(block) {
                return Err(ValueError::new(text, start, kind));
            }
            blocks.push(block);
            start += item.len() + 1;
        }
        blocks.sort_unstable();
        blocks.dedup();
        Ok(Self(blocks))
    }
}

impl FromStr for CidrList {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse(text, |_| None)
    }
}

impl fmt::Display for CidrList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, block) in self.0.iter().enumerate() {
            write!(f, "{}{block}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// From whom a PROXY header is accepted, and required.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AcceptProxy {
    /// From clients in these blocks, of which there is at least one and none that is a whole family.
    From(CidrList),
    /// From everybody. A word of its own: with it any client may say to be any other.
    Anybody,
}

impl AcceptProxy {
    /// The word for [`AcceptProxy::Anybody`].
    pub const ANYBODY: &str = "anybody";

    /// Whether a client with this address has to send a header.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match self {
            Self::From(blocks) => blocks.contains(ip),
            Self::Anybody => true,
        }
    }
}

impl FromStr for AcceptProxy {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        if text == Self::ANYBODY {
            return Ok(Self::Anybody);
        }
        let whole = |block: Cidr| block.is_everybody().then(|| ValueErrorKind::Everybody(block.to_string()));
        CidrList::parse(text, whole).map(Self::From)
    }
}

impl fmt::Display for AcceptProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(blocks) => blocks.fmt(f),
            Self::Anybody => f.write_str(Self::ANYBODY),
        }
    }
}

serde_by_text!(CidrList, AcceptProxy);

#[cfg(test)]
mod tests;
