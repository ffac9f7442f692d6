//! Who may do what, and where: `ssh-policy.toml`.
//!
//! A policy is a list of rules. The first one that fits the person and the place and names the action decides; without
//! one the answer is no. Nothing here knows whether the person is who he says, or whether the place is there.

use std::fmt;
use std::path::{Path, PathBuf};

use portway_config::Paths;
use portway_config::files::{self, FileError, Trust};

use crate::auth::source::is_like;

mod making;
mod read;
mod whole;

pub use making::Making;
pub use whole::Scope;

/// The policy of a gateway without a file: the reach of ssh2incus, in words that can be narrowed.
pub const DEFAULT: &str = include_str!("policy/default.toml");

/// Where the policy is: beside the settings.
#[must_use]
pub fn path(paths: &Paths) -> PathBuf {
    paths.config.with_file_name("ssh-policy.toml")
}

/// Longest file, bytes.
const FILE_MAX_BYTES: u64 = 1024 * 1024;

/// Something that can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// A login shell.
    Shell,
    /// A command.
    Exec,
    /// Files, and what copies them.
    Sftp,
    /// `-L` and `-D`.
    ForwardLocal,
    /// `-R`.
    ForwardRemote,
    /// `-A`.
    Agent,
    /// `-X` and `-Y`.
    X11,
    /// Makes an instance.
    Create,
    /// Removes one.
    Remove,
    /// Starts one that is stopped.
    Start,
    /// Commands about whole instances: started, stopped, configured.
    IncusShell,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Shell,
        Self::Exec,
        Self::Sftp,
        Self::ForwardLocal,
        Self::ForwardRemote,
        Self::Agent,
        Self::X11,
        Self::Create,
        Self::Remove,
        Self::Start,
        Self::IncusShell,
    ];

    /// What is done within an instance, and may be done by its own users. A display is lent where a rule says so only.
    pub const SESSION: [Self; 6] =
        [Self::Shell, Self::Exec, Self::Sftp, Self::ForwardLocal, Self::ForwardRemote, Self::Agent];

    /// As the file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec => "exec",
            Self::Sftp => "sftp",
            Self::ForwardLocal => "forward-local",
            Self::ForwardRemote => "forward-remote",
            Self::Agent => "agent",
            Self::X11 => "x11",
            Self::Create => "create",
            Self::Remove => "remove",
            Self::Start => "start",
            Self::IncusShell => "incus-shell",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who somebody is, after he has proven it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// A user of the host.
    Host {
        /// His name.
        user: String,
        /// Names of his groups.
        groups: Vec<String>,
        /// Fingerprint of the key that he has proven to hold, `SHA256:…`.
        key: Option<String>,
        /// Principals of his certificate.
        principals: Vec<String>,
    },
    /// Who has shown what a user inside an instance knows or holds: he is that user, there, and nothing else.
    Instance(Target),
}

/// A place where something is done. Every part is known: defaults have been filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Server.
    pub remote: String,
    /// Project.
    pub project: String,
    /// Instance.
    pub instance: String,
    /// User inside it.
    pub instance_user: String,
}

/// A policy, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    rules: Vec<Rule>,
    making: Making,
}

/// One rule. A list that is `None` fits all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// Its name, or its number.
    name: String,
    /// Its line in the file.
    line: usize,
    users: Option<Vec<String>>,
    groups: Option<Vec<String>>,
    keys: Option<Vec<String>>,
    principals: Option<Vec<String>>,
    remotes: Option<Vec<String>>,
    projects: Option<Vec<String>>,
    instances: Option<Vec<String>>,
    instance_users: Option<Vec<String>>,
    allow: Vec<Action>,
    deny: Vec<Action>,
    record: Record,
}

/// What of those whom a rule lets in is recorded. Of files the audit log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Record {
    /// Nothing.
    #[default]
    Nothing,
    /// What is shown on a terminal.
    Terminals,
    /// What any shell or command writes.
    All,
}

impl Record {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Nothing, Self::Terminals, Self::All];

    /// As the file has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Terminals => "terminals",
            Self::All => "all",
        }
    }

    /// Whether it is recorded, on a terminal or without one.
    #[must_use]
    pub fn has(self, on_terminal: bool) -> bool {
        self == Self::All || (self == Self::Terminals && on_terminal)
    }
}

/// An answer, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may be done.
    pub allowed: bool,
    /// Why.
    pub reason: Reason,
}

