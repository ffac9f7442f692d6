//! Types of the control API, version 1.0: HTTP/1.1 and JSON on the control socket.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /1.0` | | [`Server`] |
//! | `GET /1.0/devices?instance=KEY` | | list of [`Device`] |
//! | `POST /1.0/devices` | [`AddDevice`] | [`Device`] |
//! | `GET /1.0/devices/{instance}/{device}` | | [`Device`] |
//! | `PATCH /1.0/devices/{instance}/{device}` | [`ChangeDevice`] | [`Changed`] |
//! | `GET /1.0/devices/{instance}/{device}/connections?limit=N` | | [`Connections`] |
//! | `POST /1.0/devices/{instance}/{device}/rename` | [`RenameDevice`] | [`Device`] |
//! | `DELETE /1.0/devices/{instance}/{device}` | | empty object |
//! | `POST /1.0/instances/{instance}/adopt` | | list of [`Device`] |
//! | `GET /1.0/instances` | | list of [`KnownInstance`] |
//! | `GET /1.0/health?instance=KEY` | | list of [`Health`] |
//! | `POST /1.0/instances/{instance}/health` | | [`Health`] |
//! | `POST /1.0/apply` | [`Apply`] | [`Applied`] |
//! | `GET /1.0/import?instance=KEY`, `GET /1.0/export?instance=KEY` | | list of [`Move`] |
//! | `POST /1.0/import`, `POST /1.0/export` | [`MoveDevice`] | [`Move`] |
//! | `GET /1.0/events?kind=K,K&instance=KEY&…` ([`EventFilter`]) | | server-sent events, each data line one [`Event`] |
//!
//! `{instance}` is the canonical text of an `InstanceKey`, percent-encoded. Every failure is a
//! [`Failure`] with the status of its kind.

use std::collections::BTreeMap;

use hyper::StatusCode;
use portway_model::{DeviceName, InstanceKey};
use serde::{Deserialize, Serialize};

mod apply;
mod connections;
mod counts;
mod events;
mod health;
mod mesh;
mod moves;
mod unique;

pub use apply::{Action, Applied, Apply, KeyChange, Planned, Scope};
pub use connections::{Connection, ConnectionState, Connections};
pub use counts::{DIAL_BOUNDS_MICROS, DeviceFailures, DialTime, LimitHits};
pub use events::{EVENT_KINDS, EventFilter, RECENT_MAX};
pub use health::{Health, HealthState, HealthTest};
pub use mesh::{
    AskPing, ChangeMeshRules, MeshEvent, MeshMapping, MeshOrg, MeshOutside, MeshPeer, MeshProxyStatus,
    MeshRuleStatus, MeshStatus, NetworkPeer, NetworkState, NetworkStatus, NewMeshRule, Pong,
};
pub use moves::{KnownInstance, Move, MoveDevice, Place, Progress};

/// What the daemon says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// Version of the API.
    pub api: String,
    /// Version of the program.
    pub version: String,
    /// The daemon's pid.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// Generation of the desired state; rises with each change.
    pub generation: u64,
    /// Devices by state.
    pub devices: DeviceTotals,
    /// Clients that were refused, by all devices together.
    #[serde(default)]
    pub refusals: Refusals,
    /// The servers it follows.
    pub providers: Vec<ProviderStatus>,
    /// Running workers.
    pub workers: Vec<WorkerStatus>,
    /// Keeper's pid, when one runs.
    pub keeper_pid: Option<i32>,
    /// Networks that it runs.
    #[serde(default)]
    pub networks: Vec<NetworkStatus>,
    /// Caps that were hit since the daemon started, or since a device was added.
    #[serde(default)]
    pub limits: Vec<LimitHits>,
    /// What is degraded, one line each; empty when all is well.
    pub warnings: Vec<String>,
}

/// Devices by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceTotals {
    /// Serving.
    pub active: u64,
    /// Waiting for something that is expected to come.
    pub waiting: u64,
    /// Serving in part, or retried after a failure.
    pub degraded: u64,
    /// Not serving.
    pub failed: u64,
}

/// Clients that were refused, by reason; with udp datagrams. As the counters of [`Device`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// By `allow` or `deny`.
    pub denied: u64,
    /// By `limits.connections`.
    pub over_connections: u64,
    /// By `limits.rate`.
    pub over_rate: u64,
    /// By `limits.per_source`.
    pub over_per_source: u64,
    /// For a PROXY header that was malformed or did not come in time.
    pub bad_headers: u64,
}

impl Refusals {
    /// Takes in those of one device.
    pub fn count(&mut self, device: &Device) {
        for (total, more) in [
            (&mut self.denied, device.denied),
            (&mut self.over_connections, device.over_connections),
            (&mut self.over_rate, device.over_rate),
            (&mut self.over_per_source, device.over_per_source),
            (&mut self.bad_headers, device.bad_headers),
        ] {
            *total = total.saturating_add(more);
        }
    }

    /// All of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        let Self { denied, over_connections, over_rate, over_per_source, bad_headers } = self;
        let all = [denied, over_connections, over_rate, over_per_source, bad_headers];
        all.into_iter().fold(0, |total, more| total.saturating_add(*more))
    }
}

