//! Names of organizations and devices, and tags: what can stand in a path, in DNS and on a command line as it is.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest one, characters (RFC 1035, 2.3.4).
const MAX_CHARS: usize = 63;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Nothing there.
    #[error("it is empty")]
    Empty,
    /// Longer than DNS takes.
    #[error("it has more than 63 characters")]
    TooLong,
    /// Some other character.
    #[error("it has other characters than a-z, 0-9 and hyphens")]
    Character,
    /// A hyphen at an end.
    #[error("it begins or ends with a hyphen")]
    Hyphen,
}

fn check(text: &str) -> Result<(), LabelError> {
    if text.is_empty() {
        return Err(LabelError::Empty);
    }
    if text.len() > MAX_CHARS {
        return Err(LabelError::TooLong);
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
        return Err(LabelError::Character);
    }
    if text.starts_with('-') || text.ends_with('-') {
        return Err(LabelError::Hyphen);
    }
    Ok(())
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = LabelError;

            fn from_str(text: &str) -> Result<Self, LabelError> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// Name of an organization: 1 to 63 of a-z, 0-9 and hyphens, none at an end.
    OrgName
}

label! {
    /// Name of a device within its organization, written as an [`OrgName`] is.
    DeviceName
}

label! {
    /// What the organization calls a group of devices, written as an [`OrgName`] is.
    Tag
}

impl DeviceName {
    /// The name a host of this name would have: lower case, up to the first dot, other characters as hyphens. `None` when
    /// nothing is left.
    #[must_use]
    pub fn of_host(host: &str) -> Option<DeviceName> {
        let first = host.split('.').next().unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let text: String = first.chars().take(MAX_CHARS).map(plain).collect();
        text.trim_matches('-').parse().ok()
    }
}
