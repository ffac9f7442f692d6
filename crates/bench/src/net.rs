//! Sockets of the load generator: non-blocking descriptors and one way to wait for them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Where a client sends: `tcp:IP:PORT`, `udp:IP:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, rest) = text.split_once(':').ok_or_else(|| format!("{text}: no kind of socket"))?;
        let address = || rest.parse().map_err(|_| format!("{text}: no address with a port"));
        match kind {
            "tcp" => address().map(Self::Tcp),
            "udp" => address().map(Self::Udp),
            "unix" if !rest.is_empty() => Ok(Self::Unix(rest.into())),
            _ => Err(format!("{text}: tcp, udp or unix wanted")),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Target {
    /// A socket that is being connected, or is.
    pub(crate) fn begin(&self) -> io::Result<OwnedFd> {
        let socket = self.socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        match self.connect_socket(&socket) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(error) => Err(error.into()),
        }
    }

    /// A connected socket that blocks and sends without delay.
    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        let socket = self.socket(SocketFlags::CLOEXEC)?;
        if matches!(self, Self::Tcp(_)) {
            sockopt::set_tcp_nodelay(&socket, true)?;
        }
        self.connect_socket(&socket)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        Ok(socket)
    }

    fn socket(&self, flags: SocketFlags) -> io::Result<OwnedFd> {
        let (family, kind) = match self {
            Self::Tcp(address) => (AddressFamily::of(address), SocketType::STREAM),
            Self::Udp(address) => (AddressFamily::of(address), SocketType::DGRAM),
            Self::Unix(_) => (AddressFamily::UNIX, SocketType::STREAM),
        };
        Ok(net::socket_with(family, kind, flags, None)?)
    }

    fn connect_socket(&self, socket: &OwnedFd) -> rustix::io::Result<()> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => net::connect(socket, address),
            Self::Unix(path) => net::connect(socket, &SocketAddrUnix::new(path)?),
        }
    }
}

/// How long a connected socket waits for the other end: longer is a failure, not a slow answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The family of an address.
trait FamilyOf {
    fn of(address: &SocketAddr) -> AddressFamily;
}

impl FamilyOf for AddressFamily {
    fn of(address: &SocketAddr) -> AddressFamily {
        if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
    }
}

/// Makes a socket one that does not block.
pub(crate) fn unblock(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::io::ioctl_fionbio(socket, true)?)
}

/// Waits for sockets; every call that follows the first makes no allocation.
pub(crate) struct Poll {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
}

impl Poll {
    /// Of at most this many events at a time.
    pub(crate) fn new(events: usize) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(events) })
    }

    /// Watches a socket; `key` is what an event will say.
    pub(crate) fn add(&self, socket: impl AsFd, key: usize, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, epoll::EventData::new_u64(key as u64), flags)?)
    }

    /// Watches it for something else.
    pub(crate) fn modify(&self, socket: impl AsFd, key: usize, flags: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(key as u64), flags)?)
    }

    /// Waits, at most this long, for events: number of them, to be asked for by [`event`](Self::event).
    pub(crate) fn wait(&mut self, limit: Option<Duration>) -> io::Result<usize> {
        self.events.clear();
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), limit.as_ref()) {
            Ok(count) => Ok(count),
            Err(Errno::INTR) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Key and flags of one of the events of the last wait.
    pub(crate) fn event(&self, number: usize) -> (usize, epoll::EventFlags) {
        let event = self.events[number];
        (usize::try_from(event.data.u64()).unwrap_or(usize::MAX), event.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_printed() {
        for text in ["tcp:192.0.2.1:80", "udp:[2001:db8::1]:53", "unix:/run/x"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["", "tcp", "tcp:", "tcp:host:1", "unix:", "sctp:192.0.2.1:1"] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }
}
