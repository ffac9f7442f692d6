//! One type for byte streams over TCP and unix sockets.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

/// Where a stream service listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Addr {
    /// TCP.
    Tcp(SocketAddr),
    /// A unix socket in the file system, as the test's own process names it.
    Unix(PathBuf),
    /// An abstract unix socket.
    Abstract(String),
}

impl Addr {
    /// TCP at an address like `127.0.0.1:80`.
    ///
    /// # Panics
    /// When it is none: it is written in a test.
    #[must_use]
    pub fn tcp(address: &str) -> Self {
        Self::Tcp(address.parse().expect("an address with a port"))
    }

    /// A unix socket.
    #[must_use]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::Unix(path.as_ref().to_owned())
    }

    /// Connects, waiting at most `limit` (unix sockets: as long as the backlog is full).
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(&self, limit: Duration) -> io::Result<Stream> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect_timeout(address, limit)?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Self::Abstract(name) => {
                UnixStream::connect_addr(&UnixAddr::from_abstract_name(name)?).map(Stream::Unix)
            }
        }
    }

    /// Listens. A file that is in the way stays there.
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub fn listen(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => TcpListener::bind(address).map(Listener::Tcp),
            Self::Unix(path) => UnixListener::bind(path).map(Listener::Unix),
            Self::Abstract(name) => {
                UnixListener::bind_addr(&UnixAddr::from_abstract_name(name)?).map(Listener::Unix)
            }
        }
    }

    /// Listens with a short queue, for tests that fill it.
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub fn listen_with_backlog(&self, backlog: i32) -> io::Result<Listener> {
        let listener = self.listen()?;
        SockRef::from(&listener).listen(backlog)?;
        Ok(listener)
    }

    /// The socket address, for non-blocking use.
    ///
    /// # Errors
    /// When a path is too long.
    pub(crate) fn to_sock_addr(&self) -> io::Result<SockAddr> {
        match self {
            Self::Tcp(address) => Ok((*address).into()),
            Self::Unix(path) => SockAddr::unix(path),
            Self::Abstract(name) => SockAddr::unix(format!("\0{name}")),
        }
    }

    /// A socket of the right family.
    pub(crate) fn socket(&self) -> io::Result<Socket> {
        let domain = match self {
            Self::Tcp(address) => Domain::for_address(*address),
            Self::Unix(_) | Self::Abstract(_) => Domain::UNIX,
        };
        Socket::new(domain, Type::STREAM, None)
    }
}

impl fmt::Display for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
        }
    }
}

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// Unix.
    Unix(UnixListener),
}

impl Listener {
    /// Waits for a connection.
    ///
    /// # Errors
    /// Those of `accept`.
    pub fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
            Self::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }

    /// Waits for a connection at most `limit`, and gives it the same limit for each wait of its own.
    ///
    /// # Errors
    /// `WouldBlock` when nobody comes; else those of `accept`.
    pub fn accept_within(&self, limit: Duration) -> io::Result<Stream> {
        // Bounds accept(2) too, see socket(7).
        SockRef::from(self).set_read_timeout(Some(limit))?;
        let stream = self.accept()?;
        stream.set_timeout(limit)?;
        Ok(stream)
    }

    /// Where it listens, with the port the kernel chose.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn tcp_addr(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Some),
            Self::Unix(_) => Ok(None),
        }
    }

    /// Wakes whoever waits in `accept`, for good.
    pub(crate) fn wake(&self) {
        // Linux lets a listening socket be shut down; `accept` then fails with EINVAL.
        let _ = SockRef::from(self).shutdown(Shutdown::Both);
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// A connected stream; `&Stream` reads and writes, so that two threads can share it.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// Unix.
    Unix(UnixStream),
}

impl Stream {
    /// The same socket once more.
    ///
    /// # Errors
    /// When no descriptor is free.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
        }
    }

    /// Ends one direction or both.
    ///
    /// # Errors
    /// Those of `shutdown`.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.shutdown(how),
            Self::Unix(stream) => stream.shutdown(how),
        }
    }

    /// Bounds every wait for bytes or room.
    ///
    /// # Errors
    /// When the duration is zero.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        let socket = SockRef::from(self);
        socket.set_read_timeout(Some(limit))?;
        socket.set_write_timeout(Some(limit))
    }

    /// Closes so that the other side gets a reset (TCP; a unix peer sees the end, or ECONNRESET
    /// when it had bytes unread).
    pub fn reset(self) {
        let _ = SockRef::from(&self).set_linger(Some(Duration::ZERO));
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).read(buffer),
            Stream::Unix(stream) => (&mut &*stream).read(buffer),
        }
    }
}

impl Write for &Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => (&mut &*stream).write(buffer),
            Stream::Unix(stream) => (&mut &*stream).write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
