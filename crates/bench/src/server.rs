//! The service behind every peer: one thread, one loop, no allocation while it serves.
//!
//! The first byte of a stream says what the service does with it, so that one port serves all
//! workloads. Its standard input is a unix socket that listens; it ends when nobody holds the other
//! end of its standard output any more.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{self, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::net::Poll;

/// What the first byte of a stream asks for.
pub(crate) mod order {
    /// Send back what comes, this byte too.
    pub(crate) const ECHO: u8 = b'e';
    /// Read and forget.
    pub(crate) const SINK: u8 = b'k';
    /// Send without end, in writes of 64 kB.
    pub(crate) const SOURCE: u8 = b'g';
    /// The same in writes of 1 MB.
    pub(crate) const LARGE_SOURCE: u8 = b'G';
    /// For each byte the number of datagrams counted so far: eight bytes, little endian.
    pub(crate) const COUNTER: u8 = b'c';
    /// First byte of a datagram that is counted and not answered; any other is sent back.
    pub(crate) const COUNT_DATAGRAM: u8 = b's';
}

/// Bytes of a large write and of the small one.
pub(crate) const LARGE: usize = 1 << 20;
pub(crate) const SMALL: usize = 64 << 10;

/// Bytes of a read.
pub(crate) const READ: usize = 256 << 10;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 8192;

/// Connections accepted, or datagrams read, before the others have their turn.
const TURN: usize = 64;

/// Receive buffer asked for datagrams: the service must not be what loses them.
const DATAGRAM_QUEUE_BYTES: usize = 8 << 20;

/// Descriptors this process may have: the index of the table of connections.
const DESCRIPTORS: usize = 20_000;

/// What stands behind a key of an event.
const OUTPUT: usize = DESCRIPTORS;
const UNIX: usize = DESCRIPTORS + 1;
/// And from here on a TCP and a UDP socket for each port.
const PORTS: usize = DESCRIPTORS + 2;

/// A connection's role; its descriptor is its place in the table.
enum Connection {
    New(OwnedFd),
    Echo(OwnedFd),
    Sink(OwnedFd),
    Source(OwnedFd, usize),
    Counter(OwnedFd),
}

impl Connection {
    fn socket(&self) -> &OwnedFd {
        match self {
            Self::New(fd) | Self::Echo(fd) | Self::Sink(fd) | Self::Source(fd, _) | Self::Counter(fd) => fd,
        }
    }
}

struct Server {
    poll: Poll,
    /// TCP and UDP of each port.
    ports: Vec<[OwnedFd; 2]>,
    unix: Option<OwnedFd>,
    connections: Vec<Option<Connection>>,
    buffer: Vec<u8>,
    payload: Vec<u8>,
    counted: u64,
}

/// Serves TCP and UDP at these addresses, and the unix socket that is standard input when `unix` says so.
///
/// # Errors
/// When an address is taken, or waiting fails.
pub(crate) fn serve(addresses: &[SocketAddr], unix: bool) -> Result<()> {
    let mut server = Server::open(addresses, unix)?;
    // The caller waits for this line.
    rustix::io::write(io::stdout(), b"ready\n").context("cannot say that the service is up")?;
    while server.turn()? {}
    Ok(())
}

/// Listens for connections and datagrams at an address.
fn listen(address: SocketAddr) -> Result<[OwnedFd; 2]> {
    let open = |kind| -> io::Result<OwnedFd> {
        let family = if address.is_ipv4() { net::AddressFamily::INET } else { net::AddressFamily::INET6 };
        let socket = net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        net::bind(&socket, &address)?;
        Ok(socket)
    };
    let tcp = open(SocketType::STREAM).with_context(|| format!("cannot bind {address}/tcp"))?;
    net::listen(&tcp, BACKLOG)?;
    // Connections take it over from their listener.
    sockopt::set_tcp_nodelay(&tcp, true)?;
    let udp = open(SocketType::DGRAM).with_context(|| format!("cannot bind {address}/udp"))?;
    // Only root may have more than the machine's limit.
    sockopt::set_socket_recv_buffer_size_force(&udp, DATAGRAM_QUEUE_BYTES)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(&udp, DATAGRAM_QUEUE_BYTES))?;
    Ok([tcp, udp])
}

