//! Unix sockets at paths, on the host and inside an instance.

use std::ffi::OsString;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// A path below a root directory.
#[derive(Debug)]
pub struct Place {
    /// `O_PATH` descriptor of the root directory: [`host_root`] or [`open_root`].
    pub root: OwnedFd,
    /// Absolute path as seen from there.
    pub path: PathBuf,
}

/// Who a socket file belongs to: host ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// A listener and the file it made.
#[derive(Debug)]
pub struct Bound {
    /// The listener: non-blocking, close-on-exec.
    pub fd: OwnedFd,
    /// Device of the socket file.
    pub dev: u64,
    /// Inode of the socket file.
    pub ino: u64,
}

/// Why a socket cannot be bound. `Display` names the path.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The folder does not exist.
    #[error("parent folder of {} does not exist", path.display())]
    ParentMissing {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket is there; it is left alone.
    #[error("{} exists and is not a socket", path.display())]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// A living program has its socket there; it is left alone.
    #[error("{} is in use by another program", path.display())]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// The owner's ids do not exist on that file system.
    #[error("uid {} gid {} cannot own {}: not mapped there", owner.uid, owner.gid, path.display())]
    NotMapped {
        /// The socket's path.
        path: PathBuf,
        /// Whom it should belong to.
        owner: Owner,
    },
    /// Not permitted, or a read-only file system.
    #[error("not permitted to bind {}", path.display())]
    Denied {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot bind {}", path.display())]
    Failed {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the descriptor given to [`connect_stream`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `O_PATH` of a root directory: the whole path is resolved below it, symlinks included.
    Root,
    /// `O_PATH` of the parent directory: only the last component is looked up, a symlink is not followed.
    Parent,
}

/// Opens the root directory of process `pid` (`O_PATH`).
///
/// # Errors
/// `NotFound` when it is gone, `PermissionDenied` without `CAP_SYS_PTRACE` over it.
pub fn open_root(pid: i32) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(format!("/proc/{pid}/root"), flags, rustix::fs::Mode::empty())?)
}

/// Opens our own root directory (`O_PATH`).
///
/// # Errors
/// Those of open(2).
pub fn host_root() -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/", flags, rustix::fs::Mode::empty())?)
}

/// Opens `path` as a process with root directory `root` would: symlinks and `..` stay below it, magic
/// links of /proc are refused.
///
/// # Errors
/// Those of openat2(2).
pub fn resolve_in_root(_root: BorrowedFd<'_>, _path: &Path, _flags: OFlags) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens the parent directory of `path` (`O_PATH`) below `root` and returns it with the last component.
///
/// # Errors
/// Those of openat2(2); `InvalidInput` for a path without a last component.
pub fn open_parent(_root: BorrowedFd<'_>, _path: &Path) -> io::Result<(OwnedFd, OsString)> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Binds a stream socket at `place` and listens. `mode` is at most 0o777.
///
/// # Errors
/// See [`BindError`]. Nothing is left behind.
pub fn bind_stream(place: Place, _owner: Owner, _mode: u32) -> Result<Bound, BindError> {
    Err(BindError::Failed { path: place.path, source: io::ErrorKind::Unsupported.into() })
}

/// Removes the socket file at `place` if it is still the one with `dev` and `ino`. True: it was removed.
///
/// # Errors
/// Those of unlinkat(2). That nothing is there is no error.
pub fn remove_if_ours(_place: &Place, _dev: u64, _ino: u64) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether the socket file with `dev` and `ino` is what `place` shows: false when it was deleted, replaced,
/// or something was mounted over it.
#[must_use]
pub fn check(_place: &Place, _dev: u64, _ino: u64) -> bool {
    false
}

/// Connects to the stream socket at `path` without waiting; the socket is non-blocking. For workers: works in a
/// private root and allocates nothing.
///
/// # Errors
/// `NotFound`, `ConnectionRefused` (nobody listens, or no socket), `WouldBlock` (the backlog is full: try
/// again later), `PermissionDenied`, EPROTOTYPE (another kind of socket).
pub fn connect_stream(_base: BorrowedFd<'_>, _kind: Base, _path: &Path) -> io::Result<OwnedFd> {
    Err(io::ErrorKind::Unsupported.into())
}
