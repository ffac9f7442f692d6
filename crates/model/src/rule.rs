//! Rules of a mesh: `protocol:[address:]port:destination:destination_port`, as nexd has them, with an address to listen
//! on, and `+proxy_protocol=v2` behind it where the destination is to be told who the client is.
//!
//! An ingress rule listens on the node's addresses in the network and dials on the host. An egress rule listens on the
//! host and dials into the network. Two rules are the same when their canonical texts are.

use std::fmt;
use std::net::IpAddr;

use crate::at::{AddrErrorKind, At};
use crate::host::IpHost;
use crate::name::{Host, HostError, HostErrorKind};
use crate::options::ProxyProtocol;
use crate::port::{Port, parse_port};
use crate::text::quote;

/// Which way a rule leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the network to the host.
    Ingress,
    /// From the host into the network.
    Egress,
}

impl Direction {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a rule carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Flows of datagrams.
    Udp,
}

impl Transport {
    /// Its word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a rule listens. The address is `None` for every address of the side it listens on; `0.0.0.0` is every IPv4
/// address of it, `[::]` every IPv6 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleListen {
    /// Side: ingress listens in the network, egress on the host.
    pub direction: Direction,
    /// Protocol.
    pub transport: Transport,
    /// Address, never IPv4-mapped.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: Port,
}

impl RuleListen {
    /// Whether both cannot be listened on: not the same place, and yet some address is in both.
    #[must_use]
    pub fn conflicts(&self, other: &Self) -> bool {
        let place = |listen: &Self| (listen.direction, listen.transport, listen.port);
        place(self) == place(other)
            && match (self.address, other.address) {
                (None, None) => false,
                (None, Some(_)) | (Some(_), None) => true,
                (Some(one), Some(two)) => {
                    one != two
                        && one.is_ipv4() == two.is_ipv4()
                        && (one.is_unspecified() || two.is_unspecified())
                }
            }
    }
}

/// `protocol:[address:]port`.
impl fmt::Display for RuleListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            None => write!(f, "{}:{}", self.transport, self.port),
            Some(ip @ IpAddr::V4(_)) => write!(f, "{}:{ip}:{}", self.transport, self.port),
            Some(ip @ IpAddr::V6(_)) => write!(f, "{}:[{ip}]:{}", self.transport, self.port),
        }
    }
}

/// A rule, checked as far as that can be done without its network.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MeshRule {
    listen: RuleListen,
    destination: Host,
    destination_port: Port,
    proxy_protocol: ProxyProtocol,
}

/// What is wrong with a rule, and where.
pub type RuleError = At<RuleErrorKind>;

/// What can be wrong with a rule. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleErrorKind {
    /// Nothing there.
    #[error("rule is empty, expected protocol:[address:]port:destination:port")]
    Empty,
    /// Fewer than four fields.
    #[error("rule has {0} of at least 4 fields, expected protocol:[address:]port:destination:port")]
    Fields(usize),
    /// More than five fields.
    #[error("rule has more than 5 fields, expected protocol:[address:]port:destination:port")]
    TooManyFields,
    /// An opening bracket without its end.
    #[error("closing bracket missing")]
    Bracket,
    /// Not one of ours.
    #[error("unknown protocol {0}, expected tcp or udp")]
    Protocol(String),
    /// Something wrong with the port that is listened on.
    #[error("listen port: {0}")]
    ListenPort(AddrErrorKind),
    /// Something wrong with the address that is listened on.
    #[error("listen address: {0}")]
    ListenAddress(HostErrorKind),
    /// A name to listen on.
    #[error("listen address {0} is a name, expected an IP address")]
    ListenName(String),
    /// An address nobody can listen on.
    #[error("listen address {0} is no host's")]
    ListenForeign(String),
    /// Something wrong with the destination.
    #[error("destination: {0}")]
    Destination(HostErrorKind),
    /// Something wrong with the destination's port.
    #[error("destination port: {0}")]
    DestinationPort(AddrErrorKind),
    /// A wildcard, a group or everybody as a destination.
    #[error("destination {0} is no single host's address")]
    DestinationMany(String),
    /// Something behind a `+` that is no option.
    #[error("unknown option {0}, expected +proxy_protocol=v1 or v2")]
    Option(String),
    /// A header where there is no beginning it could stand at.
    #[error("a udp rule sends no PROXY header")]
    OptionUdp,
    /// An address that means something else at the other end of a tunnel.
    #[error("destination {0} is not in the network: an egress rule dials through the tunnel")]
    DestinationLocal(String),
}

