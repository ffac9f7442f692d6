//! Why what is wanted cannot be used.

use std::path::PathBuf;

use portway_config::files::FileError;
use thiserror::Error;

use super::place::Place;

/// Why what is wanted cannot be used.
#[derive(Debug, Error)]
pub enum SpecError {
    /// A file cannot be used.
    #[error(transparent)]
    File(FileError),
    /// Others can read a file that has a secret in it.
    #[error("{} has a secret in it and can be read by others (mode {mode:04o})", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something that was said is wrong.
    #[error("{place}: {message}")]
    Wrong {
        /// Where.
        place: Place,
        /// What.
        message: String,
        /// The likely cure.
        hint: Option<String>,
    },
    /// This process cannot listen there.
    #[error("{place}: cannot listen on {listen}: ports below {first_free} need a privilege")]
    Privilege {
        /// Where the rule stands.
        place: Place,
        /// What it would listen on.
        listen: String,
        /// The first port that anybody may have.
        first_free: u16,
    },
}

impl SpecError {
    pub(super) fn wrong(place: &Place, message: impl Into<String>) -> SpecError {
        SpecError::Wrong { place: place.clone(), message: message.into(), hint: None }
    }

    /// The same with a hint.
    pub(super) fn with_hint(mut self, text: impl Into<String>) -> SpecError {
        if let SpecError::Wrong { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Whether what was said is at fault, and not the world around it.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self {
            SpecError::File(error) => error.is_malformed(),
            SpecError::Wrong { .. } => true,
            SpecError::Readable { .. } | SpecError::Privilege { .. } => false,
        }
    }

    /// The likely cure, one line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            SpecError::File(error) => error.hint(),
            SpecError::Readable { path, .. } => {
                Some(format!("chmod go-rw {}, or mode 0400 where it is a mounted secret", path.display()))
            }
            SpecError::Wrong { hint, .. } => hint.clone(),
            SpecError::Privilege { first_free, .. } => Some(format!(
                "listen on a port from {first_free}, lower net.ipv4.ip_unprivileged_port_start, or give the process \
                 CAP_NET_BIND_SERVICE"
            )),
        }
    }
}
