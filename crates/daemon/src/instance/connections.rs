//! Whom to ask for the live connections of a device: the worker that serves it, and those that still finish some.

use std::sync::Arc;

use portway_control::api;
use portway_model::{DeviceName, DeviceSpec};
use portway_relay::wire::Slot;

use super::Instance;
use crate::worker::Asker;

/// What is known of a device whose connections are asked for.
pub(crate) struct Asked {
    /// The device.
    pub(crate) device: api::Device,
    /// Its options.
    pub(crate) spec: Arc<DeviceSpec>,
    /// Who has connections of it: a worker, its pid, the slot there.
    pub(crate) workers: Vec<(Asker, i32, Slot)>,
}

impl Instance {
    /// `None` when there is no such device.
    pub(super) fn asked(&self, name: &DeviceName) -> Option<Asked> {
        let device = self.devices.get(name)?;
        let present = device.placed.as_ref().and_then(|placed| {
            let worker = &self.workers.get(&placed.group)?.worker;
            Some((worker.asker(), worker.pid(), placed.slot))
        });
        let leaving = self.leaving.iter().filter_map(|leaving| {
            let worker = &leaving.serving.worker;
            let (slot, _) = leaving.serving.slots.devices().find(|(_, device)| *device == name)?;
            Some((worker.asker(), worker.pid(), slot))
        });
        let workers = present.into_iter().chain(leaving).collect();
        Some(Asked { device: self.show(device), spec: Arc::clone(&device.spec), workers })
    }
}
