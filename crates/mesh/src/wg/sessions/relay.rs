//! Ways through a hub, for peers that cannot meet.
//!
//! What goes through a hub are whole messages of WireGuard, sealed by one member for the other, each in a message of the
//! sender's session with the hub and then in one of the hub's session with the receiver. So the hub knows from whom a
//! message is, writes it before it, and reads nothing of what it passes on; and it passes on for nobody who is no member.
//!
//! | in the session | says | from |
//! |---|---|---|
//! | `PASS_ON`, address | this message is for that member | a member to its hub |
//! | `PASSED_ON`, address | this message is from that member | the hub to the other member |
//!
//! A hub passes on what a member has sent it itself, and to a session of its own: what was passed on once is never passed
//! on again. Messages that come straight decide where a peer is; those that come through a hub do while nothing else does.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use portway_sys::mmsg::LocalAddr;

use super::{Now, Outgoing, Reach, Received, Sessions, Update, millis};
use crate::org::KEEPALIVE;
use crate::spec::PublicKey;
use crate::wg::PeerId;
use crate::wg::counters::Dropped;
use crate::wg::message::{
    ENVELOPE_BYTES, HEADER_BYTES, Kind, PASS_ON, PASSED_ON, THROUGH_BYTES, array, put, write_envelope,
};
use crate::wg::peer::Peer;

/// Silence on the way that messages to a peer go, after which what comes by another one is followed.
const WAY_SILENT: Duration = Duration::from_secs(3);

/// Silence of a member after which a hub asks whether it is there: longer than what keeps its way open takes.
const SEAT_SILENT: Duration = KEEPALIVE.saturating_add(Duration::from_secs(10));

/// How long messages are passed on to it while it is asked.
const SEAT_ASKED: Duration = Duration::from_secs(2);

/// Where a message comes from or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Straight(Reach),
    Through { hub: PeerId, member: PeerId },
}

impl Way {
    /// Whether a message that proves to be of `id` came as one of its own: a hub says of each from whom it is.
    pub(super) fn is_of(self, id: PeerId) -> Result<(), Dropped> {
        match self {
            Way::Through { member, .. } if member != id => Err(Dropped::Relay),
            Way::Through { .. } | Way::Straight(_) => Ok(()),
        }
    }

    /// Who was gone to is sent to as the routes say, and these may change. Who came here, once, goes on to know us by the
    /// address that it came to.
    pub(super) fn kept(self, peer: &Peer) -> Way {
        match self {
            Way::Straight(reach) => Way::Straight(Reach { from: peer.source, ..reach }),
            Way::Through { .. } => self,
        }
    }
}

impl Sessions {
    /// How a peer is reached; `None`: nobody knows.
    pub(super) fn way_to(&self, id: PeerId) -> Option<Way> {
        let peer = self.peers.get(id)?;
        match peer.through {
            Some(hub) => Some(Way::Through { hub, member: id }),
            None => peer.reach().map(Way::Straight),
        }
    }

    /// A source by which too much of one can be told: through a hub it is the member's own address.
    pub(super) fn source_of(&self, way: Way) -> Option<SocketAddr> {
        match way {
            Way::Straight(from) => Some(from.to),
            Way::Through { member, .. } => Some(SocketAddr::new(self.peers.get(member)?.address?.into(), 0)),
        }
    }

    /// Sends a message of a handshake, or an empty one. One that cannot go is lost, as on its way: it is repeated.
    pub(super) fn say(&mut self, way: Way, message: &[u8], now: Instant) {
        match way {
            Way::Straight(to) => self.outbox.push_back(Outgoing::new(to, message)),
            Way::Through { hub, member } => {
                if self.enclose(hub, member, message, now).is_none() {
                    self.counters.count(Dropped::Waiting);
                    self.want(hub);
                }
            }
        }
    }

    fn enclose(&mut self, hub: PeerId, member: PeerId, message: &[u8], now: Instant) -> Option<()> {
        let address = self.peers.get(member)?.address?;
        let hub = self.peers.get(hub).filter(|hub| hub.is_hub && hub.through.is_none())?;
        let (to, session) = (hub.reach()?, hub.current.as_ref()?);
        let sealer = session.sealer.is_usable(now).then_some(&session.sealer)?;
        let mut whole = vec![0; message.len() + THROUGH_BYTES];
        write_envelope(whole.get_mut(HEADER_BYTES..)?, address);
        put(&mut whole, HEADER_BYTES + ENVELOPE_BYTES, message);
        sealer.seal(sealer.reserve(1)?, &mut whole);
        hub.activity.sent_packets(millis(self.epoch, now), 1, whole.len() as u64);
        self.outbox.push_back(Outgoing::new(to, &whole));
        Some(())
    }

