//! All peers of a tunnel, and what a datagram does to them.

mod change;
mod handshake;
mod places;
mod relay;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_model::Cidr;
use portway_sys::mmsg::LocalAddr;
use thiserror::Error;

use super::allowed::{AllowedIps, Routes};
use super::cookie::Gate;
use super::counters::{Counters, Dropped};
use super::keypair::{REJECT_AFTER, Sealer, Unopened};
use super::message::{
    HEADER_BYTES, INITIATION_BYTES, Kind, OVERHEAD_BYTES, THROUGH_BYTES, is_enveloped, receiver,
};
use super::peer::{Activity, Due, Peer, REKEY_TIMEOUT, Slot};
use super::{PeerId, inner};
use crate::spec::{PresharedKey, PrivateKey, PublicKey};
use places::Places;
use relay::Way;

pub use change::{Newcomer, PeerChange};

/// The time, by both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// For everything that lasts.
    pub instant: Instant,
    /// Since 1970, for initiations, which must be newer than any before, those of an earlier run too.
    pub unix: Duration,
}

/// Where a datagram comes from or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reach {
    /// The other side.
    pub to: SocketAddr,
    /// Which of this host's addresses the other side knows, as the socket wants it; `None`: it is all the same.
    pub from: Option<LocalAddr>,
}

impl From<SocketAddr> for Reach {
    fn from(to: SocketAddr) -> Reach {
        Reach { to, from: None }
    }
}

/// A peer as it is wanted.
#[derive(Debug, Clone)]
pub struct PeerSpec {
    /// Its key.
    pub public_key: PublicKey,
    /// A secret shared with it.
    pub preshared_key: Option<PresharedKey>,
    /// Its prefixes.
    pub allowed_ips: Vec<Cidr>,
    /// Where it is reached, if that is known.
    pub endpoint: Option<SocketAddr>,
    /// Something is sent to it at least this often.
    pub keepalive: Option<Duration>,
}

/// A peer as it is.
#[derive(Debug, Clone)]
pub struct PeerState {
    /// Who it is.
    pub public_key: PublicKey,
    /// Its prefixes, those of IPv4 first.
    pub allowed_ips: Vec<Cidr>,
    /// Where it was last heard from, or is expected.
    pub endpoint: Option<SocketAddr>,
    /// When keys were last agreed on.
    pub last_handshake: Option<Instant>,
    /// Since when keys are tried to be agreed on, while they are.
    pub trying_since: Option<Instant>,
    /// Packets that came from it.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets sent to it.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// The hub that messages to it go through, if they do.
    pub through: Option<PublicKey>,
    /// Longest packet its way takes, where that is less than the tunnel's.
    pub longest_packet: Option<u16>,
}

/// What a tunnel cannot be made of.
#[derive(Debug, Error)]
pub enum SessionsError {
    /// Places are 16 bits.
    #[error("more than 65535 peers")]
    TooMany,
    /// Twice the same.
    #[error("peer {0} stands twice")]
    Twice(PublicKey),
    /// It agrees with every key on the same.
    #[error("peer {0}: its key is no key")]
    Weak(PublicKey),
}

/// What came of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Nothing for the tunnel. There may be something to go out.
    Nothing,
    /// A packet, opened where it lies.
    Packet {
        /// Whose.
        peer: PeerId,
        /// Where in the datagram.
        place: Range<usize>,
    },
    /// Somebody's message to somebody else, sealed again where it lies for whom it is for: all of the datagram.
    PassOn {
        /// Where that one is.
        to: Reach,
    },
}

/// Longest message of our own: an initiation that goes through a hub.
const OUTGOING_BYTES: usize = INITIATION_BYTES + THROUGH_BYTES;

/// A message to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// Where.
    pub to: SocketAddr,
    /// See [`Reach`].
    pub from: Option<LocalAddr>,
    length: u8,
    bytes: [u8; OUTGOING_BYTES],
}

