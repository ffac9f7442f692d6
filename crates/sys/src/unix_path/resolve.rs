//! Resolving paths below a root directory that is not ours.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;

use super::no_last_component;
use crate::text::ProcPath;

/// openat2(2) gives up with EAGAIN when a rename or mount anywhere races with a `..` of the path. An instance
/// could keep that up on purpose, so the tries are counted.
const RACE_TRIES: usize = 32;

/// Symlinks followed by [`open_target_parent`]; the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);

/// Opens the root directory of process `pid` (`O_PATH`).
///
/// # Errors
/// `NotFound` when it is gone, `PermissionDenied` without `CAP_SYS_PTRACE` over it.
pub fn open_root(pid: i32) -> io::Result<OwnedFd> {
    let path = ProcPath::of_pid(pid, "root");
    Ok(rustix::fs::open(path.as_path(), DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens our own root directory (`O_PATH`).
///
/// # Errors
/// Those of open(2).
pub fn host_root() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/", DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Opens `path` as a process with root directory `root` would: symlinks and `..` stay below it, magic
/// links of /proc are refused. The descriptor is close-on-exec.
///
/// # Errors
/// Those of openat2(2); EAGAIN when the tree keeps changing underneath.
pub fn resolve_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    for _ in 1..RACE_TRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            other => return Ok(other?),
        }
    }
    Ok(rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how)?)
}

/// Opens the parent directory of `path` (`O_PATH`) below `root` and returns it with the last component,
/// which need not exist.
///
/// # Errors
/// Those of openat2(2); `InvalidInput` for a path without a last component.
pub fn open_parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let (parent, name) = split(path)?;
    Ok((resolve_in_root(root, parent, DIRECTORY)?, name.to_owned()))
}

/// As [`open_parent`], but of what `path` leads to when its last component is a symlink: what a client
/// that connects to `path` ends up at.
///
/// # Errors
/// As [`open_parent`]; ELOOP after 40 links.
pub fn open_target_parent(root: BorrowedFd<'_>, path: &Path) -> io::Result<(OwnedFd, OsString)> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let (dir, name) = open_parent(root, &path)?;
        path = match rustix::fs::readlinkat(dir.as_fd(), &name, Vec::new()) {
            Ok(link) => split(&path)?.0.join(PathBuf::from(OsString::from_vec(link.into_bytes()))),
            Err(Errno::INVAL | Errno::NOENT) => return Ok((dir, name)),
            Err(error) => return Err(error.into()),
        };
    }
    Err(Errno::LOOP.into())
}

/// Turns the directory `dir` into one that `..` does not lead out of: a detached mount of it. What is mounted
/// below it is not visible there; what is created in it later is. For the folders that a worker is given
/// ([`Base::Parent`](super::Base::Parent)): a descriptor of a directory is otherwise a way to everything above it, whatever
/// the root directory of the process is. Needs `CAP_SYS_ADMIN`. As any descriptor, it keeps the file system busy.
///
/// # Errors
/// `PermissionDenied` without the capability; those of open_tree(2).
pub fn jail(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(rustix::mount::open_tree(dir, c"", flags)?)
}

/// Folder and last component. A path that ends in `..` has none; one that ends in `/` or `/.` has, as with mkdir(1).
fn split(path: &Path) -> io::Result<(&Path, &OsStr)> {
    let name = path.file_name().ok_or_else(no_last_component)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().as_bytes().is_empty());
    Ok((parent.unwrap_or(Path::new("/")), name))
}
