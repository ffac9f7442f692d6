//! Packets out: to the tunnel, or back to this stack when they are for itself.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use ::smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium};
use ::smoltcp::time::Instant;

use super::packet::{
    ICMP6, Ip, Segment, TCP, TCP_BYTES, V4_BYTES, V6_BYTES, byte, pseudo, put, seal_v4, short, word,
};
use crate::segment::{OFFLOAD_BYTES, Offload, Segmented, checksum};

/// Most bytes of a segment's payload before it is cut.
const LONGEST_PAYLOAD_BYTES: usize = 64_000;

/// What smoltcp is told that a packet may have, so that it never cuts; no header has a greater number.
const LONGEST_PACKET_BYTES: usize = 65_535;

/// Packets to this stack itself that wait.
const LOOPED: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    fd: OwnedFd,
    own: Vec<IpAddr>,
    pub(super) mtu: usize,
    /// There was no room.
    blocked: bool,
    /// What was to be sent all the same: no more is taken in until it is gone.
    waiting: VecDeque<Vec<u8>>,
    /// What is for an address of our own, with its offload header.
    pub(super) looped: VecDeque<Vec<u8>>,
    /// Where the next packet is put together.
    buffer: Vec<u8>,
    /// Packets that could not be sent.
    pub(super) lost: u64,
    /// Number of the last packet that was cut into fragments.
    fragmented: u16,
}

impl Link {
    pub(super) fn new(fd: OwnedFd, own: Vec<IpAddr>, mtu: usize) -> Link {
        let buffer = vec![0; OFFLOAD_BYTES + LONGEST_PACKET_BYTES];
        let (waiting, looped) = (VecDeque::new(), VecDeque::new());
        Link { fd, own, mtu, blocked: false, waiting, looped, buffer, lost: 0, fragmented: 0 }
    }

    pub(super) fn is_own(&self, ip: IpAddr) -> bool {
        self.own.contains(&ip)
    }

    /// The address that what goes to `whom` comes from.
    pub(super) fn source_for(&self, whom: IpAddr) -> Option<IpAddr> {
        let mut family = self.own.iter().copied().filter(|own| own.is_ipv4() == whom.is_ipv4());
        family.clone().find(|own| *own == whom).or_else(|| family.next())
    }

    /// Whether the next packet will be taken.
    pub(super) fn has_room(&self) -> bool {
        !self.blocked && self.looped.len() < LOOPED
    }

    /// There is room again.
    pub(super) fn unblock(&mut self) {
        self.blocked = false;
        while !self.blocked
            && let Some(frame) = self.waiting.pop_front()
        {
            self.send(frame);
        }
    }

    /// Takes a frame from the tunnel; its length.
    pub(super) fn receive(&self, frame: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, frame)?)
    }

    fn send(&mut self, frame: Vec<u8>) {
        if self.blocked {
            self.waiting.push_back(frame);
            return;
        }
        if self.write(&frame) == Written::No {
            self.waiting.push_front(frame);
        }
    }

    fn write(&mut self, frame: &[u8]) -> Written {
        match rustix::io::write(&self.fd, frame) {
            Ok(_) => Written::Done,
            Err(rustix::io::Errno::AGAIN) => {
                self.blocked = true;
                Written::No
            }
            Err(_) => {
                self.lost += 1;
                Written::Done
            }
        }
    }

    /// Sends a whole packet, in fragments where it is longer than the tunnel takes.
    pub(super) fn put(&mut self, packet: &[u8]) {
        let Some(ip) = Ip::read(packet) else { return };
        if packet.len() <= self.mtu || self.is_own(ip.destination) {
            let mut frame = Offload::default().write(0).to_vec();
            frame.extend_from_slice(packet);
            return self.route(ip.destination, frame);
        }
        self.fragmented = self.fragmented.wrapping_add(1);
        let id = self.fragmented;
        let payload = ip.transport(packet);
        let more_bytes = if ip.source.is_ipv4() { 0 } else { 8 };
        let size = (self.mtu - ip.header - more_bytes) & !7;
        for (number, part) in payload.chunks(size.max(8)).enumerate() {
            let (offset, more) = (number * size, (number + 1) * size < payload.len());
            let mut frame = Offload::default().write(0).to_vec();
            frame.extend_from_slice(packet.get(..ip.header).unwrap_or_default());
            if ip.source.is_ipv4() {
                let header = frame.get_mut(OFFLOAD_BYTES..).unwrap_or_default();
                let field = short(offset / 8) | if more { 0x2000 } else { 0 };
                put(header, 2, &short(V4_BYTES + part.len()).to_be_bytes());
                put(header, 4, &id.to_be_bytes());
                put(header, 6, &field.to_be_bytes());
                seal_v4(header);
            } else {
                let header = frame.get_mut(OFFLOAD_BYTES..).unwrap_or_default();
                put(header, 4, &short(8 + part.len()).to_be_bytes());
                put(header, 6, &[44]);
                let [o0, o1] = (short(offset) | u16::from(more)).to_be_bytes();
                let [i0, i1] = id.to_be_bytes();
                frame.extend([ip.protocol, 0, o0, o1, 0, 0, i0, i1]);
            }
            frame.extend_from_slice(part);
            self.route(ip.destination, frame);
        }
    }

    fn route(&mut self, whom: IpAddr, frame: Vec<u8>) {
        if !self.is_own(whom) {
            self.send(frame);
        } else if self.looped.len() < LOOPED * 2 {
            self.looped.push_back(frame);
        } else {
            self.lost += 1;
        }
    }

    /// Finishes the segment of `length` bytes in the buffer and sends it: cut into pieces of `mss`, its checksum left to
    /// whoever cuts.
    fn send_segment(&mut self, length: usize, mss: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let frame = buffer.get_mut(..OFFLOAD_BYTES + length).unwrap_or_default();
        match finish(frame, self.mtu, mss) {
            Some(whom) if self.is_own(whom) => self.looped.push_back(frame.to_vec()),
            Some(_) => {
                if self.blocked || self.write(frame) == Written::No {
                    self.waiting.push_back(frame.to_vec());
                }
            }
            None => self.lost += 1,
        }
        self.buffer = buffer;
    }
}