impl Outgoing {
    pub(super) fn new(reach: Reach, message: &[u8]) -> Outgoing {
        let mut bytes = [0; OUTGOING_BYTES];
        let length = message.len().min(OUTGOING_BYTES);
        super::message::put(&mut bytes, 0, message.get(..length).unwrap_or_default());
        let Reach { to, from } = reach;
        Outgoing { to, from, length: u8::try_from(length).unwrap_or(0), bytes }
    }

    /// What.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

/// What the sending side is to know.
#[derive(Clone)]
pub enum Update {
    /// There is a peer at this place, and what is shared with it.
    Peer(PeerId, Arc<Activity>),
    /// There is none any more; what waits for it is dropped.
    Gone(PeerId, PublicKey),
    /// The keys to use; `None`: none.
    Keys(PeerId, Option<Arc<Sealer>>),
    /// Where to send.
    Endpoint(PeerId, Reach),
    /// Through which hub instead, and by which address that knows the peer; `None`: there, and not through one.
    Through(PeerId, Option<(PeerId, Ipv4Addr)>),
    /// Which peer an address belongs to.
    Routes(Arc<Routes>),
}

impl Update {
    /// Which peer it is about.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Update::Peer(id, _)
            | Update::Gone(id, _)
            | Update::Keys(id, _)
            | Update::Endpoint(id, _)
            | Update::Through(id, _) => Some(*id),
            Update::Routes(_) => None,
        }
    }
}

/// See the module.
pub struct Sessions {
    private: PrivateKey,
    public: [u8; 32],
    epoch: Instant,
    gate: Gate,
    peers: Places,
    /// Of sessions and attempts.
    by_index: HashMap<u32, PeerId>,
    allowed: AllowedIps,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
    /// Peers that are hubs, whether they are there or not.
    hubs: HashSet<[u8; 32]>,
    /// This node is one.
    relays: bool,
    outbox: VecDeque<Outgoing>,
    updates: VecDeque<Update>,
}

impl Sessions {
    /// A tunnel that begins now, with these peers.
    ///
    /// # Errors
    /// [`SessionsError`].
    pub fn new(private: PrivateKey, peers: &[PeerSpec], epoch: Instant) -> Result<Sessions, SessionsError> {
        let public = *private.public().as_bytes();
        let mut sessions = Sessions {
            public,
            private,
            epoch,
            gate: Gate::new(&public),
            peers: Places::default(),
            by_index: HashMap::new(),
            allowed: AllowedIps::default(),
            routes: Arc::default(),
            counters: Arc::default(),
            hubs: HashSet::new(),
            relays: false,
            outbox: VecDeque::new(),
            updates: VecDeque::new(),
        };
        for spec in peers {
            let newcomer = Newcomer::new(&sessions.private, spec)?;
            if sessions.id_of(&spec.public_key).is_some() {
                return Err(SessionsError::Twice(spec.public_key));
            }
            sessions.put(newcomer)?;
        }
        sessions.publish_routes();
        Ok(sessions)
    }

    fn publish_routes(&mut self) {
        self.routes = Arc::new(self.allowed.routes());
        self.updates.push_back(Update::Routes(Arc::clone(&self.routes)));
    }

    /// Makes new keys with a peer at once.
    pub fn rekey(&mut self, peer: PeerId, now: Now) {
        self.initiate(peer, now);
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The place of a peer.
    #[must_use]
    pub fn id_of(&self, key: &PublicKey) -> Option<PeerId> {
        self.peers.id_of(key.as_bytes())
    }

    /// Who is at a place.
    pub fn key_of(&mut self, id: PeerId) -> Option<PublicKey> {
        self.peers.get_mut(id).map(|peer| peer.public_key)
    }

    /// All peers by their places.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<PeerId, PublicKey> {
        self.peers.iter().map(|(id, peer)| (id, peer.public_key)).collect()
    }

