//! Names that stand in a login beside those of instance and project, which are the model's.

use std::fmt;
use std::str::FromStr;

use super::error::NameFault;

/// Longest name of a user, remote or session, bytes: names of directories' users are longer than the 32 of `useradd`.
pub const NAME_MAX_BYTES: usize = 256;

/// Implements a name that is text under a rule.
macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(String);

        impl $type {
            /// As text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameFault;

            fn from_str(text: &str) -> Result<Self, NameFault> {
                check(text, $rule)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// User inside an instance. No `:` or line end, which passwd(5) cannot hold, and no `/`.
    InstanceUser,
    is_user
);
name!(
    /// User of the host. As [`InstanceUser`]; it becomes the name of a file, so it is not `.` or `..` either.
    HostUser,
    is_user
);
name!(
    /// A server, as `incus remote list` names it. No `:`, which ends it, and no `/`.
    RemoteName,
    is_user
);
name!(
    /// A persistent session: ASCII letters, digits, `-` and `_`, which every terminal multiplexer takes.
    SessionName,
    |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')
);

impl Default for InstanceUser {
    /// `root`.
    fn default() -> Self {
        Self("root".to_owned())
    }
}

impl Default for HostUser {
    /// `root`.
    fn default() -> Self {
        Self("root".to_owned())
    }
}

fn is_user(c: char) -> bool {
    !c.is_control() && !matches!(c, ':' | '/')
}

fn check(text: &str, rule: impl Fn(char) -> bool) -> Result<(), NameFault> {
    if text.is_empty() {
        return Err(NameFault::Empty);
    }
    if let Some(c) = text.chars().find(|c| !rule(*c)) {
        return Err(NameFault::Character(c));
    }
    if text.len() > NAME_MAX_BYTES {
        return Err(NameFault::TooLong);
    }
    if matches!(text, "." | "..") {
        return Err(NameFault::Reserved);
    }
    Ok(())
}