/// Writes what smoltcp has left out of a segment; whom it is for.
fn finish(frame: &mut [u8], mtu: usize, mss: usize) -> Option<IpAddr> {
    let (before, packet) = frame.split_at_mut_checked(OFFLOAD_BYTES)?;
    let (header, kind) = match byte(packet, 0) >> 4 {
        4 => (V4_BYTES, Segmented::Tcp4),
        _ => (V6_BYTES, Segmented::Tcp6),
    };
    let ip = crate::wg::inner::read(packet)?;
    let length = packet.len();
    let transport = packet.get_mut(header..)?;
    let segment = Segment::read(transport)?;
    if let Some(place) = segment.mss {
        put(transport, place, &short(mtu.saturating_sub(header + TCP_BYTES)).to_be_bytes());
    }
    let sum = checksum::fold(pseudo(ip.source, ip.destination, TCP, length - header));
    put(transport, 16, &sum);
    let payload = length - header - segment.header;
    let offload = Offload {
        checksum: Some((short(header), 16)),
        segments: (payload > mss).then_some((kind, short(mss))),
        headers: if payload > mss { short(header + segment.header) } else { 0 },
    };
    put(before, 0, &offload.write(0));
    Some(ip.destination)
}

#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// Or lost for good.
    Done,
    No,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The device of one connection, for one turn.
pub(super) struct Port<'a> {
    pub(super) link: &'a mut Link,
    /// What has come for it.
    pub(super) packet: Option<&'a [u8]>,
    /// Most payload of a packet of this connection.
    pub(super) mss: usize,
}

pub(super) struct Came<'a>(&'a [u8]);

pub(super) struct Goes<'a> {
    link: &'a mut Link,
    mss: usize,
}

impl phy::Device for Port<'_> {
    type RxToken<'a>
        = Came<'a>
    where
        Self: 'a;
    type TxToken<'a>
        = Goes<'a>
    where
        Self: 'a;

    fn receive(&mut self, _: Instant) -> Option<(Came<'_>, Goes<'_>)> {
        let packet = self.packet.take()?;
        Some((Came(packet), Goes { link: self.link, mss: self.mss }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Goes<'_>> {
        self.link.has_room().then_some(Goes { link: self.link, mss: self.mss })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut it = DeviceCapabilities::default();
        it.medium = Medium::Ip;
        it.max_transmission_unit = LONGEST_PACKET_BYTES;
        it.checksum = phy::ChecksumCapabilities::ignored();
        // Of IPv4 it is twenty bytes; the rest is summed where a packet is cut.
        it.checksum.ipv4 = Checksum::Tx;
        // Whole packets and no rest, so that rows are full.
        let payload = LONGEST_PAYLOAD_BYTES / self.mss.max(1) * self.mss.max(1);
        it.segmentation.tcpv4 = NonZeroUsize::new(V4_BYTES + TCP_BYTES + payload);
        it.segmentation.tcpv6 = NonZeroUsize::new(V6_BYTES + TCP_BYTES + payload);
        it
    }
}

impl phy::RxToken for Came<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl phy::TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let end = self.link.buffer.len().min(OFFLOAD_BYTES + length);
        let room = self.link.buffer.get_mut(OFFLOAD_BYTES..end).unwrap_or_default();
        let result = f(room);
        self.link.send_segment(length, self.mss);
        result
    }
}

/// The answer to an echo request, if it is one.
pub(super) fn echo(ip: &Ip, packet: &[u8]) -> Option<Vec<u8>> {
    let message = ip.transport(packet);
    let (request, reply) = if ip.protocol == ICMP6 { (128, 129) } else { (8, 0) };
    if message.len() < 8 || byte(message, 0) != request || word(message, 0) & 0xff != 0 {
        return None;
    }
    let head = [reply, 0, 0, 0];
    let parts = [&head[..], message.get(4..).unwrap_or_default()];
    Some(super::packet::compose(ip.destination, ip.source, ip.protocol, &parts, 2))
}