/// What has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A rule of the policy.
    Rule {
        /// Its name.
        name: String,
        /// Its line.
        line: usize,
    },
    /// No rule fits.
    NoRule,
    /// The person is a user of that instance.
    OwnUser,
    /// The person is a user of an instance, and this is something else.
    OtherThanOwn,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { name, line } => write!(f, "rule `{name}` (line {line})"),
            Self::NoRule => f.write_str("no rule fits"),
            Self::OwnUser => f.write_str("a user of that instance"),
            Self::OtherThanOwn => f.write_str("a user of an instance reaches only himself there"),
        }
    }
}

/// Why a policy cannot be used. Then nobody may do anything.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// The file cannot be read, or be trusted.
    #[error(transparent)]
    File(FileError),
    /// It is malformed.
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
}

impl Policy {
    /// Reads `path`; without that file it is the default policy.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let bytes = match files::read(path, FILE_MAX_BYTES, Trust::Own) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => return Ok(Self::default()),
            Err(error) => return Err(PolicyError::File(error)),
        };
        let text = files::text(path, bytes).map_err(PolicyError::File)?;
        Self::parse(path, &text)
    }

    /// Checks `text`; `path` is only for messages.
    ///
    /// # Errors
    /// [`PolicyError::Syntax`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, PolicyError> {
        read::policy(text).map_err(|fault| {
            let (line, column) = files::position(text, fault.at);
            PolicyError::Syntax { path: path.to_owned(), line, column, message: fault.message }
        })
    }

    /// What holds for instances that logins make.
    #[must_use]
    pub const fn making(&self) -> &Making {
        &self.making
    }

    /// Whether a person may do something at a place; without one, whether he may wherever it is.
    #[must_use]
    pub fn decide(&self, person: &Person, action: Action, place: Option<&Target>) -> Decision {
        if let Person::Instance(own) = person {
            return own_user(own, action, place);
        }
        match self.rule(person, action, place) {
            Some(rule) => Decision {
                allowed: !rule.deny.contains(&action),
                reason: Reason::Rule { name: rule.name.clone(), line: rule.line },
            },
            None => Decision { allowed: false, reason: Reason::NoRule },
        }
    }

    /// What is recorded of what a person does at a place: as the rule has it that decides. Of a user of an instance, who needs no
    /// rule, as much as of whoever has the most recorded.
    #[must_use]
    pub fn records(&self, person: &Person, action: Action, place: Option<&Target>) -> Record {
        match person {
            Person::Instance(_) => {
                let there = self.rules.iter().filter(|rule| rule.fits_place(place));
                there.map(|rule| rule.record).max().unwrap_or_default()
            }
            Person::Host { .. } => {
                self.rule(person, action, place).map_or(Record::Nothing, |rule| rule.record)
            }
        }
    }

    /// The rule that decides about a user of the host.
    fn rule(&self, person: &Person, action: Action, place: Option<&Target>) -> Option<&Rule> {
        let fits = |rule: &&Rule| {
            rule.fits_person(person)
                && rule.fits_place(place)
                && (rule.deny.contains(&action) || rule.allow.contains(&action))
        };
        self.rules.iter().find(fits)
    }
}

impl Default for Policy {
    /// That of [`DEFAULT`].
    fn default() -> Self {
        Self::parse(Path::new("default"), DEFAULT)
            .unwrap_or(Self { rules: Vec::new(), making: Making::default() })
    }
}

impl Rule {
    /// Whether it is about a user of the host.
    fn fits_person(&self, person: &Person) -> bool {
        let Person::Host { user, groups, key, principals } = person else { return false };
        any(self.users.as_deref(), std::slice::from_ref(user))
            && any(self.groups.as_deref(), groups)
            && any(self.keys.as_deref(), key.as_slice())
            && any(self.principals.as_deref(), principals)
    }

    fn fits_place(&self, place: Option<&Target>) -> bool {
        let lists = [&self.remotes, &self.projects, &self.instances, &self.instance_users];
        let Some(Target { remote, project, instance, instance_user }) = place else {
            // What has no place is not within any.
            return lists.iter().all(|list| list.is_none());
        };
        let parts = [remote, project, instance, instance_user];
        lists.into_iter().zip(parts).all(|(list, part)| any(list.as_deref(), std::slice::from_ref(part)))
    }
}

/// Whether one of `texts` is like one of the patterns.
fn any(patterns: Option<&[String]>, texts: &[String]) -> bool {
    patterns
        .is_none_or(|patterns| patterns.iter().any(|pattern| texts.iter().any(|text| is_like(text, pattern))))
}

fn own_user(own: &Target, action: Action, place: Option<&Target>) -> Decision {
    let allowed = Action::SESSION.contains(&action) && place == Some(own);
    Decision { allowed, reason: if allowed { Reason::OwnUser } else { Reason::OtherThanOwn } }
}

#[cfg(test)]
mod tests;
