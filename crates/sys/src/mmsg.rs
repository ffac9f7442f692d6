//! Datagrams in batches: recvmmsg(2) and sendmmsg(2) over arrays that are made once.
//!
//! A [`Batch`] is [`BATCH`] slots, each with room for the longest datagram, a peer address and the local
//! address the datagram was sent to (`IP_PKTINFO`, `IPV6_PKTINFO`). A slot is filled by receiving and
//! sent from where it lies: nothing is copied in between, nothing is allocated per datagram. The memory of a
//! slot is touched as far as datagrams reach, so small ones cost a page each.

mod segments;
mod trains;

pub use trains::{ROW_MAX, ROW_MAX_BYTES, Train, TrainError, Trains, join_received};

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Slots of a batch: datagrams that one system call moves at most.
pub const BATCH: usize = 32;

/// Longest datagram, bytes: 65,535 less the UDP header (IPv6; 65,507 on IPv4).
pub const DATAGRAM_MAX_BYTES: usize = 65_527;

/// Distance of two slots' payloads. A little more than a power of two, so that the beginnings of all
/// slots do not compete for the same cache sets.
const STRIDE_BYTES: usize = 65_536 + 192;

/// Longest socket address here: `sockaddr_in6`.
const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();

/// Room for control messages of one datagram: both kinds of pktinfo fit twice.
const CONTROL_BYTES: usize = 128;

/// Where a control message's data begins.
const CMSG_HEADER_BYTES: usize = align(size_of::<libc::cmsghdr>());

/// The address a datagram was sent to, or the one it shall be sent from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LocalAddr {
    /// Address; v4-mapped on a dual-stack socket.
    pub ip: IpAddr,
    /// Interface; 0 leaves the choice to the routing table when sending.
    pub interface: u32,
}

