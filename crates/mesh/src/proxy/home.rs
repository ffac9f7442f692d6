//! Files of a network that runs: its control socket, the lock that makes it the only one of its name, and the rules that
//! were added while it ran.
//!
//! Socket and lock are in a folder that nobody else can write to: one that somebody else can is refused. Where an
//! ordinary user is told of none, it is one of ours: below the state, else below /tmp.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use portway_model::Direction;
use portway_sys::unix_path;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::warn;

use super::confine;
/// Longest name: with it the path of the socket has room below most folders.
const NAME_BYTES: usize = 40;

/// Longest file of rules that is read, bytes.
const RULES_BYTES: u64 = 1024 * 1024;

/// What is wrong with the files.
#[derive(Debug, Error)]
pub enum HomeError {
    /// Not a name.
    #[error("network name `{0}` is not 1 to 40 letters, digits, `-`, `_` and `.`, the first one no `.`")]
    Name(String),
    /// Another process runs it.
    #[error("network {0} runs already")]
    Runs(String),
    /// A file cannot be used.
    #[error("cannot {verb} {}", path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// With which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others could put their own socket in the place of ours.
    #[error("{} is not safe: {why}", path.display())]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// Who can.
        why: String,
    },
    /// A network has the name of an organization that was joined.
    #[error("network {name} would use the folder of organization {name}, {}", path.display())]
    Organization {
        /// The name.
        name: String,
        /// Its folder.
        path: PathBuf,
    },
    /// The file of rules is none.
    #[error("{}: {message}; nothing of it was used, and it was left as it is", path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}

/// Where the files of a network are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    /// What it is called.
    pub name: String,
    /// Folders for the socket and the lock: the first that can be had.
    run_dirs: Vec<PathBuf>,
    /// The network does not run without one of them.
    insists: bool,
    /// Somebody has said which folder: it is used as it is.
    is_told: bool,
    /// Folder of what is kept. `None`: nothing is.
    pub state_dir: Option<PathBuf>,
    /// What that folder is called in messages, when it is the working directory.
    pub(super) known_as: Option<PathBuf>,
    /// Rules that are kept and not used.
    pub(super) aside: Vec<Kept>,
    /// What this node is known by: rules that are added are kept for it.
    pub(super) key: Option<String>,
}

/// A rule that was added while it ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    pub(super) direction: String,
    pub(super) rule: String,
    /// What the node that it was added to is known by; files of before have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) network: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct KeptFile {
    version: u32,
    rules: Vec<Kept>,
}

/// The socket and the lock; both go when this is dropped.
pub(super) struct Door {
    pub(super) listener: UnixListener,
    path: PathBuf,
    _lock: File,
}

