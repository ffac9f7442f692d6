//! What a session tells of a forward that has ended.

use serde::{Deserialize, Serialize};

use super::Breach;

/// Longest text about a forward: a path, or a name and a port, and what is said about it.
const TEXT_BYTES: usize = 2 << 10;

/// A connection that was carried, or could not be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forwarded {
    /// That of its [`Forwarding`], if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) number: Option<u64>,
    /// Which way.
    pub(crate) way: ForwardWay,
    /// Where it was to lead, as the client says it; of one that has come, where somebody listened.
    pub(crate) target: String,
    /// Address it led to, or came from.
    pub(crate) peer: String,
    /// Bytes from the client.
    pub(crate) bytes_in: u64,
    /// Bytes to the client.
    pub(crate) bytes_out: u64,
    /// From when it was asked for to its end.
    pub(crate) millis: u64,
    /// What became of it.
    pub(crate) end: ForwardEnd,
    /// Why there was none.
    pub(crate) reason: Option<String>,
}

/// A connection that is carried from now on, or a place where somebody listens: what is noted when its session ends without
/// having said how it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Forwarding {
    /// Chosen by the session, of all that it has open.
    pub(crate) number: u64,
    /// Which way.
    pub(crate) way: ForwardWay,
    /// As of [`Forwarded`].
    pub(crate) target: String,
    /// As of [`Forwarded`].
    pub(crate) peer: String,
}

/// Which way a forward leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardWay {
    /// From the client into the instance.
    Local,
    /// From the instance to the client.
    Remote,
    /// None: somebody listens in the instance for the client.
    Listen,
    /// To the client's agent.
    Agent,
    /// To the client's display.
    X11,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ForwardEnd {
    /// Both sides have ended.
    Closed,
    /// The side in the instance has reset it, or is gone.
    Reset,
    /// The client has left it.
    Left,
    /// Its reader in the instance took nothing, and it held up the client's connection.
    Stuck,
    /// Its session ended before it, and has not said how.
    Unfinished,
    /// There was none.
    Refused,
}

impl Forwarding {
    pub(super) fn check(&self, raw_bytes: usize) -> Result<(), Breach> {
        let fits = raw_bytes == 0 && self.target.len() <= TEXT_BYTES && self.peer.len() <= TEXT_BYTES;
        if fits { Ok(()) } else { Err(Breach::Length) }
    }
}

impl Forwarded {
    pub(super) fn check(&self, raw_bytes: usize) -> Result<(), Breach> {
        let texts = [self.target.len(), self.peer.len(), self.reason.as_ref().map_or(0, String::len)];
        let fits = raw_bytes == 0 && texts.into_iter().all(|length| length <= TEXT_BYTES);
        if fits { Ok(()) } else { Err(Breach::Length) }
    }
}
