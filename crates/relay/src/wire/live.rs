//! One live connection or flow, as a worker tells of it.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Most of them in one packet: each is at most 450 bytes.
pub const LIVE_COUNT: usize = 64;

/// A live connection or flow. Numbers of a process that may lie: for display only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// No other of this worker has the same, until it has been used again after 2^28 others.
    pub id: u64,
    /// Listen index it came in by.
    pub index: u32,
    /// Who the client is, where it has an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SocketAddr>,
    /// Through whom it came, if somebody announced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<SocketAddr>,
    /// Who was called, where that has an address and is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<SocketAddr>,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds since it last carried anything; since it began when it never did.
    pub idle_ms: u64,
    /// Payload from downstream to upstream.
    pub bytes_in: u64,
    /// Payload from upstream to downstream.
    pub bytes_out: u64,
    /// Where it has come to.
    pub state: LiveState,
}

/// Where a connection has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LiveState {
    /// The client is to say who it is, by a PROXY header.
    Announcing,
    /// The target has been called and has not answered.
    Dialling,
    /// The target is to be called later.
    Held,
    /// Both sides are connected.
    Open,
    /// The client has ended its side, the target may still send.
    ClientEnded,
    /// The target has ended its side, the client may still send.
    TargetEnded,
    /// Datagrams of one client.
    Flow,
}
