//! The files and sockets of one Portway: the system's, or one below `PORTWAY_DIR`.
//!
//! `PORTWAY_DIR` moves everything below one folder, so several daemons can run at once. The folder decides who
//! may steer what runs there, so it is checked before use: owned by the caller, writable by no group but one that is
//! as good as root, and short enough that every socket in it has a legal name.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use thiserror::Error;

/// Longest path of a unix socket, bytes: `sun_path` without its final NUL, unix(7).
pub const SOCKET_PATH_MAX_BYTES: usize = 107;

/// Longest name of a worker, bytes, so that `workers/NAME.sock` fits wherever [`Paths::check`] passed.
pub const WORKER_NAME_MAX_BYTES: usize = 24;

/// Name of the variable that moves everything below one folder.
pub const DIR_VARIABLE: &str = "PORTWAY_DIR";

/// Group that may use the control socket, if the system has it. As good as root.
pub const CONTROL_GROUP: &str = "portway";

/// Files and sockets of one Portway. All paths are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// `PORTWAY_DIR`; `None` for the system's own Portway.
    pub dir: Option<PathBuf>,
    /// The optional settings file.
    pub config: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// Desired state.
    pub state: PathBuf,
    /// Folder of the workers' adoption sockets, and of the keeper's.
    pub workers_dir: PathBuf,
    /// Locked by the daemon while it runs.
    pub lock: PathBuf,
    /// Private key of the SSH gateway.
    pub ssh_host_key: PathBuf,
    /// Log of who did what over SSH.
    pub ssh_audit: PathBuf,
    /// Log of connections that are over, where it is switched on.
    pub access_log: PathBuf,
}

/// Who asks: decides whose folder `PORTWAY_DIR` may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller {
    /// The daemon: the folder is its own.
    Daemon,
    /// A client: the folder is its own or root's.
    Client,
}

/// Why the paths cannot be used.
#[derive(Debug, Error)]
pub enum PathsError {
    /// `PORTWAY_DIR` does not name an absolute path, and the working folder is unknown.
    #[error("cannot make PORTWAY_DIR {} absolute", path.display())]
    Relative {
        /// What was given.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `PORTWAY_DIR` cannot be read.
    #[error("cannot look at PORTWAY_DIR {}", path.display())]
    Unreadable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `PORTWAY_DIR` is something else than a folder.
    #[error("PORTWAY_DIR {} is not a folder", path.display())]
    NotAFolder {
        /// The path.
        path: PathBuf,
    },
    /// `PORTWAY_DIR` belongs to somebody else.
    #[error("PORTWAY_DIR {} is owned by uid {owner}, not by uid {caller}", path.display())]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Effective uid of this process.
        caller: u32,
    },
    /// `PORTWAY_DIR` can be written by everybody.
    #[error("PORTWAY_DIR {} is writable by everybody (mode {mode:04o})", path.display())]
    WorldWritable {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// `PORTWAY_DIR` can be written by a group that is not as good as root.
    #[error("PORTWAY_DIR {} is writable by its group, gid {gid} (mode {mode:04o})", path.display())]
    GroupWritable {
        /// The folder.
        path: PathBuf,
        /// Its group.
        gid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// A socket in `PORTWAY_DIR` would have too long a name.
    #[error(
        "PORTWAY_DIR {} is too long: sockets in it need {need_bytes} bytes, a unix socket path has at most {SOCKET_PATH_MAX_BYTES}",
        path.display()
    )]
    TooLong {
        /// The folder.
        path: PathBuf,
        /// Length of the longest socket path, bytes.
        need_bytes: usize,
    },
    /// A folder cannot be made.
    #[error("cannot make folder {}", path.display())]
    Make {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock file cannot be opened.
    #[error("cannot open lock file {}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon holds the lock.
    #[error("another daemon{} runs with {}", pid_text(*pid), path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
        /// Its pid, when the file says so.
        pid: Option<u32>,
    },
}

