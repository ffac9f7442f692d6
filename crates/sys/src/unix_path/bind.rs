//! Binding a unix socket so that its file is right from the first moment.
//!
//! Everything that decides owner and mode of a new file belongs to the thread: umask and working directory
//! (after `unshare(CLONE_FS)`), file system ids, capabilities. So a thread is started for each bind, turned
//! into the owner step by step, and ends with it; nothing is ever turned back.
//!
//! Steps: folder, probe what is there, become the owner in file system ids, bind, look at the file, become
//! the owner in effective ids, listen.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::thread;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, UnshareFlags};

use super::{BindError, Bound, Owner, Place, is_absent, is_socket, open_parent};
use crate::text::ProcPath;
use crate::userns;

/// Connections that may wait to be accepted. The kernel caps it at net.core.somaxconn, 4096 by default.
const BACKLOG: i32 = 4096;

/// `SIOCUNIXFILE` of linux/un.h: opens (`O_PATH`) the file a unix socket is bound to. Needs `CAP_NET_ADMIN`.
const SIOCUNIXFILE: libc::Ioctl = 0x89e0;

/// setfsuid(2) with this value changes nothing and returns the present one.
const ASK: u32 = u32::MAX;

/// See [`super::bind()`].
pub(super) fn bind(place: Place, kind: SocketType, owner: Owner, mode: u32) -> Result<Bound, BindError> {
    let path = place.path.clone();
    let body = move || on_thread(&place, kind, owner, mode);
    match thread::Builder::new().name("bind".to_owned()).spawn(body) {
        Err(source) => Err(BindError::Failed { path, source }),
        Ok(thread) => thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload)),
    }
}

fn on_thread(place: &Place, kind: SocketType, owner: Owner, mode: u32) -> Result<Bound, BindError> {
    let path = place.path.as_path();
    let failed = |source: io::Error| BindError::Failed { path: path.to_owned(), source };
    // SAFETY: gives this one thread its own umask and directory; no other thread sees a difference.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) }.map_err(|error| failed(error.into()))?;
    rustix::process::umask(Mode::empty());

    let (dir, name) = open_parent(place.root.as_fd(), path).map_err(|source| match source {
        source if is_absent(&source) => BindError::ParentMissing { path: path.to_owned() },
        source => refused(path, source),
    })?;
    rustix::process::fchdir(&dir).map_err(|error| refused(path, error.into()))?;
    let socket = new_socket(kind, mode).map_err(failed)?;
    // From inside the folder: a name of 107 bytes fits, and nothing on the way can be exchanged.
    let address = SocketAddrUnix::new(name.as_os_str()).map_err(|error| failed(error.into()))?;
    clear_dead(dir.as_fd(), &name, path)?;
    assume_files(owner, path)?;
    net::bind(&socket, &address).map_err(|error| match error {
        Errno::ADDRINUSE => BindError::InUse { path: path.to_owned() },
        Errno::OVERFLOW => BindError::NotMapped { path: path.to_owned(), owner },
        // The folder was deleted meanwhile; one that takes no new files (/proc) says the same.
        Errno::NOENT if rustix::fs::fstat(&dir).is_ok_and(|stat| stat.st_nlink == 0) => {
            BindError::ParentMissing { path: path.to_owned() }
        }
        error => refused(path, error.into()),
    })?;
    finish(socket, kind, dir.as_fd(), &name, (owner, mode)).map_err(failed)
}

/// A socket whose file will have `mode`: unix_bind takes it from the socket's own inode, and the umask is 0.
fn new_socket(kind: SocketType, mode: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    super::widen(socket.as_fd(), kind)?;
    rustix::fs::fchmod(&socket, permissions(mode))?;
    Ok(socket)
}

fn permissions(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o777)
}

/// What is left to do once the file exists. The file is removed when something fails.
fn finish(
    socket: OwnedFd,
    kind: SocketType,
    dir: BorrowedFd<'_>,
    name: &OsStr,
    (owner, mode): (Owner, u32),
) -> io::Result<Bound> {
    let file = bound_file(socket.as_fd(), dir, name)?;
    let stat = rustix::fs::fstat(&file)?;
    let (dev, ino) = (stat.st_dev, stat.st_ino);
    let listening = settle(file.as_fd(), &stat, owner, mode).and_then(|()| {
        if kind == SocketType::DGRAM {
            return Ok(());
        }
        assume_credentials(owner)?;
        Ok(net::listen(&socket, BACKLOG)?)
    });
    if let Err(error) = listening {
        // Best effort: what counts is the first error. The identity was taken from our own socket.
        return Err(match super::remove_in(dir, name, dev, ino) {
            Ok(_) => error,
            Err(left) => io::Error::new(error.kind(), format!("{error}; the file stays: {left}")),
        });
    }
    Ok(Bound { fd: socket, dev, ino })
}

