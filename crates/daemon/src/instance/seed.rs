//! What an earlier daemon left for an instance: wanted devices, adopted workers, kept listeners.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use portway_model::{Bind, DeviceName};
use tracing::{info, warn};

use super::device::{Device, Placement};
use super::life::stored;
use super::placing::GroupText;
use super::plan::Group;
use super::{Instance, Leaving, Serving};
use crate::listeners::Listeners;
use crate::provider::Run;
use crate::state::{Change, StoredDevice};
use crate::worker::{Adopted, Found, Worker};

/// What an earlier daemon left for one instance.
#[derive(Default)]
pub(crate) struct Seed {
    /// Wanted devices.
    pub(crate) devices: Vec<StoredDevice>,
    /// No state file could be read: what the workers serve is what is wanted.
    pub(crate) rebuild: bool,
    /// Names of workers that may still serve it.
    pub(crate) workers: Vec<String>,
    /// Host-side listeners the keeper holds, by device.
    pub(crate) kept: BTreeMap<DeviceName, (String, Vec<OwnedFd>)>,
}

impl Instance {
    /// Takes over what an earlier daemon left. Nothing that serves is disturbed.
    pub(super) async fn plant(&mut self, seed: Seed) {
        for stored in seed.devices {
            let device = Device::new(stored.name.clone(), stored.keys, stored.uuid);
            self.devices.insert(stored.name, device);
        }
        let mut adopted = Vec::new();
        for name in seed.workers {
            match Worker::adopt(&self.hub.settings.workers_dir, &name, self.news_sink.clone()).await {
                Ok(Some(found)) => adopted.push(found),
                Ok(None) => {}
                Err(failure) => {
                    warn!(worker = name, error = %crate::state::with_sources(&failure), "worker not adopted, ended");
                    crate::worker::end(&self.hub.settings.workers_dir, &name);
                }
            }
        }
        if seed.rebuild {
            self.rebuild(&adopted).await;
        }
        let mut kept = seed.kept;
        for worker in adopted {
            self.take_over(worker, &mut kept).await;
        }
        for (name, (note, descriptors)) in kept {
            self.recover_kept(&name, &note, descriptors);
        }
        self.drop_unwanted().await;
        self.supply_keeper().await;
    }

    /// Takes what the adopted workers serve as what is wanted, and stores it.
    async fn rebuild(&mut self, adopted: &[Adopted]) {
        let mut changes = Vec::new();
        for found in adopted.iter().flat_map(|worker| &worker.devices) {
            let Some(name) = self.name_in(&found.device.key) else { continue };
            let device = Device::new(name.clone(), found.device.spec.clone(), None);
            changes.push(Change::Put(Box::new(stored(&self.key, &device))));
            self.devices.insert(name, device);
        }
        if let Err(failure) = self.hub.commit(changes).await {
            warn!(instance = %self.key, error = failure, "devices found in workers not stored");
        }
    }

    /// The device name in the full name a worker carries.
    fn name_in(&self, full: &str) -> Option<DeviceName> {
        full.strip_prefix(&format!("{}/", self.key))?.parse().ok()
    }

    /// An adopted worker: of the present run and build it goes on, of another it finishes.
    async fn take_over(&mut self, adopted: Adopted, kept: &mut BTreeMap<DeviceName, (String, Vec<OwnedFd>)>) {
        let Adopted { worker, identity, devices } = adopted;
        let group = serde_json::from_str::<GroupText>(&identity.group).ok().map(Group::from);
        let run = self.run_of(&identity.run).await;
        let serves =
            run.is_some() && !self.workers.contains_key(&group.unwrap_or(UNKNOWN)) && group.is_some();
        let mut slots = BTreeMap::new();
        for found in devices {
            if let Some(run) = &run {
                self.take_over_device(group, found, run, kept, &mut slots);
            }
        }
        let Some(run) = run else {
            let serving = Serving { worker, run: super::plan::RunId(identity.run), slots };
            self.leaving.push(Leaving { serving, deadline: Some(Instant::now() + super::ENDING_LIMIT) });
            return;
        };
        let current = identity.build == self.hub.settings.build;
        info!(instance = %self.key, pid = worker.pid(), current, devices = slots.len(), "worker adopted");
        let serving = Serving { worker, run: run.id.clone(), slots };
        match group {
            Some(group) if serves && current && !serving.slots.is_empty() => {
                drop(self.workers.insert(group, serving))
            }
            _ => {
                for name in serving.slots.values() {
                    if let Some(device) = self.devices.get_mut(name) {
                        device.placed = None;
                    }
                }
                serving.worker.drain(super::apply::DRAIN_LIMIT).await;
                self.leaving.push(Leaving { serving, deadline: None });
            }
        }
    }

