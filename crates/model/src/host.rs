//! The host part of an address: an IP literal, with a zone where it is link-local.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::at::{AddrError, AddrErrorKind};
use crate::text::quote;

/// Name of a network interface, 1 to 15 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Zone(String);

impl Zone {
    /// Longest name of an interface, bytes (`IFNAMSIZ` is 16 with the final NUL, netdevice(7)).
    pub const MAX_BYTES: usize = 15;

    /// The zone `name`; `None` when no interface can have that name. The kernel refuses `/`, `:`,
    /// blanks, `.` and `..`; `%` begins a pattern there, and `]` would end the address here.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':' | '%' | '[' | ']');
        let valid =
            (1..=Self::MAX_BYTES).contains(&name.len()) && !name.contains(bad) && name != "." && name != "..";
        valid.then(|| Self(name.to_owned()))
    }

    /// The interface's name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An IP address as a device names it. A link-local IPv6 address has a zone, no other has one; an
/// IPv4-mapped IPv6 address is its IPv4 address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IpHost {
    ip: IpAddr,
    zone: Option<Zone>,
}

impl IpHost {
    /// The host; `None` when a zone is missing or has no place.
    #[must_use]
    pub fn new(ip: IpAddr, zone: Option<Zone>) -> Option<Self> {
        let ip = ip.to_canonical();
        (is_link_local(ip) == zone.is_some()).then_some(Self { ip, zone })
    }

    /// Its address, never IPv4-mapped.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Its zone: set exactly when the address is link-local IPv6.
    #[must_use]
    pub const fn zone(&self) -> Option<&Zone> {
        self.zone.as_ref()
    }

    /// Whether it is `0.0.0.0` or `[::]`.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        self.ip.is_unspecified()
    }

    /// The address to dial: a wildcard becomes the loopback address of its family.
    #[must_use]
    pub const fn dial_ip(&self) -> IpAddr {
        match self.ip {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            IpAddr::V4(_) | IpAddr::V6(_) => self.ip,
        }
    }

    /// The host that is dialled: itself, or loopback for a wildcard.
    #[must_use]
    pub fn dialled(&self) -> Self {
        Self { ip: self.dial_ip(), zone: self.zone.clone() }
    }

    pub(crate) const fn plain(ip: IpAddr) -> Self {
        Self { ip, zone: None }
    }

    /// Reads what stands between brackets, `text[start..start + inner.len()]`, not empty.
    pub(crate) fn parse_v6(text: &str, start: usize, inner: &str) -> Result<Self, AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        let (literal, zone) = match inner.split_once('%') {
            Some((literal, zone)) => (literal, Some(zone)),
            None => (inner, None),
        };
        let zone_place = start + literal.len();
        let Ok(ip) = literal.parse::<Ipv6Addr>() else {
            if literal.parse::<Ipv4Addr>().is_ok() {
                return fail(start, AddrErrorKind::Ipv4Bracketed);
            }
            let strange = |c: char| !c.is_ascii_hexdigit() && c != ':' && c != '.';
            let offset = literal.find(strange).unwrap_or(0);
            return fail(start + offset, AddrErrorKind::Ipv6(quote(literal)));
        };
        let ip = IpAddr::V6(ip).to_canonical();
        match (is_link_local(ip), zone) {
            (false, Some(_)) => fail(zone_place, AddrErrorKind::ZoneUnexpected),
            (true, None) => fail(zone_place, AddrErrorKind::ZoneMissing),
            (false, None) => Ok(Self { ip, zone: None }),
            (true, Some(name)) => match Zone::new(name) {
                Some(zone) => Ok(Self { ip, zone: Some(zone) }),
                None => fail(zone_place + 1, AddrErrorKind::ZoneInvalid(quote(name))),
            },
        }
    }

    /// Reads a host without brackets, `text[start..start + literal.len()]`, not empty.
    pub(crate) fn parse_v4(text: &str, start: usize, literal: &str) -> Result<Self, AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        if let Ok(ip) = literal.parse::<Ipv4Addr>() {
            return Ok(Self::plain(IpAddr::V4(ip)));
        }
        if let Some((ip, _)) = literal.split_once('%')
            && ip.parse::<Ipv4Addr>().is_ok()
        {
            return fail(start + ip.len(), AddrErrorKind::ZoneUnexpected);
        }
        if !literal.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
            return fail(start, AddrErrorKind::HostName(quote(literal)));
        }
        let mut place = start;
        for part in literal.split('.') {
            let kind = if part.is_empty() {
                Some(AddrErrorKind::Ipv4Empty)
            } else if part.len() > 1 && part.starts_with('0') {
                Some(AddrErrorKind::Ipv4LeadingZero(quote(part)))
            } else if part.parse::<u8>().is_err() {
                Some(AddrErrorKind::Ipv4TooLarge(quote(part)))
            } else {
                None
            };
            if let Some(kind) = kind {
                return fail(place, kind);
            }
            place += part.len() + 1;
        }
        fail(start, AddrErrorKind::Ipv4Parts(literal.split('.').count()))
    }
}

/// `fe80::/10` (RFC 4291, 2.5.6).
const fn is_link_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => false,
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

/// With brackets where it is IPv6, ready for `:PORT`.
impl fmt::Display for IpHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.ip, &self.zone) {
            (IpAddr::V4(ip), _) => write!(f, "{ip}"),
            (IpAddr::V6(ip), None) => write!(f, "[{ip}]"),
            (IpAddr::V6(ip), Some(zone)) => write!(f, "[{ip}%{zone}]"),
        }
    }
}