impl PathsError {
    /// The likely cure, one line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            PathsError::Unreadable { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some("start a daemon there with `portway daemon`, or unset PORTWAY_DIR".to_owned())
            }
            PathsError::Owner { owner, .. } => {
                Some(format!("run as uid {owner}, or use a folder of your own"))
            }
            // As /tmp is, and is to stay.
            PathsError::WorldWritable { path, mode } if mode & 0o1000 != 0 => Some(format!(
                "use a folder of your own, as made by `mkdir -m 700 {}`",
                path.join("portway").display()
            )),
            PathsError::WorldWritable { path, .. } => Some(format!("chmod o-w {}", path.display())),
            PathsError::GroupWritable { path, .. } => Some(format!("chmod g-w {}", path.display())),
            PathsError::TooLong { .. } => {
                let most = SOCKET_PATH_MAX_BYTES - longest_name_bytes();
                Some(format!("use a folder whose path has at most {most} bytes"))
            }
            PathsError::Busy { pid: Some(pid), .. } => {
                Some(format!("stop pid {pid} first, or choose another PORTWAY_DIR"))
            }
            PathsError::Make { source, .. } | PathsError::Lock { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run as root, or set PORTWAY_DIR to a folder of your own".to_owned())
            }
            PathsError::Relative { .. }
            | PathsError::Unreadable { .. }
            | PathsError::NotAFolder { .. }
            | PathsError::Make { .. }
            | PathsError::Lock { .. }
            | PathsError::Busy { .. } => None,
        }
    }
}

/// Held by the daemon while it runs. Dropping it, or the end of the process, frees it.
#[derive(Debug)]
pub struct Lock {
    /// Keeps the lock: it ends when the file is closed.
    _file: File,
}

impl Paths {
    /// The system's own Portway.
    #[must_use]
    pub fn system() -> Paths {
        Paths {
            dir: None,
            config: PathBuf::from("/etc/portway/portway.toml"),
            socket: PathBuf::from("/run/portway/portway.sock"),
            state: PathBuf::from("/var/lib/portway/state.json"),
            workers_dir: PathBuf::from("/run/portway/workers"),
            lock: PathBuf::from("/run/portway/portway.lock"),
            ssh_host_key: PathBuf::from("/etc/portway/ssh_host_ed25519_key"),
            ssh_audit: PathBuf::from("/var/log/portway/ssh-audit.jsonl"),
            access_log: PathBuf::from("/var/log/portway/access.jsonl"),
        }
    }

    /// Everything below `dir`. A relative path counts from the working folder.
    ///
    /// # Errors
    /// [`PathsError::Relative`] when `dir` is empty or the working folder is unknown.
    pub fn below(dir: &Path) -> Result<Paths, PathsError> {
        let dir = std::path::absolute(dir)
            .map_err(|source| PathsError::Relative { path: dir.to_owned(), source })?;
        Ok(Paths {
            config: dir.join("portway.toml"),
            socket: dir.join("portway.sock"),
            state: dir.join("state.json"),
            workers_dir: dir.join("workers"),
            lock: dir.join("portway.lock"),
            ssh_host_key: dir.join("ssh_host_ed25519_key"),
            ssh_audit: dir.join("ssh-audit.jsonl"),
            access_log: dir.join("access.jsonl"),
            dir: Some(dir),
        })
    }

    /// The paths that the environment asks for. An empty `PORTWAY_DIR` counts as unset.
    ///
    /// # Errors
    /// As [`Paths::below`].
    pub fn from_env(env: impl Fn(&str) -> Option<OsString>) -> Result<Paths, PathsError> {
        match env(DIR_VARIABLE).filter(|value| !value.is_empty()) {
            Some(dir) => Paths::below(Path::new(&dir)),
            None => Ok(Paths::system()),
        }
    }

