//! The login name of the SSH gateway: who wants to be where, as whom, in one word before the last `@` of
//! `ssh LOGIN@HOST`.
//!
//! A login is a [`Session`], a [`Create`] or a [`Command`]. Three dialects read it ([`Dialect`]); all of them take the
//! instance from what follows the last `@`, and refuse empty parts, control characters and unknown options with the
//! place of the fault. Printing gives one spelling, without any sign that shells, scp, rsync or URLs take for theirs,
//! and [`Dialect::Auto`] reads it back as the same login.
//!
//! Nothing here knows which instances there are: a name that no server would allow is told by a warning.

use std::fmt;
use std::str::FromStr;

use portway_model::{InstanceName, ProjectName};

mod error;
mod names;
mod options;
mod parse;
mod percent;
mod print;

pub use error::{LoginError, LoginErrorKind, LoginWarning};
pub use names::{HostUser, InstanceUser, NAME_MAX_BYTES, RemoteName, SessionName};
pub use options::CreateOptions;

/// Longest login, bytes: above every name that its parts can have, far below what a packet can carry.
pub const LOGIN_MAX_BYTES: usize = 4096;

/// How the signs of a login are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dialect {
    /// What either of the two others documents, percent-encoding of every byte, and words for signs (`keep=`, `new=`,
    /// `tmp=`, `cmd=`).
    #[default]
    Auto,
    /// That of ssh2incus 0.7: `/` begins a persistent session, `%` a command.
    V07,
    /// That of ssh2incus 0.10: `%` begins a persistent session, `/` a command.
    V010,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::V07, Self::V010];

    /// `auto`, `0.7` or `0.10`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::V07 => "0.7",
            Self::V010 => "0.10",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not one of [`Dialect::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown dialect, expected auto, 0.7 or 0.10")]
pub struct DialectError;

impl FromStr for Dialect {
    type Err = DialectError;

    fn from_str(text: &str) -> Result<Self, DialectError> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == text).ok_or(DialectError)
    }
}

/// A login name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// What is wanted.
    pub wish: Wish,
    /// What its writer may have meant otherwise.
    pub warnings: Vec<LoginWarning>,
}

impl Login {
    /// Reads a login. Takes time and memory in proportion to its length, of which there is a bound.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Self, LoginError> {
        parse::login(text, dialect)
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wish.fmt(f)
    }
}

/// What a login asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// To be in an instance.
    Session(Session),
    /// To be in one that is made if it is not there.
    Create(Create),
    /// Something of the gateway itself.
    Command(Command),
}

/// Where a session is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Server; `None` is the gateway's default one.
    pub remote: Option<RemoteName>,
    /// User inside the instance; `root` when none was given.
    pub instance_user: InstanceUser,
    /// The instance.
    pub instance: InstanceName,
    /// Its project; `default` when none was given.
    pub project: ProjectName,
}

/// A session in an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Where.
    pub place: Place,
    /// Whether it outlives its connection.
    pub keep: Keep,
    /// User of the host whose keys count; `root` when none was given.
    pub host_user: HostUser,
}

/// Whether a session outlives its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keep {
    /// It ends with the connection.
    No,
    /// It stays, under the name that all who give none share.
    Shared,
    /// It stays, under a name of its own.
    Named(SessionName),
}

/// An instance to be made, and a session in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Create {
    /// The instance, and the user inside it.
    pub place: Place,
    /// Removed when it stops.
    pub ephemeral: bool,
    /// What it is made of.
    pub options: CreateOptions,
    /// User of the host whose keys count; `root` when none was given.
    pub host_user: HostUser,
}

/// A command of the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The shell of Incus commands.
    Shell {
        /// User of the host whose keys count; `root` when none was given.
        host_user: HostUser,
    },
    /// Removes an instance.
    Remove {
        /// Which one.
        place: Place,
        /// Without asking, also when it runs.
        force: bool,
        /// User of the host whose keys count; `root` when none was given.
        host_user: HostUser,
    },
    /// Says how a login is read.
    Explain(Box<Wish>),
}

impl Command {
    /// `shell`, `remove`, `remove-force` or `explain`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Shell { .. } => "shell",
            Self::Remove { force: false, .. } => "remove",
            Self::Remove { force: true, .. } => "remove-force",
            Self::Explain(_) => "explain",
        }
    }
}

impl Wish {
    /// The instance it is about, if it is about one.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Session(session) => Some(&session.place),
            Self::Create(create) => Some(&create.place),
            Self::Command(Command::Remove { place, .. }) => Some(place),
            Self::Command(Command::Explain(wish)) => wish.place(),
            Self::Command(Command::Shell { .. }) => None,
        }
    }

    /// User of the host whose keys count; to have a login explained, that login's.
    #[must_use]
    pub const fn host_user(&self) -> &HostUser {
        match self {
            Self::Session(session) => &session.host_user,
            Self::Create(create) => &create.host_user,
            Self::Command(Command::Shell { host_user } | Command::Remove { host_user, .. }) => host_user,
            Self::Command(Command::Explain(wish)) => wish.host_user(),
        }
    }
}

#[cfg(test)]
mod tests;
