//! Where peers are: names of endpoints are looked up at the start, and again while no handshake succeeds, since what a
//! name stands for may have changed. A peer that may be in several places is tried in one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_model::Host;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info};

use super::serve::Shared;
use crate::spec::{Endpoint, Peer, PublicKey};
use crate::tunnel::Change;
use crate::wg::PeerState;

/// How often it is looked whether a peer is to be tried elsewhere.
const EVERY: Duration = Duration::from_secs(1);

/// Pauses between two lookups of one name: while nothing was ever found, and while a peer is not reached.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(2);
const SILENT_PAUSE: Duration = Duration::from_secs(15);

/// How long a peer is tried in one of several places: longer than an answer takes from anywhere on Earth.
const TURN: Duration = Duration::from_secs(2);

/// Age of a handshake at which a peer counts as silent: keys are made anew after 120 s, and refused after 180 s.
const SILENT: Duration = Duration::from_secs(135);

/// How long a lookup may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// Where peers may be.
#[derive(Default)]
pub(super) struct Whereabouts {
    peers: Mutex<BTreeMap<PublicKey, Sought>>,
    changed: Notify,
}

/// A peer that may have to be looked for.
#[derive(Debug, Clone, Default)]
struct Sought {
    endpoints: Vec<Endpoint>,
    tried: Option<Instant>,
    /// Another one each time.
    turn: usize,
}

