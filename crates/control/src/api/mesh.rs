//! What a running network says of itself, and what it is told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A network that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// What it is called.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Where its TCP and UDP live.
    pub engine: String,
    /// Why it is not the kernel's, when that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine_reason: Option<String>,
    /// The organization that it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<MeshOrg>,
    /// Where peers send to.
    pub udp_port: u16,
    /// What this node is known by.
    pub public_key: String,
    /// Its addresses in the network.
    pub addresses: Vec<String>,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// Its peers.
    pub peers: Vec<MeshPeer>,
    /// Messages between members that it has passed on as a hub.
    #[serde(default)]
    pub passed_on: u64,
    /// Its rules.
    pub rules: Vec<MeshRuleStatus>,
    /// Its proxies, whose clients say where they want to go.
    #[serde(default)]
    pub proxies: Vec<MeshProxyStatus>,
    /// Packets that were dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
}

/// An organization, as a device of it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshOrg {
    /// Its name.
    pub organization: String,
    /// What this device is called in it.
    pub device: String,
    /// What was verified last.
    pub revision: u64,
    /// How many members there are, this device too.
    pub devices: usize,
    /// Where its registrar is.
    pub registrar: String,
    /// Whether it is followed.
    pub reachable: bool,
    /// Since when it is so.
    pub since_seconds: u64,
    /// Why it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// It passes messages on between members that do not reach each other.
    #[serde(default)]
    pub hub: bool,
    /// Other members that do.
    #[serde(default)]
    pub hubs: Vec<String>,
    /// How it is seen from outside, in each family that the registrar is reached by.
    #[serde(default)]
    pub outside: Vec<MeshOutside>,
}

/// How a device is seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshOutside {
    /// Address and port that the registrar sees.
    pub address: String,
    /// Whether others see the same.
    pub mapping: MeshMapping,
}

/// What a translation of addresses before a device makes of its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshMapping {
    /// Nobody has seen.
    Unknown,
    /// The same for each destination.
    Same,
    /// Another one for each destination.
    Symmetric,
}

/// A peer as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshPeer {
    /// What it is called, in an organization.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its key.
    pub public_key: String,
    /// Where it was last heard from, or is expected.
    pub endpoint: Option<String>,
    /// The hub that it is reached through, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    /// For how long keys have been tried to be agreed on, while they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trying_seconds: Option<u64>,
    /// What belongs to it.
    pub allowed_ips: Vec<String>,
    /// How long ago keys were agreed on.
    pub handshake_seconds: Option<u64>,
    /// Bytes that came from it.
    pub received_bytes: u64,
    /// Bytes that went to it.
    pub sent_bytes: u64,
    /// Its connections to ports of this node.
    #[serde(default)]
    pub connections_now: u64,
    /// Those that were refused because it had its share.
    #[serde(default)]
    pub connections_refused: u64,
}

/// A rule as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshRuleStatus {
    /// What it is called: it follows from direction and text.
    pub id: String,
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its text.
    pub rule: String,
    /// Where it was said.
    pub place: String,
    /// Its destination failed, and is left alone for a while.
    pub aside: bool,
    /// Connections and flows that are live.
    pub connections_now: u64,
    /// Those there ever were.
    pub connections_total: u64,
    /// How often its destination failed.
    pub failures: u64,
    /// How it last failed.
    pub last_error: Option<String>,
    /// Bytes towards its destination.
    #[serde(default)]
    pub bytes_in: u64,
    /// Bytes from it.
    #[serde(default)]
    pub bytes_out: u64,
    /// Bytes towards destinations, of all rules of this port.
    pub port_bytes_in: u64,
    /// Bytes from them.
    pub port_bytes_out: u64,
}

/// A proxy on the host that leads into the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshProxyStatus {
    /// `socks5` or `http_connect`.
    pub kind: String,
    /// Where it listens: `tcp:[ADDRESS:]PORT`.
    pub listen: String,
    /// Whether it asks for name and password.
    pub login: bool,
    /// Connections that are live; associations of SOCKS5 are not among them.
    pub connections_now: u64,
    /// Those there ever were.
    pub connections_total: u64,
    /// Requests that came to nothing.
    pub failures: u64,
    /// Why the last one did.
    pub last_error: Option<String>,
    /// Bytes into the network.
    pub bytes_in: u64,
    /// Bytes out of it.
    pub bytes_out: u64,
}

/// A network that the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its name.
    pub name: String,
    /// How it is.
    pub state: NetworkState,
    /// Its process, or the last one.
    pub pid: Option<i32>,
    /// Since when it is so.
    pub since_seconds: u64,
    /// How often it was started again.
    pub restarts: u64,
    /// Why it does not run, or not as its file says.
    pub error: Option<String>,
    /// Where its TCP and UDP live; this and what follows as it says of itself while it runs.
    pub engine: Option<String>,
    /// Why that is not the kernel's.
    pub engine_reason: Option<String>,
    /// Its addresses in the network.
    pub addresses: Vec<String>,
    /// The organization that it is, if it is one.
    pub organization: Option<MeshOrg>,
    /// How many rules it has.
    pub rules: Option<u64>,
    /// Connections and flows of its rules that are live.
    pub connections: Option<u64>,
    /// Its peers.
    pub peers: Vec<NetworkPeer>,
}

/// How a network of the daemon is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkState {
    /// It is started.
    Starting,
    /// Its ports are open.
    Running,
    /// It does not run, and is tried again.
    Failed,
    /// It is not wanted any more, and has connections.
    Ending,
    /// It is not there.
    Ended,
}

/// A peer of a network of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPeer {
    /// Its name in the organization, else its public key.
    pub name: String,
    /// Where it is reached.
    pub endpoint: Option<String>,
    /// How long ago keys were agreed on with it.
    pub handshake_seconds: Option<u64>,
}

/// One echo to be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AskPing {
    /// Address, or a name that the network's servers are asked for.
    pub host: String,
    /// Number of the question.
    #[serde(default)]
    pub sequence: u16,
    /// How long an answer may take; at most 20 seconds.
    pub timeout_ms: u32,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pong {
    /// Who was asked.
    pub address: String,
    /// Number of the question.
    pub sequence: u16,
    /// How long the answer took; none when it did not come.
    pub seconds: Option<f64>,
    /// Why it could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Something that happened to a network that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshEvent {
    /// RFC 3339, UTC.
    pub at: String,
    /// `running` (the first one), `peer-handshake`, `peer-moved`, `peer-silent`, `peer-added`, `peer-removed`,
    /// `rule-added`, `rule-removed`, `rule-failed`, `worker-replaced`, `port-refused`, `ending`, `missed`.
    pub kind: String,
    /// Key of the peer concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// Id of the rule concerned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// One line.
    pub text: String,
}

/// A rule to be added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewMeshRule {
    /// `ingress` or `egress`.
    pub direction: String,
    /// Its text.
    pub rule: String,
    /// The daemon's file has it: it is not kept beside that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub configured: bool,
}

/// Rules that come and go, all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeMeshRules {
    /// To be added. One that is there stays as it is.
    #[serde(default)]
    pub add: Vec<NewMeshRule>,
    /// To be removed, by their ids.
    #[serde(default)]
    pub remove: Vec<String>,
}
