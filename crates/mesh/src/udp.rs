//! The socket that peers send to and are sent to from.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portway_sys::interface;
use portway_sys::listen::{self, V6Only};
use portway_sys::mmsg::{self, LocalAddr};
use portway_sys::path_mtu::{Oversize, set_oversize};
use rustix::net::sockopt;

/// Room that is asked for in each direction, bytes; what is granted is told.
const BUFFER_BYTES: usize = 8 << 20;

/// One socket for both families, where there are both.
#[derive(Debug)]
pub struct Udp {
    fd: OwnedFd,
    both: bool,
    /// What it is bound to.
    pub address: SocketAddr,
    /// What it got, as the kernel counts it.
    pub room: Room,
    /// Whether the kernel joins what it receives (`UDP_GRO`).
    pub joins: bool,
}

/// Buffers of a socket, bytes. The kernel doubles what is asked, and caps it at `net.core.rmem_max` and `wmem_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// For what is sent.
    pub send_bytes: usize,
    /// For what comes.
    pub receive_bytes: usize,
}

impl Udp {
    /// Binds `port`, 0 for any, on all addresses.
    ///
    /// # Errors
    /// Those of socket(2) and bind(2).
    pub fn bind(port: u16) -> io::Result<Udp> {
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (fd, both) = match listen::udp(any, V6Only::No) {
            Ok(fd) => (fd, true),
            // There is no IPv6 on this host.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error()) => {
                (listen::udp(SocketAddr::from(([0; 4], port)), V6Only::No)?, false)
            }
            Err(error) => return Err(error),
        };
        for set in [sockopt::set_socket_recv_buffer_size_force, sockopt::set_socket_send_buffer_size_force] {
            set(&fd, BUFFER_BYTES).ok();
        }
        if sockopt::socket_recv_buffer_size(&fd)? < BUFFER_BYTES {
            sockopt::set_socket_recv_buffer_size(&fd, BUFFER_BYTES)?;
        }
        if sockopt::socket_send_buffer_size(&fd)? < BUFFER_BYTES {
            sockopt::set_socket_send_buffer_size(&fd, BUFFER_BYTES)?;
        }
        let room = Room {
            send_bytes: sockopt::socket_send_buffer_size(&fd)?,
            receive_bytes: sockopt::socket_recv_buffer_size(&fd)?,
        };
        // Without it what is too long is cut on its way, or by the kernel.
        set_oversize(fd.as_fd(), Oversize::Refused).ok();
        let joins = mmsg::join_received(fd.as_fd()).is_ok();
        let address = listen::local_addr(fd.as_fd())?;
        Ok(Udp { fd, both, address, room, joins })
    }

    /// An address as this socket wants it.
    #[must_use]
    pub fn to_wire(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.both => SocketAddr::from((ip.to_ipv6_mapped(), address.port())),
            _ => address,
        }
    }

    /// Whether an address that datagrams came to is still this host's.
    #[must_use]
    pub fn is_own(&self, source: LocalAddr) -> bool {
        // bind(2) would take one of broadcast, and any other where that is allowed.
        interface::has(source.ip).unwrap_or(true)
    }

    /// An address as everybody else knows it.
    #[must_use]
    pub fn from_wire(address: SocketAddr) -> SocketAddr {
        match address.ip().to_canonical() {
            IpAddr::V4(ip) => SocketAddr::from((ip, address.port())),
            IpAddr::V6(_) => address,
        }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
