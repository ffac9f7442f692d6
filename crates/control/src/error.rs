//! Why a request to the daemon has no answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use thiserror::Error;

use crate::api::{Failure, FailureKind};

/// Why there is no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nothing listens on the socket, or it went away in the middle.
    #[error("no daemon answers on {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The caller may not use the socket.
    #[error("no permission to use {}", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The daemon took too long.
    #[error("the daemon did not answer {request} within {} s", limit.as_secs_f32())]
    TimedOut {
        /// Method and path.
        request: String,
        /// The limit.
        limit: Duration,
    },
    /// The daemon said no.
    #[error("{}", .0.error)]
    Refused(Failure),
    /// The answer is not what the API promises.
    #[error("the daemon answered {request} with something else than the API: {reason}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ClientError {
    /// The kind that fixes the exit code.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            ClientError::Unreachable { .. } | ClientError::TimedOut { .. } => FailureKind::Unreachable,
            ClientError::Denied { .. } => FailureKind::Refused,
            ClientError::Refused(failure) => failure.kind,
            ClientError::Protocol { .. } => FailureKind::Internal,
        }
    }

    /// The likely cure, one line.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        match self {
            ClientError::Unreachable { .. } => Some("is it running? `portway doctor` says what is missing"),
            ClientError::Denied { .. } => {
                Some("run as root, or as a member of group portway (its members are as powerful as root)")
            }
            ClientError::Refused(failure) => failure.hint.as_deref(),
            ClientError::Protocol { .. } => {
                Some("daemon and command may be of different versions; restart the daemon")
            }
            ClientError::TimedOut { .. } => None,
        }
    }
}

/// What a failure of hyper means: the stream broke, or what came is no HTTP.
pub(crate) fn broken(socket: &Path, request: &str, error: &hyper::Error) -> ClientError {
    let malformed = error.is_parse() || error.is_user();
    if malformed {
        return ClientError::Protocol { request: request.to_owned(), reason: error.to_string() };
    }
    let source =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>()).map_or_else(
            || io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection"),
            |cause| io::Error::new(cause.kind(), cause.to_string()),
        );
    ClientError::Unreachable { path: socket.to_owned(), source }
}

/// The error that an answer with a status other than 2xx stands for.
pub(crate) fn refusal(status: StatusCode, body: &[u8], request: &str) -> ClientError {
    match serde_json::from_slice(body) {
        Ok(failure) => ClientError::Refused(failure),
        Err(_not_ours) => {
            ClientError::Protocol { request: request.to_owned(), reason: format!("status {status}") }
        }
    }
}