    /// A session with `id` is wanted; it is asked for with what is due next.
    fn want(&self, id: PeerId) {
        if let Some(peer) = self.peers.get(id).filter(|peer| peer.attempt.is_none()) {
            peer.activity.want_session();
        }
    }

    /// Takes what `id` has sent to be passed on, or passes on to us, in a message that was opened.
    pub(super) fn take_envelope(
        &mut self,
        now: Now,
        id: PeerId,
        from: Way,
        message: &mut [u8],
    ) -> Result<Received, Dropped> {
        let (Way::Straight(_), Some(kind), Some(address)) =
            (from, array(message, HEADER_BYTES), array::<4>(message, HEADER_BYTES + 4))
        else {
            return Err(Dropped::Relay);
        };
        let other = self.routes.owner(IpAddr::from(address)).filter(|other| *other != id);
        let other = other.ok_or(Dropped::Relay)?;
        let begin = HEADER_BYTES + ENVELOPE_BYTES;
        let end = message.len().saturating_sub(THROUGH_BYTES - begin);
        match kind {
            PASS_ON if self.relays => {
                Kind::of(message.get(begin..end).unwrap_or_default()).ok_or(Dropped::Relay)?;
                self.pass_on(now, id, other, message)
            }
            PASSED_ON if self.peers.get(id).is_some_and(|hub| hub.is_hub) => {
                let inside = message.get_mut(begin..end).unwrap_or_default();
                Ok(match self.take(now, Way::Through { hub: id, member: other }, inside) {
                    Received::Packet { peer, place } => {
                        Received::Packet { peer, place: place.start + begin..place.end + begin }
                    }
                    // What was passed on is not passed on again.
                    _ => Received::Nothing,
                })
            }
            _ => Err(Dropped::Relay),
        }
    }

    /// Seals a message of `id` for `other`, where it lies.
    fn pass_on(
        &mut self,
        now: Now,
        id: PeerId,
        other: PeerId,
        message: &mut [u8],
    ) -> Result<Received, Dropped> {
        let peer = self.peers.get_mut(id).ok_or(Dropped::Relay)?;
        let from = peer.address.filter(|_| peer.passing.take(now.instant)).ok_or(Dropped::Relay)?;
        let Some((to, counter)) = self.seat(other, now) else {
            self.want(other);
            return Err(Dropped::RelayAway);
        };
        put(message, HEADER_BYTES, &PASSED_ON);
        put(message, HEADER_BYTES + 4, &from.octets());
        let peer = self.peers.get(other).ok_or(Dropped::RelayAway)?;
        let session = peer.current.as_ref().ok_or(Dropped::RelayAway)?;
        session.sealer.seal(counter, message);
        peer.activity.sent_packets(millis(self.epoch, now.instant), 1, message.len() as u64);
        Ok(Received::PassOn { to })
    }

    /// Where a member is whom this hub has a session with, and the number of its next message. One that has been silent is
    /// asked whether it is there, and what comes meanwhile is sent there for a moment only: its address may be another's.
    fn seat(&mut self, id: PeerId, now: Now) -> Option<(Reach, u64)> {
        let age = |at: Instant| now.instant.saturating_duration_since(at);
        let peer = self.peers.get(id).filter(|peer| peer.through.is_none())?;
        if peer.heard.is_none_or(|at| age(at) >= SEAT_SILENT) {
            match &peer.attempt {
                Some(attempt) if age(attempt.since) >= SEAT_ASKED => return None,
                Some(_) => {}
                None => self.initiate(id, now),
            }
        }
        let (peer, now) = (self.peers.get(id)?, now.instant);
        let session = peer.current.as_ref().filter(|session| session.sealer.is_usable(now))?;
        Some((peer.reach()?, session.sealer.reserve(1)?))
    }

    /// A peer is where something authentic last came from; through a hub, if keys were `fresh`ly agreed on that way, or
    /// nothing comes by the way it has.
    pub(super) fn roam(
        updates: &mut VecDeque<Update>,
        id: PeerId,
        peer: &mut Peer,
        from: Way,
        now: Instant,
        fresh: bool,
    ) {
        match from {
            Way::Straight(from) => Self::expect_at(updates, id, peer, from),
            Way::Through { hub, .. } if peer.through == Some(hub) => {}
            // A hub is reached without another one, or not at all.
            Way::Through { .. } if peer.is_hub => return,
            Way::Through { hub, .. } => {
                let silent = |at: Instant| now.saturating_duration_since(at) >= WAY_SILENT;
                if !fresh && !peer.heard_on_way.is_none_or(silent) {
                    return;
                }
                Self::set_through(updates, id, peer, Some(hub));
            }
        }
        peer.heard_on_way = Some(now);
    }

