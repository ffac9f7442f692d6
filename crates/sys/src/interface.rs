//! Network interfaces of the calling thread's namespace.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;

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
