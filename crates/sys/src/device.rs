//! Interfaces whose packets this program moves: a TUN device, or a packet socket at the end of a veth pair.
//!
//! Both hand over and take whole packets of up to 64 KiB with a `virtio_net_hdr` (linux/virtio_net.h) before each, which
//! says how they are to be cut and where a checksum is missing. Both are non-blocking and close-on-exec, and belong to the
//! network namespace of the calling thread, which needs `CAP_NET_ADMIN` and `CAP_NET_RAW` there.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Every protocol (linux/if_ether.h), in network order.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();

/// What long packets a TUN device may give: TCP, and since Linux 6.2 UDP.
const TCP_OFFLOADS: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
const UDP_OFFLOADS: libc::c_uint = libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// Room for packets that wait at a packet socket, bytes. The kernel caps it at net.core.rmem_max.
const PACKET_RECEIVE_BYTES: usize = 16 << 20;

/// Makes the TUN device `name`. It is gone when its descriptor is.
///
/// # Errors
/// `NotFound` or `PermissionDenied` where /dev/net/tun is missing or not the caller's to open; those of ioctl(2).
pub fn tun(name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::try_from(from).map_err(io::Error::other)?;
    }
    let kind = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(kind).map_err(io::Error::other)?;
    // SAFETY: TUNSETIFF reads and writes `request`, which outlives the call.
    crate::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    let offload = |features: libc::c_uint| {
        let features = libc::c_ulong::from(features);
        // SAFETY: TUNSETOFFLOAD takes a number.
        crate::check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, features) })
    };
    offload(TCP_OFFLOADS | UDP_OFFLOADS).or_else(|_| offload(TCP_OFFLOADS))?;
    Ok(fd)
}

/// A socket that has what comes to the interface with this index from its other side, and sends there. Packets have
/// their Ethernet header.
///
/// # Errors
/// Those of socket(2), setsockopt(2) and bind(2); `PermissionDenied` without `CAP_NET_RAW`.
pub fn packet_socket(index: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0 hears nothing until it is bound.
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_VNET_HDR, 1)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1)?;
    if sockopt::set_socket_recv_buffer_size_force(&socket, PACKET_RECEIVE_BYTES).is_err() {
        sockopt::set_socket_recv_buffer_size(&socket, PACKET_RECEIVE_BYTES)?;
    }
    // SAFETY: sockaddr_ll is plain data for which all zeroes is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
    address.sll_protocol = ALL_PROTOCOLS;
    address.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: `address` outlives the call and `length` is its size.
    crate::check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(socket)
}

/// How many packets found no room at a packet socket since this was last asked (`PACKET_STATISTICS`).
///
/// # Errors
/// Those of getsockopt(2): no packet socket.
pub fn packets_lost(socket: BorrowedFd<'_>) -> io::Result<u32> {
    // Packets in all, and those that were dropped.
    let mut counts = [0_u32; 2];
    let mut length = libc::socklen_t::try_from(size_of_val(&counts)).map_err(io::Error::other)?;
    // SAFETY: `counts` and `length` outlive the call and `length` is the size of `counts`.
    crate::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            counts.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    let [_, lost] = counts;
    Ok(lost)
}

fn set(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: `value` outlives the call and `length` is its size.
    crate::check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length)
    })?;
    Ok(())
}
