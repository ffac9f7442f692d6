//! Rows of equally long datagrams that lie one behind the other, sent from there: one message each, cut by the kernel
//! (`UDP_SEGMENT`). The other direction is [`Batch::receive_named`] of a socket that was told to join ([`join_received`]).

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::segments::is_refusal;
use super::{
    BATCH, Batch, CMSG_HEADER_BYTES, CONTROL_BYTES, Control, LocalAddr, NAME_BYTES, Name, STRIDE_BYTES,
    align, length_of_name, put, take, write_local, write_name,
};

/// Most datagrams of a row (`UDP_MAX_SEGMENTS` of kernels before 6.9).
pub const ROW_MAX: usize = 64;

/// Most bytes of a row: what one datagram holds.
pub const ROW_MAX_BYTES: usize = 65_507;

/// One row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Train {
    /// Where it goes.
    pub to: SocketAddr,
    /// Which of this host's addresses it comes from; `None`: as the routes say.
    pub from: Option<LocalAddr>,
    /// Where it lies.
    pub place: Range<usize>,
    /// Bytes of each datagram; the last one may have fewer.
    pub size: usize,
}

impl Train {
    /// How many datagrams it is.
    #[must_use]
    pub fn count(&self) -> usize {
        self.place.len().div_ceil(self.size.max(1))
    }
}

/// Arrays for one system call.
pub struct Trains {
    headers: Box<[libc::mmsghdr]>,
    vectors: Box<[libc::iovec]>,
    names: Box<[Name]>,
    controls: Box<[Control]>,
}

// SAFETY: the pointers in the headers are written anew, before each call that follows them.
unsafe impl Send for Trains {}

/// Why a row was not sent.
#[derive(Debug)]
pub enum TrainError {
    /// The kernel or the way out takes no rows, or not of this length; single datagrams it may take.
    Refused,
    /// What became of the first row.
    Failed(io::Error),
}

impl Trains {
    /// Arrays for [`BATCH`] rows.
    #[must_use]
    pub fn new() -> Trains {
        // SAFETY: mmsghdr is plain data for which all zeroes is a valid value.
        let headers = (0..BATCH).map(|_| unsafe { std::mem::zeroed() }).collect();
        let vectors = vec![libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; BATCH].into_boxed_slice();
        let names = vec![Name([0; NAME_BYTES]); BATCH].into_boxed_slice();
        let controls = vec![Control([0; CONTROL_BYTES]); BATCH].into_boxed_slice();
        Trains { headers, vectors, names, controls }
    }

