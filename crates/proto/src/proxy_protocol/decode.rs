//! Reading a header: what stands at the beginning of a connection, as far as it has come.
//!
//! Nothing is kept between two calls: each looks at all bytes there are. A byte that cannot be right is an error as
//! soon as it is there, so a connection that does not begin with a header is known by its first bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::tlv;
use super::{UNIX_ADDRESS_BYTES, V1_MAX_BYTES, V2_SIGNATURE};

/// Longest header that is read, bytes. The specification wants no more than 536 to be sent, and lets TLVs go beyond;
/// this leaves room for a client's certificate and is never more than a socket's queue holds.
pub const DECODE_MAX_BYTES: usize = 4096;

/// Signature, command, family, length.
const V2_HEAD_BYTES: usize = V2_SIGNATURE.len() + 4;

/// How every text header begins.
const V1_START: &[u8] = b"PROXY ";

/// What the bytes are so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// The beginning of a header; at most [`DECODE_MAX_BYTES`] are needed.
    More,
    /// A whole header. What follows it is the client's.
    Header {
        /// Between whom the announced connection runs.
        announced: Announced,
        /// Length of the header, bytes.
        length: usize,
    },
    /// No header.
    Malformed(Malformed),
}

/// Whom a header speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announced {
    /// The connection itself: `LOCAL`, `UNKNOWN`, or addresses that are not those of a tcp connection.
    Socket,
    /// A tcp client. IPv4-mapped addresses are IPv4 here.
    Tcp {
        /// Where it comes from.
        client: SocketAddr,
        /// Where it connected to.
        local: SocketAddr,
    },
}

/// Why bytes are no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Neither version begins like that.
    #[error("no header")]
    Start,
    /// A text header without its end.
    #[error("no end of line within {V1_MAX_BYTES} bytes")]
    LineTooLong,
    /// A lone CR or LF.
    #[error("the line does not end in CR LF")]
    LineEnd,
    /// Not `TCP4`, `TCP6` or `UNKNOWN`.
    #[error("unknown protocol of a text header")]
    Protocol,
    /// Not four fields with one space between them.
    #[error("a text header has four fields")]
    Fields,
    /// Not an address of the family that the header names.
    #[error("an address does not fit the family")]
    Address,
    /// Not a port as a decimal number.
    #[error("a port is malformed")]
    Port,
    /// A version other than 2, a command other than LOCAL and PROXY.
    #[error("unknown version or command")]
    Command,
    /// A family or transport that the specification does not have.
    #[error("unknown family")]
    Family,
    /// Shorter than its addresses, or longer than [`DECODE_MAX_BYTES`].
    #[error("the length does not fit")]
    Length,
    /// TLVs that do not fit into the header.
    #[error("a TLV does not fit")]
    Tlv,
    /// The checksum is another one.
    #[error("the checksum is wrong")]
    Checksum,
}

/// Reads the header at the beginning of `bytes`, which is everything that has come so far or the first
/// [`DECODE_MAX_BYTES`] of it.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    let begins_like = |start: &[u8]| {
        let common = bytes.len().min(start.len());
        bytes.get(..common) == start.get(..common)
    };
    let decoded = if begins_like(V1_START) {
        decode_v1(bytes)
    } else if begins_like(&V2_SIGNATURE) {
        decode_v2(bytes)
    } else {
        Err(Malformed::Start)
    };
    match decoded {
        Ok(Some((announced, length))) => Decoded::Header { announced, length },
        Ok(None) => Decoded::More,
        Err(malformed) => Decoded::Malformed(malformed),
    }
}

/// A header and its length, or `None` while it is not whole.
type Found = Result<Option<(Announced, usize)>, Malformed>;

fn decode_v1(bytes: &[u8]) -> Found {
    let line = bytes.get(..V1_MAX_BYTES).unwrap_or(bytes);
    let Some(end) = line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if line.len() == V1_MAX_BYTES { Err(Malformed::LineTooLong) } else { Ok(None) };
    };
    match (line.get(end), line.get(end + 1)) {
        (Some(b'\r'), Some(b'\n')) => {}
        (Some(b'\r'), None) if line.len() < V1_MAX_BYTES => return Ok(None),
        (Some(b'\r'), None) => return Err(Malformed::LineTooLong),
        _ => return Err(Malformed::LineEnd),
    }
    let text = line.get(V1_START.len()..end).unwrap_or_default();
    Ok(Some((announced_v1(text)?, end + 2)))
}

