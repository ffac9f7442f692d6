//! Clients without an upstream, in nobody's service: their instance died under the worker that had
//! taken them in.
//!
//! Handed back → kept, here and by the keeper, so that the daemon may die → handed to the next
//! worker, or reset when the hold ends. None of them has lost a byte.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use portway_model::{DeviceKey, DeviceName};
use portway_relay::wire::Slot;
use tracing::{debug, warn};

use super::Instance;
use super::plan::Group;

/// What the keeper's names of clients begin with; no provider of instances is called so.
const PREFIX: &str = "client:";

/// A client that waits for a worker.
#[derive(Debug)]
pub(crate) struct Orphan {
    /// Its name at the keeper.
    kept_as: String,
    /// Listen index it came in by.
    index: u32,
    client: OwnedFd,
}

impl Orphan {
    /// One that the keeper had, by its name and note there: the device it belongs to.
    pub(crate) fn recover(
        kept_as: &str,
        note: &str,
        mut descriptors: Vec<OwnedFd>,
    ) -> Option<(DeviceKey, Orphan)> {
        let (_, device) = kept_as.strip_prefix(PREFIX)?.split_once(':')?;
        let client = descriptors.pop().filter(|_| descriptors.is_empty())?;
        let orphan = Orphan { kept_as: kept_as.to_owned(), index: note.parse().ok()?, client };
        Some((device.parse().ok()?, orphan))
    }

    fn number(&self) -> u64 {
        let text = self.kept_as.strip_prefix(PREFIX).and_then(|rest| rest.split_once(':'));
        text.and_then(|(number, _)| number.parse().ok()).unwrap_or_default()
    }
}

/// Whether the keeper has a client under this name, no listeners.
pub(crate) fn is_client(kept_as: &str) -> bool {
    kept_as.starts_with(PREFIX)
}

impl Instance {
    /// A worker hands a client back. One that serves at present does so because the instance is
    /// dying, which the daemon may not have seen: the hold begins, and the next worker gets the
    /// client.
    pub(super) async fn take_orphan(
        &mut self,
        group: Option<Group>,
        worker: &str,
        slot: Slot,
        index: u32,
        client: OwnedFd,
    ) {
        let now = Instant::now();
        let Some(device) = self.device_in(group, worker, slot) else { return reset(&client) };
        let name = device.name.clone();
        if group.is_some() {
            device.hold(now, device.spec.hold);
        }
        let has_next = group.is_none() && device.placed.is_some();
        if !has_next && device.hold_rest(now).is_none() {
            return reset(&client);
        }
        let kept_as = format!("{PREFIX}{}:{}", self.next_orphan, self.device_key(&name));
        self.next_orphan += 1;
        self.hub.keeper.keep(kept_as.clone(), index.to_string(), &[client.as_fd()]).await;
        self.adopt_orphan(&name, Orphan { kept_as, index, client }).await;
        if has_next {
            self.hand_over_orphans(&name).await;
        }
    }

    /// Takes over a client that is kept; beyond the bound it is reset.
    pub(super) async fn adopt_orphan(&mut self, name: &DeviceName, orphan: Orphan) {
        self.next_orphan = self.next_orphan.max(orphan.number() + 1);
        let Some(device) = self.devices.get_mut(name) else { return self.let_go(orphan).await };
        if let Some(surplus) = device.keep_orphan(orphan) {
            self.let_go(surplus).await;
        }
    }

    /// Supplies a new keeper with a device's clients.
    pub(super) async fn keep_orphans(&self, name: &DeviceName) {
        for orphan in self.devices.get(name).into_iter().flat_map(|device| &device.orphans) {
            let (key, note) = (orphan.kept_as.clone(), orphan.index.to_string());
            self.hub.keeper.keep(key, note, &[orphan.client.as_fd()]).await;
        }
    }

    async fn let_go(&self, orphan: Orphan) {
        reset(&orphan.client);
        self.hub.keeper.drop_key(orphan.kept_as).await;
    }

    /// Gives the clients that were kept to the device's worker.
    pub(super) async fn hand_over_orphans(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get_mut(name) else { return };
        let Some(placed) = &device.placed else { return };
        let Some(serving) = self.workers.get(&placed.group) else { return };
        if device.orphans.is_empty() {
            return;
        }
        let (slot, orphans) = (placed.slot, std::mem::take(&mut device.orphans));
        debug!(instance = %self.key, device = %name, count = orphans.len(), "kept clients handed over");
        for orphan in &orphans {
            self.hub.keeper.drop_key(orphan.kept_as.clone()).await;
        }
        // A copy that is still there would keep a connection open after both its ends have closed it.
        self.hub.keeper.settle().await;
        for orphan in orphans {
            if let Err(failure) = serving.worker.client(slot, orphan.index, orphan.client.as_fd()).await {
                warn!(instance = %self.key, device = %name, error = %failure, "kept client lost");
                reset(&orphan.client);
            }
        }
    }

    /// Resets the clients that were kept: nobody waits any longer.
    pub(super) async fn reset_orphans(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get_mut(name) else { return };
        for orphan in std::mem::take(&mut device.orphans) {
            self.let_go(orphan).await;
        }
    }
}

/// Has a client reset when its last descriptor is closed, so that it does not wait.
fn reset(client: &OwnedFd) {
    // Not a tcp socket: closing it is all there is.
    let _ = portway_sys::sockopt::linger_reset(client.as_fd());
}
