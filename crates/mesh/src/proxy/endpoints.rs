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
    /// The first of its places that is tried next while it is reached through a hub.
    begin: usize,
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
    /// It is reached through a hub, and is tried in all these places.
    Straight(Places),
}

/// Some places of a peer: those that are known, and those that have names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Places {
    known: Vec<SocketAddr>,
    named: Vec<Endpoint>,
}

/// What a hub is good for.
#[derive(Debug, Clone, Default)]
struct Hubs {
    all: Vec<PublicKey>,
    /// They answer.
    live: Vec<PublicKey>,
    /// They have keys, and may answer again.
    keyed: Vec<PublicKey>,
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

    /// How the hubs are.
    fn hubs(&self, states: &[PeerState], now: Instant) -> Hubs {
        let age = |at: Instant| now.saturating_duration_since(at);
        let mut hubs =
            Hubs { all: self.hubs.lock().unwrap_or_else(PoisonError::into_inner).clone(), ..Hubs::default() };
        for hub in &hubs.all {
            let keyed = |state: &&PeerState| {
                state.public_key == *hub
                    && state.through.is_none()
                    && state.last_handshake.is_some_and(|at| age(at) < HUB_LOST)
            };
            let Some(state) = states.iter().find(keyed) else { continue };
            hubs.keyed.push(*hub);
            if state.trying_since.is_none_or(|since| age(since) < TURN) {
                hubs.live.push(*hub);
            }
        }
        hubs
    }

