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

/// The same through a hub, where an answer has two ways to go.
const TURN_THROUGH: Duration = Duration::from_secs(4);

/// Pauses between two tries to reach a peer straight that is reached through a hub: the first, and the longest. That is less
/// than the 30 s after which many a translation of addresses forgets, so that both sides let each other in.
const PROBE_PAUSE: Duration = Duration::from_secs(2);
const PROBE_PAUSE_MAX: Duration = Duration::from_secs(25);

/// Places that are tried at once.
const PROBED: usize = 8;

/// Whoever has sent and heard nothing for so long is not looked for.
const IDLE: Duration = Duration::from_secs(60);

/// Age of a handshake at which a hub is none: its keys are refused.
const HUB_LOST: Duration = Duration::from_secs(180);

/// Age of a handshake at which a peer counts as silent: keys are made anew after 120 s, and refused after 180 s.
const SILENT: Duration = Duration::from_secs(135);

/// How long a lookup may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// Where peers may be.
#[derive(Default)]
pub(super) struct Whereabouts {
    peers: Mutex<BTreeMap<PublicKey, Sought>>,
    /// Through whom peers are reached that are reached nowhere else, the same ones first everywhere.
    hubs: Mutex<Vec<PublicKey>>,
    changed: Notify,
}

/// A peer that may have to be looked for.
#[derive(Debug, Clone, Default)]
struct Sought {
    endpoints: Vec<Endpoint>,
    tried: Option<Instant>,
    /// Another one each time.
    turn: usize,
    /// Packets that came and went, and when it was last seen that they did.
    packets: u64,
    talked: Option<Instant>,
    /// When it was last tried straight, and how long it is not tried again.
    probed: Option<(Instant, Duration)>,
}

/// What is done about a peer that is not reached, or not straight.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Try {
    /// It is tried there; of several addresses of a name this one.
    Place(Endpoint, usize),
    /// It is tried through this hub.
    Hub(PublicKey),
    /// It is reached through a hub, and is tried there.
    Straight(Vec<SocketAddr>),
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

    /// Peers that pass messages on.
    pub(super) fn set_hubs(&self, mut hubs: Vec<PublicKey>) {
        hubs.sort_unstable();
        *self.hubs.lock().unwrap_or_else(PoisonError::into_inner) = hubs;
        self.changed.notify_one();
    }

    /// Hubs that answer.
    fn live_hubs(&self, states: &[PeerState], now: Instant) -> Vec<PublicKey> {
        let hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        let age = |at: Instant| now.saturating_duration_since(at);
        let answers = |key: &&PublicKey| {
            states.iter().any(|state| {
                state.public_key == **key
                    && state.through.is_none()
                    && state.last_handshake.is_some_and(|at| age(at) < HUB_LOST)
                    && state.trying_since.is_none_or(|since| age(since) < TURN)
            })
        };
        hubs.iter().filter(answers).copied().collect()
    }

    /// Where each peer is to be tried that is not reached, or not straight.
    fn due(&self, states: &[PeerState], now: Instant) -> Vec<(PublicKey, Try)> {
        let hubs = self.live_hubs(states, now);
        let mut peers = self.peers();
        let mut due = Vec::new();
        for state in states {
            let Some(sought) = peers.get_mut(&state.public_key) else { continue };
            sought.look(state, now);
            // A hub is reached without another one, or not at all.
            let own: Vec<PublicKey> = hubs.iter().copied().filter(|hub| *hub != state.public_key).collect();
            let next = match state.through {
                Some(hub) => sought.through(state, &own, hub, now),
                None => sought.straight(state, &own, now),
            };
            due.extend(next.map(|next| (state.public_key, next)));
        }
        due
    }
}

impl Sought {
    /// Whether anything comes or goes.
    fn look(&mut self, state: &PeerState, now: Instant) {
        let packets = state.received_packets.wrapping_add(state.sent_packets);
        if std::mem::replace(&mut self.packets, packets) != packets {
            self.talked = Some(now);
        }
    }

