//! Where the sockets of a user's sessions are: a folder of his that nobody else can look into.
//!
//! It is not below `/run/user`: that goes with the last login of another kind (logind(8)), and these sessions do not. Where
//! others have taken its names, it is in the user's home, which several instances may share: there each has its own.
//! Whoever begins or ends one holds the folder's lock, so that no socket is taken away from a holder that has just come.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Component, Path, PathBuf};

use super::agent;
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

/// Longest path of a socket, bytes (unix(7): 108 with the zero).
const PATH_MAX_BYTES: usize = 107;

/// Where the folder of an instance is in a home (XDG base directories, as most have them).
const BELOW_HOME: [&str; 3] = [".local", ".local/state", ".local/state/portway"];

/// Why a session is not to be had.
#[derive(Debug)]
pub(super) enum PlaceError {
    /// There is no folder for it: the last one tried, and why not.
    Folder(PathBuf, io::Error),
    /// It is somebody else's, or others can look into it.
    Foreign(PathBuf),
    /// No address of a socket is as long as the path would be.
    Long(PathBuf),
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
            Self::Long(path) => {
                write!(f, "{} is too long for the path of a socket", path.display())
            }
            Self::Full => write!(f, "{SESSIONS_MAX_COUNT} sessions are kept, and no more may be"),
            Self::Socket(path, error) => write!(f, "cannot use {}: {error}", path.display()),
        }
    }
}

/// Where such folders are.
pub(super) const FOLDERS: [&str; 3] = ["/run", "/tmp", "/dev/shm"];

/// Whose folder has this name.
pub(super) fn whose(name: &str) -> Option<u32> {
    let number = name.strip_prefix("portway-")?;
    number.parse().ok().filter(|uid: &u32| uid.to_string() == number && *uid != u32::MAX)
}

/// What is below a home where sessions are kept there.
pub(super) fn at_home_of(home: &[u8]) -> PathBuf {
    Path::new(OsStr::from_bytes(home)).join(BELOW_HOME[2])
}

/// A folder that a user's sockets can be in.
#[derive(Debug)]
struct Place {
    /// What it is in and may have to be made too, from the top.
    above: Vec<PathBuf>,
    dir: PathBuf,
}

/// All of them, in their order.
fn candidates() -> Vec<Place> {
    let uid = rustix::process::geteuid().as_raw();
    // Nobody but root can be first in /run.
    let places: &[&str] = if uid == 0 { &["/run", "/tmp"] } else { &["/tmp", "/dev/shm"] };
    let shared =
        places.iter().map(|place| Place { above: vec![], dir: format!("{place}/portway-{uid}").into() });
    shared.chain(std::env::var_os("HOME").and_then(|home| at_home(home.into(), uid))).collect()
}

/// Where nobody else can be first, if the home is this user's. Sockets of another instance do not lead there.
fn at_home(home: PathBuf, uid: u32) -> Option<Place> {
    let is_own = fs::metadata(&home).is_ok_and(|home| home.is_dir() && home.uid() == uid);
    let name = OsString::from_vec(rustix::system::uname().nodename().to_bytes().to_vec());
    let is_name = Path::new(&name).components().eq([Component::Normal(&name)]);
    if !is_own || !home.is_absolute() || !is_name {
        return None;
    }
    let above: Vec<PathBuf> = BELOW_HOME.map(|path| home.join(path)).into();
    let dir = above.last()?.join(name);
    Some(Place { above, dir })
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
    let lock = lock(candidates(), name)?;
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
                discard(&path);
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
    discard(path);
    // It stays while there are others, and what it is in where others are.
    let _gone = fs::remove_dir(dir);
    if let Some(above) = dir.parent().filter(|above| above.ends_with(BELOW_HOME[2])) {
        let _gone = fs::remove_dir(above);
    }
}

/// Removes a socket that nobody serves, and what is beside it.
fn discard(path: &Path) {
    for path in [path, &agent::link(path)] {
        let _gone = fs::remove_file(path);
    }
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
    candidates().into_iter().map(|place| place.dir).filter(|dir| open(dir).is_ok()).collect()
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let names = names.filter_map(|name| name.strip_suffix(ENDING).map(str::to_owned));
    names.filter(|name| is_held_name(name.as_bytes())).collect()
}

