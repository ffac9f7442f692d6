//! Unix sockets at paths, on the host and inside an instance.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::text::ProcPath;

mod bind;
mod resolve;

pub use resolve::{host_root, jail, open_parent, open_root, open_target_parent, resolve_in_root};

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

/// What the descriptor given to [`connect`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// `O_PATH` of a root directory: the whole path is resolved below it, symlinks included.
    Root,
    /// `O_PATH` of the parent directory: only the last component is looked up; a symlink is an error.
    Parent,
}

/// Longest record or datagram that unix sockets of ours carry, bytes. A program that does not change its own send
/// buffer can send 212,960 (`net.core.wmem_default` less the kernel's own 32).
pub const MESSAGE_MAX_BYTES: usize = 256 * 1024;

/// Gives a socket that sends whole messages room for the longest one. The kernel doubles the value and caps
/// it at twice `net.core.wmem_max`, which is enough by default.
///
/// # Errors
/// Those of setsockopt(2).
pub fn widen(socket: BorrowedFd<'_>, kind: SocketType) -> io::Result<()> {
    if kind != SocketType::STREAM {
        net::sockopt::set_socket_send_buffer_size(socket, MESSAGE_MAX_BYTES)?;
    }
    Ok(())
}

/// [`bind()`] for a stream socket.
///
/// # Errors
/// See [`BindError`].
pub fn bind_stream(place: Place, owner: Owner, mode: u32) -> Result<Bound, BindError> {
    bind(place, SocketType::STREAM, owner, mode)
}

/// Binds a socket of `kind` at `place` and, unless it is for datagrams, listens.
///
/// A dead socket file that is in the way is removed; anything else there is left alone. The file has its
/// `owner` and `mode` (the low nine bits count) from the moment it exists, whatever the umask and the parent
/// folder say, and a listener's credentials (`SO_PEERCRED` at its clients) are the owner's. Needs
/// `CAP_SETUID`, `CAP_SETGID`, `CAP_CHOWN` and `CAP_DAC_OVERRIDE` for an owner other than the caller. The socket's
/// name as `getsockname` and `ss` print it is the last component alone, since it is bound from inside its folder.
///
/// Works on a thread of its own and waits for it. For an owner other than the caller the whole process becomes
/// undumpable, as with any change of credentials (prctl(2)).
///
/// # Errors
/// See [`BindError`]. Nothing is left behind.
pub fn bind(place: Place, kind: SocketType, owner: Owner, mode: u32) -> Result<Bound, BindError> {
    bind::bind(place, kind, owner, mode)
}

/// Removes the socket file at `place` if it is still the one with `dev` and `ino`. True: it was removed.
///
/// # Errors
/// Those of openat2(2) and unlinkat(2). That nothing, or something else, is there is no error.
pub fn remove_if_ours(place: &Place, dev: u64, ino: u64) -> io::Result<bool> {
    match open_parent(place.root.as_fd(), &place.path)
        .and_then(|(dir, name)| remove_in(dir.as_fd(), &name, dev, ino))
    {
        Err(error) if is_absent(&error) => Ok(false),
        other => other,
    }
}

fn remove_in(dir: BorrowedFd<'_>, name: &OsStr, dev: u64, ino: u64) -> io::Result<bool> {
    if !is_socket(&rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?, dev, ino) {
        return Ok(false);
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    Ok(true)
}

/// Whether the socket file with `dev` and `ino` is what `place` shows: false when it was deleted, replaced,
/// or something was mounted over it.
#[must_use]
pub fn check(place: &Place, dev: u64, ino: u64) -> bool {
    open_parent(place.root.as_fd(), &place.path)
        .and_then(|(dir, name)| Ok(rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW)?))
        .is_ok_and(|stat| is_socket(&stat, dev, ino))
}

/// Whether `stat` is of the socket file with this device and inode.
fn is_socket(stat: &Stat, dev: u64, ino: u64) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Socket && stat.st_dev == dev && stat.st_ino == ino
}

/// Whether the error says that a path, or a part of it, does not exist.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// A non-blocking stream socket, connected as [`connect`] does.
///
/// # Errors
/// As [`connect`].
pub fn connect_stream(base: BorrowedFd<'_>, kind: Base, path: &Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(socket.as_fd(), base, kind, path)?;
    Ok(socket)
}

/// Connects `socket`, which is non-blocking, to the socket at `path`. For workers: works in
/// a private root (/proc is all it needs) and allocates nothing for paths below 256 bytes.
///
/// # Errors
/// `NotFound`, `ConnectionRefused` (nobody listens, or it is no socket), `WouldBlock` (the backlog is full: try
/// again later), `PermissionDenied`, EPROTOTYPE (another kind of socket), ELOOP (a symlink with [`Base::Parent`]).
pub fn connect(socket: BorrowedFd<'_>, base: BorrowedFd<'_>, kind: Base, path: &Path) -> io::Result<()> {
    let file = find(base, kind, path)?;
    Ok(net::connect(socket, &name_of(file.as_fd())?)?)
}

/// Opens (`O_PATH`) what is at `path`, as [`connect`] does.
///
/// # Errors
/// Those of openat2(2).
pub fn find(base: BorrowedFd<'_>, kind: Base, path: &Path) -> io::Result<OwnedFd> {
    match kind {
        Base::Root => resolve_in_root(base, path, OFlags::PATH),
        Base::Parent => {
            let name = path.file_name().ok_or_else(no_last_component)?;
            let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            Ok(rustix::fs::openat2(base, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), how)?)
        }
    }
}

/// The name by which the socket whose file is `file` (`O_PATH`) can be reached for as long as that is open.
///
/// # Errors
/// None in practice: the name is short.
pub fn name_of(file: BorrowedFd<'_>) -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new(ProcPath::of_fd(file).as_path())?)
}

fn no_last_component() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "path has no last component")
}

#[cfg(test)]
mod tests;
