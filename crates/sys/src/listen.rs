//! Listeners, made in the calling thread's network namespace. All are non-blocking and close-on-exec.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{self, AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// Connections that may wait to be accepted. The kernel caps it at net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;

/// Receive buffer of a UDP listener, bytes: room for a burst while the worker is off the CPU
/// (about 1,000 full datagrams as the kernel accounts them).
const UDP_RECEIVE_BYTES: usize = 4 * 1024 * 1024;

/// Whether an IPv6 wildcard listener leaves IPv4 alone. Of no effect for IPv4 addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V6Only {
    /// IPv6 only.
    Yes,
    /// Both families; IPv4 peers appear as v4-mapped addresses.
    No,
}

/// Listens for tcp connections on `address` (port 0: the kernel picks one).
///
/// # Errors
/// `AddrInUse`, `AddrNotAvailable`, `PermissionDenied` below the first unprivileged port.
pub fn tcp(address: SocketAddr, v6only: V6Only) -> io::Result<OwnedFd> {
    let socket = inet_socket(address, SocketType::STREAM, v6only)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Binds `address` for udp. Each datagram comes with the address it was sent to (`IP_PKTINFO`,
/// `IPV6_PKTINFO`; v4-mapped on a dual-stack socket). No `SO_REUSEADDR`: a second socket could steal datagrams.
///
/// # Errors
/// As [`tcp`].
pub fn udp(address: SocketAddr, v6only: V6Only) -> io::Result<OwnedFd> {
    let socket = inet_socket(address, SocketType::DGRAM, v6only)?;
    match address {
        SocketAddr::V4(_) => {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv4PacketInfo, &true)?;
        }
        SocketAddr::V6(_) => {
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6RecvPacketInfo, &true)?;
        }
    }
    if sockopt::set_socket_recv_buffer_size_force(&socket, UDP_RECEIVE_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, UDP_RECEIVE_BYTES)?;
    }
    net::bind(&socket, &address)?;
    Ok(socket)
}

fn inet_socket(address: SocketAddr, kind: SocketType, v6only: V6Only) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    match address {
        SocketAddr::V4(_) => Ok(net::socket_with(AddressFamily::INET, kind, flags, None)?),
        SocketAddr::V6(_) => {
            let socket = net::socket_with(AddressFamily::INET6, kind, flags, None)?;
            sockopt::set_ipv6_v6only(&socket, v6only == V6Only::Yes)?;
            Ok(socket)
        }
    }
}

/// Binds the abstract unix name `name` (without the leading zero byte) and, unless `kind` is datagrams, listens.
///
/// # Errors
/// `AddrInUse`; `InvalidInput` for an empty name or one above 107 bytes.
pub fn unix_abstract(kind: SocketType, name: &[u8]) -> io::Result<OwnedFd> {
    if name.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty abstract name"));
    }
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    crate::unix_path::widen(socket.as_fd(), kind)?;
    net::bind(&socket, &address)?;
    if kind != SocketType::DGRAM {
        net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Makes a tcp listener refuse clients (they get a reset) while it keeps its address, so that nobody else
/// can take it (only an address that was asked for: a port that the kernel picked is given back). Clients in its
/// backlog are reset too. Holds for every duplicate of the descriptor. [`relisten`] undoes it.
///
/// # Errors
/// Those of shutdown(2): `NotConnected` when it does not listen.
pub fn refuse(listener: BorrowedFd<'_>) -> io::Result<()> {
    net::shutdown(listener, Shutdown::Read)?;
    // A bound socket that does not listen gives its address away to whoever binds with SO_REUSEADDR,
    // unless it lacks that option itself (socket(7)).
    Ok(sockopt::set_socket_reuseaddr(listener, false)?)
}

/// Makes a listener that was told to [`refuse`] listen again; harmless on one that listens.
///
/// # Errors
/// `AddrInUse` when somebody else listens there.
pub fn relisten(listener: BorrowedFd<'_>) -> io::Result<()> {
    // Before listen(2), which checks the address again and would trip over our own live connections.
    sockopt::set_socket_reuseaddr(listener, true)?;
    Ok(net::listen(listener, BACKLOG)?)
}

/// `SO_COOKIE`: number of the socket behind `fd`, the same for all its duplicates and never reused in this boot.
///
/// # Errors
/// Those of getsockopt(2): not a socket.
pub fn socket_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    Ok(sockopt::socket_cookie(fd)?)
}

/// The address an IPv4 or IPv6 socket is bound to.
///
/// # Errors
/// Those of getsockname(2); `InvalidInput` when it is of another family.
pub fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    SocketAddr::try_from(net::getsockname(fd)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not an inet socket"))
}

/// Whether `fd` is a unix socket of `kind`.
///
/// # Errors
/// Those of getsockopt(2): not a socket.
pub fn is_unix(fd: BorrowedFd<'_>, kind: SocketType) -> io::Result<bool> {
    Ok(sockopt::socket_domain(fd)? == AddressFamily::UNIX && sockopt::socket_type(fd)? == kind)
}

/// Whether `fd` is a listening stream socket (`SO_ACCEPTCONN`).
///
/// # Errors
/// Those of getsockopt(2): not a socket.
pub fn is_listening(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(sockopt::socket_acceptconn(fd)?)
}

#[cfg(test)]
mod tests;
