//! Packets with file descriptors between our own processes: `AF_UNIX`, `SOCK_SEQPACKET`.
//!
//! A packet is 1 byte to [`MAX_PACKET_BYTES`] with 0 to [`MAX_FDS`] descriptors and arrives whole or
//! not at all. Received descriptors are close-on-exec. An empty packet cannot be told from the end of
//! the stream, so none is sent.

use std::cell::RefCell;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    self, AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

/// Most descriptors in one packet: `SCM_MAX_FD` of the kernel (unix(7)).
pub const MAX_FDS: usize = 253;

/// Longest packet that is sent or received, bytes.
pub const MAX_PACKET_BYTES: usize = 256 * 1024;

/// Room that is made for every packet that is received, bytes; nearly all of them fit.
const FIRST_BYTES: usize = 4096;

thread_local! {
    /// Where a longer packet goes on. Nothing of it is in memory until there is one.
    static REST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Clients that may wait at a listener.
const BACKLOG: i32 = 16;

const SEQPACKET: SocketType = SocketType::SEQPACKET;

/// One end of a connection. Blocking until [`Channel::set_nonblocking`] says otherwise.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Two connected ends.
    ///
    /// # Errors
    /// EMFILE or ENFILE when no descriptors are left.
    pub fn pair() -> io::Result<(Channel, Channel)> {
        let (one, two) = net::socketpair(AddressFamily::UNIX, SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Channel::new(one), Channel::new(two)))
    }

    /// Listens at `path`, which must not exist. Mode and owner of the file are the umask's and the
    /// caller's: put it into a folder of mode 0700. The listener is non-blocking.
    ///
    /// # Errors
    /// Those of bind(2); `InvalidInput` for a path above 107 bytes.
    pub fn listen(path: &Path) -> io::Result<OwnedFd> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SEQPACKET, flags, None)?;
        net::bind(&socket, &address)?;
        net::listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// Connects to the listener at `path` without waiting.
    ///
    /// # Errors
    /// Those of connect(2): `NotFound`, `ConnectionRefused` when nobody listens, `WouldBlock` when its
    /// backlog is full.
    pub fn connect(path: &Path) -> io::Result<Channel> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(AddressFamily::UNIX, SEQPACKET, flags, None)?;
        net::connect(&socket, &address)?;
        let channel = Channel::new(socket);
        channel.set_nonblocking(false)?;
        Ok(channel)
    }

    /// Takes the next client of `listener`. Check [`Channel::peer_uid`] before trusting it.
    ///
    /// # Errors
    /// `WouldBlock` when nobody waits; otherwise those of accept(2).
    pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Channel> {
        Ok(Channel::new(net::accept_with(listener, SocketFlags::CLOEXEC)?))
    }

    /// Takes over a connected descriptor, for example an inherited one.
    ///
    /// # Errors
    /// `InvalidInput` when it is no seqpacket socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Channel> {
        if sockopt::socket_type(&fd)? == SEQPACKET && sockopt::socket_domain(&fd)? == AddressFamily::UNIX {
            Ok(Channel::new(fd))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a unix seqpacket socket"))
        }
    }

    fn new(fd: OwnedFd) -> Channel {
        // A packet has to fit the send buffer; the default (wmem_default) is below the limit here. Where
        // the kernel refuses more, long packets fail with EMSGSIZE and short ones work.
        let wanted = MAX_PACKET_BYTES * 2;
        if sockopt::set_socket_send_buffer_size_force(&fd, wanted).is_err()
            && let Err(error) = sockopt::set_socket_send_buffer_size(&fd, wanted)
        {
            debug_assert!(false, "SO_SNDBUF is never refused: {error}");
        }
        Channel(fd)
    }

    /// Switches between blocking and non-blocking.
    ///
    /// # Errors
    /// Those of ioctl(2).
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.0, nonblocking)?)
    }

    /// Limits how long a blocking [`Channel::recv`] and [`Channel::send`] wait (they then fail with `WouldBlock`).
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Recv, timeout)?;
        Ok(sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Send, timeout)?)
    }

    /// Sends one packet with copies of `fds`. All or nothing.
    ///
    /// # Errors
    /// `InvalidInput` for an empty or too long packet or too many descriptors; `WouldBlock` when the
    /// peer does not keep up; `BrokenPipe` when it is gone; ETOOMANYREFS when too many descriptors are in flight.
    pub fn send(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if packet.is_empty() || packet.len() > MAX_PACKET_BYTES || fds.len() > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "packet out of bounds"));
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            debug_assert!(fits, "the buffer is made for MAX_FDS");
        }
        let sent = net::sendmsg(&self.0, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL)?;
        if sent == packet.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    /// Receives one packet into `packet` (replaced) and returns its descriptors; `None` at the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `InvalidData` for a packet that is too long or whose descriptors did
    /// not all fit (also when this process has none left): the packet is consumed and what came is closed. What it says
    /// is in `packet` all the same, unless it is too long.
    pub fn recv(&self, packet: &mut Vec<u8>) -> io::Result<Option<Vec<OwnedFd>>> {
        REST.with_borrow_mut(|rest| self.recv_with(packet, rest))
    }

    fn recv_with(&self, packet: &mut Vec<u8>, rest: &mut Vec<u8>) -> io::Result<Option<Vec<OwnedFd>>> {
        packet.clear();
        packet.resize(FIRST_BYTES, 0);
        if rest.is_empty() {
            *rest = vec![0; MAX_PACKET_BYTES - FIRST_BYTES];
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(packet), IoSliceMut::new(rest)];
        let result = net::recvmsg(&self.0, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC);
        let message = match result {
            Ok(message) => message,
            Err(error) => {
                packet.clear();
                return Err(error.into());
            }
        };
        let mut fds = Vec::new();
        for part in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = part {
                fds.extend(received);
            }
        }
        let (is_long, is_cut) =
            (message.flags.contains(ReturnFlags::TRUNC), message.flags.contains(ReturnFlags::CTRUNC));
        if let Some(more) = message.bytes.checked_sub(FIRST_BYTES).filter(|more| *more > 0) {
            packet.extend_from_slice(rest.get(..more).unwrap_or_default());
            // Its memory goes back.
            *rest = Vec::new();
        }
        packet.truncate(if is_long { 0 } else { message.bytes });
        if is_long || is_cut {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "truncated packet"));
        }
        Ok(if message.bytes == 0 { None } else { Some(fds) })
    }

    /// Effective uid of the process that made the other end (`SO_PEERCRED`).
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn peer_uid(&self) -> io::Result<u32> {
        let peer = nix::sys::socket::getsockopt(&self.0, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(peer.uid())
    }

    /// Pid of the process that made the other end; `None` when it is outside our pid namespace.
    ///
    /// # Errors
    /// Those of getsockopt(2).
    pub fn peer_pid(&self) -> io::Result<Option<i32>> {
        let peer = nix::sys::socket::getsockopt(&self.0, nix::sys::socket::sockopt::PeerCredentials)?;
        Ok(Some(peer.pid()).filter(|pid| *pid > 0))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> OwnedFd {
        channel.0
    }
}

#[cfg(test)]
mod tests;
