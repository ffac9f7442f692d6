//! An organization as a list of peers, and how one list becomes the next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use portway_model::Cidr;

use super::record::Device;
use super::view::View;
use crate::spec::{Endpoint, Peer, PrivateKey, PublicKey};

/// How often something is sent to a peer that could not send to us otherwise: less than the 30 s after which many a
/// translation of addresses forgets (RFC 4787, REQ-5, asks for two minutes and is not kept by all).
pub const KEEPALIVE: Duration = Duration::from_secs(25);

/// What became of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added(Peer),
    /// It is a member no more: its sessions end at once.
    Removed(PublicKey),
    /// It has another key instead of this one: sessions of the old one end at once, connections do not.
    Rekeyed(PublicKey, Peer),
    /// This device has another key: what it has agreed on with peers ends at once. Those that are to stay come next.
    Own(PrivateKey),
    /// It says that it is reached elsewhere, or nowhere.
    Endpoint(PublicKey, Option<Endpoint>),
    /// Its addresses, or how often something is sent to it, are others.
    Altered(Peer),
}

/// A member as a peer of `own`.
#[must_use]
pub fn peer(own: Option<&Device>, device: &Device) -> Peer {
    let addresses = [(IpAddr::V4(device.ip4), 32), (IpAddr::V6(device.ip6), 128)];
    let own_blocks = addresses.into_iter().filter_map(|(ip, prefix)| Cidr::new(ip, prefix));
    let endpoint = device.endpoints.first().cloned();
    // Whoever says where it is reached needs nothing to be kept open.
    let is_hidden = own.is_none_or(|own| own.endpoints.is_empty());
    Peer {
        public_key: device.key,
        preshared_key: None,
        allowed_ips: own_blocks.chain(device.routes.iter().copied()).collect(),
        // A hub is there when it is needed, and can pass on to us.
        keepalive: ((is_hidden || device.hub) && endpoint.is_some()).then_some(KEEPALIVE),
        endpoint,
    }
}

fn peers(own: &PublicKey, view: &View) -> BTreeMap<PublicKey, Peer> {
    let me = view.devices().find(|device| device.key == *own);
    let others = view.devices().filter(|device| device.key != *own);
    others.map(|device| (device.key, peer(me, device))).collect()
}

/// From `before`, nothing at first, to `after`: those who are gone come first, so that what they had is free.
#[must_use]
pub fn changes(own: &PublicKey, before: Option<&View>, after: &View) -> Vec<Change> {
    let old = before.map(|view| peers(own, view)).unwrap_or_default();
    let new = peers(own, after);
    let gone: Vec<PublicKey> = old.keys().filter(|key| !new.contains_key(key)).copied().collect();
    let rekeyed: BTreeMap<PublicKey, PublicKey> =
        gone.iter().filter_map(|key| Some((after.successor(key)?.key, *key))).collect();
    let is_rekeyed = |key: &PublicKey| rekeyed.values().any(|former| former == key);
    let removed = gone.iter().filter(|key| !is_rekeyed(key)).copied().map(Change::Removed);
    let mut changes: Vec<Change> = removed.collect();
    for (key, peer) in new {
        match old.get(&key) {
            None => changes.push(match rekeyed.get(&key) {
                Some(former) => Change::Rekeyed(*former, peer),
                None => Change::Added(peer),
            }),
            Some(old) if *old == peer => {}
            // One that had no place or has none any more is kept open, or not.
            Some(old)
                if old.allowed_ips == peer.allowed_ips
                    && old.keepalive == peer.keepalive
                    && old.endpoint.is_some() == peer.endpoint.is_some() =>
            {
                changes.push(Change::Endpoint(key, peer.endpoint));
            }
            Some(_) => changes.push(Change::Altered(peer)),
        }
    }
    changes
}

/// The same for a device that was `own` in `before` and has `key` in `after`: with every peer it agrees anew.
#[must_use]
pub fn changes_of_own(own: &PublicKey, before: &View, key: &PrivateKey, after: &View) -> Vec<Change> {
    // To who it was, its new key is another member, and not one of those who are gone.
    let mut all = changes(own, Some(before), after);
    all.retain(|change| matches!(change, Change::Removed(_) | Change::Rekeyed(..)));
    all.push(Change::Own(key.clone()));
    all.extend(peers(&key.public(), after).into_values().map(Change::Altered));
    all
}