impl Home {
    /// From the environment: below `PORTWAY_DIR`, else below the user's folders, else root's.
    ///
    /// # Errors
    /// [`HomeError::Name`].
    pub fn find(
        name: &str,
        variable: impl Fn(&str) -> Option<PathBuf>,
        is_root: bool,
    ) -> Result<Home, HomeError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.len() > NAME_BYTES || name.starts_with('.') || !name.chars().all(fits) {
            return Err(HomeError::Name(
                name.chars().take(NAME_BYTES).flat_map(char::escape_debug).collect(),
            ));
        }
        let variable = |key: &str| variable(key).filter(|path| path.is_absolute());
        let below = |path: PathBuf| path.join("mesh").join(name);
        let home = variable("HOME").map(|home| home.join(".local/state"));
        let state = variable("XDG_STATE_HOME").or(home).map(|dir| dir.join("portway"));
        let runtime = variable("XDG_RUNTIME_DIR").map(|dir| dir.join("portway"));
        let (run_dirs, state_dir) = match (variable("PORTWAY_DIR"), is_root, runtime) {
            (Some(dir), _, _) => (vec![dir.clone()], Some(below(dir))),
            (None, true, _) => (vec!["/run/portway".into()], Some(below("/var/lib/portway".into()))),
            (None, false, Some(dir)) => (vec![dir], state.map(below)),
            (None, false, None) => {
                let own = format!("/tmp/portway-{}", rustix::process::geteuid().as_raw());
                let run_dirs = state.as_ref().map(|dir| dir.join("run")).into_iter().chain([own.into()]);
                (run_dirs.collect(), state.map(below))
            }
        };
        let insists = run_dirs.len() == 1;
        let is_told = variable("PORTWAY_DIR").is_some();
        let name = name.to_owned();
        let (known_as, aside, key) = (None, Vec::new(), None);
        Ok(Home { name, run_dirs, insists, is_told, state_dir, known_as, aside, key })
    }

    /// The control socket, where it is if the network runs, else where it is looked for first.
    ///
    /// # Errors
    /// [`HomeError::Unsafe`]: there is one, and others may have put it there.
    pub fn socket(&self) -> Result<PathBuf, HomeError> {
        let mut trouble = None;
        for dir in &self.run_dirs {
            let path = self.socket_in(dir);
            if path.exists() {
                match self.trusts(dir) {
                    Ok(()) => return Ok(path),
                    Err(error) => trouble = trouble.or(Some(error)),
                }
            }
        }
        let first = || self.run_dirs.first().map(|dir| self.socket_in(dir)).unwrap_or_default();
        trouble.map_or_else(|| Ok(first()), Err)
    }

    /// Whether what is in a folder is from nobody but this user and root.
    fn trusts(&self, dir: &Path) -> Result<(), HomeError> {
        if self.is_told { Ok(()) } else { safe(dir) }
    }

    fn socket_in(&self, dir: &Path) -> PathBuf {
        dir.join(format!("mesh-{}.sock", self.name))
    }

    /// The networks of this user that run, and their sockets. One that nobody listens on was left behind.
    #[must_use]
    pub fn running(&self) -> Vec<(String, PathBuf)> {
        let dirs = self.run_dirs.iter().filter(|dir| self.trusts(dir).is_ok());
        let entries = dirs.filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
        let mut found: Vec<(String, PathBuf)> = entries
            .filter_map(|entry| {
                let file = entry.file_name().into_string().ok()?;
                let name = file.strip_prefix("mesh-")?.strip_suffix(".sock")?;
                UnixStream::connect(entry.path()).ok()?;
                Some((name.to_owned(), entry.path()))
            })
            .collect();
        found.sort();
        found
    }

    /// Takes the name, and listens; `None`: there is no place for a socket.
    pub(super) fn open(&self) -> Result<Option<Door>, HomeError> {
        for dir in &self.run_dirs {
            match make_dir(dir).and_then(|()| safe(dir)) {
                Ok(()) => return self.open_in(dir).map(Some),
                Err(error) if self.insists => return Err(error),
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    warn!(error, "no control socket there");
                }
            }
        }
        warn!("no control socket, and nothing keeps another process from this network's name");
        Ok(None)
    }

    fn open_in(&self, dir: &Path) -> Result<Door, HomeError> {
        let path = self.socket_in(dir);
        let lock_path = dir.join(format!("mesh-{}.lock", self.name));
        let failed = |verb, path: &Path| {
            let path = path.to_owned();
            move |source| HomeError::File { verb, path, source }
        };
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(HomeError::Runs(self.name.clone())),
            Err(fs::TryLockError::Error(source)) => return Err(failed("lock", &lock_path)(source)),
        }
        sign(&lock).map_err(failed("write", &lock_path))?;
        // What was left behind has nobody's lock and goes; nobody else can open it from the moment it is there.
        let owner = unix_path::Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let bound = unix_path::host_root().map_err(unix_path_error(&path)).and_then(|root| {
            unix_path::bind_stream(unix_path::Place { root, path: path.clone() }, owner, 0o600)
        });
        let bound = bound.map_err(io::Error::other).map_err(failed("listen on", &path))?;
        let listener = UnixListener::from(bound.fd);
        listener.set_nonblocking(true).map_err(failed("listen on", &path))?;
        Ok(Door { listener, path, _lock: lock })
    }

    /// The rules that were kept.
    pub(super) fn kept(&self) -> Result<Vec<(Direction, Kept)>, HomeError> {
        let Some(path) = self.rules_path() else { return Ok(Vec::new()) };
        let shown = self.shown(&path);
        let mut text = String::new();
        // The folder may be another user's, to whom root has given it: nothing is followed or waited for there.
        let opened = confine::open(&path, OFlags::empty());
        let read = opened.and_then(|file| file.take(RULES_BYTES).read_to_string(&mut text));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(HomeError::Damaged { path: shown, message: "it is no text".to_owned() });
            }
            Err(source) => return Err(HomeError::File { verb: "read", path: shown, source }),
            Ok(_) => {}
        }
        let damaged = |message: String| HomeError::Damaged { path: shown.clone(), message };
        let file: KeptFile = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if file.version != 1 {
            return Err(damaged(format!("version {} is not 1", file.version)));
        }
        let rule = |kept: Kept| match kept.direction.as_str() {
            "ingress" => Ok((Direction::Ingress, kept)),
            "egress" => Ok((Direction::Egress, kept)),
            other => Err(damaged(format!("direction {other:?} is neither ingress nor egress"))),
        };
        file.rules.into_iter().map(rule).collect()
    }

    /// Keeps these rules instead of those before, as a whole or not at all. Those set aside stay beside them.
    pub(super) fn keep(&self, mut rules: Vec<Kept>) -> Result<(), HomeError> {
        rules.iter_mut().for_each(|kept| kept.network.clone_from(&self.key));
        let is_new = |aside: &&Kept| {
            !rules.iter().any(|it| (&it.direction, &it.rule) == (&aside.direction, &aside.rule))
        };
        let aside: Vec<Kept> = self.aside.iter().filter(is_new).cloned().collect();
        rules.extend(aside);
        let (Some(dir), Some(path)) = (&self.state_dir, self.rules_path()) else { return Ok(()) };
        make_dir(dir)?;
        let aside = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(&KeptFile { version: 1, rules }).unwrap_or_default();
        if u64::try_from(text.len()).is_ok_and(|bytes| bytes > RULES_BYTES) {
            let source = io::Error::other("there are too many of them");
            return Err(HomeError::File { verb: "write", path: self.shown(&path), source });
        }
        let written = || {
            // What was left behind goes, and a link with it.
            match fs::remove_file(&aside) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&aside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&aside, &path)?;
            File::open(dir)?.sync_all()
        };
        written().map_err(|source| HomeError::File { verb: "write", path: self.shown(&path), source })
    }

    /// A file of the folder of what is kept, as it is called in messages.
    fn shown(&self, path: &Path) -> PathBuf {
        let elsewhere = self.known_as.as_ref().zip(path.file_name()).map(|(dir, file)| dir.join(file));
        elsewhere.unwrap_or_else(|| path.to_owned())
    }

    fn rules_path(&self) -> Option<PathBuf> {
        self.state_dir.as_ref().map(|dir| dir.join("rules.json"))
    }
}

