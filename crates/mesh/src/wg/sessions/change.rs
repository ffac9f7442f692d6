//! Peers that come, go and change while the tunnel runs.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use portway_model::Cidr;
use zeroize::Zeroizing;

use super::{Now, PeerSpec, Reach, Sessions, SessionsError, Update};
use crate::spec::{PrivateKey, PublicKey};
use crate::wg::PeerId;
use crate::wg::cookie::Gate;
use crate::wg::noise::{Secret, agree};
use crate::wg::peer::Peer;

/// A change of the peers.
pub enum PeerChange {
    /// It is new; or, if it is there, its prefixes, its keepalive and its secret are these from then on. Its sessions
    /// stay, and so does where it is, unless that was unknown.
    Put(Newcomer),
    /// It is no more: its sessions end at once, and what they were made of is written over.
    Remove(PublicKey),
    /// It is reached there; or is tried there, if it is reached through a hub that has keys. Its sessions stay.
    Endpoint(PublicKey, SocketAddr),
    /// Prefixes that are its own, and no others.
    AllowedIps(PublicKey, Vec<Cidr>),
    /// The first is reached through the second, a hub, until it is heard straight. Its sessions stay.
    Through(PublicKey, PublicKey),
    /// It is reached through a hub; it is tried whether it is reached at one of these.
    Probe(PublicKey, Vec<SocketAddr>),
    /// This node has another key: all peers are gone, until they are put in again.
    Own(PrivateKey),
    /// Which peers are hubs, and whether this node is one.
    Hubs {
        /// By their keys; those that are no peers are not minded.
        hubs: Vec<PublicKey>,
        /// Messages are passed on here.
        relays: bool,
    },
}

/// A peer that is ready to be put in. What takes long has been done, on whatever thread made it.
pub struct Newcomer {
    peer: Box<Peer>,
    allowed_ips: Vec<Cidr>,
    endpoint: Option<SocketAddr>,
    keepalive: Option<Duration>,
}

impl Newcomer {
    /// Agrees with a peer, for whoever has the key `own`.
    ///
    /// # Errors
    /// [`SessionsError::Weak`].
    pub fn new(own: &PrivateKey, spec: &PeerSpec) -> Result<Newcomer, SessionsError> {
        let shared = agree(own.as_bytes(), spec.public_key.as_bytes());
        let shared = shared.map_err(|_| SessionsError::Weak(spec.public_key))?;
        let psk: Secret = Zeroizing::new(spec.preshared_key.as_ref().map_or([0; 32], |psk| *psk.as_bytes()));
        let peer = Box::new(Peer::new(spec.public_key, psk, shared));
        let PeerSpec { allowed_ips, endpoint, keepalive, .. } = spec.clone();
        Ok(Newcomer { peer, allowed_ips, endpoint, keepalive })
    }
}

impl Sessions {
    /// Makes these changes, one after the other; those before one that cannot be made stay made.
    ///
    /// # Errors
    /// [`SessionsError::TooMany`].
    pub fn change(&mut self, changes: Vec<PeerChange>, now: Now) -> Result<(), SessionsError> {
        let leads_elsewhere = |change: &PeerChange| {
            matches!(
                change,
                PeerChange::Put(_) | PeerChange::Remove(_) | PeerChange::AllowedIps(..) | PeerChange::Own(_)
            )
        };
        let leads_elsewhere = changes.iter().any(leads_elsewhere);
        let made = changes.into_iter().try_for_each(|change| self.change_one(change, now));
        if leads_elsewhere {
            self.publish_routes();
        }
        made
    }

    fn change_one(&mut self, change: PeerChange, now: Now) -> Result<(), SessionsError> {
        match change {
            PeerChange::Put(newcomer) => self.put(newcomer)?,
            PeerChange::Remove(key) => self.remove(&key),
            PeerChange::Endpoint(key, endpoint) => {
                if let Some(id) = self.id_of(&key) {
                    self.move_to(id, endpoint, now);
                }
            }
            PeerChange::AllowedIps(key, prefixes) => {
                if let Some(id) = self.id_of(&key) {
                    self.allowed.replace(id, &prefixes);
                }
            }
            PeerChange::Through(key, hub) => {
                if let (Some(id), Some(hub)) = (self.id_of(&key), self.id_of(&hub)) {
                    self.lead_through(id, hub, now);
                }
            }
            PeerChange::Probe(key, places) => {
                if let Some(id) = self.id_of(&key) {
                    self.probe(id, &places, now);
                }
            }
            PeerChange::Own(private) => self.become_other(private),
            PeerChange::Hubs { hubs, relays } => self.set_hubs(&hubs, relays),
        }
        Ok(())
    }

    /// Puts a peer in; the table of routes is not told yet.
    pub(super) fn put(&mut self, newcomer: Newcomer) -> Result<(), SessionsError> {
        let Newcomer { peer, allowed_ips, endpoint, keepalive } = newcomer;
        let id = match self.id_of(&peer.public_key) {
            Some(id) => {
                if let Some(known) = self.peers.get_mut(id) {
                    known.psk = peer.psk.clone();
                }
                self.allowed.replace(id, &[]);
                id
            }
            None => {
                let activity = Arc::clone(&peer.activity);
                let id = self.peers.add(*peer)?;
                self.updates.push_back(Update::Peer(id, activity));
                id
            }
        };
        let own = |prefix: &Cidr| match prefix.ip() {
            IpAddr::V4(ip) if prefix.prefix() == 32 => Some(ip),
            _ => None,
        };
        let address = allowed_ips.iter().find_map(own);
        for prefix in allowed_ips {
            self.allowed.assign(prefix, id);
        }
        let Some(peer) = self.peers.get_mut(id) else { return Ok(()) };
        (peer.keepalive, peer.address) = (keepalive, address);
        peer.is_hub = self.hubs.contains(peer.public_key.as_bytes());
        peer.was_hub |= peer.is_hub;
        if let (None, Some(endpoint)) = (peer.endpoint, endpoint) {
            Self::note_at(&mut self.updates, id, peer, endpoint.into());
        }
        Ok(())
    }

    fn remove(&mut self, key: &PublicKey) {
        let Some((id, mut peer)) = self.peers.remove(key.as_bytes()) else { return };
        for index in peer.indices() {
            self.by_index.remove(&index);
        }
        // The sending thread may have a packet in its hands: it is told by the keys themselves, at once.
        peer.retire();
        self.allowed.replace(id, &[]);
        self.updates.push_back(Update::Gone(id, *key));
        // It is no hub any more by the time it is removed.
        if peer.was_hub {
            self.part_from_hub(id, peer.endpoint);
        }
    }

    /// Nothing that was agreed on with the old key is used any more.
    fn become_other(&mut self, private: PrivateKey) {
        self.keys().values().for_each(|key| self.remove(key));
        self.public = *private.public().as_bytes();
        self.private = private;
        self.gate = Gate::new(&self.public);
    }

    /// A peer is there. If it is not reached where it was, it is tried there at once; if it is reached through a hub, that
    /// goes on until it answers there.
    fn move_to(&mut self, id: PeerId, endpoint: SocketAddr, now: Now) {
        if self.is_led(id, now.instant) {
            return self.probe(id, &[endpoint], now);
        }
        let Some(peer) = self.peers.get_mut(id) else { return };
        let moved = peer.endpoint != Some(endpoint) || peer.through.is_some();
        let from = if moved { None } else { peer.source };
        Self::expect_at(&mut self.updates, id, peer, Reach { to: endpoint, from });
        if moved && peer.attempt.is_some() {
            self.initiate(id, now);
        }
    }
}
