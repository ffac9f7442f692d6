//! Packets that follow each other, joined into a long one.

use super::checksum;
use super::header::{
    ACK, Layout, PSH, TCP, TCP_FLAGS, TCP_SEQUENCE, V4_CHECKSUM, V4_ID, V4_LENGTH, V6_LENGTH, byte, put, word,
};
use super::offload::{Offload, Segmented};
use crate::wg::message::array;

/// Most packets that are joined: a long one of 64 KiB with the shortest MTU of IPv6 has 53.
pub const MOST_JOINED: usize = 64;

/// Bytes of the headers of what is joined at most: IPv6, and TCP with all its options.
pub const LONGEST_HEADERS_BYTES: usize = 40 + 60;

/// Most bytes of a packet.
const LONGEST_BYTES: usize = 65_535;

/// DF, the flag of IPv4.
const DONT_FRAGMENT: u8 = 0x40;

/// A run of packets. The first gives headers and size; each next one must be what [`Cut`](super::Cut) would make the
/// next one of, checksums and all, so that a packet that was damaged on its way stays what it is.
#[derive(Debug, Clone, Copy)]
pub struct Join<'a> {
    first: &'a [u8],
    layout: Layout,
    /// Payload of each but the last.
    size: usize,
    count: usize,
    /// All payload so far.
    payload: usize,
    /// Nothing comes behind: the last one was shorter, or pushed.
    closed: bool,
    pushed: bool,
    /// The identification is the same in all, which with DF has no meaning (RFC 6864, 4.1).
    same_id: bool,
}

impl<'a> Join<'a> {
    /// Begins with `packet`. `None`: nothing can be joined to it.
    #[must_use]
    pub fn begin(packet: &'a [u8]) -> Option<Join<'a>> {
        let layout = Layout::plain(packet)?;
        let flags = byte(packet, layout.transport + TCP_FLAGS);
        let size = packet.len() - layout.payload;
        if size == 0 || (layout.protocol == TCP && flags != ACK) {
            return None;
        }
        Some(Join {
            first: packet,
            layout,
            size,
            count: 1,
            payload: size,
            closed: false,
            pushed: false,
            same_id: false,
        })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where the payload of each begins.
    #[must_use]
    pub fn headers(&self) -> usize {
        self.layout.payload
    }

    /// Takes `packet` as the next one, if it is.
    pub fn take(&mut self, packet: &[u8]) -> bool {
        let layout = self.layout;
        let size = packet.len().saturating_sub(layout.payload);
        let fits = !self.closed
            && size > 0
            && size <= self.size
            && self.count < MOST_JOINED
            && layout.payload + self.payload + size <= LONGEST_BYTES;
        if !fits || Layout::plain(packet) != Some(layout) {
            return false;
        }
        let Some(pushed) = self.follows(packet) else { return false };
        let Some(same_id) = self.numbered(packet) else { return false };
        if (self.count == 1 && !self.is_sound(self.first)) || !self.is_sound(packet) {
            return false;
        }
        self.closed = size < self.size || pushed;
        self.pushed = pushed;
        self.same_id = same_id;
        self.count += 1;
        self.payload += size;
        true
    }

    /// Whether all headers are the same but for what counts on; for TCP, whether it pushes.
    fn follows(&self, packet: &[u8]) -> Option<bool> {
        let (layout, first) = (self.layout, self.first);
        let same = |from: usize, to: usize| first.get(from..to) == packet.get(from..to);
        let network = if layout.is_v4 {
            same(0, V4_LENGTH) && same(6, V4_CHECKSUM) && same(12, layout.transport)
        } else {
            same(0, V6_LENGTH) && same(6, layout.transport)
        };
        let at = layout.transport;
        if !network || !same(at, at + 4) {
            return None;
        }
        if layout.protocol != TCP {
            // Without a checksum nothing says that it is sound.
            return (word(packet, layout.checksum()) != 0 && word(first, layout.checksum()) != 0)
                .then_some(false);
        }
        let sequence = |bytes: &[u8]| array(bytes, at + TCP_SEQUENCE).map_or(0, u32::from_be_bytes);
        let expected = sequence(first).wrapping_add(u32::try_from(self.payload).ok()?);
        let flags = byte(packet, at + TCP_FLAGS);
        let rest = same(at + 8, at + TCP_FLAGS) && same(at + 14, at + 16) && same(at + 18, layout.payload);
        (rest && sequence(packet) == expected && flags & !PSH == ACK).then_some(flags & PSH != 0)
    }

    /// Whether the identification counts on; `true` when it stays the same.
    fn numbered(&self, packet: &[u8]) -> Option<bool> {
        if !self.layout.is_v4 {
            return Some(false);
        }
        let (first, this) = (word(self.first, V4_ID), word(packet, V4_ID));
        let counted = this == first.wrapping_add(u16::try_from(self.count).ok()?);
        let same = this == first && byte(packet, 6) & DONT_FRAGMENT != 0;
        match self.count {
            1 if counted => Some(false),
            1 if same => Some(true),
            _ if self.same_id && same => Some(true),
            _ if !self.same_id && counted => Some(false),
            _ => None,
        }
    }

    /// Whether both checksums hold.
    fn is_sound(&self, packet: &[u8]) -> bool {
        let at = self.layout.transport;
        let (network, transport) = packet.split_at_checked(at).unwrap_or_default();
        let sum = checksum::add(self.layout.pseudo(packet, transport.len()), transport);
        let header = !self.layout.is_v4 || checksum::holds(checksum::add(0, network));
        header && checksum::holds(sum)
    }

    /// Writes the headers of the long packet and says what the kernel is to be told of it. The payloads follow in order.
    pub fn finish(&self, headers: &mut [u8; LONGEST_HEADERS_BYTES]) -> Offload {
        let layout = self.layout;
        put(headers, 0, self.first.get(..layout.payload).unwrap_or_default());
        let total = layout.payload + self.payload;
        layout.set_length(headers, total);
        if self.pushed {
            put(headers, layout.transport + TCP_FLAGS, &[ACK | PSH]);
        }
        let sum = checksum::fold(layout.pseudo(headers, total - layout.transport));
        put(headers, layout.checksum(), &sum);
        let kind = match (layout.protocol == TCP, layout.is_v4) {
            (true, true) => Segmented::Tcp4,
            (true, false) => Segmented::Tcp6,
            (false, _) => Segmented::Udp,
        };
        let short = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX);
        Offload {
            checksum: Some((short(layout.transport), short(layout.checksum_offset()))),
            segments: Some((kind, short(self.size))),
            headers: short(layout.payload),
        }
    }
}
