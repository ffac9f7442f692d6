//! Several changes of an instance's devices at once, to be taken back as a whole.
//!
//! One look at the instance and one round of planning serve all of them. Nothing here is stored:
//! who asked does that once every instance has done its part.

use portway_control::api::{Failure, FailureKind};
use portway_model::{DeviceName, DeviceSpec};

use super::Instance;
use super::device::Device;
use super::edit::unreachable;
use super::life::stored;
use crate::hub::failure;
use crate::state::{Change, StoredDevice};

/// What to do.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Batch {
    /// Devices to remove, first.
    pub(crate) remove: Vec<DeviceName>,
    /// Devices to change.
    pub(crate) change: Vec<(DeviceName, DeviceSpec)>,
    /// Devices to add, last.
    pub(crate) add: Vec<(DeviceName, DeviceSpec)>,
}

/// What was done, to be taken back.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    added: Vec<DeviceName>,
    changed: Vec<(DeviceName, DeviceSpec)>,
    removed: Vec<StoredDevice>,
}

/// What was done and is to be stored.
#[derive(Debug)]
pub(crate) struct Staged {
    /// To take it back.
    pub(crate) undo: Undo,
    /// To store it.
    pub(crate) changes: Vec<Change>,
}

impl Instance {
    /// Carries a batch out, as a whole or not at all.
    ///
    /// # Errors
    /// The first device that is refused; the instance is then as before.
    pub(super) async fn stage(&mut self, batch: Batch) -> Result<Staged, Failure> {
        let mut undo = Undo::default();
        match self.carry_out(&batch, &mut undo).await {
            Ok(()) => Ok(Staged { changes: self.changes_of(&batch), undo }),
            Err(failed) => {
                self.unstage(undo).await;
                Err(failed)
            }
        }
    }

    async fn carry_out(&mut self, batch: &Batch, undo: &mut Undo) -> Result<(), Failure> {
        for name in &batch.remove {
            if let Some(device) = self.devices.get(name) {
                undo.removed.push(stored(&self.key, device));
            }
        }
        self.forget(&batch.remove).await;
        if batch.change.is_empty() && batch.add.is_empty() {
            return Ok(());
        }
        for (_, spec) in batch.change.iter().chain(&batch.add) {
            self.check_size(spec)?;
        }
        self.look_now().await;
        let specs: Vec<&DeviceSpec> = batch.change.iter().chain(&batch.add).map(|(_, spec)| spec).collect();
        self.look_for_nics(&specs).await;
        if let (Some(text), None) = (&self.unreachable, &self.run) {
            return Err(unreachable(self.key.provider(), text));
        }
        if self.unsupported {
            let text = self.absence.clone().unwrap_or_default();
            return Err(failure(FailureKind::Refused, format!("{}: {text}", self.key)));
        }
        for (name, spec) in batch.change.iter().chain(&batch.add) {
            self.check_target(name, spec)?;
        }
        for (name, after) in &batch.change {
            let Some(before) = self.devices.get(name).map(|device| DeviceSpec::clone(&device.spec)) else {
                return Err(self.missing(name));
            };
            self.swap(name, after).await.map_err(|problem| {
                let text = self.opening_error(name, Some(after.bind), &problem);
                failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key))
            })?;
            undo.changed.push((name.clone(), before));
        }
        for (name, spec) in &batch.add {
            if self.devices.contains_key(name) {
                let text = format!("device {name} of {} exists already", self.key);
                return Err(failure(FailureKind::Refused, text));
            }
            self.devices.insert(name.clone(), Device::new(name.clone(), spec.clone(), self.uuid.clone()));
            undo.added.push(name.clone());
        }
        self.reconcile().await;
        for (name, _) in batch.change.iter().chain(&batch.add) {
            self.outcome(name).await?;
        }
        Ok(())
    }

    fn changes_of(&self, batch: &Batch) -> Vec<Change> {
        let gone = batch.remove.iter().map(|name| Change::Delete(self.device_key(name)));
        let named = batch.change.iter().chain(&batch.add).filter_map(|(name, _)| self.devices.get(name));
        gone.chain(named.map(|device| Change::Put(Box::new(stored(&self.key, device))))).collect()
    }

    /// Takes back what a batch did. What worked before is expected to work again; where it does
    /// not, the device says so and is tried on.
    pub(super) async fn unstage(&mut self, undo: Undo) {
        self.forget(&undo.added).await;
        for (name, before) in undo.changed.iter().rev() {
            // Its own listeners are free again.
            let _ = self.swap(name, before).await;
        }
        for StoredDevice { name, keys, uuid, origin, .. } in undo.removed {
            self.devices.insert(name.clone(), Device::new(name, keys, uuid).coming_from(origin));
        }
        self.reconcile().await;
    }
}
