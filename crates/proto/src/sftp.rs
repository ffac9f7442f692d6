//! Requests of SFTP, version 3 (draft-ietf-secsh-filexfer-02), with the extensions that OpenSSH's client knows
//! (`PROTOCOL` of OpenSSH, 4), as a server reads them.
//!
//! A packet is its length (32 bits), its type (8 bits), for all but the first a number that its answer repeats, and what
//! the type says. Texts are bytes: a name need not be UTF-8. [`Request::read`] takes a packet without its length. Two
//! arguments of a symlink come in OpenSSH's order, the target first, which all clients follow.

mod attributes;
mod home;
mod request;
mod watch;

pub use attributes::Attributes;
pub use home::from_home;
pub use request::{Open, Operation, Request};
pub use watch::{Ended, Transfer, Watch};

/// Version that is spoken.
pub const VERSION: u32 = 3;

/// Longest packet that a server takes, bytes; what OpenSSH's takes.
pub const PACKET_MAX_BYTES: usize = 256 * 1024;

/// Most bytes that are read or written by one request: with its header it is a packet.
pub const DATA_MAX_BYTES: usize = PACKET_MAX_BYTES - 1024;

/// Result of an operation, as its answer carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done.
    Ok,
    /// Nothing is left.
    Eof,
    /// No such file.
    NoSuchFile,
    /// Not allowed.
    PermissionDenied,
    /// Anything else.
    Failure,
    /// The request is malformed.
    BadMessage,
    /// No such operation.
    Unsupported,
}

impl Status {
    /// Its number.
    #[must_use]
    pub const fn code(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::Eof => 1,
            Self::NoSuchFile => 2,
            Self::PermissionDenied => 3,
            Self::Failure => 4,
            Self::BadMessage => 5,
            Self::Unsupported => 8,
        }
    }

    /// What a client may show.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Ok => "Success",
            Self::Eof => "End of file",
            Self::NoSuchFile => "No such file",
            Self::PermissionDenied => "Permission denied",
            Self::Failure => "Failure",
            Self::BadMessage => "Bad message",
            Self::Unsupported => "Operation unsupported",
        }
    }
}

/// Why a packet is no request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It has not even a number to answer to: there is nothing to go on with.
    #[error("an SFTP packet without a number")]
    Headless,
    /// A field is cut short or holds what it cannot hold; the answer is [`Status::BadMessage`].
    #[error("a malformed SFTP request")]
    Malformed {
        /// Number of the request.
        id: u32,
    },
}

#[cfg(test)]
mod tests;
