//! Network namespaces: open, identify, enter.
//!
//! A namespace sticks to a thread, and a socket keeps the namespace it was made in for life
//! (network_namespaces(7)). So nothing here enters a namespace on a thread that goes on to do
//! other work: [`run_in`] starts a thread for one closure, [`enter`] is for a process' first thread.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{Mode, OFlags};

use crate::text::ProcPath;

/// `NSFS_MAGIC` of linux/magic.h: the file system of namespace files.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// `NS_GET_NSTYPE` of ioctl_ns(2): which kind of namespace a descriptor stands for.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// Identity of a network namespace: unique among the living namespaces of this boot.
///
/// The kernel reuses the number after the last reference is gone; hold a descriptor to compare safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NetnsId {
    /// Device of nsfs.
    pub dev: u64,
    /// Inode, as `readlink /proc/PID/ns/net` prints it.
    pub ino: u64,
}

/// Opens the namespace file at `path`, for example `/run/netns/blue`.
///
/// The file is looked at before it is opened, so a fifo or a device at `path` has no effect.
///
/// # Errors
/// Those of open(2); `InvalidInput` when `path` is not a network namespace.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let place = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    if rustix::fs::fstatfs(&place)?.f_type != NSFS_MAGIC {
        return Err(not_a_netns());
    }
    let reopen = ProcPath::of_fd(place.as_fd());
    let ns = rustix::fs::open(reopen.as_path(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: NS_GET_NSTYPE takes no argument and touches no memory of ours.
    let kind = crate::check(unsafe { libc::ioctl(ns.as_raw_fd(), NS_GET_NSTYPE) })?;
    if kind == libc::CLONE_NEWNET { Ok(ns) } else { Err(not_a_netns()) }
}

/// Opens the network namespace of process `pid`.
///
/// # Errors
/// `NotFound` when there is no such process, `PermissionDenied` without `CAP_SYS_PTRACE` over it.
pub fn open_pid(pid: i32) -> io::Result<OwnedFd> {
    open_path(ProcPath::of_pid(pid, "ns/net").as_path())
}

/// Opens the network namespace of the calling thread.
///
/// # Errors
/// Those of open(2), for example when /proc is not mounted.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Identity of the namespace behind `ns`.
///
/// # Errors
/// Those of fstat(2).
pub fn id(ns: BorrowedFd<'_>) -> io::Result<NetnsId> {
    let stat = rustix::fs::fstat(ns)?;
    Ok(NetnsId { dev: stat.st_dev, ino: stat.st_ino })
}

/// Moves the calling thread into `ns`. For a thread that was started for it, or for the first
/// thread of a process; never for a runtime's worker.
///
/// # Errors
/// `PermissionDenied` without `CAP_SYS_ADMIN` in the namespace's owner and in one's own user namespace.
pub fn enter(ns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: passes no memory; `ns` stays open for the whole call.
    crate::check(unsafe { libc::setns(ns.as_raw_fd(), libc::CLONE_NEWNET) })?;
    Ok(())
}

/// Runs `f` on a thread of its own inside `ns` (`None`: the caller's) and waits for it.
///
/// The thread ends with `f`, so nothing `f` does to its thread survives. A namespace that is the
/// current one is not entered again, which needs no privilege. A panic of `f` goes on in the caller.
///
/// # Errors
/// Those of [`enter`], or when no thread can be started.
pub fn run_in<T: Send + 'static>(
    ns: Option<OwnedFd>,
    f: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let body = move || -> io::Result<T> {
        if let Some(ns) = ns
            && id(ns.as_fd())? != id(current()?.as_fd())?
        {
            enter(ns.as_fd())?;
        }
        Ok(f())
    };
    match thread::Builder::new().name("netns".to_owned()).spawn(body)?.join() {
        Ok(result) => result,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

/// `SO_NETNS_COOKIE`: number of the network namespace `socket` lives in, never reused in this boot.
///
/// # Errors
/// Those of getsockopt(2); the option exists since Linux 5.14.
pub fn socket_netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: `cookie` and `length` outlive the call and `length` is the size of `cookie`.
    crate::check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    })?;
    Ok(cookie)
}

/// Brings the loopback interface of the current namespace up (a new namespace has it down).
///
/// # Errors
/// `PermissionDenied` without `CAP_NET_ADMIN` there.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: ifreq is plain data for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::try_from(*from).map_err(io::Error::other)?;
    }
    // SAFETY: SIOCGIFFLAGS reads the name and writes the flags of `request`, which outlives the call.
    crate::check(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &raw mut request)
    })?;
    let up = libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: the call above has set the flags member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    request.ifr_ifru.ifru_flags = flags | up;
    // SAFETY: SIOCSIFFLAGS only reads `request`, which outlives the call.
    crate::check(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &raw mut request)
    })?;
    Ok(())
}

fn not_a_netns() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a network namespace")
}

#[cfg(test)]
mod tests;