impl MeshRule {
    /// Reads a rule of one direction.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(direction: Direction, whole: &str) -> Result<MeshRule, RuleError> {
        let (text, proxy_protocol) = option(whole)?;
        let fail = |position, kind| Err(RuleError::new(text, position, kind));
        if text.is_empty() {
            return fail(0, RuleErrorKind::Empty);
        }
        if let Some(open) = text.rfind('[').filter(|open| text.rfind(']') < Some(*open)) {
            return fail(open, RuleErrorKind::Bracket);
        }
        let fields = fields(text);
        let (protocol, address, port, destination, destination_port) = match fields.as_slice() {
            [protocol, port, destination, destination_port] => {
                (protocol, None, port, destination, destination_port)
            }
            [protocol, address, port, destination, destination_port] => {
                (protocol, Some(address), port, destination, destination_port)
            }
            few @ ([] | [_] | [_, _] | [_, _, _]) => {
                return fail(text.len(), RuleErrorKind::Fields(few.len()));
            }
            [_, _, _, _, _, extra, ..] => return fail(extra.place, too_many(&fields)),
        };
        let listen = RuleListen {
            direction,
            transport: transport(text, *protocol)?,
            address: address.map(|field| listen_address(text, *field)).transpose()?,
            port: parse_port(text, port.place, port.text).map_err(|error| {
                RuleError::new(text, error.position, RuleErrorKind::ListenPort(error.kind))
            })?,
        };
        let host = Host::parse_at(text, destination.place, destination.text)
            .map_err(|error| RuleError::new(text, error.position, RuleErrorKind::Destination(error.kind)))?;
        if let Some(kind) = wrong_destination(direction, &host) {
            return fail(destination.place, kind);
        }
        if listen.transport == Transport::Udp && proxy_protocol != ProxyProtocol::Off {
            return Err(RuleError::new(whole, text.len(), RuleErrorKind::OptionUdp));
        }
        let destination_port =
            parse_port(text, destination_port.place, destination_port.text).map_err(|error| {
                RuleError::new(text, error.position, RuleErrorKind::DestinationPort(error.kind))
            })?;
        Ok(MeshRule { listen, destination: host, destination_port, proxy_protocol })
    }

    /// Where it listens: rules with the same place share its connections.
    #[must_use]
    pub const fn listen(&self) -> RuleListen {
        self.listen
    }

    /// Which way it leads.
    #[must_use]
    pub const fn direction(&self) -> Direction {
        self.listen.direction
    }

    /// Whom it dials. A name is looked up on the side that dials.
    #[must_use]
    pub const fn destination(&self) -> &Host {
        &self.destination
    }

    /// The header that its destination is sent before a client's first byte.
    #[must_use]
    pub const fn proxy_protocol(&self) -> ProxyProtocol {
        self.proxy_protocol
    }

    /// Which port it dials.
    #[must_use]
    pub const fn destination_port(&self) -> Port {
        self.destination_port
    }
}

/// The canonical text, without the direction.
impl fmt::Display for MeshRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.listen, self.destination, self.destination_port)?;
        match self.proxy_protocol {
            ProxyProtocol::Off => Ok(()),
            version @ (ProxyProtocol::V1 | ProxyProtocol::V2) => write!(f, "+{OPTION}={version}"),
        }
    }
}

/// The only option there is.
const OPTION: &str = "proxy_protocol";