    /// A peer may be there.
    pub(super) fn note_at(updates: &mut VecDeque<Update>, id: PeerId, peer: &mut Peer, at: Reach) {
        if peer.reach() != Some(at) {
            (peer.endpoint, peer.source) = (Some(at.to), at.from);
            updates.push_back(Update::Endpoint(id, at));
        }
    }

    /// A peer is there, and is not reached through a hub.
    pub(super) fn expect_at(updates: &mut VecDeque<Update>, id: PeerId, peer: &mut Peer, at: Reach) {
        Self::note_at(updates, id, peer, at);
        if peer.through.is_some() {
            Self::set_through(updates, id, peer, None);
        }
    }

    /// A peer is sent to as the routes say: the address that it knew is gone, or nothing comes back to it.
    pub(super) fn free(updates: &mut VecDeque<Update>, id: PeerId, peer: &mut Peer) {
        if let (Some(_), Some(to)) = (peer.source.take(), peer.endpoint) {
            updates.push_back(Update::Endpoint(id, to.into()));
        }
    }

    /// An address is this host's no more.
    pub fn lose_source(&mut self, gone: LocalAddr) {
        for id in self.peers.ids() {
            let has = |peer: &&mut Peer| peer.source == Some(gone);
            if let Some(peer) = self.peers.get_mut(id).filter(has) {
                Self::free(&mut self.updates, id, peer);
            }
        }
    }

    fn set_through(updates: &mut VecDeque<Update>, id: PeerId, peer: &mut Peer, hub: Option<PeerId>) {
        let address = peer.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        peer.through = hub;
        updates.push_back(Update::Through(id, hub.map(|hub| (hub, address))));
    }

    /// A peer is reached through `hub` from now on, and is tried there at once if it is tried at all.
    pub(super) fn lead_through(&mut self, id: PeerId, hub: PeerId, now: Now) {
        let is_hub = self.peers.get(hub).is_some_and(|hub| hub.is_hub);
        let may = |peer: &&mut Peer| is_hub && !peer.is_hub && peer.address.is_some();
        let Some(peer) = self.peers.get_mut(id).filter(may) else { return };
        if peer.through != Some(hub) {
            Self::set_through(&mut self.updates, id, peer, Some(hub));
            peer.heard_on_way = None;
            if peer.attempt.is_some() {
                self.initiate(id, now);
            }
        }
    }

    /// Whether a peer is reached through a hub that has keys: that it does not answer, or is said to be elsewhere, is no
    /// reason to leave a way that may work.
    pub(super) fn is_led(&self, id: PeerId, now: Instant) -> bool {
        let hub = self.peers.get(id).and_then(|peer| self.peers.get(peer.through?));
        let session = hub.filter(|hub| hub.endpoint.is_some()).and_then(|hub| hub.current.as_ref());
        session.is_some_and(|session| session.sealer.is_usable(now))
    }

    /// A hub that was at `at` is no peer any more, and is not to be in the way of others either: it has had their messages,
    /// and could send them on as if they came straight. New keys are made with them, without it.
    pub(super) fn part_from_hub(&mut self, hub: PeerId, at: Option<SocketAddr>) {
        let at = at.map(|at| at.ip());
        for id in self.peers.ids() {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let is_there = at.is_some() && peer.endpoint.map(|endpoint| endpoint.ip()) == at;
            if peer.through != Some(hub) && !is_there {
                continue;
            }
            if is_there {
                // It is looked for in its places.
                peer.endpoint = None;
            }
            for index in peer.indices() {
                self.by_index.remove(&index);
            }
            if peer.current.is_some() || peer.attempt.is_some() {
                peer.activity.want_session();
            }
            peer.retire();
            self.updates.push_back(Update::Keys(id, None));
        }
        self.leave_hub(hub);
    }

    /// Nobody is reached through `hub` any more.
    pub(super) fn leave_hub(&mut self, hub: PeerId) {
        for id in self.peers.ids() {
            let through = |peer: &&mut Peer| peer.through == Some(hub);
            if let Some(peer) = self.peers.get_mut(id).filter(through) {
                Self::set_through(&mut self.updates, id, peer, None);
            }
        }
    }

    /// These peers are hubs, and no others; this node passes messages on, or does not.
    pub(super) fn set_hubs(&mut self, hubs: &[PublicKey], relays: bool) {
        self.hubs = hubs.iter().map(|key| *key.as_bytes()).collect();
        self.relays = relays;
        for id in self.peers.ids() {
            let Some(peer) = self.peers.get_mut(id) else { continue };
            let was_hub = std::mem::replace(&mut peer.is_hub, self.hubs.contains(peer.public_key.as_bytes()));
            peer.was_hub |= peer.is_hub;
            if peer.is_hub && peer.through.is_some() {
                Self::set_through(&mut self.updates, id, peer, None);
            }
            if was_hub && !peer.is_hub {
                self.leave_hub(id);
            }
        }
    }
}

#[cfg(test)]
mod tests;