    /// The next in the row of all places and all hubs.
    fn next(&mut self, hubs: &[PublicKey], now: Instant) -> Option<Try> {
        let places = self.endpoints.len();
        let count = (places + hubs.len()).max(1);
        let at = self.turn % count;
        let next = match self.endpoints.get(at) {
            // Of several addresses of one name another one each time round.
            Some(endpoint) => Try::Place(endpoint.clone(), self.turn / count),
            None => Try::Hub(*hubs.get(at.checked_sub(places)?)?),
        };
        (self.tried, self.turn) = (Some(now), self.turn.wrapping_add(1));
        if matches!(next, Try::Hub(_)) {
            self.probed = Some((now, PROBE_PAUSE));
        }
        Some(next)
    }

    /// What is done about a peer that is not reached through a hub.
    fn straight(&mut self, state: &PeerState, hubs: &[PublicKey], now: Instant) -> Option<Try> {
        let count = self.endpoints.len() + hubs.len();
        // Where it is tried already is no other place.
        let present = self.endpoints.get(self.turn % count.max(1)).and_then(known);
        if count > 1 && present.is_some() && present == state.endpoint {
            self.turn = self.turn.wrapping_add(1);
        }
        if self.is_due(state, !hubs.is_empty(), now) { self.next(hubs, now) } else { None }
    }

    /// What is done about one that is reached through `hub`.
    fn through(
        &mut self,
        state: &PeerState,
        hubs: &[PublicKey],
        hub: PublicKey,
        now: Instant,
    ) -> Option<Try> {
        let age = |at: Instant| now.saturating_duration_since(at);
        if !hubs.contains(&hub) {
            return match hubs.first() {
                Some(other) => {
                    self.tried = Some(now);
                    Some(Try::Hub(*other))
                }
                // It is looked for as if it were new.
                None => {
                    self.turn = 0;
                    self.next(&[], now)
                }
            };
        }
        if state.trying_since.is_some_and(|since| age(since) >= TURN_THROUGH)
            && self.tried.is_none_or(|tried| age(tried) >= TURN_THROUGH)
        {
            return self.next(hubs, now);
        }
        let (probed, pause) = *self.probed.get_or_insert((now, PROBE_PAUSE));
        if age(probed) < pause || self.talked.is_none_or(|talked| age(talked) >= IDLE) {
            return None;
        }
        self.probed = Some((now, (pause * 2).min(PROBE_PAUSE_MAX)));
        let places = self.endpoints.iter().filter_map(known).chain(state.endpoint);
        let places: BTreeSet<SocketAddr> = places.collect();
        let places: Vec<SocketAddr> = places.into_iter().take(PROBED).collect();
        (!places.is_empty()).then_some(Try::Straight(places))
    }

