//! One long packet, cut into those that are sent.

use super::checksum;
use super::header::{
    CWR, FIN, Layout, PSH, RST, SYN, TCP, TCP_FLAGS, TCP_SEQUENCE, UDP, URG, V4_BYTES, V4_ID, V6_BYTES, byte,
    put, word,
};
use super::offload::{Offload, Segmented};
use crate::wg::message::array;

/// Why a packet cannot be cut: what the kernel says of it does not fit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the offload header does not fit the packet")]
pub struct Uncut;

/// How a packet becomes one or more.
#[derive(Debug, Clone, Copy)]
pub struct Cut<'a> {
    packet: &'a [u8],
    how: How,
    count: usize,
}

#[derive(Debug, Clone, Copy)]
enum How {
    /// As it is.
    Whole,
    /// As it is, but for its checksum: where the part that it covers begins, and where it stands.
    Checksum { start: usize, place: usize },
    /// In pieces with so many bytes of payload.
    Pieces { layout: Layout, size: usize },
}

impl<'a> Cut<'a> {
    /// Looks at `packet`, of which the kernel says `offload`.
    ///
    /// # Errors
    /// [`Uncut`].
    pub fn new(offload: Offload, packet: &'a [u8]) -> Result<Cut<'a>, Uncut> {
        let how = match (offload.segments, offload.checksum) {
            (None, None) => How::Whole,
            (None, Some((start, offset))) => {
                let (start, place) = (usize::from(start), usize::from(start) + usize::from(offset));
                if place + 2 > packet.len() {
                    return Err(Uncut);
                }
                How::Checksum { start, place }
            }
            // Every kernel says where the checksum of a long packet stands; where its transport begins follows.
            (Some(_), None) => return Err(Uncut),
            (Some((kind, size)), Some((start, _))) => {
                let layout = layout(kind, packet, usize::from(start)).ok_or(Uncut)?;
                if size == 0 {
                    return Err(Uncut);
                }
                How::Pieces { layout, size: usize::from(size) }
            }
        };
        let count = match how {
            How::Pieces { layout, size } => (packet.len() - layout.payload).div_ceil(size).max(1),
            How::Whole | How::Checksum { .. } => 1,
        };
        Ok(Cut { packet, how, count })
    }

    /// The same with no packet above `limit` bytes, if it is TCP, which may be cut anywhere; else as it was.
    #[must_use]
    pub fn within(self, limit: usize) -> Cut<'a> {
        if self.longest() <= limit {
            return self;
        }
        let layout = match self.how {
            How::Pieces { layout, .. } => Some(layout),
            How::Checksum { .. } => Layout::plain(self.packet),
            // Its checksum is made anew, so it has to hold.
            How::Whole => Layout::plain(self.packet).filter(|layout| is_sound(*layout, self.packet)),
        };
        let uncuttable = |layout: &Layout| {
            layout.protocol != TCP || byte(self.packet, layout.transport + TCP_FLAGS) & (SYN | RST | URG) != 0
        };
        let Some(layout) = layout.filter(|layout| !uncuttable(layout)) else { return self };
        let size = limit.saturating_sub(layout.payload);
        if size == 0 {
            return self;
        }
        let count = (self.packet.len() - layout.payload).div_ceil(size).max(1);
        Cut { packet: self.packet, how: How::Pieces { layout, size }, count }
    }

    /// How many packets it becomes; at least one.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the first one; none is longer, and only the last may be shorter.
    #[must_use]
    pub fn longest(&self) -> usize {
        match self.how {
            How::Pieces { layout, size } => self.packet.len().min(layout.payload + size),
            How::Whole | How::Checksum { .. } => self.packet.len(),
        }
    }