/// The lock of the first folder that can be had for a session of this name, which is made if it is not there.
fn lock(places: Vec<Place>, name: &str) -> Result<Lock, PlaceError> {
    let mut why = None;
    for place in places {
        match lock_place(&place, name) {
            Ok(lock) => return Ok(lock),
            // Who has taken it is to be known, whatever else is not there.
            Err(error) if !matches!(why, Some(PlaceError::Foreign(_))) => why = Some(error),
            Err(_) => {}
        }
    }
    Err(why.unwrap_or(PlaceError::Full))
}

fn lock_place(place: &Place, name: &str) -> Result<Lock, PlaceError> {
    let path = socket(&place.dir, name);
    if path.as_os_str().len() > PATH_MAX_BYTES {
        return Err(PlaceError::Long(path));
    }
    let mut made = Ok(());
    for _ in 0..TRIES {
        made = make(place);
        match made.is_ok().then(|| lock_dir(&place.dir)) {
            // It went with its last session.
            None => {}
            Some(Err(PlaceError::Folder(_, error))) if error.kind() == io::ErrorKind::NotFound => {}
            Some(other) => return other,
        }
    }
    Err(PlaceError::Folder(place.dir.clone(), made.err().unwrap_or(Errno::NOENT).into()))
}

fn make(place: &Place) -> rustix::io::Result<()> {
    for dir in place.above.iter().chain([&place.dir]) {
        match rustix::fs::mkdir(dir, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn place(dir: PathBuf) -> Place {
        Place { above: Vec::new(), dir }
    }

    fn why(places: Vec<Place>) -> String {
        lock(places, "w").expect_err("no folder").to_string()
    }

    /// Fails when it is not said who is in the way, or what follows is not tried.
    #[test]
    fn a_folder_that_others_have_taken_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let taken = dir.path().join("taken");
        fs::create_dir(&taken).expect("made");
        fs::set_permissions(&taken, fs::Permissions::from_mode(0o755)).expect("set");
        let missing = || place(dir.path().join("no/such"));
        let both = why(vec![missing(), place(taken.clone()), missing()]);
        assert!(
            both.starts_with(&format!("{} is not a folder of this user alone", taken.display())),
            "{both}"
        );
        assert!(why(vec![missing()]).contains("/no/such: No such file or directory"));
        let long = place(dir.path().join("x".repeat(100)));
        let locked = lock(vec![place(taken), long, place(dir.path().join("good"))], "w").expect("a folder");
        assert!(locked.dir.ends_with("good"));
        let long = why(vec![place(dir.path().join("x".repeat(100)))]);
        assert!(long.ends_with("w.sock is too long for the path of a socket") && !long.contains("no/such"));
    }

    /// Fails when a home of somebody else is written to, or what is made in one's own is left.
    #[test]
    fn a_home_is_used_by_its_owner() {
        let home = tempfile::tempdir().expect("a folder");
        let uid = rustix::process::geteuid().as_raw();
        let at = |path: &Path, uid| at_home(path.to_owned(), uid);
        assert!(at(home.path(), uid + 1).is_none() && at(&home.path().join("none"), uid).is_none());
        assert!(at(Path::new("."), uid).is_none(), "it is not where it seems to be");
        let place = at(home.path(), uid).expect("a place");
        let dir = place.dir.clone();
        assert!(dir.parent().is_some_and(|above| above.ends_with(".local/state/portway")));
        drop(lock(vec![place], "w").expect("a folder"));
        for dir in dir.ancestors().take(4) {
            assert_eq!(fs::metadata(dir).expect("it is there").mode() & 0o777, 0o700, "{}", dir.display());
        }
        fs::write(socket(&dir, "w"), "").expect("written");
        remove(&socket(&dir, "w"));
        assert!(home.path().join(".local/state").exists() && !home.path().join(BELOW_HOME[2]).exists());
    }
}
