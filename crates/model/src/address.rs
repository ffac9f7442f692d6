//! Addresses of a proxy device.
//!
//! ```text
//! address := ("tcp:" | "udp:") host ":" ports | unix ":" path | unix ":@" name
//! unix    := "unix" | "unixgram" | "unixpacket"
//! host    := IPv4 | "[" IPv6 "]" | "[" link-local IPv6 "%" zone "]" | "" | "[]"
//! ports   := item ("," item)*        item := N | N "-" M, M > N
//! ```
//! An empty host is `[::]` where the device listens and `127.0.0.1` where it connects. Nothing is
//! looked up: neither hosts nor services have names here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::at::{AddrError, AddrErrorKind};
use crate::host::IpHost;
use crate::port::PortList;
use crate::text::{quote, serde_by_text};
use crate::unix::{UnixKind, UnixName};

/// Which end of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where clients come in.
    Listen,
    /// Where the target is.
    Connect,
}

/// What an address speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Unix stream socket.
    Unix,
    /// Unix datagram socket.
    Unixgram,
    /// Unix seqpacket socket: a connection that keeps the boundaries of what is sent.
    Unixpacket,
}

impl Protocol {
    /// `tcp`, `udp`, `unix`, `unixgram` or `unixpacket`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Unix => "unix",
            Self::Unixgram => "unixgram",
            Self::Unixpacket => "unixpacket",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An address of either side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// TCP ports of one host.
    Tcp {
        /// Host.
        host: IpHost,
        /// Ports, positional.
        ports: PortList,
    },
    /// UDP ports of one host.
    Udp {
        /// Host.
        host: IpHost,
        /// Ports, positional.
        ports: PortList,
    },
    /// A unix socket.
    Unix(UnixKind, UnixName),
}

impl Address {
    /// What it speaks.
    #[must_use]
    pub const fn protocol(&self) -> Protocol {
        match self {
            Self::Tcp { .. } => Protocol::Tcp,
            Self::Udp { .. } => Protocol::Udp,
            Self::Unix(UnixKind::Stream, _) => Protocol::Unix,
            Self::Unix(UnixKind::Datagram, _) => Protocol::Unixgram,
            Self::Unix(UnixKind::Packet, _) => Protocol::Unixpacket,
        }
    }

    /// Host, unless unix.
    #[must_use]
    pub const fn host(&self) -> Option<&IpHost> {
        match self {
            Self::Tcp { host, .. } | Self::Udp { host, .. } => Some(host),
            Self::Unix(..) => None,
        }
    }

    /// Ports, unless unix.
    #[must_use]
    pub const fn ports(&self) -> Option<&PortList> {
        match self {
            Self::Tcp { ports, .. } | Self::Udp { ports, .. } => Some(ports),
            Self::Unix(..) => None,
        }
    }

    /// Socket name, if unix.
    #[must_use]
    pub const fn unix(&self) -> Option<&UnixName> {
        match self {
            Self::Tcp { .. } | Self::Udp { .. } => None,
            Self::Unix(_, name) => Some(name),
        }
    }

    /// Kind of socket, if unix.
    #[must_use]
    pub const fn unix_kind(&self) -> Option<UnixKind> {
        match self {
            Self::Tcp { .. } | Self::Udp { .. } => None,
            Self::Unix(kind, _) => Some(*kind),
        }
    }

    /// Number of sockets it stands for: its ports, or 1 for unix.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.ports().map_or(1, PortList::count)
    }

    /// Reads an address of `side`.
    ///
    /// # Errors
    /// What is wrong and where. A listen address with a port listed twice is refused.
    pub fn parse(text: &str, side: Side) -> Result<Self, AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        if text.is_empty() {
            return fail(0, AddrErrorKind::Empty);
        }
        let Some((protocol, rest)) = text.split_once(':') else {
            return fail(0, AddrErrorKind::ProtocolMissing(quote(text)));
        };
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "unix" => Protocol::Unix,
            "unixgram" => Protocol::Unixgram,
            "unixpacket" => Protocol::Unixpacket,
            _ => return fail(0, AddrErrorKind::ProtocolUnknown { found: quote(protocol) }),
        };
        let start = text.len() - rest.len();
        if rest.is_empty() {
            return fail(start, AddrErrorKind::AddressMissing(protocol.as_str()));
        }
        let unix = |kind| UnixName::parse_at(text, start).map(|name| Self::Unix(kind, name));
        match protocol {
            Protocol::Unix => unix(UnixKind::Stream),
            Protocol::Unixgram => unix(UnixKind::Datagram),
            Protocol::Unixpacket => unix(UnixKind::Packet),
            Protocol::Tcp => parse_inet(text, start, side).map(|(host, ports)| Self::Tcp { host, ports }),
            Protocol::Udp => parse_inet(text, start, side).map(|(host, ports)| Self::Udp { host, ports }),
        }
    }
}

