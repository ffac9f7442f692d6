//! Netlink sockets: open, options, whole messages out and in.
//!
//! A socket belongs to the network namespace of the thread that opened it, for life; it may be used
//! from any other. Nothing here knows what a message says.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt;

/// What the other end, in the kernel, speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `NETLINK_ROUTE`: links, addresses, routes.
    Route,
    /// `NETLINK_NETFILTER`: nf_tables, connection tracking.
    Netfilter,
}

impl Family {
    const fn protocol(self) -> libc::c_int {
        match self {
            Self::Route => libc::NETLINK_ROUTE,
            Self::Netfilter => libc::NETLINK_NETFILTER,
        }
    }
}

/// A bound netlink socket that hears the kernel alone.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    port_id: u32,
}

impl Socket {
    /// Opens one in the calling thread's namespace. Errors come without a copy of the request
    /// (`NETLINK_CAP_ACK`) and with the kernel's words (`NETLINK_EXT_ACK`). Blocking; a wait for an
    /// answer ends with `WouldBlock` after `patience`.
    ///
    /// # Errors
    /// Those of socket(2), setsockopt(2) and bind(2).
    pub fn open(family: Family, patience: Duration) -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: passes no memory.
        let raw = crate::check(unsafe { libc::socket(libc::AF_NETLINK, kind, family.protocol()) })?;
        // SAFETY: the descriptor was made above and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        set(&fd, libc::NETLINK_CAP_ACK, 1)?;
        set(&fd, libc::NETLINK_EXT_ACK, 1)?;
        sockopt::set_socket_timeout(&fd, sockopt::Timeout::Recv, Some(patience))?;
        let address = address();
        let length = name_length()?;
        // SAFETY: `address` is a whole sockaddr_nl that outlives the call, `length` its size.
        crate::check(unsafe { libc::bind(raw, (&raw const address).cast(), length) })?;
        let port_id = bound_port(&fd)?;
        Ok(Self { fd, port_id })
    }

    /// Number of this socket in its namespace: the kernel notes it in what it announces because of
    /// this socket's requests.
    #[must_use]
    pub fn port_id(&self) -> u32 {
        self.port_id
    }

    /// Joins a multicast group.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn join(&self, group: u32) -> io::Result<()> {
        set(&self.fd, libc::NETLINK_ADD_MEMBERSHIP, group)
    }

    /// Room for what is sent at once, and for what waits to be read, bytes. `CAP_NET_ADMIN` goes beyond
    /// the system's limits.
    ///
    /// # Errors
    /// Those of setsockopt(2).
    pub fn reserve(&self, send_bytes: usize, receive_bytes: usize) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size_force(&self.fd, send_bytes)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&self.fd, send_bytes))?;
        sockopt::set_socket_recv_buffer_size_force(&self.fd, receive_bytes)
            .or_else(|_| sockopt::set_socket_recv_buffer_size(&self.fd, receive_bytes))?;
        Ok(())
    }

    /// Does not wait any more: for a socket in an event loop.
    ///
    /// # Errors
    /// Those of fcntl(2).
    pub fn set_nonblocking(&self) -> io::Result<()> {
        let flags = rustix::fs::fcntl_getfl(&self.fd)?;
        Ok(rustix::fs::fcntl_setfl(&self.fd, flags | rustix::fs::OFlags::NONBLOCK)?)
    }

    /// Sends `bytes`, one or more whole messages, to the kernel.
    ///
    /// # Errors
    /// Those of sendto(2), `EINTR` apart; `EMSGSIZE` beyond the reserved room.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let address = address();
        let length = name_length()?;
        loop {
            // SAFETY: buffer and address outlive the call, and the lengths are theirs.
            let sent = unsafe {
                libc::sendto(
                    self.fd.as_raw_fd(),
                    bytes.as_ptr().cast(),
                    bytes.len(),
                    0,
                    (&raw const address).cast(),
                    length,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }

    /// Receives what the kernel sent at once: one or more whole messages at the front of `buffer`.
    /// What another process sends is dropped.
    ///
    /// # Errors
    /// Those of recvfrom(2), `EINTR` apart; `ENOBUFS` when messages were lost; `InvalidData` when the
    /// buffer was too small.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut address = address();
            let mut length = name_length()?;
            // SAFETY: buffer and address outlive the call, and the lengths are theirs.
            let received = unsafe {
                libc::recvfrom(
                    self.fd.as_raw_fd(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                    // With it the return value is the whole length, also of what did not fit.
                    libc::MSG_TRUNC,
                    (&raw mut address).cast(),
                    &raw mut length,
                )
            };
            match usize::try_from(received) {
                Ok(_) if address.nl_pid != 0 => {}
                Ok(received) if received <= buffer.len() => return Ok(received),
                Ok(_) => return Err(io::Error::new(io::ErrorKind::InvalidData, "a message was cut off")),
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The kernel, port 0; to bind: any free port.
fn address() -> libc::sockaddr_nl {
    // SAFETY: sockaddr_nl is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    address.nl_family = u16::try_from(libc::AF_NETLINK).unwrap_or_default();
    address
}

fn name_length() -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).map_err(io::Error::other)
}

fn bound_port(fd: &OwnedFd) -> io::Result<u32> {
    let mut address = address();
    let mut length = name_length()?;
    // SAFETY: `address` and `length` outlive the call and `length` is the size of `address`.
    crate::check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &raw mut length) })?;
    Ok(address.nl_pid)
}

fn set(fd: &OwnedFd, option: libc::c_int, value: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).map_err(io::Error::other)?;
    // SAFETY: `value` outlives the call and `length` is its size.
    crate::check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_NETLINK, option, (&raw const value).cast(), length)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `RTM_GETLINK` dump.
    const REQUEST: [u8; 32] = {
        let mut bytes = [0_u8; 32];
        bytes[0] = 32;
        bytes[4] = 18;
        bytes[6] = 1;
        bytes[7] = 3;
        bytes
    };

    #[test]
    fn the_kernel_answers_and_a_small_buffer_is_said() {
        let socket = Socket::open(Family::Route, Duration::from_secs(10)).unwrap();
        assert_ne!(socket.port_id(), 0);
        socket.send(&REQUEST).unwrap();
        let mut buffer = vec![0; 65_536];
        assert!(socket.receive(&mut buffer).unwrap() > 16);
        let socket = Socket::open(Family::Route, Duration::from_secs(10)).unwrap();
        socket.send(&REQUEST).unwrap();
        let refused = socket.receive(&mut [0; 16]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_wait_ends() {
        let socket = Socket::open(Family::Netfilter, Duration::from_millis(20)).unwrap();
        let error = socket.receive(&mut [0; 64]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
