//! What the kernel says of a packet it hands over, and is told of one it is given: `struct virtio_net_hdr` of
//! linux/virtio_net.h.

/// Bytes of the header.
pub const OFFLOAD_BYTES: usize = 10;

const NEEDS_CHECKSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;
/// With the TCP kinds: the first segment alone has CWR.
const GSO_ECN: u8 = 0x80;

/// What a long packet is to be cut as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segmented {
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP, over either.
    Udp,
}

/// The header, read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offload {
    /// Where the part begins that its own checksum is to cover, and where in that part the checksum stands; the sum of
    /// the pseudo header is there already.
    pub checksum: Option<(u16, u16)>,
    /// How to cut, and the bytes of payload of each piece.
    pub segments: Option<(Segmented, u16)>,
    /// Bytes of all headers.
    pub headers: u16,
}

impl Offload {
    /// Reads it. `None`: it asks for what is not known.
    #[must_use]
    pub fn read(bytes: [u8; OFFLOAD_BYTES]) -> Option<Offload> {
        let [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1] = bytes;
        let [headers, size, start, offset] = [[h0, h1], [s0, s1], [c0, c1], [o0, o1]].map(u16::from_ne_bytes);
        let kind = match kind & !GSO_ECN {
            GSO_NONE => None,
            GSO_TCP4 => Some(Segmented::Tcp4),
            GSO_TCP6 => Some(Segmented::Tcp6),
            GSO_UDP => Some(Segmented::Udp),
            _ => return None,
        };
        let checksum = (flags & NEEDS_CHECKSUM != 0).then_some((start, offset));
        Some(Offload { checksum, segments: kind.map(|kind| (kind, size)), headers })
    }

    /// Writes it. Everything before the packet, a link's header of `before` bytes, counts in its places.
    #[must_use]
    pub fn write(&self, before: u16) -> [u8; OFFLOAD_BYTES] {
        let (kind, size) = match self.segments {
            None => (GSO_NONE, 0),
            Some((Segmented::Tcp4, size)) => (GSO_TCP4, size),
            Some((Segmented::Tcp6, size)) => (GSO_TCP6, size),
            Some((Segmented::Udp, size)) => (GSO_UDP, size),
        };
        let (flags, start, offset) =
            self.checksum.map_or((0, 0, 0), |(start, offset)| (NEEDS_CHECKSUM, start + before, offset));
        let headers = if self.headers == 0 { 0 } else { self.headers + before };
        let [h0, h1] = headers.to_ne_bytes();
        let [s0, s1] = size.to_ne_bytes();
        let [c0, c1] = start.to_ne_bytes();
        let [o0, o1] = offset.to_ne_bytes();
        [flags, kind, h0, h1, s0, s1, c0, c1, o0, o1]
    }

    /// The same without the `before` bytes of a link's header.
    #[must_use]
    pub fn without(self, before: u16) -> Offload {
        Offload {
            checksum: self.checksum.map(|(start, offset)| (start.saturating_sub(before), offset)),
            headers: self.headers.saturating_sub(before),
            ..self
        }
    }
}