/// What stands before the options, and what they say. A `+` before a digit is a sign, and no option.
fn option(text: &str) -> Result<(&str, ProxyProtocol), RuleError> {
    let letter = |(at, _): &(usize, &str)| {
        text.get(at + 1..).and_then(|rest| rest.chars().next()).is_some_and(|c| c.is_ascii_alphabetic())
    };
    let Some((at, _)) = text.match_indices('+').find(letter) else { return Ok((text, ProxyProtocol::Off)) };
    let (rule, said) = text.split_at(at);
    let value = said.strip_prefix('+').and_then(|said| said.strip_prefix(OPTION)?.strip_prefix('='));
    match value.map(str::to_ascii_lowercase).as_deref() {
        Some("v1") => Ok((rule, ProxyProtocol::V1)),
        Some("v2") => Ok((rule, ProxyProtocol::V2)),
        _ => Err(RuleError::new(text, at, RuleErrorKind::Option(quote(said)))),
    }
}

/// A part of a rule, and where it begins.
#[derive(Clone, Copy)]
struct Field<'a> {
    place: usize,
    text: &'a str,
}

/// The parts between colons that stand outside brackets.
fn fields(text: &str) -> Vec<Field<'_>> {
    /// More than there can be; the rest of the text stays in the last one.
    const MOST: usize = 16;
    let mut fields = Vec::new();
    let (mut place, mut inside) = (0, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => inside = true,
            b']' => inside = false,
            b':' if !inside && fields.len() + 1 < MOST => {
                fields.push(Field { place, text: text.get(place..at).unwrap_or_default() });
                place = at + 1;
            }
            _ => {}
        }
    }
    fields.push(Field { place, text: text.get(place..).unwrap_or_default() });
    fields
}

/// Why there are too many parts: most often an IPv6 address without brackets.
fn too_many(fields: &[Field<'_>]) -> RuleErrorKind {
    let hexadecimal = |field: &Field<'_>| field.text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let address = fields.iter().skip(2).any(|field| field.text.is_empty())
        || (fields.len() >= 8 && fields.iter().skip(1).all(hexadecimal));
    if address {
        RuleErrorKind::Destination(AddrErrorKind::Ipv6Bare.into())
    } else {
        RuleErrorKind::TooManyFields
    }
}

fn transport(text: &str, field: Field<'_>) -> Result<Transport, RuleError> {
    match field.text.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Transport::Tcp),
        "udp" => Ok(Transport::Udp),
        _ => Err(RuleError::new(text, field.place, RuleErrorKind::Protocol(quote(field.text)))),
    }
}

fn listen_address(text: &str, field: Field<'_>) -> Result<IpAddr, RuleError> {
    let fail = |kind| Err(RuleError::new(text, field.place, kind));
    match Host::parse_at(text, field.place, field.text) {
        Ok(Host::Name(_)) => fail(RuleErrorKind::ListenName(quote(field.text))),
        Ok(Host::Ip(host)) if host.zone().is_some() || is_group(&host) => {
            fail(RuleErrorKind::ListenForeign(quote(field.text)))
        }
        Ok(Host::Ip(host)) => Ok(host.ip()),
        Err(HostError { position, kind, .. }) => {
            Err(RuleError::new(text, position, RuleErrorKind::ListenAddress(kind)))
        }
    }
}

fn wrong_destination(direction: Direction, host: &Host) -> Option<RuleErrorKind> {
    let shown = || quote(&host.to_string());
    match (direction, host) {
        (_, Host::Ip(ip)) if ip.is_wildcard() || is_group(ip) => {
            Some(RuleErrorKind::DestinationMany(shown()))
        }
        (Direction::Egress, Host::Ip(ip))
            if ip.ip().is_loopback() || ip.zone().is_some() || is_autoconf(ip) =>
        {
            Some(RuleErrorKind::DestinationLocal(shown()))
        }
        (Direction::Egress, Host::Name(name)) if name.is_loopback() => {
            Some(RuleErrorKind::DestinationLocal(shown()))
        }
        (Direction::Ingress | Direction::Egress, Host::Ip(_) | Host::Name(_)) => None,
    }
}

/// Multicast or broadcast.
fn is_group(host: &IpHost) -> bool {
    host.ip().is_multicast() || matches!(host.ip(), IpAddr::V4(ip) if ip.is_broadcast())
}

/// `169.254.0.0/16`, which ends at the next router (RFC 3927, 2.7).
fn is_autoconf(host: &IpHost) -> bool {
    matches!(host.ip(), IpAddr::V4(ip) if ip.is_link_local())
}

#[cfg(test)]
mod tests;