    /// Writes packet `number` to the front of `to` and returns its length; 0 when there is no such packet or no room.
    pub fn write(&self, number: usize, to: &mut [u8]) -> usize {
        if number >= self.count {
            return 0;
        }
        match self.how {
            How::Pieces { layout, size } => self.piece(layout, size, number, to),
            How::Whole | How::Checksum { .. } => {
                let Some(to) = to.get_mut(..self.packet.len()) else { return 0 };
                to.copy_from_slice(self.packet);
                if let How::Checksum { start, place } = self.how {
                    // The sum of the pseudo header stands where the checksum goes, so it is part of what is summed.
                    let sum = checksum::add(0, to.get(start..).unwrap_or_default());
                    put(to, place, &nonzero(checksum::finish(sum)));
                }
                self.packet.len()
            }
        }
    }

    fn piece(&self, layout: Layout, size: usize, number: usize, to: &mut [u8]) -> usize {
        let begin = layout.payload + number * size;
        let end = self.packet.len().min(begin + size);
        let total = layout.payload + end - begin;
        let (Some(to), Some(headers), Some(payload)) =
            (to.get_mut(..total), self.packet.get(..layout.payload), self.packet.get(begin..end))
        else {
            return 0;
        };
        let Some((to_headers, to_payload)) = to.split_at_mut_checked(layout.payload) else { return 0 };
        to_headers.copy_from_slice(headers);
        to_payload.copy_from_slice(payload);
        if layout.is_v4 {
            let id = word(headers, V4_ID).wrapping_add(low_16(number));
            put(to_headers, V4_ID, &id.to_be_bytes());
        }
        layout.set_length(to_headers, total);
        if layout.protocol == TCP {
            let at = layout.transport + TCP_SEQUENCE;
            let first = array(headers, at).map_or(0, u32::from_be_bytes);
            let sequence = first.wrapping_add(u32::try_from(number * size).unwrap_or(u32::MAX));
            put(to_headers, at, &sequence.to_be_bytes());
            let mut flags = byte(headers, layout.transport + TCP_FLAGS);
            if number + 1 < self.count {
                flags &= !(FIN | PSH);
            }
            if number > 0 {
                flags &= !CWR;
            }
            put(to_headers, layout.transport + TCP_FLAGS, &[flags]);
        }
        put(to_headers, layout.checksum(), &[0, 0]);
        let transport = to_headers.get(layout.transport..).unwrap_or_default();
        let sum = layout.pseudo(to_headers, total - layout.transport);
        let sum = checksum::add(checksum::add(sum, transport), to_payload);
        put(to_headers, layout.checksum(), &nonzero(checksum::finish(sum)));
        total
    }
}

/// Whether the checksum of the transport holds.
fn is_sound(layout: Layout, packet: &[u8]) -> bool {
    let transport = packet.get(layout.transport..).unwrap_or_default();
    checksum::holds(checksum::add(layout.pseudo(packet, transport.len()), transport))
}

/// A checksum of UDP that comes out as 0 is sent as its other zero (RFC 768); for TCP both are the same.
fn nonzero(sum: [u8; 2]) -> [u8; 2] {
    if sum == [0, 0] { [0xff, 0xff] } else { sum }
}

/// Identifications are numbered modulo 2^16.
fn low_16(number: usize) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

/// The layout of a long packet: IPv4 with its options, or IPv6 with its extensions, up to where the kernel says that the
/// transport begins.
fn layout(kind: Segmented, packet: &[u8], transport: usize) -> Option<Layout> {
    let version = byte(packet, 0) >> 4;
    let begins = match version {
        4 => {
            let header = usize::from(byte(packet, 0) & 15) * 4;
            header >= V4_BYTES && transport == header
        }
        6 => transport >= V6_BYTES,
        _ => false,
    };
    let protocol = match (kind, version) {
        (Segmented::Tcp4, 4) | (Segmented::Tcp6, 6) => TCP,
        (Segmented::Udp, _) => UDP,
        _ => return None,
    };
    if begins && transport < packet.len() { Layout::new(packet, transport, protocol) } else { None }
}
