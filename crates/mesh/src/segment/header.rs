//! Where things stand in the headers of a packet, as far as both directions need them.

use super::checksum;

/// Protocol numbers.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// TCP flags.
pub(super) const FIN: u8 = 1;
pub(super) const SYN: u8 = 2;
pub(super) const RST: u8 = 4;
pub(super) const PSH: u8 = 8;
pub(super) const ACK: u8 = 16;
pub(super) const URG: u8 = 32;
pub(super) const CWR: u8 = 128;

/// Bytes of headers without options.
pub(super) const V4_BYTES: usize = 20;
pub(super) const V6_BYTES: usize = 40;
pub(super) const UDP_BYTES: usize = 8;
pub(super) const TCP_BYTES: usize = 20;

/// Offsets of fields: in the IPv4 header, in the IPv6 header, in the TCP and in the UDP header.
pub(super) const V4_LENGTH: usize = 2;
pub(super) const V4_ID: usize = 4;
pub(super) const V4_CHECKSUM: usize = 10;
pub(super) const V6_LENGTH: usize = 4;
pub(super) const TCP_SEQUENCE: usize = 4;
pub(super) const TCP_FLAGS: usize = 13;
pub(super) const TCP_CHECKSUM: usize = 16;
pub(super) const UDP_LENGTH: usize = 4;
pub(super) const UDP_CHECKSUM: usize = 6;

/// Where the parts of a packet are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) is_v4: bool,
    /// Where the TCP or UDP header begins.
    pub(super) transport: usize,
    pub(super) protocol: u8,
    /// Where the payload begins.
    pub(super) payload: usize,
}

pub(super) fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([byte(bytes, at), byte(bytes, at + 1)])
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}

/// The length as it stands in a header; nothing that has one is longer.
pub(super) fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

impl Layout {
    /// Of a packet whose transport header begins at `transport`; `None`: it does not fit.
    pub(super) fn new(packet: &[u8], transport: usize, protocol: u8) -> Option<Layout> {
        let is_v4 = byte(packet, 0) >> 4 == 4;
        let header = match protocol {
            TCP => usize::from(byte(packet, transport + 12) >> 4) * 4,
            _ => UDP_BYTES,
        };
        let least = if protocol == TCP { TCP_BYTES } else { UDP_BYTES };
        let payload = transport + header;
        (header >= least && payload <= packet.len()).then_some(Layout { is_v4, transport, protocol, payload })
    }

    /// Of a packet with the plainest IP header: no options, no fragment, no extension, as long as it says.
    pub(super) fn plain(packet: &[u8]) -> Option<Layout> {
        let (transport, protocol, length) = match byte(packet, 0) {
            0x45 if word(packet, 6) & 0x3fff == 0 => {
                (V4_BYTES, byte(packet, 9), usize::from(word(packet, V4_LENGTH)))
            }
            first if first >> 4 == 6 => {
                (V6_BYTES, byte(packet, 6), usize::from(word(packet, V6_LENGTH)) + V6_BYTES)
            }
            _ => return None,
        };
        let whole = length == packet.len()
            && match protocol {
                TCP => true,
                // A length of its own, which need not be that of IP.
                UDP => usize::from(word(packet, transport + UDP_LENGTH)) + transport == length,
                _ => false,
            };
        if whole { Layout::new(packet, transport, protocol) } else { None }
    }

    /// Source and destination, as they stand.
    pub(super) fn addresses(self, packet: &[u8]) -> &[u8] {
        let place = if self.is_v4 { 12..20 } else { 8..40 };
        packet.get(place).unwrap_or_default()
    }

    /// The sum of the pseudo header of a transport part of `length` bytes.
    pub(super) fn pseudo(self, packet: &[u8], length: usize) -> u64 {
        checksum::pseudo(self.addresses(packet), self.protocol, length)
    }

    /// Where in the packet the checksum of the transport stands.
    pub(super) fn checksum(self) -> usize {
        self.transport + self.checksum_offset()
    }

    pub(super) fn checksum_offset(self) -> usize {
        if self.protocol == TCP { TCP_CHECKSUM } else { UDP_CHECKSUM }
    }

    /// Writes the lengths of IP and UDP for a packet of `total` bytes, and the checksum of an IPv4 header.
    pub(super) fn set_length(self, headers: &mut [u8], total: usize) {
        if self.is_v4 {
            put(headers, V4_LENGTH, &length(total));
            put(headers, V4_CHECKSUM, &[0, 0]);
            let part = headers.get(..usize::from(byte(headers, 0) & 15) * 4).unwrap_or_default();
            let sum = checksum::finish(checksum::add(0, part));
            put(headers, V4_CHECKSUM, &sum);
        } else {
            put(headers, V6_LENGTH, &length(total - V6_BYTES));
        }
        if self.protocol == UDP {
            put(headers, self.transport + UDP_LENGTH, &length(total - self.transport));
        }
    }
}