    /// Checks `PORTWAY_DIR` as the module says. The system's own paths always pass.
    ///
    /// # Errors
    /// What is wrong with the folder; [`PathsError::Unreadable`] when there is none.
    pub fn check(&self, caller: Caller) -> Result<(), PathsError> {
        let Some(dir) = &self.dir else { return Ok(()) };
        let need_bytes = dir.as_os_str().as_bytes().len() + longest_name_bytes();
        if need_bytes > SOCKET_PATH_MAX_BYTES {
            return Err(PathsError::TooLong { path: dir.clone(), need_bytes });
        }
        let meta =
            fs::metadata(dir).map_err(|source| PathsError::Unreadable { path: dir.clone(), source })?;
        if !meta.is_dir() {
            return Err(PathsError::NotAFolder { path: dir.clone() });
        }
        let me = rustix::process::geteuid().as_raw();
        let trusted = meta.uid() == me || (caller == Caller::Client && meta.uid() == 0);
        if !trusted {
            return Err(PathsError::Owner { path: dir.clone(), owner: meta.uid(), caller: me });
        }
        let mode = meta.mode() & 0o7777;
        if mode & 0o002 != 0 {
            return Err(PathsError::WorldWritable { path: dir.clone(), mode });
        }
        if mode & 0o020 != 0 && !is_trusted_group(meta.gid()) {
            return Err(PathsError::GroupWritable { path: dir.clone(), gid: meta.gid(), mode });
        }
        Ok(())
    }

    /// Makes the folders a daemon needs, then checks `PORTWAY_DIR`. Folders that exist keep their permissions,
    /// except that of the workers, which only the daemon's user may enter.
    ///
    /// # Errors
    /// [`PathsError::Make`], or what [`Paths::check`] finds.
    pub fn prepare(&self) -> Result<(), PathsError> {
        // Others pass through to the control socket, whose own mode decides; they cannot list the folder.
        if let Some(dir) = &self.dir {
            make_dir(dir, 0o711)?;
            self.check(Caller::Daemon)?;
        } else {
            if let Some(run) = self.socket.parent() {
                make_dir(run, 0o755)?;
            }
            if let Some(lib) = self.state.parent() {
                make_dir(lib, 0o700)?;
            }
        }
        make_dir(&self.workers_dir, 0o700)?;
        fs::set_permissions(&self.workers_dir, Permissions::from_mode(0o700))
            .map_err(|source| PathsError::Make { path: self.workers_dir.clone(), source })
    }

    /// Takes the daemon's lock without waiting, and writes this process' pid into the file.
    ///
    /// # Errors
    /// [`PathsError::Busy`] when another daemon holds it, [`PathsError::Lock`] when the file cannot be used.
    pub fn lock(&self) -> Result<Lock, PathsError> {
        let failed = |source| PathsError::Lock { path: self.lock.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(&self.lock)
            .map_err(failed)?;
        // Whoever can open it can lock it. One of an earlier version may be there.
        file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(PathsError::Busy { path: self.lock.clone(), pid: read_pid(&file) });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        file.rewind().map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Lock { _file: file })
    }

    /// Name of the nft table: `portway`, or `portway_<8 hex>` of the folder's SHA-256.
    #[must_use]
    pub fn nft_table(&self) -> String {
        match &self.dir {
            None => "portway".to_owned(),
            Some(dir) => {
                let hash = Sha256::digest(dir.as_os_str().as_bytes());
                let hex: String = hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
                format!("portway_{hex}")
            }
        }
    }
}

/// Bytes of the longest socket name below the folder, with the slash before it.
fn longest_name_bytes() -> usize {
    "/workers/".len() + WORKER_NAME_MAX_BYTES + ".sock".len()
}

/// Whether members of a group are trusted with everything: root's, and the one that may use the control socket.
fn is_trusted_group(gid: u32) -> bool {
    let named = || nix::unistd::Group::from_name(CONTROL_GROUP).ok().flatten();
    gid == 0 || named().is_some_and(|group| group.gid.as_raw() == gid)
}

fn pid_text(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

/// Makes `path` and its parents with `mode`, whatever the umask says. One that exists is left as it is.
fn make_dir(path: &Path, mode: u32) -> Result<(), PathsError> {
    let failed = |source| PathsError::Make { path: path.to_owned(), source };
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

fn read_pid(file: &File) -> Option<u32> {
    let mut text = String::new();
    // A pid and a line end fit into 16 bytes.
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests;