    /// Where each peer is to be tried that is not reached, or not straight.
    fn due(&self, states: &[PeerState], now: Instant) -> Vec<(PublicKey, Try)> {
        let hubs = self.hubs(states, now);
        let mut peers = self.peers();
        let mut due = Vec::new();
        for state in states {
            let Some(sought) = peers.get_mut(&state.public_key) else { continue };
            sought.look(state, now);
            // A hub is reached without another one, or not at all.
            let live: &[PublicKey] = if hubs.all.contains(&state.public_key) { &[] } else { &hubs.live };
            let next = match state.through {
                Some(hub) => sought.through(state, live, hub, hubs.keyed.contains(&hub), now),
                None => sought.straight(state, live, now),
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

    /// What is done about one that is reached through `hub`. While that has keys the way is not left for a place, but
    /// places are tried beside it: one that is taken for a while without an answer is a while of silence.
    fn through(
        &mut self,
        state: &PeerState,
        live: &[PublicKey],
        hub: PublicKey,
        is_keyed: bool,
        now: Instant,
    ) -> Option<Try> {
        let age = |at: Instant| now.saturating_duration_since(at);
        if !live.contains(&hub) {
            if let Some(other) = live.first() {
                self.tried = Some(now);
                return Some(Try::Hub(*other));
            }
            if !is_keyed {
                // It is looked for as if it were new.
                self.turn = 0;
                return self.next(&[], now);
            }
        }
        if state.trying_since.is_some_and(|since| age(since) >= TURN_THROUGH)
            && self.tried.is_none_or(|tried| age(tried) >= TURN_THROUGH)
        {
            (self.tried, self.turn) = (Some(now), self.turn.wrapping_add(1));
            // Another hub one time, its places the other.
            let others: Vec<PublicKey> = live.iter().copied().filter(|other| *other != hub).collect();
            return match others.get(self.turn / 2 % others.len().max(1)) {
                Some(other) if self.turn.is_multiple_of(2) => Some(Try::Hub(*other)),
                _ => self.places(state).map(Try::Straight),
            };
        }
        let (probed, pause) = *self.probed.get_or_insert((now, PROBE_PAUSE));
        if age(probed) < pause || self.talked.is_none_or(|talked| age(talked) >= IDLE) {
            return None;
        }
        self.probed = Some((now, (pause * 2).min(PROBE_PAUSE_MAX)));
        self.places(state).map(Try::Straight)
    }

    /// Places that are tried at once: where it was last heard of, and of the others, in their order, other ones each time if
    /// there are too many.
    fn places(&mut self, state: &PeerState) -> Option<Places> {
        let mut places = Places { known: state.endpoint.into_iter().collect(), named: Vec::new() };
        let others =
            self.endpoints.iter().filter(|place| known(place).is_none_or(|at| Some(at) != state.endpoint));
        let others: Vec<&Endpoint> = others.collect();
        let count = (PROBED - places.known.len()).min(others.len());
        for place in others.iter().cycle().skip(self.begin % others.len().max(1)).take(count) {
            match known(place) {
                Some(place) => places.known.push(place),
                None => places.named.push((*place).clone()),
            }
        }
        if count < others.len() {
            self.begin = (self.begin + count) % others.len();
        }
        (places != Places::default()).then_some(places)
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
                let sought = match next {
                    Try::Hub(hub) => {
                        info!(peer = %key, %hub, "a peer is tried through a hub");
                        moved.push(Change::Through(key, hub));
                        continue;
                    }
                    Try::Straight(Places { known, named }) if named.is_empty() => {
                        moved.push(Change::Probe(key, known));
                        continue;
                    }
                    Try::Straight(places) => Lookup::Probe(places),
                    Try::Place(endpoint, turn) => match known(&endpoint) {
                        Some(address) if before == Some(address) && !through.contains(&key) => continue,
                        Some(address) => {
                            info!(%endpoint, "a peer is tried elsewhere");
                            moved.push(Change::Endpoint(key, address));
                            continue;
                        }
                        None => Lookup::Place(endpoint, turn, before),
                    },
                };
                if looking.insert(key) {
                    let shared = Arc::clone(&shared);
                    lookups.spawn(async move {
                        sought.run(&shared, key).await;
                        key
                    });
                }
            }
            place(&shared, moved).await;
        }
        // Whoever is new is not to wait for the rest.
        timeout(EVERY, shared.whereabouts.changed.notified()).await.ok();
    }
}

/// Names that are to be looked up.
enum Lookup {
    /// The peer is tried there; of several addresses at this one, and was there before.
    Place(Endpoint, usize, Option<SocketAddr>),
    /// It is tried in all of these.
    Probe(Places),
}

impl Lookup {
    async fn run(self, shared: &Arc<Shared>, key: PublicKey) {
        match self {
            Lookup::Place(endpoint, turn, before) => {
                let found = look_up(shared, &endpoint).await;
                let count = found.len().max(1);
                let Some(address) = found.into_iter().nth(turn % count) else { return };
                if before != Some(address) {
                    info!(%endpoint, %address, "endpoint found");
                    place(shared, vec![Change::Endpoint(key, address)]).await;
                }
            }
            Lookup::Probe(Places { mut known, named }) => {
                for endpoint in named {
                    let found = look_up(shared, &endpoint).await;
                    known.extend(found.into_iter().take(PROBED.saturating_sub(known.len())));
                }
                if !known.is_empty() {
                    place(shared, vec![Change::Probe(key, known)]).await;
                }
            }
        }
    }
}

async fn look_up(shared: &Arc<Shared>, endpoint: &Endpoint) -> Vec<SocketAddr> {
    let name = (endpoint.host.to_string(), endpoint.port.get());
    let work = move || Ok(name.to_socket_addrs()?.collect());
    let found = shared.room.look_up_peer(LOOKUP, work).await;
    found.unwrap_or_else(|error| {
        debug!(%endpoint, %error, "endpoint not found");
        Vec::new()
    })
}

/// Has the tunnel try its peers there. One that does not answer is asked again in its time.
async fn place(shared: &Arc<Shared>, changes: Vec<Change>) {
    if !changes.is_empty() {
        let asked = Arc::clone(shared);
        shared.room.read(move || Ok(asked.tunnel.change(changes).ok())).await.ok();
    }
}

#[cfg(test)]
mod tests;