/// Says in the lock who has it: pid and start time.
fn sign(mut lock: &File) -> io::Result<()> {
    let pid = i32::try_from(std::process::id()).map_err(io::Error::other)?;
    lock.set_len(0)?;
    writeln!(lock, "{pid} {}", portway_sys::pidfd::start_time(pid)?)
}

fn unix_path_error(path: &Path) -> impl Fn(io::Error) -> unix_path::BindError {
    move |source| unix_path::BindError::Failed { path: path.to_owned(), source }
}

/// Whether nobody but this user and root can put something else in a folder, or another folder in its place.
fn safe(dir: &Path) -> Result<(), HomeError> {
    let path = || dir.to_owned();
    let failed = |source| HomeError::File { verb: "look at", path: path(), source };
    // Who has made a link can make it lead elsewhere.
    let (itself, found) =
        fs::symlink_metadata(dir).and_then(|itself| Ok((itself, fs::metadata(dir)?))).map_err(failed)?;
    let own = rustix::process::geteuid().as_raw();
    for uid in [itself.uid(), found.uid()] {
        if uid != own && uid != 0 {
            let why = format!("it belongs to uid {uid}, this is uid {own}");
            return Err(HomeError::Unsafe { path: path(), why });
        }
    }
    if !found.is_dir() {
        return Err(HomeError::Unsafe { path: path(), why: "it is no folder".to_owned() });
    }
    if found.mode() & 0o022 != 0 {
        let why = format!("others may write to it (mode {:04o})", found.mode() & 0o7777);
        return Err(HomeError::Unsafe { path: path(), why });
    }
    Ok(())
}

