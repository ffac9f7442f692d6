//! Handshakes: the three messages that make sessions.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use super::relay::Way;
use super::{Now, Outgoing, Sessions, Update};
use crate::wg::PeerId;
use crate::wg::cookie::{Jar, Verdict};
use crate::wg::counters::Dropped;
use crate::wg::keypair::split;
use crate::wg::message::{
    INITIATION, INITIATION_BYTES, Initiation, RESPONSE, RESPONSE_BYTES, Response, put, receiver,
};
use crate::wg::noise::{self, Secret, SessionKeys, Timestamp};
use crate::wg::peer::{Attempt, HUB_REKEY_TIMEOUT, INITIATION_EVERY, Peer, REKEY_TIMEOUT, Session};

/// The TAI64 label of the beginning of 1970 (cr.yp.to/libtai/tai64.html).
const TAI64_1970: u64 = (1 << 62) + 10;

/// The clock is told no finer than this, nanoseconds: a power of two, about 17 ms.
const WHITENED_NANOS: u32 = 1 << 24;

/// An initiation is repeated up to this much later than it could be, so that two that try at once do not go on so.
const JITTER_MILLIS: u64 = 334;

pub(super) fn timestamp(unix: Duration) -> Timestamp {
    let mut stamp = [0; 12];
    put(&mut stamp, 0, &TAI64_1970.wrapping_add(unix.as_secs()).to_be_bytes());
    put(&mut stamp, 8, &(unix.subsec_nanos() / WHITENED_NANOS * WHITENED_NANOS).to_be_bytes());
    stamp
}

fn random<const N: usize>() -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).ok()?;
    Some(bytes)
}

impl Sessions {
    /// A name for a session that no other has.
    fn new_index(&self) -> Option<u32> {
        loop {
            let index = u32::from_le_bytes(*random()?);
            if !self.by_index.contains_key(&index) {
                return Some(index);
            }
        }
    }

    /// Sends an initiation. As long as it is not known where to, somebody wants it. Without random numbers nothing is sent;
    /// it is tried again, and then from whatever address the routes say: the other may be what is in the way.
    pub(super) fn initiate(&mut self, id: PeerId, now: Now) {
        self.initiate_also(id, &[], now);
    }