impl Server {
    fn open(addresses: &[SocketAddr], unix: bool) -> Result<Self> {
        let poll = Poll::new(256)?;
        let ports = addresses.iter().map(|address| listen(*address)).collect::<Result<Vec<_>>>()?;
        for (socket, key) in ports.iter().flatten().zip(PORTS..) {
            poll.add(socket, key, EventFlags::IN)?;
        }
        let unix = unix.then(|| rustix::io::dup(io::stdin())).transpose()?;
        if let Some(unix) = &unix {
            crate::net::unblock(unix)?;
            poll.add(unix, UNIX, EventFlags::IN)?;
        }
        // Errors are always reported: a pipe has one when its reader is gone.
        poll.add(io::stdout(), OUTPUT, EventFlags::empty())?;
        let connections = std::iter::repeat_with(|| None).take(DESCRIPTORS).collect();
        let (buffer, payload) = (vec![0; READ], vec![0x5a; LARGE]);
        Ok(Self { poll, ports, unix, connections, buffer, payload, counted: 0 })
    }

    /// Waits once and serves what is ready; `false` at the end.
    fn turn(&mut self) -> Result<bool> {
        for number in 0..self.poll.wait(None)? {
            match self.poll.event(number).0 {
                OUTPUT => return Ok(false),
                UNIX => self.accept(None),
                key if key >= PORTS && (key - PORTS).is_multiple_of(2) => {
                    self.accept(Some((key - PORTS) / 2))
                }
                key if key >= PORTS => self.datagrams((key - PORTS) / 2),
                index => {
                    let Some(connection) = self.connections[index].take() else { continue };
                    // An error is the end of this connection and of nothing else.
                    self.connections[index] = self.serve_one(index, connection).unwrap_or(None);
                }
            }
        }
        Ok(true)
    }

    /// Takes connections of a port, or of the unix socket.
    fn accept(&mut self, port: Option<usize>) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..TURN {
            let listener = port.map_or(self.unix.as_ref(), |port| Some(&self.ports[port][0]));
            let Some(Ok(socket)) = listener.map(|listener| net::accept_with(listener, flags)) else { return };
            let Some(index) = usize::try_from(socket.as_raw_fd()).ok().filter(|index| *index < DESCRIPTORS)
            else {
                continue;
            };
            if self.poll.add(&socket, index, EventFlags::IN).is_ok() {
                self.connections[index] = Some(Connection::New(socket));
            }
        }
    }

    /// Serves a connection that is ready; `None` when it is over.
    fn serve_one(&mut self, index: usize, connection: Connection) -> io::Result<Option<Connection>> {
        if let Connection::Source(socket, length) = &connection {
            return match net::send(socket, &self.payload[..*length], SendFlags::NOSIGNAL) {
                Ok(_) | Err(Errno::AGAIN) => Ok(Some(connection)),
                Err(error) => Err(error.into()),
            };
        }
        let length = match net::recv(connection.socket(), &mut self.buffer[..], RecvFlags::empty()) {
            Ok((0, _)) => return Ok(None),
            Ok((length, _)) => length,
            Err(Errno::AGAIN) => return Ok(Some(connection)),
            Err(error) => return Err(error.into()),
        };
        let connection = match connection {
            Connection::New(socket) => self.begin(index, socket, self.buffer[0])?,
            other => Some(other),
        };
        match &connection {
            Some(Connection::Echo(socket)) => {
                // What is sent back is small: it always fits.
                let sent = net::send(socket, &self.buffer[..length], SendFlags::NOSIGNAL)?;
                return Ok(if sent == length { connection } else { None });
            }
            Some(Connection::Counter(socket)) => {
                let answer = self.counted.to_le_bytes();
                (0..length).try_for_each(|_| net::send(socket, &answer, SendFlags::NOSIGNAL).map(|_| ()))?;
            }
            _ => {}
        }
        Ok(connection)
    }

    /// The role that a first byte asks for.
    fn begin(&self, index: usize, socket: OwnedFd, first: u8) -> io::Result<Option<Connection>> {
        Ok(match first {
            order::ECHO => Some(Connection::Echo(socket)),
            order::SINK => Some(Connection::Sink(socket)),
            order::COUNTER => Some(Connection::Counter(socket)),
            order::SOURCE | order::LARGE_SOURCE => {
                self.poll.modify(&socket, index, EventFlags::OUT)?;
                Some(Connection::Source(socket, if first == order::SOURCE { SMALL } else { LARGE }))
            }
            _ => None,
        })
    }

    fn datagrams(&mut self, port: usize) {
        let socket = &self.ports[port][1];
        for _ in 0..TURN {
            let received = net::recvfrom(socket, &mut self.buffer[..], RecvFlags::empty());
            let Ok((length, _, from)) = received else { return };
            match (self.buffer.first(), from) {
                (Some(&order::COUNT_DATAGRAM), _) => self.counted += 1,
                (_, Some(from)) => {
                    // One that is not answered is seen as lost by the client.
                    let _ = net::sendto(socket, &self.buffer[..length], SendFlags::empty(), &from);
                }
                (_, None) => {}
            }
        }
    }
}