/// A server the daemon follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// `incus`, `lxd`, `netns`.
    pub name: String,
    /// Socket, where there is one.
    pub endpoint: Option<String>,
    /// Whether it answers.
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
}

/// A running worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its pid.
    pub pid: i32,
    /// Instance it serves.
    pub instance: InstanceKey,
    /// Uid it runs as.
    pub uid: Option<u32>,
    /// Which of the instance's workers: side it calls on, user, group and number.
    #[serde(default)]
    pub group: String,
    /// Devices it serves.
    pub devices: u64,
}

/// State of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    /// It serves.
    Active,
    /// It waits for something that is expected to come (instance, address, folder).
    Waiting,
    /// It serves in part, or is retried after a failure.
    Degraded,
    /// It does not serve.
    Failed,
}

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceMode {
    /// Through a relay worker.
    Relay,
    /// By kernel NAT.
    Nat,
}

/// A device with its state. The first block is `device list --format json` as documented.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// Device name.
    pub name: DeviceName,
    /// Listen address, canonical.
    pub listen: String,
    /// Connect address, canonical.
    pub connect: String,
    /// `host` or `instance`.
    pub bind: String,
    /// State.
    pub state: DeviceState,
    /// Mode.
    pub mode: DeviceMode,
    /// Why this mode.
    pub mode_reason: Option<String>,
    /// Live connections or flows.
    pub connections_now: u64,
    /// Connections or flows since the device was added (or the daemon first saw it).
    pub connections_total: u64,
    /// Payload bytes, downstream to upstream; `None` while the kernel carries the device: it counts
    /// connections only.
    pub bytes_in: Option<u64>,
    /// Payload bytes, upstream to downstream; likewise.
    pub bytes_out: Option<u64>,
    /// Last failure, one line.
    pub last_error: Option<String>,
    /// When the present state began, RFC 3339, UTC.
    pub since: String,

    /// Why it is in this state, one line, when there is something to say.
    pub reason: Option<String>,
    /// Every key that differs from its default, and `listen`, `connect`.
    pub keys: BTreeMap<String, String>,
    /// UUID of the instance the device is bound to.
    pub instance_uuid: Option<String>,
    /// Failed dials.
    pub dials_failed: u64,
    /// Connections ended by a reset.
    pub resets: u64,
    /// Dropped datagrams or descriptors.
    pub dropped: u64,
    /// Flows evicted because the table was full.
    pub evicted: u64,
    /// Clients refused by `allow` or `deny`; with udp datagrams, here and in the next three.
    #[serde(default)]
    pub denied: u64,
    /// Clients refused by `limits.connections`.
    #[serde(default)]
    pub over_connections: u64,
    /// Clients refused by `limits.rate`.
    #[serde(default)]
    pub over_rate: u64,
    /// Clients refused by `limits.per_source`.
    #[serde(default)]
    pub over_per_source: u64,
    /// Clients refused because their PROXY header was malformed or did not come in time.
    #[serde(default)]
    pub bad_headers: u64,
    /// Failed dials by kind, and clients that waited because descriptors were short.
    #[serde(default)]
    pub failures: DeviceFailures,
    /// How long dials took that were answered.
    #[serde(default)]
    pub dial_time: DialTime,
    /// Worker serving it.
    pub worker_pid: Option<i32>,
}

/// Body of `POST /1.0/devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddDevice {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// Device name.
    pub name: DeviceName,
    /// Keys as for the command line, each once.
    #[serde(deserialize_with = "unique::map")]
    pub keys: BTreeMap<String, String>,
}

/// Body of `PATCH`: keys to set, keys to unset (back to the default).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeDevice {
    /// Keys to set, each once.
    #[serde(default, deserialize_with = "unique::map")]
    pub set: BTreeMap<String, String>,
    /// Keys to remove.
    #[serde(default)]
    pub unset: Vec<String>,
}

/// Answer to `PATCH`: the device, and whether it is another than before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    /// The device.
    #[serde(flatten)]
    pub device: Device,
    /// Whether a key has another value than before. A daemon that does not say it may have changed something.
    #[serde(default = "yes")]
    pub changed: bool,
}

fn yes() -> bool {
    true
}

/// Body of `rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameDevice {
    /// The new name.
    pub name: DeviceName,
}

/// Kind of a failure: fixes the HTTP status and the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// Malformed input: 400, exit 2.
    Usage,
    /// A conflict with the world: 409, exit 1.
    Refused,
    /// No such instance or device: 404, exit 4.
    Missing,
    /// A server the daemon needs does not answer: 503, exit 3.
    Unreachable,
    /// A fault of ours: 500, exit 1.
    Internal,
}

impl FailureKind {
    /// Status of an answer that tells it.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        match self {
            FailureKind::Usage => StatusCode::BAD_REQUEST,
            FailureKind::Refused => StatusCode::CONFLICT,
            FailureKind::Missing => StatusCode::NOT_FOUND,
            FailureKind::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Kind.
    pub kind: FailureKind,
    /// One line: what and why.
    pub error: String,
    /// The likely cure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Something that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// RFC 3339, UTC.
    pub at: String,
    /// One of [`EVENT_KINDS`].
    pub kind: String,
    /// Instance concerned; none where it is a network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceKey>,
    /// Device concerned.
    pub device: Option<DeviceName>,
    /// Network concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// One line.
    pub text: String,
}
