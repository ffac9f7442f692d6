//! What is shown of networks: by `/1.0`, and for Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use portway_control::Limits;
use portway_control::api::{MeshStatus, NetworkPeer, NetworkState, NetworkStatus};
use tokio::task::JoinSet;

use super::{Networks, Seen, locked};
use crate::metrics::{Watched, labels};

/// What bounds the question to a network: it is another user's process.
pub(super) const LIMITS: Limits = Limits {
    ask: Duration::from_secs(2),
    change: Duration::from_secs(20),
    answer_bytes: 8 << 20,
    event_bytes: 1 << 16,
};

type Value = fn(&Seen) -> u64;

impl Networks {
    /// Every network, those that run with what they say of themselves.
    pub(crate) async fn shown(&self) -> Vec<NetworkStatus> {
        let mut asked = JoinSet::new();
        for (name, handle) in locked(&self.handles).iter().filter(|(_, handle)| handle.is_there()) {
            let (seen, client) = (Arc::clone(&handle.seen), self.around.client(name));
            let name = name.clone();
            asked.spawn(async move {
                let is_asked = locked(&seen).state == NetworkState::Running;
                let answer = if is_asked { Some(client.mesh().await) } else { None };
                let seen = locked(&seen);
                let mut status = NetworkStatus {
                    name,
                    state: seen.state,
                    pid: seen.pid,
                    since_seconds: seen.since.elapsed().as_secs(),
                    restarts: seen.restarts,
                    error: seen.error.clone(),
                    engine: None,
                    engine_reason: None,
                    addresses: Vec::new(),
                    organization: None,
                    rules: None,
                    connections: None,
                    peers: Vec::new(),
                };
                match answer {
                    Some(Ok(told)) => fill(&mut status, told),
                    Some(Err(error)) => status.error = status.error.or(Some(error.to_string())),
                    None => {}
                }
                status
            });
        }
        let mut all = asked.join_all().await;
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// Processes of networks, for Prometheus.
    pub(crate) fn processes(&self) -> Vec<Watched> {
        let handles = locked(&self.handles);
        let mut found = Vec::new();
        for (name, handle) in handles.iter().filter(|(_, handle)| handle.is_there()) {
            let pid = locked(&handle.seen).pid.and_then(|pid| u32::try_from(pid).ok());
            let labels = labels([("process", "network"), ("network", name.as_str())]);
            found.extend(pid.map(|pid| Watched { labels, pid }));
        }
        found
    }

    /// Which networks run, for Prometheus. What each of them counts is at its own socket.
    pub(crate) fn metrics(&self) -> String {
        let handles = locked(&self.handles);
        let mut text = String::new();
        let families: [(&str, &str, &str, Value); 2] = [
            ("portway_mesh_up", "gauge", "1 while a network of the daemon runs.", |seen| {
                u64::from(seen.state == NetworkState::Running)
            }),
            ("portway_mesh_restarts_total", "counter", "How often a network was started again.", |seen| {
                seen.restarts
            }),
        ];
        for (family, kind, help, value) in families {
            // Writing to a string cannot fail.
            let _infallible = writeln!(text, "# HELP {family} {help}\n# TYPE {family} {kind}");
            for (name, handle) in handles.iter().filter(|(_, handle)| handle.is_there()) {
                let value = value(&locked(&handle.seen));
                let _infallible = writeln!(text, "{family}{{network=\"{name}\"}} {value}");
            }
        }
        text
    }
}

fn fill(status: &mut NetworkStatus, told: MeshStatus) {
    let count = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
    status.rules = Some(count(told.rules.len()));
    status.connections = Some(told.rules.iter().map(|rule| rule.connections_now).sum());
    status.engine = Some(told.engine);
    status.engine_reason = told.engine_reason;
    status.addresses = told.addresses;
    status.organization = told.organization;
    let peer = |peer: portway_control::api::MeshPeer| NetworkPeer {
        name: peer.name.unwrap_or(peer.public_key),
        endpoint: peer.endpoint,
        handshake_seconds: peer.handshake_seconds,
    };
    status.peers = told.peers.into_iter().map(peer).collect();
}
