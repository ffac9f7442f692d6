//! Live connections of a device.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Answer to `GET /1.0/devices/{instance}/{device}/connections`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// How many there are, by the device's counters: of a busy device not the number of those that are listed.
    pub connections_now: u64,
    /// Those that are listed, the oldest first.
    pub connections: Vec<Connection>,
    /// Why some of them cannot be listed.
    pub unlisted: Option<String>,
}

/// A live connection, or a flow of datagrams.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Names it for as long as it lives.
    pub id: String,
    /// What the client speaks: `tcp`, `udp`, `unix`, `unixgram`, `unixpacket`.
    pub protocol: String,
    /// The client: its socket's address, or the one that a trusted PROXY header announced. `None` of a unix client.
    pub client: Option<SocketAddr>,
    /// Who announced it.
    pub via: Option<SocketAddr>,
    /// Where it leads.
    pub target: String,
    /// Where it has come to.
    pub state: ConnectionState,
    /// Milliseconds since it began.
    pub age_ms: u64,
    /// Milliseconds since it last carried anything; since it began when it never did.
    pub idle_ms: u64,
    /// Payload bytes, downstream to upstream.
    pub bytes_in: u64,
    /// Payload bytes, upstream to downstream.
    pub bytes_out: u64,
}

/// Where a connection has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// The client is to send its PROXY header.
    Announcing,
    /// The target has been called and has not answered.
    Dialling,
    /// The target is to be called later: the client is held.
    Held,
    /// Both sides are connected.
    Open,
    /// The client has ended its side; the target may still send.
    ClientEnded,
    /// The target has ended its side; the client may still send.
    TargetEnded,
    /// Datagrams of one client.
    Flow,
}

impl ConnectionState {
    /// Its word in JSON.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            ConnectionState::Announcing => "announcing",
            ConnectionState::Dialling => "dialling",
            ConnectionState::Held => "held",
            ConnectionState::Open => "open",
            ConnectionState::ClientEnded => "client-ended",
            ConnectionState::TargetEnded => "target-ended",
            ConnectionState::Flow => "flow",
        }
    }
}
