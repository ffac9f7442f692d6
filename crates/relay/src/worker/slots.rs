//! Which device has which slot.
//!
//! A place is used again after its device's removal. The generation in a [`Slot`] tells one tenant from the
//! next, so what is said of one and comes late does not hit the other.

use std::collections::BTreeMap;

use super::slab::Key;
use crate::wire::Slot;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By index.
    tenants: BTreeMap<u32, (u64, Key)>,
}

impl Slots {
    /// The device in `slot`.
    pub(super) fn device(&self, slot: Slot) -> Option<Key> {
        self.tenants
            .get(&slot.index)
            .filter(|(generation, _)| *generation == slot.generation)
            .map(|(_, key)| *key)
    }

    /// Whether the place of `slot` has another tenant.
    pub(super) fn is_anothers(&self, slot: Slot) -> bool {
        self.tenants.get(&slot.index).is_some_and(|(generation, _)| *generation != slot.generation)
    }

    /// Gives `slot`, which is nobody's, to a device.
    pub(super) fn insert(&mut self, slot: Slot, device: Key) {
        self.tenants.insert(slot.index, (slot.generation, device));
    }

    /// Takes the device out of `slot`.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<Key> {
        let device = self.device(slot)?;
        self.tenants.remove(&slot.index);
        Some(device)
    }

    /// Slots that have a device.
    pub(super) fn taken(&self) -> impl Iterator<Item = Slot> {
        self.tenants.iter().map(|(index, (generation, _))| Slot::new(*index, *generation))
    }

    /// The devices in them.
    pub(super) fn devices(&self) -> impl Iterator<Item = Key> {
        self.tenants.values().map(|(_, device)| *device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a slot is its index alone.
    #[test]
    fn a_slot_never_means_the_next_tenant() {
        let (old, new) = (Key::from_parts(0, 0), Key::from_parts(1, 0));
        let (first, second) = (Slot::new(5, 1), Slot::new(5, 2));
        let mut slots = Slots::default();
        slots.insert(first, old);
        assert!(slots.is_anothers(second) && !slots.is_anothers(first));
        assert_eq!((slots.device(first), slots.device(second)), (Some(old), None));
        assert_eq!((slots.remove(second), slots.remove(first)), (None, Some(old)));
        assert!(!slots.is_anothers(second));
        slots.insert(second, new);
        assert_eq!((slots.device(first), slots.device(second)), (None, Some(new)));
        assert_eq!((slots.taken().collect(), slots.devices().collect()), (vec![second], vec![new]));
    }
}
