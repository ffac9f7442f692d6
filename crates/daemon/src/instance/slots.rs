//! Slots of one worker: which device has which, and which are free.
//!
//! A place is given again once its device was taken out and its counters were read. Every slot given has a
//! generation of its own, so that a report that was on its way meanwhile is nobody's: it names a slot that has no
//! tenant any more.

use std::collections::BTreeMap;

use portway_model::DeviceName;
use portway_relay::wire::{SLOT_COUNT, Slot};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Slots {
    /// By index.
    tenants: BTreeMap<u32, Tenant>,
    /// Generation of the next slot.
    next: u64,
}

#[derive(Debug)]
struct Tenant {
    generation: u64,
    /// `None`: the worker has something there that is no device of ours.
    device: Option<DeviceName>,
}

impl Slots {
    /// Those of an adopted worker, as it says.
    pub(super) fn of_table(table: impl Iterator<Item = (Slot, Option<DeviceName>)>) -> Slots {
        let mut slots = Slots::default();
        for (Slot { index, generation }, device) in table {
            slots.next = slots.next.max(generation.wrapping_add(1));
            slots.tenants.insert(index, Tenant { generation, device });
        }
        slots
    }

    /// Gives a free slot to `device`; `None` when there is none.
    pub(super) fn give(&mut self, device: DeviceName) -> Option<Slot> {
        let index = self.first_free()?;
        let generation = self.next;
        self.next = generation.wrapping_add(1);
        self.tenants.insert(index, Tenant { generation, device: Some(device) });
        Some(Slot { index, generation })
    }

    /// The lowest, so that few pages of counters are touched.
    fn first_free(&self) -> Option<u32> {
        let free = (0..).zip(self.tenants.keys()).find(|(index, taken)| index != *taken);
        let index = free.map_or(u32::try_from(self.tenants.len()), |(index, _)| Ok(index)).ok()?;
        (index < SLOT_COUNT).then_some(index)
    }

    /// Whether none is free.
    pub(super) fn is_full(&self) -> bool {
        self.first_free().is_none()
    }

    /// The device that has `slot`.
    pub(super) fn holder(&self, slot: Slot) -> Option<&DeviceName> {
        self.tenant(slot)?.device.as_ref()
    }

    fn tenant(&self, slot: Slot) -> Option<&Tenant> {
        self.tenants.get(&slot.index).filter(|tenant| tenant.generation == slot.generation)
    }

    /// Gives the device in `slot` another name.
    pub(super) fn rename(&mut self, slot: Slot, to: DeviceName) {
        if self.tenant(slot).is_some()
            && let Some(tenant) = self.tenants.get_mut(&slot.index)
        {
            tenant.device = Some(to);
        }
    }

    /// Frees `slot`; returns the device that had it. Its counters are read before: the next tenant's begin at zero.
    pub(super) fn free(&mut self, slot: Slot) -> Option<DeviceName> {
        self.tenant(slot)?;
        self.tenants.remove(&slot.index)?.device
    }

    /// Devices and their slots.
    pub(super) fn devices(&self) -> impl Iterator<Item = (Slot, &DeviceName)> {
        self.tenants.iter().filter_map(|(index, tenant)| {
            Some((Slot { index: *index, generation: tenant.generation }, tenant.device.as_ref()?))
        })
    }
}

#[cfg(test)]
mod tests;