    fn is_due(&self, state: &PeerState, has_hubs: bool, now: Instant) -> bool {
        let rested = |pause| self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= pause);
        if state.endpoint.is_none() {
            return rested(UNKNOWN_PAUSE);
        }
        let silent = state.last_handshake.is_none_or(|at| now.saturating_duration_since(at) >= SILENT);
        let in_vain = |since: Instant| now.saturating_duration_since(since) >= TURN;
        let in_vain = state.trying_since.is_some_and(in_vain);
        match self.endpoints.as_slice() {
            _ if has_hubs => in_vain && rested(TURN),
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
            let through = states.iter().filter(|state| state.through.is_some());
            let through: BTreeSet<PublicKey> = through.map(|state| state.public_key).collect();
            let mut moved = Vec::new();
            for (key, next) in shared.whereabouts.due(&states, Instant::now()) {
                let before = before.get(&key).copied().flatten();
                let (endpoint, turn) = match next {
                    Try::Place(endpoint, turn) => (endpoint, turn),
                    Try::Hub(hub) => {
                        info!(peer = %key, %hub, "a peer is tried through a hub");
                        moved.push(Change::Through(key, hub));
                        continue;
                    }
                    Try::Straight(places) => {
                        moved.push(Change::Probe(key, places));
                        continue;
                    }
                };
                match known(&endpoint) {
                    Some(address) if before == Some(address) && !through.contains(&key) => {}
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
            through: None,
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
            ..Sought::default()
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
                sought(tried).is_due(&state(known, handshake), false, now),
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
            let text = |(_, next)| match next {
                Try::Place(endpoint, _) => endpoint.to_string(),
                other => format!("{other:?}"),
            };
            whereabouts.due(&[state], now).into_iter().map(text).collect()
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

    /// Fails when: a hub is used before the places, one that is silent is used or stayed with, a peer that nobody talks to
    /// is looked for, or the tries do not become fewer.
    #[test]
    fn who_is_reached_nowhere_is_reached_through_a_hub() {
        let now = Instant::now() + Duration::from_secs(1000);
        let at = |seconds| now + Duration::from_secs(seconds);
        let key = |byte| crate::spec::PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
        let whereabouts = Whereabouts::default();
        let peer = state(Some("10.0.0.5:1"), None, Some(at(0)));
        whereabouts.put(peer.public_key, vec![endpoint("10.0.0.5:1"), endpoint("192.0.2.9:2")]);
        whereabouts.set_hubs(vec![key(1), key(2)]);
        let hub = |byte, trying| PeerState { public_key: key(byte), ..state(None, Some(now), trying) };
        let tried = |peer: &PeerState, hubs: [PeerState; 2], now| -> Option<Try> {
            let [one, two] = hubs;
            whereabouts.due(&[peer.clone(), one, two], now).pop().map(|(_, next)| next)
        };
        let hubs = || [hub(1, None), hub(2, None)];
        let mut order = [key(1), key(2)];
        order.sort_unstable();
        let [first, second] = order;
        assert_eq!(tried(&peer, hubs(), at(2)), Some(Try::Place(endpoint("192.0.2.9:2"), 0)));
        let there = PeerState { endpoint: Some("192.0.2.9:2".parse().unwrap()), ..peer.clone() };
        assert_eq!(tried(&there, hubs(), at(3)), None);
        assert_eq!(tried(&there, hubs(), at(4)), Some(Try::Hub(first)));
        let through = |hub, trying: Option<Instant>, packets| PeerState {
            through: Some(hub),
            trying_since: trying,
            sent_packets: packets,
            ..there.clone()
        };
        // It is tried straight in all its places, ever more seldom, as long as somebody talks to it.
        let places = ["10.0.0.5:1", "192.0.2.9:2"].map(|place| place.parse().unwrap()).to_vec();
        let tries: Vec<u64> = (5..120)
            .filter(|second| {
                tried(&through(first, None, *second), hubs(), at(*second))
                    == Some(Try::Straight(places.clone()))
            })
            .collect();
        assert_eq!(tries, [6, 10, 18, 34, 59, 84, 109]);
        assert_eq!(tried(&through(first, None, 119), hubs(), at(178)), Some(Try::Straight(places)));
        assert_eq!(tried(&through(first, None, 119), hubs(), at(179)), None);
        // The hub is silent: another one; both are: the places again.
        let silent = |byte| hub(byte, (key(byte) == first).then(|| at(1000)));
        let hubs_then = [silent(1), silent(2)].map(|hub| PeerState { last_handshake: Some(at(999)), ..hub });
        assert_eq!(tried(&through(first, None, 119), hubs_then, at(1002)), Some(Try::Hub(second)));
        let lost = [hub(1, None), hub(2, None)];
        assert_eq!(
            tried(&through(second, None, 119), lost, at(1003)),
            Some(Try::Place(endpoint("10.0.0.5:1"), 0))
        );
    }
}