    /// Sends the first [`BATCH`] of `trains`, which lie in `payload`, without waiting; returns how many were taken, at
    /// least 1. A train past the end of `payload` is sent as far as it is there.
    ///
    /// # Errors
    /// What became of the first one.
    pub fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        payload: &[u8],
        trains: &[Train],
    ) -> Result<usize, TrainError> {
        let count = trains.len().min(BATCH);
        let places =
            self.headers.iter_mut().zip(&mut self.vectors).zip(self.names.iter_mut().zip(&mut self.controls));
        for (train, ((header, vector), (name, control))) in trains.iter().zip(places) {
            let place = payload.get(train.place.clone()).unwrap_or_default();
            // The kernel reads through it only.
            *vector = libc::iovec { iov_base: place.as_ptr().cast_mut().cast(), iov_len: place.len() };
            let header = &mut header.msg_hdr;
            header.msg_namelen = length_of_name(write_name(&mut name.0, train.to));
            header.msg_name = ptr::from_mut(name).cast();
            header.msg_iov = ptr::from_mut(vector);
            header.msg_iovlen = 1;
            let mut control_bytes = train.from.map_or(0, |from| write_local(&mut control.0, from));
            if train.count() > 1 {
                let size = u16::try_from(train.size).unwrap_or(u16::MAX);
                control_bytes += write_size(control.0.get_mut(control_bytes..).unwrap_or_default(), size);
            }
            header.msg_controllen = control_bytes as _;
            header.msg_control =
                if control_bytes == 0 { ptr::null_mut() } else { ptr::from_mut(control).cast() };
        }
        let length = u32::try_from(count).unwrap_or(0);
        if length == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` headers were written above: each points to a vector that covers a part of `payload`,
        // and to a name and a control message (or none) of the given lengths in `self`; all outlive the call, which
        // writes to the headers alone.
        let sent = crate::check(unsafe {
            libc::sendmmsg(
                socket.as_raw_fd(),
                self.headers.as_mut_ptr(),
                length,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        });
        match sent {
            Ok(sent) => Ok(usize::try_from(sent).unwrap_or(0)),
            Err(error) if is_refusal(&error) && trains.first().is_some_and(|train| train.count() > 1) => {
                Err(TrainError::Refused)
            }
            Err(error) => Err(TrainError::Failed(error)),
        }
    }
}

impl Default for Trains {
    fn default() -> Trains {
        Trains::new()
    }
}

impl std::fmt::Debug for Trains {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trains").finish_non_exhaustive()
    }
}

/// Writes where to cut; returns the length of the control message.
fn write_size(control: &mut [u8], size: u16) -> usize {
    put(control, 0, &(CMSG_HEADER_BYTES + size_of::<u16>()).to_ne_bytes());
    put(control, size_of::<usize>(), &libc::SOL_UDP.to_ne_bytes());
    put(control, size_of::<usize>() + 4, &libc::UDP_SEGMENT.to_ne_bytes());
    put(control, CMSG_HEADER_BYTES, &size.to_ne_bytes());
    CMSG_HEADER_BYTES + align(size_of::<u16>())
}

/// `UDP_GRO`: equally long datagrams of one sender that come together are received as one; see [`Batch::joined`].
///
/// # Errors
/// Those of setsockopt(2); kernels before 5.0 do not have it.
pub fn join_received(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: `on` outlives the call and `length` is its size.
    crate::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw const on).cast(), length)
    })?;
    Ok(())
}

impl Batch {
    /// Bytes of each of the datagrams that [`Batch::receive_named`] put joined into `slot`; the last may have fewer.
    /// `None`: it is one.
    #[must_use]
    pub fn joined(&self, slot: usize) -> Option<usize> {
        let used: usize = self.received.headers.get(slot)?.msg_hdr.msg_controllen as _;
        let mut control = self.received.controls.get(slot)?.0.get(..used)?;
        loop {
            let length = usize::from_ne_bytes(take(control, 0)?);
            let level = i32::from_ne_bytes(take(control, size_of::<usize>())?);
            let kind = i32::from_ne_bytes(take(control, size_of::<usize>() + 4)?);
            if (level, kind) == (libc::SOL_UDP, libc::UDP_GRO) {
                let size = i32::from_ne_bytes(take(control, CMSG_HEADER_BYTES)?);
                return usize::try_from(size).ok().filter(|size| *size > 0);
            }
            control = control.get(align(length).max(CMSG_HEADER_BYTES)..)?;
        }
    }

    /// The datagram in `slot`, to be changed where it lies.
    pub fn bytes_mut(&mut self, slot: usize) -> &mut [u8] {
        let start = slot * STRIDE_BYTES;
        let length = self.lengths.get(slot).copied().unwrap_or(0);
        self.payload.get_mut(start..start + length).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use super::*;

    /// A row arrives as one, cut where it was joined, and a row of one as it is.
    ///
    /// Fails when: the size is not said or not read, or the bytes are not those in the place.
    #[test]
    fn a_row_arrives_joined() {
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        join_received(receiver.as_fd()).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let payload: Vec<u8> = (0..20_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let trains = [
            Train { to, from: None, place: 100..14_100, size: 1400 },
            Train { to, from: None, place: 5..6, size: 1 },
            Train { to, from: None, place: 0..3000, size: 1400 },
        ];
        assert_eq!(trains.each_ref().map(Train::count), [10, 1, 3]);
        let mut out = Trains::new();
        assert_eq!(out.send(sender.as_fd(), &payload, &trains).unwrap(), 3);
        let mut batch = Batch::new();
        let mut received = Vec::new();
        while received.len() < 3 {
            match batch.receive_named(receiver.as_fd()) {
                Ok(count) => {
                    received.extend((0..count).map(|slot| (batch.bytes(slot).to_vec(), batch.joined(slot))))
                }
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(received[0], (payload[100..14_100].to_vec(), Some(1400)));
        assert_eq!(received[1].0, payload[5..6]);
        assert_eq!(received[2], (payload[..3000].to_vec(), Some(1400)));
    }

    /// A row and a single datagram leave from the address that is asked for, in both families of one socket, and from none
    /// that is nobody's.
    ///
    /// Fails when: the address is not said beside the size, or what is nobody's is sent from.
    #[test]
    fn rows_leave_from_where_they_are_told() {
        let any = "[::]:0".parse().unwrap();
        let sender = crate::listen::udp(any, crate::listen::V6Only::No).unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let port = receiver.local_addr().unwrap().port();
        let to = SocketAddr::new("::ffff:127.0.0.1".parse().unwrap(), port);
        let from = |ip: &str| Some(LocalAddr { ip: ip.parse().unwrap(), interface: 0 });
        let mut out = Trains::new();
        let trains = [
            Train { to, from: from("::ffff:127.0.0.7"), place: 0..2000, size: 1000 },
            Train { to, from: from("::ffff:127.0.0.8"), place: 0..9, size: 9 },
            Train { to, from: None, place: 0..9, size: 9 },
        ];
        let payload = vec![7; 2000];
        assert_eq!(out.send(sender.as_fd(), &payload, &trains).unwrap(), 3);
        let mut room = [0; 2000];
        let mut heard = || {
            let (length, from) = receiver.recv_from(&mut room).unwrap();
            (length, from.ip().to_string())
        };
        let heard = [heard(), heard(), heard(), heard()];
        let expected = [(1000, "127.0.0.7"), (1000, "127.0.0.7"), (9, "127.0.0.8"), (9, "127.0.0.1")];
        assert_eq!(heard, expected.map(|(length, from)| (length, from.to_owned())));
        let nobodys = [Train { to, from: from("::ffff:192.0.2.1"), place: 0..9, size: 9 }];
        assert!(matches!(out.send(sender.as_fd(), &payload, &nobodys), Err(TrainError::Failed(_))));

        let receiver = UdpSocket::bind("[::1]:0").unwrap();
        let to = receiver.local_addr().unwrap();
        let six = [Train { to, from: from("::1"), place: 0..9, size: 9 }];
        assert_eq!(out.send(sender.as_fd(), &payload, &six).unwrap(), 1);
        let nobodys = [Train { to, from: from("2001:db8::1"), place: 0..9, size: 9 }];
        assert!(matches!(out.send(sender.as_fd(), &payload, &nobodys), Err(TrainError::Failed(_))));
    }

    #[test]
    fn a_row_that_cannot_be_is_refused() {
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = sender.local_addr().unwrap();
        let payload = vec![0; 70_000];
        let mut out = Trains::new();
        let long = Train { to, from: None, place: 0..70_000, size: 35_000 };
        assert!(matches!(out.send(sender.as_fd(), &payload, &[long]), Err(TrainError::Refused)));
        let single = Train { to, from: None, place: 0..70_000, size: 70_000 };
        assert!(matches!(out.send(sender.as_fd(), &payload, &[single]), Err(TrainError::Failed(_))));
    }
}
