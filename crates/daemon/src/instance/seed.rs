//! What an earlier daemon left for an instance: wanted devices, adopted workers, kept listeners.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::Instant;

use portway_model::{Bind, DeviceName, DeviceSpec, Provider};
use portway_relay::wire::Slot;
use tracing::{info, warn};

use super::apply::recover_elsewhere;
use super::device::{Device, Placement};
use super::life::stored;
use super::orphans::Orphans;
use super::placing::{self, GroupText};
use super::plan::{self, Group};
use super::slots::Slots;
use super::{Instance, Leaving, Serving};
use crate::listeners::{self, Listeners};
use crate::provider::{Question, Run, Status};
use crate::state::{Change, StoredDevice};
use crate::tally::{self, Done};
use crate::worker::{Adopted, Found, Worker, WorkerError};

/// What an earlier daemon left for one instance.
#[derive(Default)]
pub(crate) struct Seed {
    /// Wanted devices.
    pub(crate) devices: Vec<StoredDevice>,
    /// The newest state file could not be read: what the workers serve is newer than `devices`.
    pub(crate) rebuild: bool,
    /// Names of workers that may still serve it.
    pub(crate) workers: Vec<String>,
    /// Host-side listeners the keeper holds, by device.
    pub(crate) kept: BTreeMap<DeviceName, (String, Vec<OwnedFd>)>,
    /// Clients the keeper holds, by device.
    pub(crate) clients: Vec<(DeviceName, Orphans)>,
}

/// Host-side listeners of the keeper that nobody has claimed yet.
type Unclaimed = BTreeMap<DeviceName, (String, Vec<OwnedFd>)>;

