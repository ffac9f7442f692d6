//! How long a datagram may be on its way: what the kernel has been told of a path, and that it is to say so.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd};

/// What becomes of a datagram that is longer than the kernel knows its path to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oversize {
    /// It is refused with `EMSGSIZE`, and nobody on its way may cut it (`IP_PMTUDISC_DO`).
    Refused,
    /// It is sent in fragments (`IP_PMTUDISC_WANT`).
    Cut,
}

/// Says what becomes of long datagrams, in both families as far as the socket has them.
///
/// # Errors
/// Those of setsockopt(2), when neither family takes it.
pub fn set_oversize(socket: BorrowedFd<'_>, oversize: Oversize) -> io::Result<()> {
    let (v4, v6) = match oversize {
        Oversize::Refused => (libc::IP_PMTUDISC_DO, libc::IPV6_PMTUDISC_DO),
        Oversize::Cut => (libc::IP_PMTUDISC_WANT, libc::IPV6_PMTUDISC_WANT),
    };
    let one = set(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, v4);
    let two = set(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, v6);
    one.or(two)
}

/// Bytes of the longest packet that the kernel takes for `to`, headers and all: what its interface takes, or less where
/// a router has said so.
///
/// # Errors
/// Those of socket(2), connect(2) and getsockopt(2): there is no way to it.
pub fn path_mtu(to: SocketAddr) -> io::Result<usize> {
    let to = SocketAddr::new(to.ip().to_canonical(), to.port());
    let (any, level, option): (IpAddr, _, _) = if to.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED.into(), libc::IPPROTO_IP, libc::IP_MTU)
    } else {
        (Ipv6Addr::UNSPECIFIED.into(), libc::IPPROTO_IPV6, libc::IPV6_MTU)
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
    socket.connect(to)?;
    let mut mtu: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of_val(&mtu)).map_err(io::Error::other)?;
    // SAFETY: `mtu` and `length` outlive the call and `length` is the size of `mtu`.
    crate::check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut length)
    })?;
    usize::try_from(mtu).map_err(io::Error::other)
}

fn set(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: `value` outlives the call and `length` is its size.
    crate::check(unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    /// Fails when: the kernel does not know an option by its number, in either family. No packet of IPv4 has more than 65,535 bytes, and
    /// loopback takes as many.
    #[test]
    fn both_families_have_the_options() {
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = here.local_addr().unwrap();
        assert_eq!(path_mtu(to).unwrap(), 65_535);
        let both = UdpSocket::bind("[::]:0").unwrap();
        for socket in [&here, &both] {
            set_oversize(socket.as_fd(), Oversize::Refused).unwrap();
            set_oversize(socket.as_fd(), Oversize::Cut).unwrap();
        }
    }
}
