//! Packets as far as the stack reads and writes them itself: where the transport begins, whether it is sound, and what is
//! put together without a connection. No length in a packet is believed before it is compared with what is there.

use std::net::{IpAddr, SocketAddr};

use crate::segment::checksum;
use crate::wg::{inner, message::array};

/// Protocol numbers.
pub(super) const ICMP4: u8 = 1;
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
const FRAGMENT6: u8 = 44;
pub(super) const ICMP6: u8 = 58;

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const ACK: u8 = 16;

/// Bytes of headers without options.
pub(super) const V4_BYTES: usize = 20;
pub(super) const V6_BYTES: usize = 40;
pub(super) const TCP_BYTES: usize = 20;
pub(super) const UDP_BYTES: usize = 8;

/// Hops of what is sent.
const HOPS: u8 = 64;

pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array(bytes, at).unwrap_or_default())
}

pub(super) fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at).unwrap_or_default())
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}

/// A length as it stands in a header; nothing that has one is longer.
pub(super) fn short(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// Bytes of the IP header of what is sent to an address of this family.
pub(super) fn ip_bytes(ip: IpAddr) -> usize {
    if ip.is_ipv4() { V4_BYTES } else { V6_BYTES }
}

/// A part of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) id: u32,
    pub(super) offset: usize,
    pub(super) more: bool,
}

/// What an IP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ip {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Where the transport begins.
    pub(super) header: usize,
    /// Where the packet ends.
    pub(super) length: usize,
    pub(super) piece: Option<Piece>,
}

impl Ip {
    /// `None`: no packet, a damaged header, an extension that is not known, or a source that nobody can be.
    pub(super) fn read(bytes: &[u8]) -> Option<Ip> {
        let inner = inner::read(bytes)?;
        let (source, destination, length) = (inner.source, inner.destination, inner.length);
        if source.is_unspecified() || source.is_multicast() || source == IpAddr::from([255; 4]) {
            return None;
        }
        let (header, protocol, piece) = if source.is_ipv4() {
            let header = usize::from(byte(bytes, 0) & 15) * 4;
            if !checksum::holds(checksum::add(0, bytes.get(..header)?)) {
                return None;
            }
            let field = word(bytes, 6);
            let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
            let piece = Piece { id: u32::from(word(bytes, 4)), offset, more };
            (header, byte(bytes, 9), Some(piece).filter(|piece| piece.more || piece.offset > 0))
        } else if byte(bytes, 6) == FRAGMENT6 {
            let field = word(bytes, V6_BYTES + 2);
            let (offset, more) = (usize::from(field & 0xfff8), field & 1 != 0);
            let piece = Piece { id: long(bytes, V6_BYTES + 4), offset, more };
            (V6_BYTES + 8, byte(bytes, V6_BYTES), Some(piece).filter(|piece| piece.more || piece.offset > 0))
        } else {
            (V6_BYTES, byte(bytes, 6), None)
        };
        (header <= length).then_some(Ip { source, destination, protocol, header, length, piece })
    }

    /// Transport header and payload.
    pub(super) fn transport<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(self.header..self.length).unwrap_or_default()
    }

    /// Whether the checksum of the transport holds. UDP over IPv4 may have none.
    pub(super) fn is_sound(&self, packet: &[u8]) -> bool {
        let transport = self.transport(packet);
        let none = self.protocol == UDP && self.source.is_ipv4() && word(transport, 6) == 0;
        let sum = match self.protocol {
            ICMP4 => 0,
            _ => pseudo(self.source, self.destination, self.protocol, transport.len()),
        };
        none || checksum::holds(checksum::add(sum, transport))
    }

    /// Who calls whom, by the ports that a transport of at least four bytes begins with.
    pub(super) fn pair(&self, transport: &[u8]) -> Option<Pair> {
        let (source, destination) = (array(transport, 0)?, array(transport, 2)?);
        Some(Pair {
            local: SocketAddr::new(self.destination, u16::from_be_bytes(destination)),
            remote: SocketAddr::new(self.source, u16::from_be_bytes(source)),
        })
    }
}

/// The two ends of a connection or flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// What TCP, UDP and ICMPv6 sum beside themselves.
pub(super) fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u64 {
    let mut addresses = [0; 32];
    let used = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            put(&mut addresses, 0, &source.octets());
            put(&mut addresses, 4, &destination.octets());
            8
        }
        (source, destination) => {
            put(&mut addresses, 0, &v6(source));
            put(&mut addresses, 16, &v6(destination));
            32
        }
    };
    checksum::pseudo(addresses.get(..used).unwrap_or_default(), protocol, length)
}

