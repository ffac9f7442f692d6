//! Where peers are: names of endpoints are looked up at the start, and again while no handshake succeeds, since what a
//! name stands for may have changed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_model::Host;
use tokio::net::lookup_host;
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use super::serve::Shared;
use crate::spec::{Endpoint, Peer};
use crate::wg::{PeerId, PeerState};

/// How often it is looked whether a name is to be looked up.
const EVERY: Duration = Duration::from_secs(1);

/// Pauses between two lookups of one name: while nothing was ever found, and while a peer is not reached.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(2);
const SILENT_PAUSE: Duration = Duration::from_secs(15);

/// Age of a handshake at which a peer counts as silent: keys are made anew after 120 s, and refused after 180 s.
const SILENT: Duration = Duration::from_secs(135);

/// How long a lookup may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// A peer with a name.
struct Named {
    id: PeerId,
    endpoint: Endpoint,
    tried: Option<Instant>,
    /// Of several addresses another one each time.
    turn: usize,
}

/// The address of an endpoint that has no name.
pub(super) fn known(endpoint: &Endpoint) -> Option<SocketAddr> {
    match &endpoint.host {
        Host::Ip(host) => {
            let mut address = SocketAddr::new(host.ip(), endpoint.port.get());
            if let (SocketAddr::V6(v6), Some(zone)) = (&mut address, host.zone()) {
                v6.set_scope_id(portway_sys::interface::index(zone.as_str()).ok()?);
            }
            Some(address)
        }
        Host::Name(_) => None,
    }
}

/// Looks after the endpoints of `peers`, for ever.
pub(super) async fn tend(shared: Arc<Shared>, peers: Vec<Peer>) {
    let ids = (0..).map(PeerId).zip(peers);
    let mut named: Vec<Named> = ids
        .filter_map(|(id, peer)| {
            let endpoint = peer.endpoint.filter(|endpoint| known(endpoint).is_none())?;
            Some(Named { id, endpoint, tried: None, turn: 0 })
        })
        .collect();
    while !named.is_empty() {
        let asked = Arc::clone(&shared);
        let states = spawn_blocking(move || asked.tunnel.peers()).await.ok().flatten();
        let states: BTreeMap<PeerId, PeerState> = (0..).map(PeerId).zip(states.unwrap_or_default()).collect();
        for peer in &mut named {
            let Some(state) = states.get(&peer.id) else { continue };
            if is_due(peer, state, Instant::now()) {
                peer.tried = Some(Instant::now());
                look_up(&shared, peer, state).await;
            }
        }
        sleep(EVERY).await;
    }
}

fn is_due(peer: &Named, state: &PeerState, now: Instant) -> bool {
    let pause = if state.endpoint.is_none() { UNKNOWN_PAUSE } else { SILENT_PAUSE };
    let rested = peer.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= pause);
    let silent = state.last_handshake.is_none_or(|at| now.saturating_duration_since(at) >= SILENT);
    rested && silent
}

async fn look_up(shared: &Shared, peer: &mut Named, state: &PeerState) {
    let Endpoint { host, port } = &peer.endpoint;
    let found = match timeout(LOOKUP, lookup_host((host.to_string(), port.get()))).await {
        Ok(Ok(found)) => found.collect::<Vec<_>>(),
        Ok(Err(error)) => return debug!(endpoint = %peer.endpoint, %error, "endpoint not found"),
        Err(_) => return debug!(endpoint = %peer.endpoint, "endpoint not found in time"),
    };
    let count = found.len().max(1);
    let Some(address) = found.into_iter().nth(peer.turn % count) else { return };
    peer.turn += 1;
    if state.endpoint != Some(address) {
        info!(endpoint = %peer.endpoint, %address, "endpoint found");
        shared.tunnel.set_endpoint(peer.id, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a peer that is reached is looked up, one that is not is never looked up again, or at every turn.
    #[test]
    fn names_are_looked_up_while_nobody_answers() {
        let now = Instant::now() + Duration::from_secs(1000);
        let endpoint =
            Endpoint { host: "a.example".parse().unwrap(), port: portway_model::Port::new(1).unwrap() };
        let peer = |tried: Option<u64>| Named {
            id: PeerId(0),
            endpoint: endpoint.clone(),
            tried: tried.map(|seconds| now - Duration::from_secs(seconds)),
            turn: 0,
        };
        let state = |known: bool, handshake: Option<u64>| PeerState {
            endpoint: known.then(|| SocketAddr::from(([192, 0, 2, 1], 1))),
            last_handshake: handshake.map(|seconds| now - Duration::from_secs(seconds)),
            received_packets: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_bytes: 0,
        };
        for (tried, known, handshake, due) in [
            (None, false, None, true),
            (Some(1), false, None, false),
            (Some(2), false, None, true),
            (Some(14), true, None, false),
            (Some(15), true, None, true),
            (Some(100), true, Some(134), false),
            (Some(100), true, Some(135), true),
            (None, true, Some(1), false),
        ] {
            assert_eq!(
                is_due(&peer(tried), &state(known, handshake), now),
                due,
                "{tried:?} {known} {handshake:?}"
            );
        }
    }
}
