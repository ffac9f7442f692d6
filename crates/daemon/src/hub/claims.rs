//! Devices that are about to be added or changed: those that would close a ring with the stored ones, or with each
//! other, are told before anything is opened.

use std::collections::BTreeMap;
use std::ops::Bound;

use portway_model::{DeviceKey, DeviceSpec};

use super::{Hub, locked};
use crate::loops;

/// What was announced.
pub(super) type Claims = BTreeMap<DeviceKey, DeviceSpec>;

/// New devices that are compared with those of their instance one by one.
const FEW: usize = 16;

impl Hub {
    /// Announces devices that are about to be added or changed, so that two that come at the same time and
    /// close a ring together do not both get in. Also returns which of them close one, and how; those are
    /// not announced.
    pub(crate) fn claim(
        &self,
        new: Vec<(DeviceKey, DeviceSpec)>,
    ) -> (Claim<'_>, BTreeMap<DeviceKey, String>) {
        let mut claims = locked(&self.claims);
        let refused = self.closing(&claims, &new);
        let claimed = new.into_iter().filter(|(key, _)| !refused.contains_key(key));
        let keys = claimed.map(|(key, spec)| {
            claims.insert(key.clone(), spec);
            key
        });
        (Claim { keys: keys.collect(), hub: self }, refused)
    }

    fn closing(&self, claims: &Claims, new: &[(DeviceKey, DeviceSpec)]) -> BTreeMap<DeviceKey, String> {
        let desired = locked(&self.desired);
        let may_close = |(key, spec): &(DeviceKey, DeviceSpec)| {
            let stored = beside(&desired, key).map(|device| &device.keys);
            let listed = new.iter().filter(|(other, _)| other.instance == key.instance && other != key);
            loops::may_close(spec, stored.chain(beside(claims, key)).chain(listed.map(|(_, spec)| spec)))
        };
        // Of many it is quicker to look at all at once.
        if new.len() <= FEW && !new.iter().any(may_close) {
            return BTreeMap::new();
        }
        let stored = desired.iter().map(|(key, device)| (key, &device.keys));
        let present: loops::Specs<'_> = stored.chain(claims.iter()).collect();
        let listed: Vec<_> = new.iter().map(|(key, spec)| (key, spec)).collect();
        let refused = loops::closing(present, &listed).into_iter();
        refused.map(|(key, text)| (key.clone(), text)).collect()
    }
}

/// What is known of the other devices of a device's instance.
fn beside<'a, T>(devices: &'a BTreeMap<DeviceKey, T>, key: &'a DeviceKey) -> impl Iterator<Item = &'a T> {
    let same = move |(other, _): &(&DeviceKey, &T)| other.instance == key.instance;
    let after = devices.range((Bound::Excluded(key), Bound::Unbounded)).take_while(same);
    devices.range(..key).rev().take_while(same).chain(after).map(|(_, known)| known)
}

/// Devices that were announced; until it is dropped.
pub(crate) struct Claim<'a> {
    hub: &'a Hub,
    keys: Vec<DeviceKey>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut claims = locked(&self.hub.claims);
        for key in &self.keys {
            claims.remove(key);
        }
    }
}
