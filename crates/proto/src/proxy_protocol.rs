//! PROXY protocol headers: sent to a target before the first byte of its client, and read from a proxy that
//! stands in front of us.
//!
//! Text (version 1) and binary (version 2) as in the specification of 2020/03/05 at haproxy.org,
//! sections 2.1 and 2.2. No TLV is sent.

mod decode;
mod tlv;

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use portway_model::{ProxyProtocol, UnixName};

pub use decode::{Announced, DECODE_MAX_BYTES, Decoded, Malformed, decode};

/// Longest text header, bytes (section 2.1).
pub const V1_MAX_BYTES: usize = 107;

/// Longest binary header, bytes: 16, and two unix addresses of 108.
pub const V2_MAX_BYTES: usize = 16 + 2 * UNIX_ADDRESS_BYTES;

/// Longest header of either version, bytes.
pub const MAX_BYTES: usize = V2_MAX_BYTES;

/// A unix address in a binary header, bytes: `sun_path` of Linux.
const UNIX_ADDRESS_BYTES: usize = 108;

/// First twelve bytes of a binary header.
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// Command bytes: version 2 in the high half.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;

/// Family in the high half, stream in the low half.
const V2_UNSPEC: u8 = 0x00;
const V2_TCP4: u8 = 0x11;
const V2_TCP6: u8 = 0x21;
const V2_UNIX_STREAM: u8 = 0x31;

/// Low half of the family for datagrams.
const V2_DATAGRAM: u8 = 0x02;

/// Between whom the relayed connection runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoints<'a> {
    /// A TCP client.
    Tcp {
        /// The client.
        client: SocketAddr,
        /// The local address of the accepted socket.
        local: SocketAddr,
    },
    /// A UDP client.
    Udp {
        /// The client.
        client: SocketAddr,
        /// The address it sent to.
        local: SocketAddr,
    },
    /// A unix client.
    Unix {
        /// The client's name, if it is bound to one.
        client: Option<&'a UnixName>,
        /// The socket listened on.
        local: &'a UnixName,
    },
    /// A client of which nothing is known.
    Unknown,
    /// No client: a connection of our own, such as a health check.
    Local,
}

/// Writes the header of `version` to the beginning of `out` and returns it: empty for
/// [`ProxyProtocol::Off`].
pub fn encode<'o>(
    version: ProxyProtocol,
    endpoints: Endpoints<'_>,
    out: &'o mut [u8; MAX_BYTES],
) -> &'o [u8] {
    let length = match version {
        ProxyProtocol::Off => 0,
        ProxyProtocol::V1 => encode_v1(endpoints, out),
        ProxyProtocol::V2 => encode_v2(endpoints, out),
    };
    out.get(..length).unwrap_or_default()
}

/// Version 1 knows TCP only; everything else is `UNKNOWN`.
fn encode_v1(endpoints: Endpoints<'_>, out: &mut [u8; MAX_BYTES]) -> usize {
    let room = out.len();
    let mut left = &mut out[..];
    let written = match endpoints {
        Endpoints::Tcp { client, local } => {
            let (family, (source, destination)) = match same_family(client.ip(), local.ip()) {
                Pair::V4(source, destination) => ("TCP4", (IpAddr::V4(source), IpAddr::V4(destination))),
                Pair::V6(source, destination) => ("TCP6", (IpAddr::V6(source), IpAddr::V6(destination))),
            };
            write!(left, "PROXY {family} {source} {destination} {} {}\r\n", client.port(), local.port())
        }
        Endpoints::Udp { .. } | Endpoints::Unix { .. } | Endpoints::Unknown | Endpoints::Local => {
            left.write_all(b"PROXY UNKNOWN\r\n")
        }
    };
    written.expect("the longest text header is shorter than the buffer");
    room - left.len()
}

fn encode_v2(endpoints: Endpoints<'_>, out: &mut [u8; MAX_BYTES]) -> usize {
    let mut body = Body { out, length: V2_SIGNATURE.len() + 4 };
    let (command, family) = match endpoints {
        Endpoints::Tcp { client, local } => (V2_PROXY, body.put_inet(client, local)),
        // The family of tcp, with another transport (section 2.2: UDP over IPv4, UDP over IPv6).
        Endpoints::Udp { client, local } => (V2_PROXY, (body.put_inet(client, local) & 0xf0) | V2_DATAGRAM),
        Endpoints::Unix { client: Some(client), local } => {
            body.put(&unix_address(client));
            body.put(&unix_address(local));
            (V2_PROXY, V2_UNIX_STREAM)
        }
        // Without a name there is nothing to tell. HAProxy (2.6) refuses PROXY with any family but those of IP, nginx
        // (1.22) a header above 107 bytes; LOCAL without addresses is what both take.
        Endpoints::Unix { client: None, .. } | Endpoints::Unknown | Endpoints::Local => (V2_LOCAL, V2_UNSPEC),
    };
    let Body { out, length } = body;
    let payload = u16::try_from(length - V2_SIGNATURE.len() - 4).expect("the payload is at most 216 bytes");
    let mut head = Body { out, length: 0 };
    head.put(&V2_SIGNATURE);
    head.put(&[command, family]);
    head.put(&payload.to_be_bytes());
    length
}

/// The buffer and how much of it is filled.
struct Body<'o> {
    out: &'o mut [u8; MAX_BYTES],
    length: usize,
}

impl Body<'_> {
    /// Puts both addresses; returns the family for tcp.
    fn put_inet(&mut self, client: SocketAddr, local: SocketAddr) -> u8 {
        let family = match same_family(client.ip(), local.ip()) {
            Pair::V4(source, destination) => {
                self.put(&source.octets());
                self.put(&destination.octets());
                V2_TCP4
            }
            Pair::V6(source, destination) => {
                self.put(&source.octets());
                self.put(&destination.octets());
                V2_TCP6
            }
        };
        self.put(&client.port().to_be_bytes());
        self.put(&local.port().to_be_bytes());
        family
    }

    fn put(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.out[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }
}

/// Two addresses of one family.
enum Pair {
    V4(std::net::Ipv4Addr, std::net::Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// A header has one family for both: IPv4 when both are (mapped ones count), else IPv6.
fn same_family(source: IpAddr, destination: IpAddr) -> Pair {
    let mapped = |ip| match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    match (source.to_canonical(), destination.to_canonical()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Pair::V4(source, destination),
        (source, destination) => Pair::V6(mapped(source), mapped(destination)),
    }
}

/// A name as in `sun_path`, filled up with zeros; an abstract one begins with a zero.
fn unix_address(name: &UnixName) -> [u8; UNIX_ADDRESS_BYTES] {
    let mut address = [0; UNIX_ADDRESS_BYTES];
    let (start, bytes) = match name {
        UnixName::Path(path) => (0, path.as_str().as_bytes()),
        UnixName::Abstract(name) => (1, name.as_str().as_bytes()),
    };
    for (to, from) in address.iter_mut().skip(start).zip(bytes) {
        *to = *from;
    }
    address
}

#[cfg(test)]
mod tests;