fn v6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Writes an IP header for `length` bytes behind it, of whole packets with `piece` `None`. Extends `to`.
pub(super) fn push_header(to: &mut Vec<u8>, from: IpAddr, whom: IpAddr, protocol: u8, length: usize) {
    match (from, whom) {
        (IpAddr::V4(from), IpAddr::V4(whom)) => {
            let begin = to.len();
            let [l0, l1] = short(V4_BYTES + length).to_be_bytes();
            // Do not fragment: what is longer than the tunnel takes is cut here, or not at all.
            to.extend([0x45, 0, l0, l1, 0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
            to.extend(from.octets().into_iter().chain(whom.octets()));
            seal_v4(to.get_mut(begin..).unwrap_or_default());
        }
        (from, whom) => {
            let [l0, l1] = short(length).to_be_bytes();
            to.extend([0x60, 0, 0, 0, l0, l1, protocol, HOPS]);
            to.extend(v6(from).into_iter().chain(v6(whom)));
        }
    }
}

/// Writes the checksum of an IPv4 header without options.
pub(super) fn seal_v4(header: &mut [u8]) {
    put(header, 10, &[0, 0]);
    let sum = checksum::finish(checksum::add(0, header.get(..V4_BYTES).unwrap_or_default()));
    put(header, 10, &sum);
}

/// A whole packet around `transport`, whose checksum stands at `place` in it and is written here.
pub(super) fn compose(
    from: IpAddr,
    whom: IpAddr,
    protocol: u8,
    transport: &[&[u8]],
    place: usize,
) -> Vec<u8> {
    let length = transport.iter().map(|part| part.len()).sum();
    let mut packet = Vec::with_capacity(V6_BYTES + length);
    push_header(&mut packet, from, whom, protocol, length);
    let begin = packet.len();
    transport.iter().for_each(|part| packet.extend_from_slice(part));
    let body = packet.get_mut(begin..).unwrap_or_default();
    put(body, place, &[0, 0]);
    let sum = if protocol == ICMP4 { 0 } else { pseudo(from, whom, protocol, length) };
    let sum = match checksum::finish(checksum::add(sum, body)) {
        // The other zero: this one says that there is none (RFC 768). For the others both are the same.
        [0, 0] => [0xff, 0xff],
        sum => sum,
    };
    put(body, place, &sum);
    packet
}

/// A TCP header without options, as an answer that belongs to no connection.
pub(super) fn bare_tcp(pair: Pair, sequence: u32, acknowledged: u32, flags: u8, window: u16) -> Vec<u8> {
    let mut header = [0; TCP_BYTES];
    put(&mut header, 0, &pair.local.port().to_be_bytes());
    put(&mut header, 2, &pair.remote.port().to_be_bytes());
    put(&mut header, 4, &sequence.to_be_bytes());
    put(&mut header, 8, &acknowledged.to_be_bytes());
    put(&mut header, 12, &[5 << 4, flags]);
    put(&mut header, 14, &window.to_be_bytes());
    compose(pair.local.ip(), pair.remote.ip(), TCP, &[&header], 16)
}

/// What a TCP header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) flags: u8,
    pub(super) sequence: u32,
    pub(super) acknowledged: u32,
    /// Its window, as it stands there.
    pub(super) window: u16,
    /// Bytes of its header.
    pub(super) header: usize,
    /// What it takes of the sequence: payload, SYN, FIN.
    pub(super) takes: u32,
    /// Where in the transport the number of the MSS option stands.
    pub(super) mss: Option<usize>,
}

impl Segment {
    /// `None`: its header does not fit.
    pub(super) fn read(transport: &[u8]) -> Option<Segment> {
        let header = usize::from(byte(transport, 12) >> 4) * 4;
        if header < TCP_BYTES || header > transport.len() {
            return None;
        }
        let flags = byte(transport, 13);
        let controls = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
        let payload = u32::try_from(transport.len() - header).ok()?;
        Some(Segment {
            flags,
            sequence: long(transport, 4),
            acknowledged: long(transport, 8),
            window: word(transport, 14),
            header,
            takes: payload + controls,
            mss: if flags & SYN == 0 { None } else { mss_place(transport, header) },
        })
    }

    /// The reset that answers it (RFC 9293, 3.10.7.1); `None` for a reset.
    pub(super) fn refusal(&self, pair: Pair) -> Option<Vec<u8>> {
        if self.flags & RST != 0 {
            return None;
        }
        Some(if self.flags & ACK != 0 {
            bare_tcp(pair, self.acknowledged, 0, RST, 0)
        } else {
            bare_tcp(pair, 0, self.sequence.wrapping_add(self.takes), RST | ACK, 0)
        })
    }
}

/// Where the MSS option of a SYN has its number.
fn mss_place(transport: &[u8], header: usize) -> Option<usize> {
    let mut at = TCP_BYTES;
    while at < header {
        match (byte(transport, at), usize::from(byte(transport, at + 1))) {
            (0, _) => return None,
            (1, _) => at += 1,
            (2, 4) if at + 4 <= header => return Some(at + 2),
            (_, length) if length >= 2 => at += length,
            _ => return None,
        }
    }
    None
}
