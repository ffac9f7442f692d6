//! Network interfaces of the calling thread's namespace.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Index of the interface `name`: the scope id of a link-local address. Uses socket options only, which a
/// worker may do after its sandbox is closed (if_nametoindex(3) needs an ioctl); no privilege is needed since
/// Linux 5.7.
///
/// # Errors
/// ENODEV when there is no such interface.
pub fn index(name: &str) -> io::Result<u32> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
    setsockopt(&socket, BindToDevice, &OsString::from(name))?;
    let mut index: libc::c_int = 0;
    let mut length = libc::socklen_t::try_from(size_of::<libc::c_int>()).map_err(io::Error::other)?;
    // SAFETY: `index` and `length` outlive the call and `length` is the size of `index`.
    crate::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_BINDTOIFINDEX,
            (&raw mut index).cast(),
            &raw mut length,
        )
    })?;
    u32::try_from(index)
        .ok()
        .filter(|index| *index > 0)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
}

/// Whether an interface has this address. One of broadcast or multicast is none's, and one that may only be bound
/// (`ip_nonlocal_bind`) is not either.
///
/// # Errors
/// The kernel does not list them.
pub fn has(address: IpAddr) -> io::Result<bool> {
    let address = address.to_canonical();
    let ip = |found: InterfaceAddress| {
        let found = found.address?;
        let v4 = found.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| found.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    Ok(getifaddrs()?.filter_map(ip).any(|found| found == address))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn an_address_is_an_interfaces_or_none() {
        let has = |address: [u8; 4]| has(Ipv4Addr::from(address).into()).expect("they are listed");
        assert!(has([127, 0, 0, 1]));
        assert!(!has([127, 255, 255, 255]) && !has([255, 255, 255, 255]) && !has([224, 0, 0, 1]));
        assert!(super::has(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()).expect("they are listed"));
    }
}