impl Instance {
    /// Takes over what an earlier daemon left. Nothing that serves is disturbed.
    pub(super) async fn plant(&mut self, seed: Seed) {
        for stored in seed.devices {
            let device = Device::new(stored.name.clone(), stored.keys, stored.uuid);
            let mut device = device.coming_from(stored.origin);
            device.led = self.kept_way(&stored.name);
            self.devices.insert(stored.name, device);
        }
        let mut adopted = Vec::new();
        for name in seed.workers {
            match Worker::adopt(&self.hub.settings.workers_dir, &name, self.news_sink.clone()).await {
                Ok(Some(found)) => adopted.push(found),
                Ok(None) => {}
                // It finishes by itself; its listeners are the keeper's too.
                Err(WorkerError::Version(version)) => info!(worker = name, version, "worker left to finish"),
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
            self.recover_kept(&name, &note, descriptors).await;
        }
        for (name, orphans) in seed.clients {
            self.adopt_orphans(&name, orphans).await;
            self.hand_over_orphans(&name).await;
        }
        self.drop_unwanted().await;
        self.supply_keeper().await;
        self.hub.keeper.settle().await;
    }

    /// Takes what the adopted workers serve as what is wanted, and stores it. What was removed last is
    /// in no worker; what was added or changed last is.
    ///
    /// A worker is believed only what it could do anyway: a device that dials on its side, as its ids.
    async fn rebuild(&mut self, adopted: &[Adopted]) {
        let mut changes = Vec::new();
        let mut believed: Vec<&Found> = Vec::new();
        for worker in adopted {
            let group = serde_json::from_str::<GroupText>(&worker.identity.group).ok().map(Group::from);
            let (Some(run), Some(group)) = (self.run_of(&worker.identity.run).await, group) else { continue };
            let fits = |found: &&Found| {
                let spec = &found.device.spec;
                let ids = placing::ids(spec, &run, self.hub.settings.worker_ids);
                plan::connect_side(spec.bind) == group.connect_side && ids == Ok(group.ids)
            };
            believed.extend(worker.devices.iter().filter(fits));
        }
        for found in believed {
            let Some(name) = self.name_in(&found.device.key) else { continue };
            let known = self.devices.get(&name);
            if known.is_some_and(|device| *device.spec == found.device.spec) {
                continue;
            }
            let uuid = known.and_then(|device| device.uuid.clone());
            let led = known.and_then(|device| device.led.clone());
            let mut device = Device::new(name.clone(), found.device.spec.clone(), uuid);
            device.led = led;
            changes.push(Change::Put(Box::new(stored(&self.key, &device))));
            self.devices.insert(name, device);
        }
        if changes.is_empty() {
            return;
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
    async fn take_over(&mut self, adopted: Adopted, kept: &mut Unclaimed) {
        let Adopted { mut worker, identity, devices, draining } = adopted;
        if identity.build == self.hub.settings.build {
            worker.want_access(self.hub.access.is_on()).await;
        }
        let group = serde_json::from_str::<GroupText>(&identity.group).ok().map(Group::from);
        let run = self.run_of(&identity.run).await;
        let current = identity.build == self.hub.settings.build && !draining;
        let place = group.filter(|group| current && !self.workers.contains_key(group));
        let named = |found: &Found| (found.slot, self.name_in(&found.device.key));
        let slots = Slots::of_table(devices.iter().map(named));
        for found in devices {
            if let (Some(run), Some(name)) = (&run, slots.holder(found.slot)) {
                self.take_over_device(name, place, found, run, kept).await;
            }
        }
        let Some(run) = run else {
            let serving = Serving { worker, run: plan::RunId(identity.run), slots };
            self.leaving.push(Leaving { serving, deadline: Some(Instant::now() + super::ENDING_LIMIT) });
            return;
        };
        info!(instance = %self.key, pid = worker.pid(), current, devices = slots.devices().count(), "worker adopted");
        let serving = Serving { worker, run: run.id.clone(), slots };
        match place {
            Some(group) if serving.slots.devices().next().is_some() => {
                tally::count(Done::WorkerAdopted);
                drop(self.workers.insert(group, serving))
            }
            _ => {
                tally::count(Done::WorkerReplaced);
                serving.worker.drain(super::apply::DRAIN_LIMIT).await;
                self.leaving.push(Leaving { serving, deadline: None });
            }
        }
    }

    /// The run an adopted worker belongs to, if it is still on. The process table decides, so a
    /// server that does not answer loses nothing.
    async fn run_of(&mut self, text: &str) -> Option<Run> {
        if self.run.is_none() {
            let run = match self.key.provider() {
                Provider::Incus | Provider::Lxd | Provider::Pid => Run::of_id(text),
                Provider::Netns => {
                    match self.hub.providers.observe(&self.key, Question::default()).await.status {
                        Status::Up(run) => Some(run),
                        _ => None,
                    }
                }
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

    /// A device of an adopted worker: its listeners, and its place if the worker is to go on.
    async fn take_over_device(
        &mut self,
        name: &DeviceName,
        place: Option<Group>,
        found: Found,
        run: &Run,
        kept: &mut Unclaimed,
    ) {
        let key = self.device_key(name).to_string();
        // One that is not wanted any more goes with its slot, see `drop_unwanted`.
        let Some(device) = self.devices.get_mut(name) else { return };
        let inside = (device.spec.bind == Bind::Instance).then_some(run);
        let have = u32::try_from(found.listeners.len()).unwrap_or(u32::MAX);
        let complete = have == found.listen_count && have == listeners::count(&found.device.spec);
        if device.listeners.is_none() {
            // The keeper's copies are preferred: a worker may lie about what it returns.
            let copies = if inside.is_none() { kept.remove(name) } else { None };
            if let Some((note, descriptors)) = copies {
                device.listeners = Listeners::recover(descriptors, &note, &device.spec, None);
                if device.listeners.is_none() {
                    self.hub.keeper.drop_key(key).await;
                }
            }
        }
        if device.listeners.is_none() && complete {
            let (note, spec) = (found.device.note.clone(), DeviceSpec::clone(&device.spec));
            device.listeners = recover_elsewhere(found.listeners, note, spec, inside.cloned()).await;
        }
        if let Some(group) = place
            && complete
            && device.listeners.is_some()
            && device.placed.is_none()
        {
            device.relisten = found.device.spec.listen != device.spec.listen;
            let current = run.dialled(&device.spec).is_ok_and(|wanted| *wanted == found.device.spec);
            device.placed = Some(Placement { group, slot: found.slot, current });
        }
    }

    /// Host-side listeners that only the keeper has: the instance is down, or its worker is dead.
    async fn recover_kept(&mut self, name: &DeviceName, note: &str, descriptors: Vec<OwnedFd>) {
        let Some(device) = self.devices.get_mut(name) else {
            info!(instance = %self.key, device = %name, "kept listener of a device nobody wants, closed");
            return self.hub.keeper.drop_key(self.device_key(name).to_string()).await;
        };
        if device.listeners.is_some() || device.spec.bind != Bind::Host {
            return;
        }
        device.listeners = Listeners::recover(descriptors, note, &device.spec, None);
        match &device.listeners {
            // Clients wait behind it: they get the rest of a hold, measured from now.
            Some(listeners) if !listeners.refusing => device.hold(Instant::now(), device.spec.hold),
            Some(_) => {}
            None => {
                warn!(instance = %self.key, device = %name, "kept listener does not fit, opened anew");
                // An earlier daemon was killed over a change. What it had opened would be in the way.
                self.hub.keeper.drop_key(self.device_key(name).to_string()).await;
            }
        }
    }

    /// Takes devices out of adopted workers that nobody wants any more, or that are served elsewhere.
    async fn drop_unwanted(&mut self) {
        for (group, serving) in &mut self.workers {
            let is_surplus = |slot: Slot, name: &DeviceName| {
                let placed = self.devices.get(name).and_then(|device| device.placed.as_ref());
                placed.is_none_or(|placed| placed.slot != slot || placed.group != *group)
            };
            let surplus = serving.slots.devices().filter(|(slot, name)| is_surplus(*slot, name));
            let surplus: Vec<(Slot, bool)> =
                surplus.map(|(slot, name)| (slot, self.devices.contains_key(name))).collect();
            for (slot, wanted) in surplus {
                serving.slots.free(slot);
                if let Err(failure) = serving.worker.take(slot, wanted).await {
                    warn!(error = %failure, "device nobody wants was not given back");
                }
            }
        }
    }
}
