//! `portway.toml`: the daemon's optional settings.
//!
//! Every key has a default, an unknown key is an error, and each error says file, line and column.

mod access;
mod mesh;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::files::{self, FileError, Trust};
pub use access::AccessSettings;
pub use mesh::{MeshBalance, MeshEngine, MeshSettings, MeshSource};

/// Longest settings file, bytes. Far above any real one; keeps a wrong path from filling the memory.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// User of relay workers when the system has it and the file names none.
const DEFAULT_USER: &str = "portway";

/// Uid and gid when there is no such user: the kernel's overflow ids, `nobody` on most systems.
const OVERFLOW_ID: u32 = 65_534;

/// What `portway.toml` says, defaults filled in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `[daemon]`.
    pub daemon: DaemonSettings,
    /// `[incus]`.
    pub incus: IncusSettings,
    /// `[lxd]`.
    pub lxd: LxdSettings,
    /// `[ssh]`.
    pub ssh: SshSettings,
    /// `[access-log]`.
    pub access: AccessSettings,
    /// Each `[mesh.NAME]`, in the order of the alphabet.
    pub mesh: Vec<MeshSettings>,
}

/// `[daemon]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DaemonSettings {
    /// `user`: whom tcp and udp relay workers run as.
    pub user: RelayUser,
    /// `log`: what is logged.
    pub log: LogFilter,
}

/// `[incus]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IncusSettings {
    /// `socket`: Incus' unix socket; goes before `INCUS_SOCKET` and `INCUS_DIR`. Absolute.
    pub socket: Option<PathBuf>,
}

/// `[lxd]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LxdSettings {
    /// `socket`: LXD's unix socket; goes before `LXD_SOCKET` and `LXD_DIR`. Absolute.
    pub socket: Option<PathBuf>,
}

/// `[ssh]`. What its keys mean is the gateway's own matter: they are the long names of its flags.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SshSettings {
    /// `daemon`: the daemon runs the gateway.
    pub daemon: bool,
    /// Every other key, in the order of the alphabet.
    pub flags: Vec<SshFlag>,
}

/// A flag of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshFlag {
    /// Its long name.
    pub name: String,
    /// Its value, as it would stand on a command line.
    pub value: String,
    /// Where it stands, from 1.
    pub line: usize,
}

/// Whom relay workers run as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RelayUser {
    /// The user `portway` if the system has it, else 65534.
    #[default]
    Default,
    /// A user by name; it must exist.
    Name(String),
    /// A uid other than 0. Its group is that of the user of this uid, else 65534.
    Uid(u32),
}

/// Host ids of a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
}

/// What is logged: a list, separated by commas, of `LEVEL` or `TARGET=LEVEL`, with `LEVEL` one of `off`,
/// `error`, `warn`, `info`, `debug`, `trace`. Default `info`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// Why the settings cannot be used.
#[derive(Debug, Error)]
pub enum SettingsError {
    /// The file is there and cannot be used.
    #[error(transparent)]
    File(FileError),
    /// A place in the file is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
    /// `daemon.user` is not a user of this system.
    #[error("no user {name:?} on this system")]
    NoUser {
        /// The name.
        name: String,
    },
    /// `daemon.user` is root.
    #[error("relay workers must not run as root")]
    RootUser,
    /// The user database cannot be asked.
    #[error("cannot look up user {name:?}")]
    UserLookup {
        /// Name or uid.
        name: String,
        /// Why.
        source: io::Error,
    },
}

impl SettingsError {
    /// The likely cure, one line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SettingsError::NoUser { .. } => Some(
                "make the user (`useradd --system NAME`), or take daemon.user out of portway.toml".to_owned(),
            ),
            SettingsError::RootUser => Some("name an unprivileged user in daemon.user".to_owned()),
            SettingsError::File(error) => error.hint(),
            SettingsError::Syntax { .. } | SettingsError::UserLookup { .. } => None,
        }
    }
}

/// The file as written: what toml and serde check.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSettings {
    #[serde(default)]
    daemon: RawDaemon,
    #[serde(default)]
    incus: RawServer,
    #[serde(default)]
    lxd: RawServer,
    #[serde(default)]
    ssh: BTreeMap<String, Spanned<RawFlag>>,
    #[serde(default, rename = "access-log")]
    access: access::Raw,
    #[serde(default)]
    mesh: BTreeMap<Spanned<String>, mesh::Raw>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, true, false or a list of texts")]
