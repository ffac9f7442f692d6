//! What can be wrong with a login, and what can be odd about it.

use portway_model::RefErrorKind;

/// Most characters of a login that a message repeats.
const QUOTED_CHARS_MAX: usize = 48;

/// Something wrong at one place of a login.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {kind}")]
pub struct LoginError {
    /// Byte offset of the place, 0 to the login's length.
    pub position: usize,
    /// The same place as a person counts: characters from 1.
    pub column: usize,
    /// What is wrong there.
    pub kind: LoginErrorKind,
}

impl LoginError {
    pub(super) fn new(login: &str, position: usize, kind: LoginErrorKind) -> Self {
        let position = login.floor_char_boundary(position);
        let column = login.get(..position).map_or(0, |before| before.chars().count()) + 1;
        Self { position, column, kind }
    }

    /// What was likely meant.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match &self.kind {
            LoginErrorKind::OptionUnknown { .. } => Some(
                "options are IMAGE/VERSION, mGIB, cCPUS, dGIB, nest, priv, ephe, vm and %PROFILE; a host user follows ~",
            ),
            LoginErrorKind::OptionNumber { .. } => Some("a number follows: m4 is 4 GiB of memory"),
            LoginErrorKind::CommandUnknown(_) => {
                Some("commands are shell, rm, rm-f, remove, remove-force and explain")
            }
            LoginErrorKind::PercentPair | LoginErrorKind::PercentText => {
                Some("a byte is written as % and two hexadecimal digits, % itself as %25")
            }
            LoginErrorKind::Empty(_)
            | LoginErrorKind::Control(_)
            | LoginErrorKind::TooLong { .. }
            | LoginErrorKind::Character { .. }
            | LoginErrorKind::Reserved { .. }
            | LoginErrorKind::Name(_)
            | LoginErrorKind::ProfileEmpty
            | LoginErrorKind::CommandTarget(_)
            | LoginErrorKind::CommandAlone(_)
            | LoginErrorKind::CommandHostUser(_)
            | LoginErrorKind::CommandNested => None,
        }
    }
}

/// What can be wrong with a login. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginErrorKind {
    /// A part with nothing in it.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A control character, as it is or encoded.
    #[error("control character {0}")]
    Control(String),
    /// A part, or all of it, is too long.
    #[error("{what} is longer than {max_bytes} bytes")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Greatest length.
        max_bytes: usize,
    },
    /// A character that cannot be there.
    #[error("unexpected {found} in the {what}")]
    Character {
        /// The character.
        found: String,
        /// Which part.
        what: &'static str,
    },
    /// A name that means something else.
    #[error("{found} cannot be the {what}")]
    Reserved {
        /// The name.
        found: String,
        /// Which part.
        what: &'static str,
    },
    /// What the model says of a name.
    #[error("{0}")]
    Name(RefErrorKind),
    /// `%` without its two digits.
    #[error("% is not followed by two hexadecimal digits")]
    PercentPair,
    /// Bytes that are no text.
    #[error("the encoded bytes are not UTF-8")]
    PercentText,
    /// Not an option of a new instance.
    #[error("unknown create option {0}")]
    OptionUnknown(String),
    /// `m`, `c` or `d` with something else than a number behind it.
    #[error("create option {0} is not a number")]
    OptionNumber(String),
    /// Nothing between two commas.
    #[error("profile name is empty")]
    ProfileEmpty,
    /// Not a command.
    #[error("unknown command {0}")]
    CommandUnknown(String),
    /// A command that needs to know on what.
    #[error("command `{0}` needs a target")]
    CommandTarget(&'static str),
    /// A command with something behind it.
    #[error("nothing can follow the command `{0}`")]
    CommandAlone(&'static str),
    /// A host user where there is none.
    #[error("command `{0}` takes no host user")]
    CommandHostUser(&'static str),
    /// A command where a session or a new instance has to be.
    #[error("a command cannot be explained")]
    CommandNested,
}

/// What a name can have wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// Nothing there.
    #[error("name is empty")]
    Empty,
    /// A character that cannot be there.
    #[error("unexpected {0:?} in a name")]
    Character(char),
    /// Too long.
    #[error("name is too long")]
    TooLong,
    /// `.` or `..`.
    #[error("`.` and `..` are no names")]
    Reserved,
}

/// What the writer of a login may have meant otherwise. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoginWarning {
    /// No server allows such an instance.
    #[error("no instance can be called {found}: {why}")]
    InstanceImpossible {
        /// The name.
        found: String,
        /// The server's rule.
        why: String,
    },
    /// A sign before the last `@`, where it is part of the user's name.
    #[error("`{sign}` before the last `@` belongs to the instance user {user}")]
    SignInUser {
        /// `+` or `~`.
        sign: char,
        /// The user.
        user: String,
    },
    /// The name of a command that was not read as one.
    #[error("{0} is an instance here; the command stands alone")]
    NotCommand(String),
    /// An option given twice.
    #[error("create option {after} replaces {before}")]
    OptionReplaced {
        /// The one that counts.
        after: String,
        /// The one that does not.
        before: String,
    },
    /// An option of containers on a virtual machine.
    #[error("`{0}` means nothing for a virtual machine")]
    OptionOfContainers(&'static str),
}

/// `text` for a message: control characters escaped, cut after [`QUOTED_CHARS_MAX`] characters.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("`");
    for (index, c) in text.chars().enumerate() {
        if index == QUOTED_CHARS_MAX {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}