pub(super) fn make_dir(dir: &Path) -> Result<(), HomeError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| HomeError::File { verb: "make", path: dir.to_owned(), source })
}

impl Drop for Door {
    fn drop(&mut self) {
        // The lock is held until after this: the file is ours.
        fs::remove_file(&self.path).ok();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn home(dir: &Path) -> Home {
        let variable = |key: &str| (key == "PORTWAY_DIR").then(|| dir.to_owned());
        Home::find("net", variable, false).unwrap()
    }

    #[test]
    fn where_files_are() {
        let find = |pairs: &[(&str, &str)], is_root| {
            let variable = |key: &str| {
                pairs.iter().find(|(name, _)| *name == key).map(|(_, value)| PathBuf::from(value))
            };
            let home = Home::find("a", variable, is_root).unwrap();
            let shown = |path: PathBuf| path.display().to_string();
            (shown(home.socket().unwrap()), home.state_dir.map(shown))
        };
        let some = |socket: &str, state: &str| (socket.to_owned(), Some(state.to_owned()));
        let user = [("XDG_RUNTIME_DIR", "/run/user/7"), ("HOME", "/home/u")];
        assert_eq!(
            find(&user, false),
            some("/run/user/7/portway/mesh-a.sock", "/home/u/.local/state/portway/mesh/a")
        );
        assert_eq!(find(&user, true), some("/run/portway/mesh-a.sock", "/var/lib/portway/mesh/a"));
        let moved = [("PORTWAY_DIR", "/d"), ("XDG_STATE_HOME", "/s")];
        assert_eq!(find(&moved, true), some("/d/mesh-a.sock", "/d/mesh/a"));
        assert_eq!(
            find(&[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "rel")], false),
            some("/s/portway/run/mesh-a.sock", "/s/portway/mesh/a")
        );
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(find(&[], false), (format!("/tmp/portway-{own}/mesh-a.sock"), None));
        for name in ["", ".", ".a", "a/b", "a b", "\u{e4}", &"a".repeat(41)] {
            assert!(Home::find(name, |_| None, false).is_err(), "{name}");
        }
    }

    /// Fails when: two of one name run, a socket that was left behind is in the way, or others may use it.
    #[test]
    fn one_of_each_name() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        let door = home.open().unwrap().unwrap();
        assert_eq!(home.open().map(|_| ()).unwrap_err().to_string(), "network net runs already");
        let mode = fs::metadata(home.socket().unwrap()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(home.running(), [("net".to_owned(), home.socket().unwrap())]);
        drop(door);
        assert!(!home.socket().unwrap().exists());
        drop(UnixListener::bind(home.socket().unwrap()).unwrap());
        assert_eq!(home.running(), [], "that one was left behind");
        assert!(home.open().unwrap().is_some());
    }

