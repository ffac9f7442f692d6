//! Clients without an upstream, in nobody's service: their instance died under the worker that had
//! taken them in.
//!
//! Handed back → kept, here and by the keeper, so that the daemon may die → handed to the next
//! worker, or reset when the hold ends. None of them has lost a byte.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use portway_model::{DeviceKey, DeviceName};
use portway_relay::wire::Slot;
use tracing::{debug, warn};

use super::Instance;
use super::plan::Group;

/// What the keeper's names of clients begin with; no provider of instances is called so.
const PREFIX: &str = "client:";

/// Clients of one listener that wait for a worker, as many as came in one message.
#[derive(Debug)]
pub(crate) struct Orphans {
    /// Their name at the keeper.
    kept_as: String,
    /// Listen index they came in by.
    index: u32,
    clients: Vec<OwnedFd>,
}

impl Orphans {
    /// Those that the keeper had, by their name and note there: the device they belong to.
    pub(crate) fn recover(kept_as: &str, note: &str, clients: Vec<OwnedFd>) -> Option<(DeviceKey, Orphans)> {
        let (_, device) = kept_as.strip_prefix(PREFIX)?.split_once(':')?;
        let orphans = Orphans { kept_as: kept_as.to_owned(), index: note.parse().ok()?, clients };
        Some((device.parse().ok()?, orphans))
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.clients.iter().map(AsFd::as_fd).collect()
    }

    /// Has them reset when their last descriptor is closed, so that they do not wait.
    fn reset(&self) {
        for client in &self.clients {
            // Not a tcp socket: closing it is all there is.
            let _ = portway_sys::sockopt::linger_reset(client.as_fd());
        }
    }

    fn number(&self) -> u64 {
        let text = self.kept_as.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        text.and_then(|(number, _)| number.parse().ok()).unwrap_or_default()
    }
}

/// Whether the keeper has clients under this name, no listeners.
pub(crate) fn is_client(kept_as: &str) -> bool {
    kept_as.starts_with(PREFIX)
}

impl Instance {
    /// A worker hands clients back. One that serves at present does so because the instance is
    /// dying, which the daemon may not have seen: the hold begins, and the next worker gets them.
    pub(super) async fn take_orphans(
        &mut self,
        group: Option<Group>,
        worker: &str,
        slot: Slot,
        index: u32,
        clients: Vec<OwnedFd>,
    ) {
        let mut orphans = Orphans { kept_as: String::new(), index, clients };
        if orphans.count() == 0 {
            return;
        }
        let now = Instant::now();
        let Some(device) = self.device_in(group, worker, slot) else { return orphans.reset() };
        let name = device.name.clone();
        if group.is_some() {
            device.hold(now, device.spec.hold);
        }
        let has_next = group.is_none() && device.placed.is_some();
        if !has_next && device.hold_rest(now).is_none() {
            return orphans.reset();
        }
        orphans.kept_as = format!("{PREFIX}{}:{}", self.next_orphan, self.device_key(&name));
        self.next_orphan += 1;
        let note = index.to_string();
        self.hub.keeper.keep(orphans.kept_as.clone(), note, &orphans.borrowed()).await;
        self.adopt_orphans(&name, orphans).await;
        if has_next {
            self.hand_over_orphans(&name).await;
        }
    }

    /// Takes over clients that are kept; beyond the bound they are reset.
    pub(super) async fn adopt_orphans(&mut self, name: &DeviceName, orphans: Orphans) {
        self.next_orphan = self.next_orphan.max(orphans.number() + 1);
        let Some(device) = self.devices.get_mut(name) else { return self.let_go(orphans).await };
        if let Some(surplus) = device.keep_orphans(orphans) {
            self.let_go(surplus).await;
        }
    }

    /// Supplies a new keeper with a device's clients.
    pub(super) async fn keep_orphans(&self, name: &DeviceName) {
        for orphans in self.devices.get(name).into_iter().flat_map(|device| &device.orphans) {
            let (key, note) = (orphans.kept_as.clone(), orphans.index.to_string());
            self.hub.keeper.keep(key, note, &orphans.borrowed()).await;
        }
    }

    async fn let_go(&self, orphans: Orphans) {
        orphans.reset();
        self.hub.keeper.drop_key(orphans.kept_as).await;
    }

    /// Gives the clients that were kept to the device's worker.
    pub(super) async fn hand_over_orphans(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get_mut(name) else { return };
        let Some(placed) = &device.placed else { return };
        let Some(serving) = self.workers.get(&placed.group) else { return };
        if device.orphans.is_empty() {
            return;
        }
        let (slot, kept) = (placed.slot, std::mem::take(&mut device.orphans));
        let count: usize = kept.iter().map(Orphans::count).sum();
        debug!(instance = %self.key, device = %name, count, "kept clients handed over");
        for orphans in &kept {
            self.hub.keeper.drop_key(orphans.kept_as.clone()).await;
        }
        // A copy that is still there would keep a connection open after both its ends have closed it.
        self.hub.keeper.settle().await;
        for orphans in kept {
            if let Err(failure) = serving.worker.clients(slot, orphans.index, &orphans.borrowed()).await {
                warn!(instance = %self.key, device = %name, error = %failure, "kept clients lost");
                orphans.reset();
            }
        }
    }

    /// Resets the clients that were kept: nobody waits any longer.
    pub(super) async fn reset_orphans(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get_mut(name) else { return };
        for orphans in std::mem::take(&mut device.orphans) {
            self.let_go(orphans).await;
        }
    }
}