/// What stands between `PROXY ` and the end of the line.
fn announced_v1(text: &[u8]) -> Result<Announced, Malformed> {
    // Section 2.1: whatever stands after it is to be ignored.
    if text.strip_prefix(b"UNKNOWN").is_some_and(|rest| rest.is_empty() || rest.starts_with(b" ")) {
        return Ok(Announced::Socket);
    }
    let text = str::from_utf8(text).map_err(|_| Malformed::Protocol)?;
    let (protocol, rest) = text.split_once(' ').unwrap_or((text, ""));
    let parse: fn(&str) -> Option<IpAddr> = match protocol {
        "TCP4" => |text| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        "TCP6" => |text| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        _ => return Err(Malformed::Protocol),
    };
    let mut fields = rest.split(' ');
    let (Some(source), Some(destination), Some(source_port), Some(destination_port), None) =
        (fields.next(), fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed::Fields);
    };
    let address = |text: &str, port: &str| {
        let ip = parse(text).ok_or(Malformed::Address)?;
        Ok(SocketAddr::new(ip.to_canonical(), port_v1(port)?))
    };
    Ok(Announced::Tcp {
        client: address(source, source_port)?,
        local: address(destination, destination_port)?,
    })
}

/// 0 to 65535, no sign, no leading zero (section 2.1).
fn port_v1(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed::Port)
}

fn decode_v2(bytes: &[u8]) -> Found {
    let byte = |at: usize| bytes.get(at).copied();
    let Some(command) = byte(V2_SIGNATURE.len()) else { return Ok(None) };
    let local = match command {
        super::V2_LOCAL => true,
        super::V2_PROXY => false,
        _ => return Err(Malformed::Command),
    };
    let Some(family) = byte(V2_SIGNATURE.len() + 1) else { return Ok(None) };
    // Section 2.2: with LOCAL the rest is skipped, family included.
    if !local && (family >> 4 > 3 || family & 0xf > 2) {
        return Err(Malformed::Family);
    }
    let (Some(high), Some(low)) = (byte(V2_SIGNATURE.len() + 2), byte(V2_SIGNATURE.len() + 3)) else {
        return Ok(None);
    };
    let length = V2_HEAD_BYTES + usize::from(u16::from_be_bytes([high, low]));
    let addresses = if local { 0 } else { address_bytes(family) };
    if length > DECODE_MAX_BYTES || length < V2_HEAD_BYTES + addresses {
        return Err(Malformed::Length);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if local {
        return Ok(Some((Announced::Socket, length)));
    }
    // Without a family nobody knows where the addresses end.
    if family >> 4 != 0 {
        tlv::check(header, V2_HEAD_BYTES + addresses)?;
    }
    let body = header.get(V2_HEAD_BYTES..).unwrap_or_default();
    Ok(Some((announced_v2(family, body).unwrap_or(Announced::Socket), length)))
}

/// Length of both addresses of a family.
const fn address_bytes(family: u8) -> usize {
    match family >> 4 {
        1 => 12,
        2 => 36,
        3 => 2 * UNIX_ADDRESS_BYTES,
        _ => 0,
    }
}

/// The addresses of a tcp connection; `None` for any other.
fn announced_v2(family: u8, body: &[u8]) -> Option<Announced> {
    let port = |at: usize| Some(u16::from_be_bytes(body.get(at..at + 2)?.try_into().ok()?));
    let (client, local, ports) = match family {
        super::V2_TCP4 => {
            let ip = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(body.get(at..at + 4)?).ok()?));
            (IpAddr::V4(ip(0)?), IpAddr::V4(ip(4)?), 8)
        }
        super::V2_TCP6 => {
            let ip = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(body.get(at..at + 16)?).ok()?));
            (IpAddr::V6(ip(0)?).to_canonical(), IpAddr::V6(ip(16)?).to_canonical(), 32)
        }
        _ => return None,
    };
    Some(Announced::Tcp {
        client: SocketAddr::new(client, port(ports)?),
        local: SocketAddr::new(local, port(ports + 2)?),
    })
}

#[cfg(test)]
mod tests;