    /// Fails when: others can put their own socket where ours is looked for, or a user who is told of no folder has
    /// neither socket nor lock.
    #[test]
    fn the_folder_is_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let open = fs::Permissions::from_mode(0o770);
        fs::set_permissions(dir.path(), open.clone()).unwrap();
        let why = home(dir.path()).open().map(|_| ()).unwrap_err().to_string();
        assert!(why.ends_with("is not safe: others may write to it (mode 0770)"), "{why}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(home(dir.path()).open().unwrap().is_some());
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path(), Some(1234), None).unwrap();
            let why = home(dir.path()).open().map(|_| ()).unwrap_err().to_string();
            assert!(why.ends_with("is not safe: it belongs to uid 1234, this is uid 0"), "{why}");
            std::os::unix::fs::chown(dir.path(), Some(0), None).unwrap();
        }
        let state = |key: &str| (key == "XDG_STATE_HOME").then(|| dir.path().to_owned());
        let home = Home::find("net", state, false).unwrap();
        let door = home.open().unwrap().unwrap();
        assert_eq!(door.path, dir.path().join("portway/run/mesh-net.sock"));
        let made = fs::metadata(dir.path().join("portway/run")).unwrap();
        assert_eq!(made.mode() & 0o7777, 0o700);
        // Another one finds it, and one that cannot be used is passed over.
        assert_eq!(home.open().map(|_| ()).unwrap_err().to_string(), "network net runs already");
        drop(door);
        fs::set_permissions(dir.path().join("portway/run"), open).unwrap();
        let elsewhere = Home { run_dirs: vec![dir.path().join("portway/run"), dir.path().join("b")], ..home };
        assert_eq!(elsewhere.open().unwrap().unwrap().path, dir.path().join("b/mesh-net.sock"));
    }

    /// Fails when: a command follows a socket that another user has put where nobody has told it to look, or a link that
    /// another user can turn elsewhere.
    #[test]
    fn a_socket_of_somebody_else_is_not_asked() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().join("run");
        let state = |key: &str| (key == "XDG_STATE_HOME").then(|| dir.path().to_owned());
        let found = Home::find("net", state, false).unwrap();
        let home = Home { run_dirs: vec![run_dir.clone()], ..found };
        make_dir(&run_dir).unwrap();
        let _listener = UnixListener::bind(run_dir.join("mesh-net.sock")).unwrap();
        assert_eq!(home.running(), [("net".to_owned(), home.socket().unwrap())]);
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o777)).unwrap();
        let why = home.socket().unwrap_err().to_string();
        assert!(why.ends_with("is not safe: others may write to it (mode 0777)"), "{why}");
        assert_eq!(home.running(), []);
        fs::set_permissions(&run_dir, fs::Permissions::from_mode(0o700)).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&run_dir, &link).unwrap();
        let home = Home { run_dirs: vec![link.clone()], ..home };
        assert_eq!(home.socket().unwrap(), link.join("mesh-net.sock"));
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(&link, Some(1234), None).unwrap();
            assert!(home.socket().is_err());
            assert_eq!(home.running(), []);
            // Where it was told to look, it looks.
            assert!(Home { is_told: true, ..home }.socket().is_ok());
        }
    }

    /// Row 24. Fails when: a file that cannot be read counts as none, or is written over.
    #[test]
    fn rules_are_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let home = home(dir.path());
        assert_eq!(home.kept().unwrap(), []);
        let rule =
            Kept { direction: "egress".to_owned(), rule: "tcp:80:10.0.0.1:80".to_owned(), network: None };
        home.keep(vec![rule.clone()]).unwrap();
        let path = home.rules_path().unwrap();
        assert_eq!(home.kept().unwrap(), [(Direction::Egress, rule)]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        for text in [
            "",
            "{",
            "[]",
            "{\"version\":2,\"rules\":[]}",
            "{\"version\":1,\"rules\":[{\"direction\":\"x\",\"rule\":\"\"}]}",
        ] {
            fs::write(&path, text).unwrap();
            assert!(matches!(home.kept(), Err(HomeError::Damaged { .. })), "{text}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        // A link is nobody's rules, and nothing is written through one.
        let other = dir.path().join("other");
        fs::write(&other, "other").unwrap();
        let aside = path.with_extension("json.new");
        std::os::unix::fs::symlink(&other, &aside).unwrap();
        home.keep(Vec::new()).unwrap();
        assert_eq!(fs::read_to_string(&other).unwrap(), "other");
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(matches!(home.kept(), Err(HomeError::File { .. })));
        // What was cut while it was written is not what is read.
        home.keep(Vec::new()).unwrap();
        fs::write(path.with_extension("json.new"), "{").unwrap();
        assert_eq!(home.kept().unwrap(), []);
    }
}
