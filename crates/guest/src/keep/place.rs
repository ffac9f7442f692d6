//! Where the sockets of a user's sessions are: a folder of his that nobody else can look into.
//!
//! It is not below `/run/user`: that goes with the last login of another kind (logind(8)), and these sessions do not.
//! Whoever begins or ends one holds the folder's lock, so that no socket is taken away from a holder that has just come.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use portway_proto::guest::is_held_name;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Most sessions of a user.
const SESSIONS_MAX_COUNT: usize = 16;

/// How often a folder that goes while it is being locked is made anew.
const TRIES: usize = 10;

/// Ends the name of a socket.
const ENDING: &str = ".sock";

/// Why a session is not to be had.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// There is no folder for it: the last one tried, and why not.
    Folder(PathBuf, io::Error),
    /// It is somebody else's, or others can look into it.
    Foreign(PathBuf),
    /// There are as many as may be.
    Full,
    /// Its socket cannot be made or reached.
    Socket(PathBuf, io::Error),
}

impl std::fmt::Display for PlaceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(path, error) => write!(f, "cannot use {}: {error}", path.display()),
            Self::Foreign(path) => {
                write!(
                    f,
                    "{} is not a folder of this user alone, so no session can be kept there",
                    path.display()
                )
            }
            Self::Full => write!(f, "{SESSIONS_MAX_COUNT} sessions are kept, and no more may be"),
            Self::Socket(path, error) => write!(f, "cannot use {}: {error}", path.display()),
        }
    }
}

/// Folders that a user's sockets can be in, in their order.
fn candidates(uid: u32) -> Vec<PathBuf> {
    // Nobody but root can be first in /run.
    let places: &[&str] = if uid == 0 { &["/run", "/tmp"] } else { &["/tmp", "/dev/shm"] };
    places.iter().map(|place| PathBuf::from(format!("{place}/portway-{uid}"))).collect()
}

/// What stands for a session.
#[derive(Debug)]
pub(super) enum Found {
    /// It is there.
    Session(UnixStream),
    /// It is not, and this is its socket: whoever has it is the holder. The lock is held until it is dropped.
    Begun(UnixListener, Lock),
}

/// A folder's lock.
#[derive(Debug)]
pub(super) struct Lock {
    dir: PathBuf,
    _fd: OwnedFd,
}

/// A session of this name; `None` when there is none.
pub(super) fn find(name: &str) -> Option<UnixStream> {
    folders().into_iter().find_map(|dir| connect(&socket(&dir, name)).ok())
}

/// Names of the user's sessions, each with what connects to it; of sockets that nobody serves nothing.
pub(super) fn all() -> Vec<(String, UnixStream)> {
    let mut found = Vec::new();
    for dir in folders() {
        for name in names(&dir) {
            if let Ok(stream) = connect(&socket(&dir, &name)) {
                found.push((name, stream));
            }
        }
    }
    found.sort_by(|(one, _), (two, _)| one.cmp(two));
    found
}

/// A session of this name, or the beginning of one.
///
/// # Errors
/// [`PlaceError`].
pub(super) fn find_or_begin(name: &str) -> Result<Found, PlaceError> {
    if let Some(stream) = find(name) {
        return Ok(Found::Session(stream));
    }
    let lock = lock()?;
    let path = socket(&lock.dir, name);
    // Somebody may have been faster.
    if let Some(stream) = find(name) {
        return Ok(Found::Session(stream));
    }
    let mut count = 0;
    for other in names(&lock.dir) {
        let path = socket(&lock.dir, &other);
        match connect(&path) {
            // Its holder was killed.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                let _gone = fs::remove_file(&path);
            }
            _ => count += 1,
        }
    }
    if count >= SESSIONS_MAX_COUNT {
        return Err(PlaceError::Full);
    }
    let listener = UnixListener::bind(&path).map_err(|error| PlaceError::Socket(path, error))?;
    Ok(Found::Begun(listener, lock))
}

/// Removes the socket of a session that has ended, and the folder with the last one. Nobody finds it from then on.
pub(super) fn remove(path: &Path) {
    let Some(dir) = path.parent() else { return };
    let Ok(_lock) = lock_dir(dir) else { return };
    let _gone = fs::remove_file(path);
    // It stays while there are others.
    let _gone = fs::remove_dir(dir);
}

/// Never waits: not for a holder that was stopped either.
fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    // The folder may have gone since it was looked at, and be another's.
    let holder = rustix::net::sockopt::socket_peercred(&socket)?;
    if holder.uid == rustix::process::geteuid() {
        Ok(socket.into())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "the socket of another user"))
    }
}

fn socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}{ENDING}"))
}

/// Folders that are there and this user's alone.
fn folders() -> Vec<PathBuf> {
    let mut dirs = candidates(rustix::process::geteuid().as_raw());
    dirs.retain(|dir| open(dir).is_ok());
    dirs
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned));
    names.filter(|name| is_held_name(name.as_bytes())).collect()
}

/// The lock of the first folder that can be had, which is made if it is not there.
fn lock() -> Result<Lock, PlaceError> {
    let mut why = PlaceError::Full;
    for dir in candidates(rustix::process::geteuid().as_raw()) {
        for _ in 0..TRIES {
            if let Err(error) = rustix::fs::mkdir(&dir, Mode::RWXU)
                && error != Errno::EXIST
            {
                why = PlaceError::Folder(dir.clone(), error.into());
                break;
            }
            match lock_dir(&dir) {
                Ok(lock) => return Ok(lock),
                // It went with its last session.
                Err(PlaceError::Folder(_, error)) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    why = error;
                    break;
                }
            }
        }
    }
    Err(why)
}

/// Locks a folder that is this user's, and the one that has that name.
fn lock_dir(dir: &Path) -> Result<Lock, PlaceError> {
    let failed = |error: Errno| PlaceError::Folder(dir.to_owned(), error.into());
    let fd = open(dir)?;
    // Who has it does little, and waits for nobody.
    rustix::io::retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::LockExclusive)).map_err(failed)?;
    let (locked, there) = (rustix::fs::fstat(&fd).map_err(failed)?, rustix::fs::lstat(dir).map_err(failed)?);
    if (locked.st_dev, locked.st_ino) != (there.st_dev, there.st_ino) {
        return Err(failed(Errno::NOENT));
    }
    Ok(Lock { dir: dir.to_owned(), _fd: fd })
}

/// A folder that belongs to this user, is no link, and is nobody else's to look into.
fn open(dir: &Path) -> Result<OwnedFd, PlaceError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::open(dir, flags, Mode::empty()).map_err(|error| match error {
        Errno::LOOP | Errno::NOTDIR | Errno::ACCESS => PlaceError::Foreign(dir.to_owned()),
        error => PlaceError::Folder(dir.to_owned(), error.into()),
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|error| PlaceError::Folder(dir.to_owned(), error.into()))?;
    let is_ours = stat.st_uid == rustix::process::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
    if is_ours { Ok(fd) } else { Err(PlaceError::Foreign(dir.to_owned())) }
}