/// Reads `host ":" ports`, `text[start..]`, not empty.
fn parse_inet(text: &str, start: usize, side: Side) -> Result<(IpHost, PortList), AddrError> {
    let (host, ports_start) = parse_host(text, start, side)?;
    let (ports, places) = PortList::parse_at(text, ports_start)?;
    if side == Side::Listen
        && let Some((item, port)) = ports.first_repeat()
    {
        let place = places.get(item).copied().unwrap_or(ports_start);
        return Err(AddrError::new(text, place, AddrErrorKind::PortTwice(port.get())));
    }
    Ok((host, ports))
}

/// Reads the host and the colon after it; returns where the ports begin.
fn parse_host(text: &str, start: usize, side: Side) -> Result<(IpHost, usize), AddrError> {
    let fail = |position, kind| Err(AddrError::new(text, position, kind));
    let rest = text.get(start..).unwrap_or_default();
    if let Some(inside) = rest.strip_prefix('[') {
        let Some((inner, after)) = inside.split_once(']') else {
            return fail(start, AddrErrorKind::BracketOpen);
        };
        let host =
            if inner.is_empty() { default_host(side) } else { IpHost::parse_v6(text, start + 1, inner)? };
        let end = start + inner.len() + 2;
        return match after.chars().next() {
            None => fail(end, AddrErrorKind::HostOnly),
            Some(':') => Ok((host, end + 1)),
            Some(c) => fail(end, AddrErrorKind::Trailing(quote(c.encode_utf8(&mut [0; 4])))),
        };
    }
    let Some((literal, ports)) = rest.split_once(':') else {
        return fail(text.len(), AddrErrorKind::HostOnly);
    };
    if ports.contains(':') && looks_like_v6(rest) {
        return fail(start, AddrErrorKind::Ipv6Bare);
    }
    let host = if literal.is_empty() { default_host(side) } else { IpHost::parse_v4(text, start, literal)? };
    Ok((host, start + literal.len() + 1))
}

/// Whether `rest` is an IPv6 address whose brackets were forgotten, with or without ports.
fn looks_like_v6(rest: &str) -> bool {
    let is_v6 = |text: &str| text.split('%').next().is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok());
    is_v6(rest) || rest.rsplit_once(':').is_some_and(|(host, _)| is_v6(host))
}

/// What an empty host means.
const fn default_host(side: Side) -> IpHost {
    match side {
        Side::Listen => IpHost::plain(IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        Side::Connect => IpHost::plain(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    }
}

/// The canonical text: it parses back to the same address on either side.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, ports } => write!(f, "tcp:{host}:{ports}"),
            Self::Udp { host, ports } => write!(f, "udp:{host}:{ports}"),
            Self::Unix(_, name) => write!(f, "{}:{name}", self.protocol()),
        }
    }
}

/// Where a device listens. No port is listed twice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ListenAddr(Address);

impl ListenAddr {
    /// The address.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.0
    }
}

impl FromStr for ListenAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        Address::parse(text, Side::Listen).map(Self)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a device's target is. A port may be listed twice: two listen ports can share a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectAddr(Address);

impl ConnectAddr {
    /// The address; a wildcard host stays one.
    #[must_use]
    pub const fn address(&self) -> &Address {
        &self.0
    }

    /// The address to dial, a wildcard as the loopback address of its family. `None` for unix.
    #[must_use]
    pub fn dial_ip(&self) -> Option<IpAddr> {
        self.0.host().map(IpHost::dial_ip)
    }
}

impl FromStr for ConnectAddr {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        Address::parse(text, Side::Connect).map(Self)
    }
}

impl fmt::Display for ConnectAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

serde_by_text!(ListenAddr, ConnectAddr);

#[cfg(test)]
mod tests;