    /// The same, and sends it to `places` too: it is one handshake, whichever way its answer comes by.
    fn initiate_also(&mut self, id: PeerId, places: &[SocketAddr], now: Now) {
        if let Some(peer) = self.peers.get_mut(id).filter(|peer| peer.attempt.is_some()) {
            Self::free(&mut self.updates, id, peer);
        }
        let Some(way) = self.way_to(id) else {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.activity.want_session();
            }
            return;
        };
        let Some((attempt, message)) = self.prepare(id, now) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let index = attempt.index;
        let attempt = match &peer.attempt {
            Some(before) => Attempt { since: before.since, proved: before.proved, ..attempt },
            None => attempt,
        };
        // Of two handshakes at once either side might use the keys of another one.
        for before in [peer.attempt.replace(attempt), peer.probe.take()].into_iter().flatten() {
            self.by_index.remove(&before.index);
        }
        self.by_index.insert(index, id);
        for place in places {
            let message = stamped(peer, Way::Straight((*place).into()), message, now.instant);
            self.outbox.push_back(Outgoing::new((*place).into(), &message));
        }
        let message = stamped(peer, way, message, now.instant);
        self.say(way, &message, now.instant);
    }

    /// Tries whether a peer that is reached through a hub is reached at one of `places`: the first answer tells.
    pub(super) fn probe(&mut self, id: PeerId, places: &[SocketAddr], now: Now) {
        let Some(peer) = self.peers.get(id).filter(|peer| peer.through.is_some()) else { return };
        let age = |at: Instant| now.instant.saturating_duration_since(at);
        if let Some(attempt) = &peer.attempt {
            // By a clock that is told no finer it would be no newer.
            if age(attempt.made) >= INITIATION_EVERY * 2 {
                self.initiate_also(id, places, now);
            }
            return;
        }
        // What it has just agreed on with us it would lose.
        if peer.next.as_ref().is_some_and(|next| age(next.born) < REKEY_TIMEOUT) {
            return;
        }
        let Some((attempt, message)) = self.prepare(id, now) else { return };
        let Some(peer) = self.peers.get_mut(id) else { return };
        let index = attempt.index;
        if let Some(before) = peer.probe.replace(attempt) {
            self.by_index.remove(&before.index);
        }
        self.by_index.insert(index, id);
        for place in places {
            let message = stamped(peer, Way::Straight((*place).into()), message, now.instant);
            self.outbox.push_back(Outgoing::new((*place).into(), &message));
        }
    }

    /// An initiation without its macs, and what is to be known for its response.
    pub(super) fn prepare(&mut self, id: PeerId, now: Now) -> Option<(Attempt, [u8; INITIATION_BYTES])> {
        let (index, ephemeral, jitter) = (self.new_index()?, random()?, random::<2>()?);
        let peer = self.peers.get_mut(id)?;
        let mut message = [0; INITIATION_BYTES];
        put(&mut message, 0, &INITIATION);
        put(&mut message, Initiation::SENDER, &index.to_le_bytes());
        let stamp = timestamp(now.unix);
        let made = noise::initiate(
            &self.public,
            peer.public_key.as_bytes(),
            &peer.shared,
            ephemeral,
            stamp,
            &mut message,
        );
        // Keys of small order are no peers'.
        let waiting = made.ok()?;
        let jitter = Duration::from_millis(u64::from(u16::from_le_bytes(*jitter)) % JITTER_MILLIS);
        let timeout = if peer.is_hub { HUB_REKEY_TIMEOUT } else { REKEY_TIMEOUT };
        let again_at = now.instant + timeout + jitter;
        Some((
            Attempt { index, waiting, made: now.instant, since: now.instant, again_at, proved: false },
            message,
        ))
    }

    /// Whether a handshake message is looked into.
    fn admit(&mut self, now: Now, from: Way, message: &[u8]) -> Result<(), Dropped> {
        let source = self.source_of(from).ok_or(Dropped::Relay)?;
        match self.gate.judge(source, message, now.instant) {
            Verdict::Good => Ok(()),
            Verdict::Bad => Err(Dropped::Mac),
            Verdict::Crowd => Err(Dropped::Load),
            Verdict::Reply(reply) => {
                self.say(from, &reply, now.instant);
                Err(Dropped::Load)
            }
        }
    }

    pub(super) fn receive_initiation(&mut self, now: Now, from: Way, datagram: &[u8]) -> Result<(), Dropped> {
        self.admit(now, from, datagram)?;
        let message = Initiation::new(datagram.try_into().map_err(|_| Dropped::Form)?);
        let mut heard =
            noise::hear(self.private.as_bytes(), &self.public, &message).ok_or(Dropped::Stranger)?;
        let id = self.peers.id_of(&heard.who).ok_or(Dropped::Stranger)?;
        from.is_of(id)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped::Stranger)?;
        let stamp = heard.timestamp(&peer.shared, &message).ok_or(Dropped::Stranger)?;
        let too_soon = |before: Instant| now.instant.saturating_duration_since(before) < INITIATION_EVERY;
        if stamp <= peer.newest || peer.initiated_at.is_some_and(too_soon) {
            return Err(Dropped::Stale);
        }
        (peer.newest, peer.initiated_at) = (stamp, Some(now.instant));
        let (index, ephemeral): (_, Secret) = self.new_index().zip(random()).ok_or(Dropped::Load)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped::Stranger)?;
        let mut reply = [0; RESPONSE_BYTES];
        put(&mut reply, 0, &RESPONSE);
        put(&mut reply, Response::SENDER, &index.to_le_bytes());
        put(&mut reply, Response::RECEIVER, &message.sender().to_le_bytes());
        let keys = heard.respond(&peer.psk, &ephemeral, &mut reply).map_err(|_| Dropped::Stranger)?;
        let reply = stamped(peer, from, reply, now.instant);
        peer.hear(now.instant, false);
        // That the response arrives is not known yet: a way that is known to work is left when something comes by the other.
        if matches!(from, Way::Straight(_)) && peer.through.is_none() {
            Self::roam(&mut self.updates, id, peer, from, now.instant, false);
        }
        let session = session(&keys, index, message.sender(), now.instant, false);
        if let Some(before) = peer.next.replace(session) {
            self.by_index.remove(&before.index);
        }
        self.by_index.insert(index, id);
        self.say(from, &reply, now.instant);
        Ok(())
    }

    pub(super) fn receive_response(&mut self, now: Now, from: Way, datagram: &[u8]) -> Result<(), Dropped> {
        let message = Response::new(datagram.try_into().map_err(|_| Dropped::Form)?);
        // Nobody can know the index of an attempt but who was sent it: what is not waited for is dropped for less
        // than a mac costs.
        let id = *self.by_index.get(&message.receiver()).ok_or(Dropped::Unasked)?;
        from.is_of(id)?;
        self.admit(now, from, datagram)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped::Unasked)?;
        let waits = |attempt: &&Attempt| attempt.index == message.receiver();
        let attempts = [&peer.attempt, &peer.probe];
        let attempt = attempts.into_iter().flatten().find(waits).ok_or(Dropped::Unasked)?;
        let keys = attempt.waiting.conclude(self.private.as_bytes(), &peer.psk, &message);
        let keys = keys.ok_or(Dropped::Unasked)?;
        let index = attempt.index;
        // What the other one waits for is not needed any more: there are keys.
        for other in [peer.attempt.take(), peer.probe.take()].into_iter().flatten() {
            if other.index != index {
                self.by_index.remove(&other.index);
            }
        }
        peer.hear(now.instant, false);
        peer.last_handshake = Some(now.instant);
        let from = from.kept(peer);
        Self::roam(&mut self.updates, id, peer, from, now.instant, true);
        // One of theirs that is not confirmed yet may still be used by them: it is kept, and what was current is not.
        let displaced = match peer.next.take() {
            Some(next) => [peer.previous.replace(next), peer.current.take()],
            None => [std::mem::replace(&mut peer.previous, peer.current.take()), None],
        };
        let session = session(&keys, index, message.sender(), now.instant, true);
        let sealer = Arc::clone(&session.sealer);
        peer.current = Some(session);
        for gone in displaced.into_iter().flatten() {
            self.by_index.remove(&gone.index);
        }
        self.updates.push_back(Update::Keys(id, Some(sealer)));
        // The other side uses the session when it has seen it used.
        self.keep_alive(id, now.instant);
        Ok(())
    }

    pub(super) fn receive_cookie(&mut self, now: Now, from: Way, datagram: &[u8]) -> Result<(), Dropped> {
        let id = *self.by_index.get(&receiver(datagram)).ok_or(Dropped::Unasked)?;
        from.is_of(id)?;
        let peer = self.peers.get_mut(id).ok_or(Dropped::Unasked)?;
        // It comes from who knows nothing of our keys: whatever its source, the peer has not moved.
        if !jar(&mut peer.jar, &mut peer.jar_through, from).take(&peer.macs, datagram, now.instant) {
            return Err(Dropped::Unasked);
        }
        // A hub is soon left that does not answer: it is asked again with what it has sent, once.
        if let Some(attempt) = peer.attempt.as_mut().filter(|attempt| peer.is_hub && !attempt.proved) {
            attempt.proved = true;
            self.initiate(id, now);
        }
        Ok(())
    }
}

fn jar<'a>(straight: &'a mut Jar, through: &'a mut Jar, way: Way) -> &'a mut Jar {
    match way {
        Way::Straight(_) => straight,
        Way::Through { .. } => through,
    }
}

/// A message of a handshake with its macs, for the way it goes.
fn stamped<const N: usize>(peer: &mut Peer, way: Way, mut message: [u8; N], now: Instant) -> [u8; N] {
    jar(&mut peer.jar, &mut peer.jar_through, way).stamp(&peer.macs, &mut message, now);
    message
}

fn session(keys: &SessionKeys, index: u32, remote: u32, now: Instant, ours: bool) -> Session {
    let (sealer, opener) = split(keys, remote, now);
    Session { index, opener, sealer: Arc::new(sealer), born: now, ours }
}
