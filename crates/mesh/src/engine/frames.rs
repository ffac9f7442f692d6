//! Packets out of the stack and into it, each with its [`Offload`].

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use portway_sys::device;

use super::role::Way;
use crate::segment::{MOST_JOINED, OFFLOAD_BYTES, Offload};
use crate::wg::PeerId;

/// Bytes of an Ethernet header.
const LINK_BYTES: usize = 14;

/// Bytes of the number of a packet's peer, which a pair has in place of a link's header: the kernel has no use for it.
pub(super) const PEER_BYTES: usize = 2;

/// Room for the longest packet with all that stands before it.
pub const FRAME_BYTES: usize = OFFLOAD_BYTES + LINK_BYTES + 65_535;

/// Address of the stack's end of the veth pair, and of ours. Locally administered; nobody else is on that link.
pub(super) const STACK_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OUR_ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Types of what an Ethernet header is before.
const V4: [u8; 2] = [0x08, 0x00];
const V6: [u8; 2] = [0x86, 0xdd];

/// A packet that was read, in the buffer it was read into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the kernel says of it.
    pub offload: Offload,
    /// Where it is.
    pub packet: Range<usize>,
}

/// The device's descriptor. Reading and writing may be done by two threads.
#[derive(Debug)]
pub struct Frames {
    fd: OwnedFd,
    way: Way,
    lost: AtomicU64,
}

impl Frames {
    pub(super) fn new(fd: OwnedFd, way: Way) -> Frames {
        Frames { fd, way, lost: AtomicU64::new(0) }
    }

    /// What it goes through.
    #[must_use]
    pub fn way(&self) -> Way {
        self.way
    }

    /// How many packets of the stack found no room at a packet socket, in all. What a TUN device has no room for the stack
    /// knows ([`Stack::packets_lost`](super::kernel::Stack::packets_lost)).
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn packets_lost(&self) -> io::Result<u64> {
        let new = match self.way {
            Way::Tun | Way::Pair => 0,
            Way::Veth => u64::from(device::packets_lost(self.fd.as_fd())?),
        };
        Ok(self.lost.fetch_add(new, Ordering::Relaxed) + new)
    }

    /// Reads the next packet; `None`: what was there is none.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; those of read(2), for good when the device is gone.
    pub fn read(&self, buffer: &mut [u8; FRAME_BYTES]) -> io::Result<Option<Frame>> {
        let length = rustix::io::read(&self.fd, &mut buffer[..])?;
        let before = match self.way {
            Way::Tun => 0,
            Way::Veth => LINK_BYTES,
            Way::Pair if length == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Way::Pair => 0,
        };
        let packet = OFFLOAD_BYTES + before..length;
        let header = buffer.first_chunk().filter(|_| !packet.is_empty());
        let offload = header.and_then(|header| Offload::read(*header));
        Ok(offload.map(|offload| Frame { offload: offload.without(short(before)), packet }))
    }

    /// Writes one packet of a peer, whose parts these are; the first of them begins with its IP header.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; those of writev(2).
    pub fn write(&self, from: PeerId, offload: Offload, parts: &[&[u8]]) -> io::Result<()> {
        let is_v4 = parts.first().and_then(|part| part.first()).is_some_and(|first| first >> 4 == 4);
        let kind = if is_v4 { V4 } else { V6 };
        let mut link = [0; LINK_BYTES];
        let fields = STACK_ADDRESS.into_iter().chain(OUR_ADDRESS).chain(kind);
        link.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        let peer = from.0.to_ne_bytes();
        let (header, link) = match self.way {
            Way::Tun => (offload.write(0), &[][..]),
            Way::Pair => (offload.write(0), &peer[..]),
            Way::Veth => (offload.write(short(LINK_BYTES)), &link[..]),
        };
        let mut slices = [IoSlice::new(&[]); MOST_JOINED + 3];
        let all = [&header[..], link].into_iter().chain(parts.iter().copied());
        let count = slices.iter_mut().zip(all).map(|(slice, part)| *slice = IoSlice::new(part)).count();
        rustix::io::writev(&self.fd, slices.get(..count).unwrap_or_default())?;
        Ok(())
    }
}

fn short(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

impl AsFd for Frames {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