impl LocalAddr {
    /// Where an answer to a datagram that came to this address is sent from. The way back need not be the one it came by,
    /// but for an address that means nothing elsewhere.
    #[must_use]
    pub const fn to_answer(self) -> LocalAddr {
        match self.ip {
            IpAddr::V6(ip) if ip.is_unicast_link_local() => self,
            _ => LocalAddr { interface: 0, ..self },
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
#[repr(C, align(8))]
struct Name([u8; NAME_BYTES]);

#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

/// Arrays for one system call. The headers point into the other boxes, which are never replaced.
struct Headers {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

/// See the module.
pub struct Batch {
    payload: Box<[u8]>,
    received: Headers,
    to_send: Headers,
    lengths: [usize; BATCH],
    addressed: [Addressed; BATCH],
}

/// What [`Batch::address`] has said of a slot. Name and control message lie at the slot's place of those to send.
#[derive(Clone, Copy, Default)]
struct Addressed {
    name_bytes: usize,
    control_bytes: usize,
    from: Option<LocalAddr>,
    /// Longest datagrams that go there in rows.
    longest: usize,
}

/// What became of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// How many were taken, at least 1.
    pub count: usize,
    /// The kernel takes no row of such datagrams as the one in this slot; they went one by one.
    pub refused: Option<usize>,
}

// SAFETY: the pointers in the headers point into boxes that the same value owns.
unsafe impl Send for Batch {}

impl Batch {
    /// An empty batch. Reserves 2 MiB of address space; memory comes with use.
    #[must_use]
    pub fn new() -> Batch {
        let mut payload = vec![0_u8; STRIDE_BYTES * BATCH].into_boxed_slice();
        let received = Headers::new(&mut payload);
        let to_send = Headers::new(&mut payload);
        Batch { payload, received, to_send, lengths: [0; BATCH], addressed: [Addressed::default(); BATCH] }
    }

    /// Receives datagrams with their addresses into the slots from 0 on; returns how many, at least 1.
    /// Less than [`BATCH`] means that the socket had no more.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; a pending error of the socket, which is thereby cleared.
    pub fn receive_named(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        for (header, (name, control)) in self
            .received
            .headers
            .iter_mut()
            .zip(self.received.names.iter_mut().zip(&mut self.received.controls))
        {
            header.msg_hdr.msg_name = ptr::from_mut(name).cast();
            header.msg_hdr.msg_namelen = length_of_name(NAME_BYTES);
            header.msg_hdr.msg_control = ptr::from_mut(control).cast();
            header.msg_hdr.msg_controllen = CONTROL_BYTES as _;
        }
        self.receive(socket, 0)
    }

    /// Receives datagrams of a connected socket into the slots from `first` on, without addresses; returns
    /// how many, at least 1. Fewer than there were slots means that the socket had no more.
    ///
    /// # Errors
    /// As [`Batch::receive_named`]; `InvalidInput` when no slot is left.
    pub fn receive_connected(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        for header in self.received.headers.iter_mut().skip(first) {
            header.msg_hdr.msg_name = ptr::null_mut();
            header.msg_hdr.msg_namelen = 0;
            header.msg_hdr.msg_control = ptr::null_mut();
            header.msg_hdr.msg_controllen = 0;
        }
        self.receive(socket, first)
    }

    fn receive(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        let headers = self.received.headers.get_mut(first..).unwrap_or_default();
        let room = u32::try_from(headers.len()).unwrap_or(0);
        if room == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no free slot in the batch"));
        }
        // SAFETY: `headers` holds `room` headers; each points to a vector, and through it to a slot of
        // `payload`, and to a name and a control buffer (or to none) with their lengths, all of which
        // belong to `self` and outlive the call.
        let count = crate::check(unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                room,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        })?;
        let count = usize::try_from(count).unwrap_or(0);
        let lengths = self.lengths.iter_mut().skip(first).take(count);
        for (length, header) in lengths.zip(headers) {
            *length = usize::try_from(header.msg_len).unwrap_or(0).min(STRIDE_BYTES);
        }
        Ok(count)
    }

    /// The datagram in `slot`; empty when there is none.
    #[must_use]
    pub fn bytes(&self, slot: usize) -> &[u8] {
        let start = slot * STRIDE_BYTES;
        let length = self.lengths.get(slot).copied().unwrap_or(0);
        self.payload.get(start..start + length).unwrap_or_default()
    }

    /// Puts `bytes` into `slot`, as if they had been received there. False: they are more than a datagram holds.
    pub fn fill(&mut self, slot: usize, bytes: &[u8]) -> bool {
        let start = slot * STRIDE_BYTES;
        let room = self.payload.get_mut(start..start + bytes.len());
        match (room, self.lengths.get_mut(slot)) {
            (Some(room), Some(length)) if bytes.len() <= DATAGRAM_MAX_BYTES => {
                room.copy_from_slice(bytes);
                *length = bytes.len();
                true
            }
            _ => false,
        }
    }

    /// Who sent the datagram that [`Batch::receive_named`] put into `slot`.
    #[must_use]
    pub fn peer(&self, slot: usize) -> Option<SocketAddr> {
        read_name(&self.received.names.get(slot)?.0)
    }

    /// Which address that datagram was sent to. `None` when the socket does not ask for it.
    #[must_use]
    pub fn local(&self, slot: usize) -> Option<LocalAddr> {
        // Its type differs between C libraries.
        let used: usize = self.received.headers.get(slot)?.msg_hdr.msg_controllen as _;
        read_local(self.received.controls.get(slot)?.0.get(..used)?)
    }

    /// Sends the datagrams in `slots` through a connected socket; returns how many were taken, at least 1.
    ///
    /// # Errors
    /// What became of the first one: `WouldBlock`, or a pending error of the socket, which is thereby cleared.
    pub fn send_connected(&mut self, socket: BorrowedFd<'_>, slots: Range<usize>) -> io::Result<usize> {
        for slot in slots.clone() {
            self.point(slot);
            if let Some(header) = self.to_send.headers.get_mut(slot) {
                header.msg_hdr.msg_name = ptr::null_mut();
                header.msg_hdr.msg_namelen = 0;
                header.msg_hdr.msg_control = ptr::null_mut();
                header.msg_hdr.msg_controllen = 0;
            }
        }
        self.send(socket, slots)
    }

    /// Says where the datagram in `slot` shall go, and from which local address, for [`Batch::send_addressed`]. With
    /// others beside it that go the same way it may go in a row, if it has no more than `longest` bytes.
    pub fn address(&mut self, slot: usize, to: SocketAddr, from: Option<LocalAddr>, longest: usize) {
        let out = &mut self.to_send;
        if let (Some(name), Some(control), Some(addressed)) =
            (out.names.get_mut(slot), out.controls.get_mut(slot), self.addressed.get_mut(slot))
        {
            let name_bytes = write_name(&mut name.0, to);
            let control_bytes = from.map_or(0, |from| write_local(&mut control.0, from));
            *addressed = Addressed { name_bytes, control_bytes, from, longest };
        }
    }

    /// Makes the send vector of `slot` cover its payload, and its header that vector.
    fn point(&mut self, slot: usize) {
        let start = slot * STRIDE_BYTES;
        let length = self.lengths.get(slot).copied().unwrap_or(0);
        let out = &mut self.to_send;
        if let (Some(header), Some(vector), Some(payload)) = (
            out.headers.get_mut(slot),
            out.vectors.get_mut(slot),
            self.payload.get_mut(start..start + length),
        ) {
            vector.iov_base = payload.as_mut_ptr().cast();
            vector.iov_len = length;
            header.msg_hdr.msg_iov = ptr::from_mut(vector);
            header.msg_hdr.msg_iovlen = 1;
        }
    }

    fn send(&mut self, socket: BorrowedFd<'_>, slots: Range<usize>) -> io::Result<usize> {
        let headers = self.to_send.headers.get_mut(slots).unwrap_or_default();
        let count = u32::try_from(headers.len()).unwrap_or(0);
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: `headers` holds `count` headers; each points to as many vectors as it says, all of `vectors`,
        // each of which covers (a part of) a slot of `payload`, and to a name and control message (or to none) of the given lengths, all of which belong
        // to `self` and outlive the call.
        let sent = crate::check(unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                count,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        })?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("lengths", &self.lengths).finish_non_exhaustive()
    }
}

