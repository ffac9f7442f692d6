//! What an engine hands over: sockets of the kernel's, or of a stack that is none, channels on which descriptors come.
//!
//! A connection of engine S is one end of a unix stream pair. What each side does to it, and what becomes of it:
//!
//! | on the descriptor | in the network |
//! |---|---|
//! | `shutdown(SHUT_WR)` | FIN, behind all that was written |
//! | close, when it has been read to its end | the same |
//! | close, before it has been read to its end | RST; what was written may be lost |
//! | it is read to its end, and does not hang up | FIN came |
//! | it is read to its end and hangs up: [`is_reset`] | RST came, or the peer is gone |
//!
//! A flow of datagrams is one end of a unix pair. A datagram that cannot be sent is dropped and counted. A flow is over
//! when its port is closed, nothing has come or gone for five minutes, or there are too many flows and it is its turn to
//! go. Of one that began here, a datagram pair, sending has ECONNREFUSED then. One that began there is a pair of records:
//! it hangs up, and is to be given up, as much as a socket that hangs up is.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portway_sys::seqpacket::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, sockopt};
use serde::{Deserialize, Serialize};

use crate::segment::checksum;

/// What stands beside a descriptor on a channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Note {
    /// Who called, and where.
    From { remote: SocketAddr, local: SocketAddr },
    /// A dial has come to its end.
    Connected,
    /// It has failed; as errno.
    Failed(i32),
}

/// Takes the next of a channel that does not wait.
fn next(channel: &Channel) -> io::Result<(Note, Option<OwnedFd>)> {
    let mut packet = Vec::new();
    let fds = channel.recv(&mut packet)?.ok_or(io::ErrorKind::BrokenPipe)?;
    Ok((serde_json::from_slice(&packet)?, fds.into_iter().next()))
}

/// Connections that come.
#[derive(Debug)]
pub enum Listener {
    /// A listening socket.
    Socket(OwnedFd),
    /// Each comes on this channel.
    Channel(Channel),
}

impl Listener {
    /// Takes the next one, and says who it is from. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; those of accept(2); `BrokenPipe` when the stack is gone.
    pub fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        match self {
            Listener::Socket(fd) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let (fd, from) = rustix::net::acceptfrom_with(fd, flags)?;
                let from = from.and_then(|from| SocketAddr::try_from(from).ok());
                Ok((fd, from.ok_or(io::ErrorKind::InvalidData)?))
            }
            Listener::Channel(channel) => accept(channel),
        }
    }
}

fn accept(channel: &Channel) -> io::Result<(OwnedFd, SocketAddr)> {
    match next(channel)? {
        (Note::From { remote, .. }, Some(fd)) => Ok((fd, remote)),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Listener {
    /// As [`Listener::accept`], with both ends of the connection if it is no socket of the kernel's, which says them
    /// itself: the caller's, ours.
    ///
    /// # Errors
    /// As [`Listener::accept`].
    pub fn accept_ends(&self) -> io::Result<(OwnedFd, Option<(SocketAddr, SocketAddr)>)> {
        match self {
            Listener::Socket(_) => Ok((self.accept()?.0, None)),
            Listener::Channel(channel) => match next(channel)? {
                (Note::From { remote, local }, Some(fd)) => Ok((fd, Some((remote, local)))),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Listener::Socket(fd) => fd.as_fd(),
            Listener::Channel(channel) => channel.as_fd(),
        }
    }
}

/// Datagrams that come.
#[derive(Debug)]
pub enum Inlet {
    /// A socket that has those of everybody.
    Socket(OwnedFd),
    /// Each flow comes on this channel as a descriptor of its own.
    Flows(Channel),
}

impl Inlet {
    /// Takes the next flow, and says who it is from. Never waits.
    ///
    /// # Errors
    /// As [`Listener::accept`]; `Unsupported` of a socket.
    pub fn accept(&self) -> io::Result<(OwnedFd, SocketAddr)> {
        match self {
            Inlet::Socket(_) => Err(io::ErrorKind::Unsupported.into()),
            Inlet::Flows(channel) => accept(channel),
        }
    }
}

impl AsFd for Inlet {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Inlet::Socket(fd) => fd.as_fd(),
            Inlet::Flows(channel) => channel.as_fd(),
        }
    }
}

/// A connection on its way. Dropping it gives it up: whoever has taken it already sees a reset, and no end.
#[derive(Debug)]
pub enum Dial {
    /// The socket itself.
    Socket(Calling),
    /// The connection comes on this channel.
    Channel(Channel),
}

/// A socket that is being connected.
#[derive(Debug)]
pub struct Calling(Option<OwnedFd>);

impl Drop for Calling {
    fn drop(&mut self) {
        if let Some(fd) = &self.0
            && let Err(error) = portway_sys::sockopt::linger_reset(fd.as_fd())
        {
            tracing::debug!(%error, "a connection that is given up ends without a reset");
        }
    }
}

impl AsFd for Calling {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_ref().expect("it is taken by who consumes this").as_fd()
    }
}