enum RawFlag {
    Switch(bool),
    Number(i64),
    Text(String),
    List(Vec<String>),
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawDaemon {
    user: Option<Spanned<RawUser>>,
    log: Option<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RawServer {
    socket: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a user name or a uid")]
enum RawUser {
    Uid(u32),
    Name(String),
}

/// A fault at a byte range of the text.
struct Fault {
    at: usize,
    message: String,
}

impl Settings {
    /// Reads `path`. A file that is not there gives the defaults.
    ///
    /// # Errors
    /// [`SettingsError::File`], [`SettingsError::Syntax`].
    pub fn load(path: &Path) -> Result<Settings, SettingsError> {
        let bytes = match files::read(path, FILE_MAX_BYTES, Trust::Own) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => return Ok(Settings::default()),
            Err(error) => return Err(SettingsError::File(error)),
        };
        let text = files::text(path, bytes).map_err(SettingsError::File)?;
        Settings::parse(path, &text)
    }

    /// Checks `text`; `path` is only for messages.
    ///
    /// # Errors
    /// [`SettingsError::Syntax`].
    pub fn parse(path: &Path, text: &str) -> Result<Settings, SettingsError> {
        parse_text(text).map_err(|fault| {
            let (line, column) = files::position(text, fault.at);
            SettingsError::Syntax { path: path.to_owned(), line, column, message: fault.message }
        })
    }
}

fn parse_text(text: &str) -> Result<Settings, Fault> {
    let raw: RawSettings = toml::from_str(text).map_err(|error| Fault {
        at: error.span().map_or(0, |span| span.start),
        message: error.message().replace('\n', ", "),
    })?;
    Ok(Settings {
        daemon: DaemonSettings {
            user: checked(raw.daemon.user, user)?.unwrap_or_default(),
            log: checked(raw.daemon.log, |text| LogFilter::new(&text))?.unwrap_or_default(),
        },
        incus: IncusSettings { socket: checked(raw.incus.socket, |path| absolute("incus", path))? },
        lxd: LxdSettings { socket: checked(raw.lxd.socket, |path| absolute("lxd", path))? },
        ssh: ssh(text, raw.ssh)?,
        access: access::read(raw.access)?,
        mesh: mesh::read(raw.mesh)?,
    })
}

fn ssh(text: &str, raw: BTreeMap<String, Spanned<RawFlag>>) -> Result<SshSettings, Fault> {
    let mut settings = SshSettings::default();
    for (name, value) in raw {
        let at = value.span().start;
        match (name.as_str(), value.into_inner()) {
            ("daemon", RawFlag::Switch(on)) => settings.daemon = on,
            ("daemon", _) => {
                return Err(Fault { at, message: "ssh.daemon is neither true nor false".to_owned() });
            }
            (_, value) => {
                let value = match value {
                    RawFlag::Switch(on) => on.to_string(),
                    RawFlag::Number(number) => number.to_string(),
                    RawFlag::Text(text) => text,
                    RawFlag::List(texts) => texts.join(","),
                };
                let (line, _) = files::position(text, at);
                settings.flags.push(SshFlag { name, value, line });
            }
        }
    }
    Ok(settings)
}

/// Applies `check` to a value that is there; its message gets the value's place.
fn checked<R, T>(
    raw: Option<Spanned<R>>,
    check: impl FnOnce(R) -> Result<T, String>,
) -> Result<Option<T>, Fault> {
    raw.map(|value| {
        let at = value.span().start;
        check(value.into_inner()).map_err(|message| Fault { at, message })
    })
    .transpose()
}

fn user(raw: RawUser) -> Result<RelayUser, String> {
    let user = match raw {
        RawUser::Uid(uid) => RelayUser::Uid(uid),
        RawUser::Name(name) if name.is_empty() => return Err("daemon.user is empty".to_owned()),
        RawUser::Name(name) => match name.parse() {
            Ok(uid) => RelayUser::Uid(uid),
            Err(_) => RelayUser::Name(name),
        },
    };
    match user {
        RelayUser::Uid(0) => Err("daemon.user must not be root".to_owned()),
        RelayUser::Name(name) if name == "root" => Err("daemon.user must not be root".to_owned()),
        user => Ok(user),
    }
}

fn absolute(server: &str, path: PathBuf) -> Result<PathBuf, String> {
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!("{server}.socket {} is not an absolute path", path.display()))
    }
}

impl LogFilter {
    /// Checks a filter.
    ///
    /// # Errors
    /// One line that names the part that is wrong.
    pub fn new(text: &str) -> Result<LogFilter, String> {
        for part in text.split(',') {
            let (target, level) = part.split_once('=').unwrap_or(("portway", part));
            let known = ["off", "error", "warn", "info", "debug", "trace"];
            if !known.iter().any(|name| name.eq_ignore_ascii_case(level)) {
                let known = known.join(", ");
                return Err(format!("log level {level:?} is unknown, expected one of {known}"));
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '-');
            if target.is_empty() || !target.chars().all(legal) {
                return Err(format!("log target {target:?} is not a module path"));
            }
        }
        Ok(LogFilter(text.to_owned()))
    }

    /// The filter's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for LogFilter {
    fn default() -> LogFilter {
        LogFilter("info".to_owned())
    }
}

impl RelayUser {
    /// Asks the system's user database.
    ///
    /// # Errors
    /// [`SettingsError::NoUser`], [`SettingsError::RootUser`] when the name means uid 0,
    /// [`SettingsError::UserLookup`].
    pub fn lookup(&self) -> Result<UserIds, SettingsError> {
        let by_name = |name: &str| {
            nix::unistd::User::from_name(name)
                .map_err(|errno| SettingsError::UserLookup { name: name.to_owned(), source: errno.into() })
        };
        let ids = match self {
            RelayUser::Default => by_name(DEFAULT_USER)?
                .map_or(UserIds { uid: OVERFLOW_ID, gid: OVERFLOW_ID }, |user| ids_of(&user)),
            RelayUser::Name(name) => {
                ids_of(&by_name(name)?.ok_or_else(|| SettingsError::NoUser { name: name.clone() })?)
            }
            RelayUser::Uid(uid) => nix::unistd::User::from_uid((*uid).into())
                .map_err(|errno| SettingsError::UserLookup { name: uid.to_string(), source: errno.into() })?
                .map_or(UserIds { uid: *uid, gid: OVERFLOW_ID }, |user| ids_of(&user)),
        };
        if ids.uid == 0 {
            return Err(SettingsError::RootUser);
        }
        Ok(ids)
    }
}

fn ids_of(user: &nix::unistd::User) -> UserIds {
    UserIds { uid: user.uid.as_raw(), gid: user.gid.as_raw() }
}

#[cfg(test)]
mod tests;
