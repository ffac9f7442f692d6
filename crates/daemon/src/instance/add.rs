//! New devices. Those that are asked for while others are being added are brought up together: one plan,
//! one write of the state. Each is judged by itself: one that cannot be had takes none of the others along.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceName, DeviceSpec, Provider};

use super::device::Device;
use super::edit::unreachable;
use super::life::stored;
use super::{Command, Instance, Reply, answer};
use crate::hub::failure;
use crate::state::{Change, Origin};

/// Devices brought up together, at most: as many as one worker holds.
const TOGETHER_MAX: usize = 1024;

/// Longest wait for the server's own relay of a device that has moved here: it ends after the server has
/// said that the device is gone.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// Pause between two looks whether it has ended.
const RELEASE_PAUSE: Duration = Duration::from_millis(20);

/// A device that is asked for.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Its name.
    pub(crate) name: DeviceName,
    /// Its options.
    pub(crate) spec: DeviceSpec,
    /// What it was elsewhere.
    pub(crate) origin: Option<Origin>,
}

impl Instance {
    /// Adds the device that is asked for, and those whose commands wait behind it.
    pub(super) async fn add_waiting(&mut self, first: Wanted, reply: Reply<api::Device>) {
        let mut names = BTreeSet::from([first.name.clone()]);
        let (mut wanted, mut replies) = (vec![first], vec![reply]);
        while wanted.len() < TOGETHER_MAX {
            match self.commands.try_recv() {
                // The second of a name is judged when it is known what became of the first.
                Ok(Command::Add(name, spec, reply)) if names.insert(name.clone()) => {
                    wanted.push(Wanted { name, spec: *spec, origin: None });
                    replies.push(reply);
                }
                Ok(Command::Look(reply)) => self.look_for(reply),
                Ok(other) => {
                    self.next = Some(other);
                    break;
                }
                Err(_) => break,
            }
        }
        let results = self.add(wanted).await;
        for (reply, result) in replies.into_iter().zip(results) {
            answer(reply, result);
        }
    }

    /// Adds devices; returns when each works, or waits for something that is expected to come. The
    /// answers are in the order of `wanted`.
    ///
    /// # Errors
    /// Each for itself; nothing is left behind of a device that was refused.
    pub(super) async fn add(&mut self, wanted: Vec<Wanted>) -> Vec<Result<api::Device, Failure>> {
        self.look_now().await;
        let specs: Vec<&DeviceSpec> = wanted.iter().map(|one| &one.spec).collect();
        self.look_for_nics(&specs).await;
        let hub = Arc::clone(&self.hub);
        let new = wanted.iter().filter(|one| !self.devices.contains_key(&one.name));
        let (claim, mut rings) =
            hub.claim(new.map(|one| (self.device_key(&one.name), one.spec.clone())).collect());
        let mut results: Vec<Result<DeviceName, Failure>> = Vec::new();
        let moved = wanted.iter().any(|one| one.origin.is_some());
        for one in wanted {
            results.push(match rings.remove(&self.device_key(&one.name)) {
                Some(text) => {
                    Err(failure(FailureKind::Refused, format!("{}/{}: {text}", self.key, one.name)))
                }
                None => self.admit(one),
            });
        }
        self.reconcile().await;
        if moved {
            self.outwait(results.iter().flatten()).await;
        }
        let mut refused = Vec::new();
        for result in &mut results {
            if let Ok(name) = result
                && let Err(refusal) = self.outcome(&name.clone()).await
            {
                refused.push(std::mem::replace(result, Err(refusal)));
            }
        }
        if let Err(text) = self.store_new(results.iter().flatten()).await {
            for result in results.iter_mut().filter(|result| result.is_ok()) {
                let failed = Err(failure(FailureKind::Internal, format!("device not stored: {text}")));
                refused.push(std::mem::replace(result, failed));
            }
        }
        drop(claim);
        let refused: Vec<DeviceName> = refused.into_iter().flatten().collect();
        if !refused.is_empty() {
            self.forget(&refused).await;
        }
        self.publish();
        for name in results.iter().flatten() {
            self.hub.tell("device-added", &self.key, Some(name), "added".into());
        }
        results.into_iter().map(|result| result.and_then(|name| self.shown(&name))).collect()
    }

    /// Tries again while somebody else is at the address of a device that comes from a server.
    async fn outwait(&mut self, names: impl Iterator<Item = &DeviceName> + Clone) {
        let deadline = Instant::now() + RELEASE_LIMIT;
        let is_taken = |instance: &Instance| {
            let mut devices = names.clone().filter_map(|name| instance.devices.get(name));
            devices.any(|device| device.broken.is_some() && device.taken)
        };
        while is_taken(self) && Instant::now() < deadline {
            tokio::time::sleep(RELEASE_PAUSE).await;
            for name in names.clone() {
                if let Some(device) = self.devices.get_mut(name) {
                    device.forget_setbacks();
                }
            }
            self.reconcile().await;
        }
    }

    /// Takes a device in, if nothing speaks against it before it is tried.
    fn admit(&mut self, wanted: Wanted) -> Result<DeviceName, Failure> {
        let Wanted { name, spec, origin } = wanted;
        if self.devices.contains_key(&name) {
            return Err(Failure {
                hint: Some(format!("change it with `portway device set {} {name} ...`", self.key)),
                ..failure(FailureKind::Refused, format!("device {name} of {} exists already", self.key))
            });
        }
        self.hub.check_usable(&self.device_key(&name))?;
        self.check_size(&spec)?;
        if let (Some(text), None) = (&self.unreachable, &self.run) {
            return Err(unreachable(self.key.provider(), text));
        }
        if self.unsupported {
            let text = self.absence.clone().unwrap_or_default();
            return Err(failure(FailureKind::Refused, format!("{}: {text}", self.key)));
        }
        if self.key.provider() == Provider::Pid && self.run.is_none() {
            // A process that is not there is not one that will come: its number is another's then.
            let text = self.absence.clone().unwrap_or_default();
            return Err(failure(FailureKind::Missing, format!("{}: {text}", self.key)));
        }
        self.check_target(&name, &spec)?;
        let device = Device::new(name.clone(), spec, self.uuid.clone()).coming_from(origin);
        self.devices.insert(name.clone(), device);
        Ok(name)
    }

    async fn store_new(&self, names: impl Iterator<Item = &DeviceName>) -> Result<(), String> {
        let devices = names.filter_map(|name| self.devices.get(name));
        let changes: Vec<Change> =
            devices.map(|device| Change::Put(Box::new(stored(&self.key, device)))).collect();
        if changes.is_empty() {
            return Ok(());
        }
        self.hub.commit(changes).await.map(drop)
    }
}