impl Dial {
    /// Of a socket on which connect(2) was called, which did not wait.
    #[must_use]
    pub fn socket(fd: OwnedFd) -> Dial {
        Dial::Socket(Calling(Some(fd)))
    }

    /// What its descriptor is to be polled for: then [`Dial::finish`] does not wait.
    #[must_use]
    pub fn interest(&self) -> PollFlags {
        match self {
            Dial::Socket(_) => PollFlags::OUT,
            Dial::Channel(_) => PollFlags::IN,
        }
    }

    /// The connection.
    ///
    /// # Errors
    /// Those of connect(2); `WouldBlock` when it has not come to an end.
    pub fn finish(self) -> io::Result<OwnedFd> {
        match self {
            Dial::Socket(mut calling) => match sockopt::socket_error(&calling)? {
                Ok(()) => calling.0.take().ok_or(io::ErrorKind::NotConnected.into()),
                Err(error) => Err(error.into()),
            },
            Dial::Channel(channel) => match next(&channel)? {
                (Note::Connected, Some(fd)) => Ok(fd),
                (Note::Failed(errno), _) => Err(io::Error::from_raw_os_error(errno)),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
        }
    }

    /// Waits for it for so long.
    ///
    /// # Errors
    /// As [`Dial::finish`]; `TimedOut`.
    pub fn wait(self, patience: Duration) -> io::Result<OwnedFd> {
        let time = Timespec::try_from(patience).ok();
        let ready = poll(&mut [PollFd::new(&self, self.interest())], time.as_ref())?;
        if ready == 0 { Err(io::ErrorKind::TimedOut.into()) } else { self.finish() }
    }
}

impl AsFd for Dial {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Dial::Socket(fd) => fd.as_fd(),
            Dial::Channel(channel) => channel.as_fd(),
        }
    }
}

/// A way to ask one address for echoes. A message is what stands behind type, code and checksum: two numbers of two
/// bytes each, then anything.
#[derive(Debug)]
pub enum Echo {
    /// A raw socket of the kernel's, on which every message of ICMP from there is read.
    Raw(OwnedFd),
    /// The end of a pair.
    Pair(OwnedFd),
}

impl Echo {
    /// Asks.
    ///
    /// # Errors
    /// Those of send(2).
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match self {
            Echo::Pair(fd) => rustix::net::send(fd, message, flags)?,
            Echo::Raw(fd) => {
                let is_v4 = sockopt::socket_domain(fd)? == AddressFamily::INET;
                let mut packet = [&[if is_v4 { 8 } else { 128 }, 0, 0, 0], message].concat();
                // Of IPv6 the kernel writes it (RFC 3542, 3.1).
                if is_v4 {
                    let sum = checksum::finish(checksum::add(0, &packet));
                    packet.splice(2..4, sum);
                }
                rustix::net::send(fd, &packet, flags)?
            }
        };
        Ok(())
    }

    /// Reads the next message; `None`: it is no answer.
    ///
    /// # Errors
    /// `WouldBlock`; those of recv(2).
    pub fn receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Option<&'b [u8]>> {
        let (fd, is_raw) = match self {
            Echo::Raw(fd) => (fd, true),
            Echo::Pair(fd) => (fd, false),
        };
        let (_, length) = rustix::net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT)?;
        let bytes = buffer.get(..length).unwrap_or_default();
        if !is_raw {
            return if length == 0 { Err(io::ErrorKind::BrokenPipe.into()) } else { Ok(Some(bytes)) };
        }
        // Of IPv4 its header comes along (raw(7)).
        let is_v4 = sockopt::socket_domain(fd)? == AddressFamily::INET;
        let header = bytes.first().filter(|_| is_v4).map_or(0, |first| usize::from(first & 15) * 4);
        let message = bytes.get(header..).unwrap_or_default();
        let answer = if is_v4 { 0 } else { 129 };
        Ok(message.get(4..).filter(|_| message.first() == Some(&answer)))
    }
}

impl AsFd for Echo {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Echo::Raw(fd) | Echo::Pair(fd) => fd.as_fd(),
        }
    }
}

/// Whether a connection of a pair that has been read to its end was reset rather than finished; the caller has not shut
/// it down for writing.
#[must_use]
pub fn is_reset(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
}