/// The file that `socket` made: from the socket itself where that is permitted, else by its name.
fn bound_file(socket: BorrowedFd<'_>, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    // SAFETY: takes no argument and touches no memory of ours.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCUNIXFILE) };
    if fd >= 0 {
        // SAFETY: the call has just made this descriptor (close-on-exec) and nobody else owns it.
        return Ok(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Mends what the folder imposed: the group of a set-group-id folder, the mask of a default ACL.
fn settle(file: BorrowedFd<'_>, stat: &rustix::fs::Stat, owner: Owner, mode: u32) -> io::Result<()> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Errno::STALE.into());
    }
    if (stat.st_uid, stat.st_gid) != (owner.uid, owner.gid) {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::chownat(file, "", Some(uid), Some(gid), AtFlags::EMPTY_PATH)?;
    }
    if stat.st_mode & 0o7777 != mode & 0o777 {
        rustix::fs::chmod(ProcPath::of_fd(file).as_path(), permissions(mode))?;
    }
    Ok(())
}

/// Removes a socket file that belongs to no living socket; leaves everything else alone with an error.
///
/// The probe is a datagram socket: connecting it tells whether any socket is bound to the file
/// (EPROTOTYPE: one of another kind, listening or not yet) and never reaches the program behind it.
fn clear_dead(dir: BorrowedFd<'_>, name: &OsStr, path: &Path) -> Result<(), BindError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // Held until the end, so that its inode number is not given to another file meanwhile.
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other.map_err(|error| refused(path, error.into()))?,
    };
    let stat = rustix::fs::fstat(&file).map_err(|error| refused(path, error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match probe(file.as_fd()) {
        Err(Errno::CONNREFUSED) => {}
        Err(Errno::ACCESS) => return Err(refused(path, Errno::ACCESS.into())),
        Ok(()) | Err(_) => return Err(BindError::InUse { path: path.to_owned() }),
    }
    // Somebody else may have cleared it, and bound a new one, since.
    let present = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
    match present {
        Err(Errno::NOENT) => Ok(()),
        Ok(present) if is_socket(&present, stat.st_dev, stat.st_ino) => {
            match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(refused(path, error.into())),
            }
        }
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        Err(error) => Err(refused(path, error.into())),
    }
}

fn probe(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
    net::connect(&socket, &SocketAddrUnix::new(ProcPath::of_fd(file).as_path())?)
}

/// Makes files of this thread belong to `owner`, in any folder.
fn assume_files(owner: Owner, path: &Path) -> Result<(), BindError> {
    if (fsuid(ASK), fsgid(ASK)) == (owner.uid, owner.gid) {
        return Ok(());
    }
    fsgid(owner.gid);
    fsuid(owner.uid);
    if (fsuid(ASK), fsgid(ASK)) != (owner.uid, owner.gid) {
        return Err(if userns::ids_are_mapped(owner.uid, owner.gid) {
            refused(path, Errno::PERM.into())
        } else {
            BindError::NotMapped { path: path.to_owned(), owner }
        });
    }
    // Leaving uid 0 takes the file capabilities out of the effective set; without them a folder that
    // belongs to somebody else (/run/user/N) is closed.
    let failed = |error: Errno| BindError::Failed { path: path.to_owned(), source: error.into() };
    let mut sets = rustix::thread::capabilities(None).map_err(failed)?;
    let wanted = CapabilitySet::CHOWN | CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER;
    sets.effective |= sets.permitted & wanted;
    rustix::thread::set_capabilities(None, sets).map_err(failed)
}

/// setfsuid(2) of this thread; returns the uid before.
fn fsuid(uid: u32) -> u32 {
    // SAFETY: a number; affects this thread only.
    let before = unsafe { libc::setfsuid(uid) };
    u32::from_ne_bytes(before.to_ne_bytes())
}

/// setfsgid(2) of this thread; returns the gid before.
fn fsgid(gid: u32) -> u32 {
    // SAFETY: a number; affects this thread only.
    let before = unsafe { libc::setfsgid(gid) };
    u32::from_ne_bytes(before.to_ne_bytes())
}

/// Makes the effective ids of this thread the owner's: listen(2) records them for `SO_PEERCRED`.
fn assume_credentials(owner: Owner) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    if (rustix::process::geteuid(), rustix::process::getegid()) == (uid, gid) {
        return Ok(());
    }
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(None, gid, None)?;
    Ok(rustix::thread::set_thread_res_uid(None, uid, None)?)
}

/// The error for a step that the kernel refused.
fn refused(path: &Path, source: io::Error) -> BindError {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            BindError::Denied { path, source }
        }
        _ => BindError::Failed { path, source },
    }
}
