//! What can go wrong between us and the server.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A request that could not be answered. Only an `Ok(None)` means "there is no such instance";
/// every variant here means "not known".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IncusError {
    /// Nothing answers on the socket, or the connection broke.
    #[error("cannot reach the server at {}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// The failure.
        source: io::Error,
    },
    /// The socket or the server turns this user away.
    #[error("access to the server at {} is denied", path.display())]
    Denied {
        /// The socket.
        path: PathBuf,
    },
    /// The server took longer than the limit.
    #[error("no answer to {request} within {}", humane(*limit))]
    TimedOut {
        /// Method and path.
        request: String,
        /// The limit.
        limit: Duration,
    },
    /// The server answered with an error.
    #[error("{request} was answered with {code}: {message}")]
    Status {
        /// Method and path.
        request: String,
        /// HTTP status.
        code: u16,
        /// The server's own words, cut to one short line.
        message: String,
    },
    /// The server began a change and did not bring it to its end: all is as before.
    #[error("{request} has failed: {message}")]
    Operation {
        /// Method and path.
        request: String,
        /// The server's own words, cut to one short line.
        message: String,
    },
    /// The answer is not what the API promises.
    #[error("{request} was answered with something that is not the API: {reason}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The answer is longer than the limit.
    #[error("the answer to {request} is longer than {limit_bytes} bytes")]
    TooLarge {
        /// Method and path.
        request: String,
        /// The limit.
        limit_bytes: usize,
    },
    /// The event stream ended; connect again, then read everything again.
    #[error("the event stream of {} ended", path.display())]
    StreamEnded {
        /// The socket.
        path: PathBuf,
    },
}

impl IncusError {
    /// Whether what was to be changed is no longer what it was when it was read.
    #[must_use]
    pub fn is_outdated(&self) -> bool {
        matches!(self, Self::Status { code: 412, .. })
    }

    /// Whether the same request may well succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::StreamEnded { .. } => true,
            Self::Status { code, .. } => *code >= 500,
            Self::Denied { .. } | Self::Operation { .. } | Self::Protocol { .. } | Self::TooLarge { .. } => {
                false
            }
        }
    }
}

/// `10s`, `250ms`.
fn humane(limit: Duration) -> String {
    if limit.subsec_nanos() == 0 {
        format!("{}s", limit.as_secs())
    } else {
        format!("{}ms", limit.as_millis())
    }
}
