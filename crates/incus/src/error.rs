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
        /// The server's own code in terms of HTTP; 0 where it gives none.
        code: u16,
        /// The server's own words, cut to one short line.
        message: String,
    },
    /// The server knows nothing of a change that it had begun: it was started anew, or has answered so late that it has
    /// forgotten the end. It may have been done.
    #[error("the server has forgotten what became of {request}")]
    Forgotten {
        /// Method and path.
        request: String,
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

    /// Why the server has refused, as far as it says; `None` for what is no refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self {
            Self::Status { code, message, .. } | Self::Operation { code, message, .. } => {
                Some(Refusal::of(*code, message))
            }
            Self::Denied { .. } => Some(Refusal::Denied),
            _ => None,
        }
    }

    /// Whether the same request may well succeed later without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::StreamEnded { .. }
            | Self::Forgotten { .. } => true,
            Self::Status { code, .. } => *code >= 500,
            Self::Denied { .. } | Self::Operation { .. } | Self::Protocol { .. } | Self::TooLarge { .. } => {
                false
            }
        }
    }
}

/// Why a server refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Something that is named is not there.
    Absent,
    /// What is to be made is there already.
    Exists,
    /// It was changed since it was read.
    Outdated,
    /// Another change of the same thing is under way: the same request succeeds after it.
    Busy,
    /// Others use what is to be deleted, or it is not empty.
    InUse,
    /// An instance of this name, of another project, is in the same network already.
    NameOnNetwork,
    /// The instance is in that state already, or runs and must not.
    State,
    /// Not allowed.
    Denied,
    /// Anything else: its words are all there is.
    Other,
}

impl Refusal {
    /// By the code where it says enough, else by the words of Incus 6.0, 7.0 and LXD 5.0.
    fn of(code: u16, message: &str) -> Refusal {
        let says = |words: &[&str]| words.iter().any(|words| message.contains(words));
        // The second: an interface that the network's bridge had a moment ago has gone with its instance.
        if says(&["Instance is busy running", "Failed to delete bridge children interfaces"]) {
            return Refusal::Busy;
        }
        if says(&["already used on network"]) {
            return Refusal::NameOnNetwork;
        }
        match code {
            403 => Refusal::Denied,
            404 => Refusal::Absent,
            412 => Refusal::Outdated,
            _ if says(&["already exists", "UNIQUE constraint failed"]) => Refusal::Exists,
            _ if says(&["in use", "Only empty projects"]) => Refusal::InUse,
            _ if says(&[
                "already running",
                "already stopped",
                "is running",
                "is not running",
                "is already",
            ]) =>
            {
                Refusal::State
            }
            _ if says(&["not found"]) => Refusal::Absent,
            _ => Refusal::Other,
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The words are those of the servers.
    #[test]
    fn a_refusal_has_a_reason() {
        let of = |code, message: &str| Refusal::of(code, message);
        for (code, message, refusal) in [
            (404, "Project not found", Refusal::Absent),
            (409, "Network \"br\" already exists", Refusal::Exists),
            (500, "Failed creating project: UNIQUE constraint failed: projects.name", Refusal::Exists),
            (412, "ETag doesn't match: a vs b", Refusal::Outdated),
            (500, "Failed to create: Instance is busy running a \"start\" operation", Refusal::Busy),
            (
                500,
                "Failed to delete bridge children interfaces: Failed to run: ip -d -j link show veth0: exit status 1",
                Refusal::Busy,
            ),
            (400, "The network is currently in use", Refusal::InUse),
            (400, "The storage volume is still in use", Refusal::InUse),
            (500, "Only empty projects can be removed.", Refusal::InUse),
            (409, "Failed: Instance DNS name \"a\" already used on network", Refusal::NameOnNetwork),
            (400, "Instance is running", Refusal::State),
            (400, "The instance is already running", Refusal::State),
            (0, "no space left on device", Refusal::Other),
        ] {
            assert_eq!(of(code, message), refusal, "{message}");
        }
    }
}