impl Whereabouts {
    pub(super) fn new(peers: &[Peer]) -> Whereabouts {
        let whereabouts = Whereabouts::default();
        for peer in peers {
            whereabouts.put(peer.public_key, peer.endpoint.iter().cloned().collect());
        }
        whereabouts
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<PublicKey, Sought>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A peer may be at these, the most likely first. What is so already stays as it is.
    pub(super) fn put(&self, key: PublicKey, endpoints: Vec<Endpoint>) {
        let mut peers = self.peers();
        let sought = peers.entry(key).or_default();
        if sought.endpoints != endpoints {
            *sought = Sought { endpoints, ..Sought::default() };
            self.changed.notify_one();
        }
    }

    pub(super) fn remove(&self, key: &PublicKey) {
        self.peers().remove(key);
    }

    /// Where each peer is to be tried that is not reached.
    fn due(&self, states: &[PeerState], now: Instant) -> Vec<(PublicKey, Endpoint, usize)> {
        let mut peers = self.peers();
        let mut due = Vec::new();
        for state in states {
            let Some(sought) = peers.get_mut(&state.public_key) else { continue };
            let count = sought.endpoints.len().max(1);
            // Where it is tried already is no other place.
            let present = sought.endpoints.get(sought.turn % count).and_then(known);
            if count > 1 && present.is_some() && present == state.endpoint {
                sought.turn = sought.turn.wrapping_add(1);
            }
            let Some(endpoint) =
                sought.endpoints.get(sought.turn % count).filter(|_| sought.is_due(state, now))
            else {
                continue;
            };
            // Of several addresses of one name another one each time round.
            due.push((state.public_key, endpoint.clone(), sought.turn / count));
            (sought.tried, sought.turn) = (Some(now), sought.turn.wrapping_add(1));
        }
        due
    }
}

impl Sought {
    fn is_due(&self, state: &PeerState, now: Instant) -> bool {
        let rested = |pause| self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= pause);
        if state.endpoint.is_none() {
            return rested(UNKNOWN_PAUSE);
        }
        let silent = state.last_handshake.is_none_or(|at| now.saturating_duration_since(at) >= SILENT);
        let in_vain = |since: Instant| now.saturating_duration_since(since) >= TURN;
        let in_vain = state.trying_since.is_some_and(in_vain);
        match self.endpoints.as_slice() {
            // It is there, and nowhere else.
            [only] if known(only).is_some() && known(only) == state.endpoint => false,
            [_] => (silent || in_vain) && rested(SILENT_PAUSE),
            // Whoever has nothing to say to it need not know where it is.
            _ => in_vain && rested(TURN),
        }
    }
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

/// Looks after where peers are, for ever.
pub(super) async fn tend(shared: Arc<Shared>) {
    // Names that are being looked up, at most one of each peer: whoever has a name that nobody knows holds up nobody else.
    let mut lookups = JoinSet::new();
    let mut looking = BTreeSet::new();
    loop {
        while let Some(done) = lookups.try_join_next() {
            match done {
                Ok(key) => drop(looking.remove(&key)),
                Err(error) => debug!(%error, "a lookup has failed"),
            }
        }
        if !shared.whereabouts.peers().is_empty() {
            let asked = Arc::clone(&shared);
            let states = shared.room.read(move || Ok(asked.tunnel.peers())).await;
            let states = states.ok().flatten().unwrap_or_default();
            let before: BTreeMap<PublicKey, Option<SocketAddr>> =
                states.iter().map(|state| (state.public_key, state.endpoint)).collect();
            let mut moved = Vec::new();
            for (key, endpoint, turn) in shared.whereabouts.due(&states, Instant::now()) {
                let before = before.get(&key).copied().flatten();
                match known(&endpoint) {
                    Some(address) if before == Some(address) => {}
                    Some(address) => {
                        info!(%endpoint, "a peer is tried elsewhere");
                        moved.push(Change::Endpoint(key, address));
                    }
                    None if looking.insert(key) => {
                        let shared = Arc::clone(&shared);
                        lookups.spawn(async move {
                            look_up(&shared, key, &endpoint, turn, before).await;
                            key
                        });
                    }
                    None => {}
                }
            }
            place(&shared, moved).await;
        }
        // Whoever is new is not to wait for the rest.
        timeout(EVERY, shared.whereabouts.changed.notified()).await.ok();
    }
}

async fn look_up(
    shared: &Arc<Shared>,
    key: PublicKey,
    endpoint: &Endpoint,
    turn: usize,
    before: Option<SocketAddr>,
) {
    let name = (endpoint.host.to_string(), endpoint.port.get());
    let work = move || Ok(name.to_socket_addrs()?.collect());
    let found: Vec<SocketAddr> = match shared.room.look_up_peer(LOOKUP, work).await {
        Ok(found) => found,
        Err(error) => return debug!(%endpoint, %error, "endpoint not found"),
    };
    let count = found.len().max(1);
    let Some(address) = found.into_iter().nth(turn % count) else { return };
    if before != Some(address) {
        info!(%endpoint, %address, "endpoint found");
        place(shared, vec![Change::Endpoint(key, address)]).await;
    }
}

/// Has the tunnel try its peers there. One that does not answer is asked again in its time.
async fn place(shared: &Arc<Shared>, changes: Vec<Change>) {
    if !changes.is_empty() {
        let asked = Arc::clone(shared);
        shared.room.read(move || Ok(asked.tunnel.change(changes).ok())).await.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(text: &str) -> Endpoint {
        crate::org::endpoint(text).unwrap()
    }

    fn state(at: Option<&str>, handshake: Option<Instant>, trying_since: Option<Instant>) -> PeerState {
        PeerState {
            public_key: crate::spec::PrivateKey::from_bytes(&[7; 32]).unwrap().public(),
            allowed_ips: Vec::new(),
            endpoint: at.map(|at| at.parse().unwrap()),
            last_handshake: handshake,
            trying_since,
            received_packets: 0,
            received_bytes: 0,
            sent_packets: 0,
            sent_bytes: 0,
            longest_packet: None,
        }
    }

    /// Fails when: a peer that is reached is looked up, one that is not is never looked up again, or at every turn.
    #[test]
    fn names_are_looked_up_while_nobody_answers() {
        let now = Instant::now() + Duration::from_secs(1000);
        let ago = |seconds| now - Duration::from_secs(seconds);
        let sought = |tried: Option<u64>| Sought {
            endpoints: vec![endpoint("a.example:1")],
            tried: tried.map(ago),
            turn: 0,
        };
        let state = |known: bool, handshake: Option<u64>| {
            state(known.then_some("192.0.2.1:1"), handshake.map(ago), None)
        };
        for (tried, known, handshake, due) in [
            (None, false, None, true),
            (Some(1), false, None, false),
            (Some(2), false, None, true),
            (None, true, None, true),
            (Some(2), true, None, false),
            (Some(15), true, None, true),
            (Some(900), true, Some(134), false),
            (Some(900), true, Some(135), true),
        ] {
            assert_eq!(
                sought(tried).is_due(&state(known, handshake), now),
                due,
                "{tried:?} {known} {handshake:?}"
            );
        }
    }

    /// Fails when: the places of a peer are not all tried, not in their order, while it is reached, or for nothing.
    #[test]
    fn places_are_tried_one_after_the_other() {
        let now = Instant::now() + Duration::from_secs(1000);
        let whereabouts = Whereabouts::default();
        let key = state(None, None, None).public_key;
        let places = vec![endpoint("10.0.0.5:1"), endpoint("192.0.2.9:2")];
        whereabouts.put(key, places.clone());
        let at = |seconds| now + Duration::from_secs(seconds);
        let tried = |state: PeerState, now| -> Vec<String> {
            whereabouts.due(&[state], now).into_iter().map(|(_, endpoint, _)| endpoint.to_string()).collect()
        };
        assert_eq!(tried(state(None, None, None), at(0)), ["10.0.0.5:1"]);
        let here = Some("10.0.0.5:1");
        assert!(tried(state(here, None, None), at(9)).is_empty(), "nothing is sent to it");
        assert!(tried(state(here, None, Some(at(8))), at(9)).is_empty(), "not yet");
        assert_eq!(tried(state(here, None, Some(at(7))), at(9)), ["192.0.2.9:2"]);
        assert!(tried(state(here, None, Some(at(7))), at(10)).is_empty());
        let there = Some("192.0.2.9:2");
        assert_eq!(tried(state(there, Some(at(1)), Some(at(7))), at(11)), ["10.0.0.5:1"]);
        // What is said again changes nothing; what is new is tried from its first place on.
        whereabouts.put(key, places);
        assert!(tried(state(here, None, Some(at(7))), at(12)).is_empty());
        whereabouts.put(key, vec![endpoint("192.0.2.9:3"), endpoint("192.0.2.9:2")]);
        assert_eq!(tried(state(here, None, Some(at(7))), at(12)), ["192.0.2.9:3"]);
        // One that has moved is not waited for until its keys are old.
        whereabouts.put(key, vec![endpoint("192.0.2.9:4")]);
        assert_eq!(tried(state(here, Some(at(10)), Some(at(12))), at(14)), ["192.0.2.9:4"]);
        assert!(tried(state(Some("192.0.2.9:4"), Some(at(10)), Some(at(12))), at(99)).is_empty());
        whereabouts.remove(&key);
        assert!(tried(state(None, None, None), at(99)).is_empty());
    }
}