    /// How all peers are, in the order of their places.
    #[must_use]
    pub fn states(&self) -> Vec<PeerState> {
        let mut allowed: BTreeMap<PeerId, Vec<Cidr>> = BTreeMap::new();
        for (prefix, owner) in self.allowed.iter() {
            allowed.entry(owner).or_default().push(prefix);
        }
        let key = |id| self.peers.get(id).map(|peer| peer.public_key);
        let state = |(id, peer): (_, &Peer)| {
            state(peer, allowed.remove(&id).unwrap_or_default(), peer.through.and_then(key))
        };
        self.peers.iter().map(state).collect()
    }

    /// The next message to be sent.
    pub fn outgoing(&mut self) -> Option<Outgoing> {
        self.outbox.pop_front()
    }

    /// The next thing the sending side is to know.
    pub fn update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// Takes a datagram. A packet is opened where it lies.
    pub fn receive(&mut self, now: Now, from: impl Into<Reach>, datagram: &mut [u8]) -> Received {
        self.take(now, Way::Straight(from.into()), datagram)
    }

    fn take(&mut self, now: Now, from: Way, datagram: &mut [u8]) -> Received {
        let result = match Kind::of(datagram) {
            Some(Kind::Data) => return self.receive_data(now, from, datagram),
            Some(Kind::Initiation) => self.receive_initiation(now, from, datagram),
            Some(Kind::Response) => self.receive_response(now, from, datagram),
            Some(Kind::Cookie) => self.receive_cookie(now, from, datagram),
            None => Err(Dropped::Form),
        };
        if let Err(why) = result {
            self.counters.count(why);
        }
        Received::Nothing
    }

    fn receive_data(&mut self, now: Now, from: Way, message: &mut [u8]) -> Received {
        match self.open(now, from, message) {
            Ok(received) => received,
            Err(why) => {
                self.counters.count(why);
                Received::Nothing
            }
        }
    }