impl Headers {
    fn new(payload: &mut [u8]) -> Headers {
        let mut vectors: Box<[libc::iovec]> = payload
            .chunks_exact_mut(STRIDE_BYTES)
            .map(|slot| libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: STRIDE_BYTES })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: mmsghdr is plain data for which all zeroes is a valid value (it has private padding
                // on some targets, so it cannot be written out).
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = ptr::from_mut(vector);
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        let names = vec![Name([0; NAME_BYTES]); BATCH].into_boxed_slice();
        let controls = vec![Control([0; CONTROL_BYTES]); BATCH].into_boxed_slice();
        Headers { headers, vectors, names, controls }
    }
}

/// `CMSG_ALIGN`.
const fn align(bytes: usize) -> usize {
    let word = size_of::<usize>();
    bytes.div_ceil(word) * word
}

fn length_of_name(bytes: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(bytes).unwrap_or(0)
}

/// Takes `N` bytes at `at`.
fn take<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..at + N)?.try_into().ok()
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = to.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// The constants of libc are ints; the fields they go into are 16 bits wide.
fn family(value: libc::c_int) -> u16 {
    u16::try_from(value).unwrap_or(0)
}

/// Reads `sockaddr_in` or `sockaddr_in6`.
fn read_name(name: &[u8; NAME_BYTES]) -> Option<SocketAddr> {
    let kind = u16::from_ne_bytes(take(name, 0)?);
    let port = u16::from_be_bytes(take(name, 2)?);
    if kind == family(libc::AF_INET) {
        let ip = Ipv4Addr::from(take::<4>(name, 4)?);
        Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
    } else if kind == family(libc::AF_INET6) {
        let ip = Ipv6Addr::from(take::<16>(name, 8)?);
        let scope = u32::from_ne_bytes(take(name, 24)?);
        Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)))
    } else {
        None
    }
}

/// Writes `sockaddr_in` or `sockaddr_in6` and returns its length.
fn write_name(name: &mut [u8; NAME_BYTES], address: SocketAddr) -> usize {
    *name = [0; NAME_BYTES];
    put(name, 2, &address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            put(name, 0, &family(libc::AF_INET).to_ne_bytes());
            put(name, 4, &v4.ip().octets());
            size_of::<libc::sockaddr_in>()
        }
        SocketAddr::V6(v6) => {
            put(name, 0, &family(libc::AF_INET6).to_ne_bytes());
            put(name, 8, &v6.ip().octets());
            put(name, 24, &v6.scope_id().to_ne_bytes());
            NAME_BYTES
        }
    }
}

/// Finds the pktinfo among control messages. For IPv4 it is `ipi_spec_dst`: the local address, also when the
/// datagram was sent to a broadcast address (ip(7)). An IPv6 multicast address is left out: nothing can be
/// sent from it.
fn read_local(mut control: &[u8]) -> Option<LocalAddr> {
    loop {
        let length = usize::from_ne_bytes(take(control, 0)?);
        let level = i32::from_ne_bytes(take(control, size_of::<usize>())?);
        let kind = i32::from_ne_bytes(take(control, size_of::<usize>() + 4)?);
        let data = control.get(CMSG_HEADER_BYTES..length)?;
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let interface = u32::from_ne_bytes(take(data, 0)?);
                return Some(LocalAddr { ip: IpAddr::V4(Ipv4Addr::from(take::<4>(data, 4)?)), interface });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let ip = Ipv6Addr::from(take::<16>(data, 0)?);
                let interface = u32::from_ne_bytes(take(data, 16)?);
                return (!ip.is_multicast()).then_some(LocalAddr { ip: IpAddr::V6(ip), interface });
            }
            _ => control = control.get(align(length).max(CMSG_HEADER_BYTES)..)?,
        }
    }
}

/// Writes one pktinfo control message and returns its length.
fn write_local(control: &mut [u8; CONTROL_BYTES], from: LocalAddr) -> usize {
    *control = [0; CONTROL_BYTES];
    let (level, kind, data_bytes) = match from.ip {
        IpAddr::V4(ip) => {
            put(control, CMSG_HEADER_BYTES, &from.interface.to_ne_bytes());
            put(control, CMSG_HEADER_BYTES + 4, &ip.octets());
            (libc::IPPROTO_IP, libc::IP_PKTINFO, size_of::<libc::in_pktinfo>())
        }
        IpAddr::V6(ip) => {
            put(control, CMSG_HEADER_BYTES, &ip.octets());
            put(control, CMSG_HEADER_BYTES + 16, &from.interface.to_ne_bytes());
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, size_of::<libc::in6_pktinfo>())
        }
    };
    put(control, 0, &(CMSG_HEADER_BYTES + data_bytes).to_ne_bytes());
    put(control, size_of::<usize>(), &level.to_ne_bytes());
    put(control, size_of::<usize>() + 4, &kind.to_ne_bytes());
    CMSG_HEADER_BYTES + align(data_bytes)
}

#[cfg(test)]
mod tests;
