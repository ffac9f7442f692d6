//! Unix sockets that carry whole messages: seqpacket connections and datagrams.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::net::sockopt;
use socket2::{Domain, Socket, Type};

use crate::{Addr, fds};

/// Longest wait for a message or for room to send one.
const PATIENCE: Duration = Duration::from_secs(20);

/// Longest message that is received, bytes.
const LIMIT_BYTES: usize = 1 << 20;

/// A seqpacket or datagram socket, bounded in every wait.
#[derive(Debug)]
pub struct MessageSocket(Socket);

impl MessageSocket {
    /// Listens for seqpacket connections.
    ///
    /// # Errors
    /// Those of `bind` and `listen`.
    pub fn listen(addr: &Addr) -> io::Result<Self> {
        let socket = new(Type::SEQPACKET)?;
        socket.0.bind(&addr.to_sock_addr()?)?;
        socket.0.listen(128)?;
        Ok(socket)
    }

    /// The next connection of a listener.
    ///
    /// # Errors
    /// Those of `accept`; `WouldBlock` after a long wait.
    pub fn accept(&self) -> io::Result<Self> {
        let (socket, _) = self.0.accept()?;
        bounded(socket)
    }

    /// A seqpacket connection.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect(addr: &Addr) -> io::Result<Self> {
        let socket = new(Type::SEQPACKET)?;
        socket.0.connect(&addr.to_sock_addr()?)?;
        Ok(socket)
    }

    /// A datagram socket with a name.
    ///
    /// # Errors
    /// Those of `bind`.
    pub fn bind(addr: &Addr) -> io::Result<Self> {
        let socket = new(Type::DGRAM)?;
        socket.0.bind(&addr.to_sock_addr()?)?;
        Ok(socket)
    }

    /// A datagram socket without a name.
    ///
    /// # Errors
    /// Those of `socket`.
    pub fn unnamed() -> io::Result<Self> {
        new(Type::DGRAM)
    }

    /// Makes `addr` the only peer of a datagram socket.
    ///
    /// # Errors
    /// Those of `connect`.
    pub fn connect_to(&self, addr: &Addr) -> io::Result<()> {
        self.0.connect(&addr.to_sock_addr()?)
    }

    /// Sends one message to the peer.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
    }

    /// Sends one message to `addr`.
    ///
    /// # Errors
    /// Those of `sendto`.
    pub fn send_to(&self, bytes: &[u8], addr: &Addr) -> io::Result<usize> {
        self.0.send_to(bytes, &addr.to_sock_addr()?)
    }

    /// Sends one message with descriptors to the peer.
    ///
    /// # Errors
    /// Those of `sendmsg`.
    pub fn send_with(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize> {
        fds::send(&self.0, bytes, descriptors)
    }

    /// The next message. An empty one is also the end of a connection.
    ///
    /// # Errors
    /// Those of `recv`; `WouldBlock` after a long wait.
    pub fn receive(&self) -> Result<Vec<u8>> {
        self.receive_with().map(|(bytes, _)| bytes)
    }

    /// The next message and its descriptors.
    ///
    /// # Errors
    /// Those of `recvmsg`.
    pub fn receive_with(&self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        fds::recv(&self.0, LIMIT_BYTES)
    }

    /// The next datagram, sent back where it came from with `tag` before it; waits at most `limit`. False: none came.
    ///
    /// # Errors
    /// Those of `recvfrom` and `sendto`.
    pub fn answer(&self, tag: &[u8], limit: Duration) -> Result<bool> {
        self.0.set_read_timeout(Some(limit)).context("cannot set a limit")?;
        let mut buffer = vec![0; LIMIT_BYTES];
        let room = rustix::net::RecvFlags::empty();
        let (length, _, from) = match rustix::net::recvfrom(&self.0, &mut buffer[..], room) {
            Ok(received) => received,
            Err(rustix::io::Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno).context("cannot receive"),
        };
        let from = from.context("nobody to answer")?;
        let answer = [tag, buffer.get(..length).unwrap_or_default()].concat();
        rustix::net::sendto(&self.0, &answer, rustix::net::SendFlags::NOSIGNAL, &from)
            .context("cannot answer")?;
        Ok(true)
    }

    /// Ends a direction of a connection.
    ///
    /// # Errors
    /// Those of `shutdown`.
    pub fn shutdown(&self, how: std::net::Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

impl AsFd for MessageSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn new(kind: Type) -> io::Result<MessageSocket> {
    bounded(Socket::new(Domain::UNIX, kind, None)?)
}

fn bounded(socket: Socket) -> io::Result<MessageSocket> {
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    // The kernel grants twice net.core.wmem_max without a privilege.
    sockopt::set_socket_send_buffer_size(&socket, 512 * 1024)?;
    Ok(MessageSocket(socket))
}