    /// Opens a message, which may be empty, to keep the session alive.
    fn open(&mut self, now: Now, from: Way, message: &mut [u8]) -> Result<Received, Dropped> {
        let index = receiver(message);
        let id = *self.by_index.get(&index).ok_or(Dropped::NoSession)?;
        from.is_of(id)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped::NoSession)?;
        let (slot, session) = peer.session(index).ok_or(Dropped::NoSession)?;
        if now.instant.saturating_duration_since(session.born) >= REJECT_AFTER {
            return Err(Dropped::Expired);
        }
        let length = session.opener.open(message).map_err(|error| match error {
            Unopened::Replayed => Dropped::Replayed,
            Unopened::Forged => Dropped::Forged,
        })?;
        let ours = session.ours;
        if slot == Slot::Next {
            self.confirm(id, now.instant);
        }
        let peer = self.peers.get_mut(id).ok_or(Dropped::NoSession)?;
        let from = if ours { from.kept(peer) } else { from };
        peer.hear(now.instant, length > 0);
        Self::roam(&mut self.updates, id, peer, from, now.instant, slot == Slot::Next);
        peer.received_packets += 1;
        peer.received_bytes += message.len() as u64;
        let rekey = peer.should_rekey_receiving(now.instant);
        let received = self.look_into(now, id, from, message, length);
        if rekey {
            self.initiate(id, now);
        }
        received
    }

    /// What stands in a message of `id` that was opened.
    fn look_into(
        &mut self,
        now: Now,
        id: PeerId,
        from: Way,
        message: &mut [u8],
        length: usize,
    ) -> Result<Received, Dropped> {
        let packet = message.get_mut(HEADER_BYTES..HEADER_BYTES + length).unwrap_or_default();
        if packet.is_empty() {
            return Ok(Received::Nothing);
        }
        if is_enveloped(packet) {
            return self.take_envelope(now, id, from, message);
        }
        let length = self.judge_inner(id, packet)?;
        if let Some(peer) = self.peers.get_mut(id) {
            peer.activity.watch.hear(packet.get_mut(..length).unwrap_or_default());
        }
        Ok(Received::Packet { peer: id, place: HEADER_BYTES..HEADER_BYTES + length })
    }

    /// Whether a packet of `id` is one, and comes from an address of its own; returns its length.
    fn judge_inner(&self, id: PeerId, packet: &[u8]) -> Result<usize, Dropped> {
        let inner = inner::read(packet).ok_or(Dropped::Inner)?;
        let is_own = |ip: IpAddr| self.routes.owner(ip) == Some(id);
        // Nobody says what became of another one's packets.
        let may_tell = match inner::news(packet.get(..inner.length).unwrap_or_default()) {
            inner::News::None => true,
            inner::News::Of(destination) => is_own(destination),
            inner::News::Hidden => false,
        };
        if is_own(inner.source) && may_tell { Ok(inner.length) } else { Err(Dropped::Source) }
    }

    /// The other side uses the session it has made with us: so do we.
    fn confirm(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        let before =
            [peer.previous.take().map(|session| session.index), peer.attempt.take().map(|it| it.index)];
        peer.previous = peer.current.take();
        peer.current = peer.next.take();
        peer.last_handshake = Some(now);
        let keys = peer.current.as_ref().map(|session| Arc::clone(&session.sealer));
        self.updates.push_back(Update::Keys(id, keys));
        for index in before.into_iter().flatten() {
            self.by_index.remove(&index);
        }
    }

    /// Does what is due, and says when to ask again at the latest; `None`: when something comes in.
    pub fn tick(&mut self, now: Now) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for id in self.peers.ids() {
            let again = self.tick_peer(id, now);
            next = [next, again].into_iter().flatten().min();
        }
        next
    }

    fn tick_peer(&mut self, id: PeerId, now: Now) -> Option<Instant> {
        let peer = self.peers.get_mut(id)?;
        let before: [Option<u32>; 5] = indices(peer);
        if peer.expire(now.instant) {
            self.updates.push_back(Update::Keys(id, None));
        }
        let (due, again) = peer.due(now.instant, self.epoch, self.relays);
        let after: [Option<u32>; 5] = indices(peer);
        for gone in before.into_iter().flatten().filter(|index| !after.contains(&Some(*index))) {
            self.by_index.remove(&gone);
        }
        match due {
            None => return again,
            Some(Due::Initiation) => self.initiate(id, now),
            Some(Due::Keepalive) => self.keep_alive(id, now.instant),
        }
        // At the latest: whatever was done has changed what is due.
        Some(now.instant + REKEY_TIMEOUT.min(Duration::from_secs(1)))
    }

    /// Sends an empty message.
    fn keep_alive(&mut self, id: PeerId, now: Instant) {
        let Some(way) = self.way_to(id) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let Some(session) = &peer.current else { return };
        if let Some(counter) = session.sealer.reserve(1) {
            let mut message = [0; OVERHEAD_BYTES];
            session.sealer.seal(counter, &mut message);
            peer.activity.sent_keepalive(millis(self.epoch, now));
            self.say(way, &message, now);
        }
    }
}

fn state(peer: &Peer, allowed_ips: Vec<Cidr>, through: Option<PublicKey>) -> PeerState {
    let (sent_packets, sent_bytes) = peer.activity.totals();
    PeerState {
        public_key: peer.public_key,
        allowed_ips,
        endpoint: peer.endpoint,
        last_handshake: peer.last_handshake,
        trying_since: peer.attempt.as_ref().map(|attempt| attempt.since),
        received_packets: peer.received_packets,
        received_bytes: peer.received_bytes,
        sent_packets,
        sent_bytes,
        through,
        longest_packet: peer.activity.watch.limit(),
    }
}

/// All indices of a peer that are in use.
fn indices(peer: &Peer) -> [Option<u32>; 5] {
    let mut all = peer.indices();
    std::array::from_fn(|_| all.next())
}

/// Milliseconds since the tunnel began.
pub(crate) fn millis(epoch: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(epoch).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