    /// The run an adopted worker belongs to, if it is still on. The process table decides, so a
    /// server that does not answer loses nothing.
    async fn run_of(&mut self, text: &str) -> Option<Run> {
        if self.run.is_none() {
            let run = match text.split_once(':').and_then(|(pid, _)| pid.parse().ok()) {
                Some(pid) if self.key.provider() != portway_model::Provider::Netns => {
                    Run::of_process(pid).ok()
                }
                _ => match self.hub.providers.observe(&self.key).await.status {
                    crate::provider::Status::Up(run) => Some(run),
                    _ => None,
                },
            };
            if let Some(run) = run.filter(|run| run.id.0 == text) {
                self.found_running(run).await;
                // It was running all the time: nobody waits for it to start.
                for device in self.devices.values_mut() {
                    device.held_until = None;
                }
            }
        }
        self.run.clone().filter(|run| run.id.0 == text)
    }

    fn take_over_device(
        &mut self,
        group: Option<Group>,
        found: Found,
        run: &Run,
        kept: &mut BTreeMap<DeviceName, (String, Vec<OwnedFd>)>,
        slots: &mut BTreeMap<portway_relay::wire::Slot, DeviceName>,
    ) {
        let (Some(name), Some(group)) = (self.name_in(&found.device.key), group) else { return };
        let Some(device) = self.devices.get_mut(&name) else {
            // Not wanted any more: it goes with the slot, see `drop_unwanted`.
            slots.insert(found.slot, name);
            return;
        };
        let inside = (device.spec.bind == Bind::Instance).then_some(run);
        let complete = u32::try_from(found.listeners.len()).is_ok_and(|have| have == found.listen_count);
        if device.listeners.is_none() && complete {
            // The keeper's copies are preferred: a worker may lie about what it returns.
            let copies = match kept.remove(&name) {
                Some((note, descriptors)) if inside.is_none() => Some((note, descriptors)),
                _ => Some((found.device.note.clone(), found.listeners)),
            };
            device.listeners =
                copies.and_then(|(note, fds)| Listeners::recover(fds, &note, &device.spec, inside));
        }
        if device.listeners.is_some() && device.placed.is_none() {
            let same_listen = found.device.spec.listen == device.spec.listen;
            device.relisten = !same_listen;
            let current = found.device.spec == device.spec;
            device.placed = Some(Placement { group, slot: found.slot, start: [0; 8], current });
        }
        slots.insert(found.slot, name);
    }

    /// Host-side listeners that only the keeper has: the instance is down, or its worker is dead.
    fn recover_kept(&mut self, name: &DeviceName, note: &str, descriptors: Vec<OwnedFd>) {
        let Some(device) = self.devices.get_mut(name) else { return };
        if device.listeners.is_some() || device.spec.bind != Bind::Host {
            return;
        }
        device.listeners = Listeners::recover(descriptors, note, &device.spec, None);
        match &device.listeners {
            // Clients wait behind it: they get the rest of a hold, measured from now.
            Some(listeners) if !listeners.refusing => device.hold(Instant::now(), device.spec.hold),
            Some(_) => {}
            None => warn!(instance = %self.key, device = %name, "kept listener does not fit, opened anew"),
        }
    }

    /// Takes devices out of adopted workers that nobody wants any more.
    async fn drop_unwanted(&mut self) {
        for serving in self.workers.values_mut() {
            let unwanted: Vec<_> = serving
                .slots
                .iter()
                .filter(|(slot, name)| {
                    let placed = self.devices.get(name).and_then(|device| device.placed.as_ref());
                    placed.is_none_or(|placed| placed.slot != **slot)
                })
                .map(|(slot, _)| *slot)
                .collect();
            for slot in unwanted {
                serving.slots.remove(&slot);
                if let Err(failure) = serving.worker.take(slot, false).await {
                    warn!(error = %failure, "device nobody wants was not given back");
                }
            }
        }
    }
}

/// Never a real group: host root is only used by explicit request, with a real sibling number.
const UNKNOWN: Group = Group { connect_side: super::plan::Side::Host, ids: None, sibling: u32::MAX };
