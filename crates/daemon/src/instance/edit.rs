//! Changes asked for by people: change, remove, rename, adopt. Each is carried out as a whole or not at
//! all, and is on disk before it is answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{Bind, DeviceName, DeviceSpec, Provider};

use super::apply::{close_elsewhere, open_elsewhere};
use super::life::stored;
use super::{Instance, placing, plan};
use crate::hub::failure;
use crate::listeners::{self, Listeners, OpenError};
use crate::loops;
use crate::provider::{machine_permits, no_socket};
use crate::state::Change;

impl Instance {
    /// Whether a device that was just brought up may stay.
    pub(super) async fn outcome(&mut self, name: &DeviceName) -> Result<(), Failure> {
        let refused =
            |text: String| Err(failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key)));
        let Some(device) = self.devices.get(name) else { return refused("it vanished".into()) };
        if let Some(setback) = device.broken.iter().chain(&device.unplaced).find(|setback| !setback.passes) {
            return refused(setback.text.clone());
        }
        match self.group_of(name) {
            Err(text) => return refused(text),
            Ok(Some(group)) => {
                let crash = self.crashes.get(&group).and_then(|crashes| crashes.setback.as_ref());
                if let Some(setback) = crash.filter(|_| !self.workers.contains_key(&group)) {
                    return refused(setback.text.clone());
                }
            }
            Ok(None) => {}
        }
        if device.listeners.is_none() && device.broken.is_none() {
            self.probe(name).await?;
        }
        self.check_turned(name)?;
        self.check_lead(name)
    }

    /// Whether a worker for the device can be had and reach its upstream's folder, as far as that can
    /// be known: what cannot work starts no process.
    pub(super) fn check_target(&self, name: &DeviceName, spec: &DeviceSpec) -> Result<(), Failure> {
        let checked = self.check_way(spec).and_then(|()| match &self.run {
            Some(run) => run
                .dialled(spec)
                .and_then(|_| placing::ids(spec, run, self.hub.settings.worker_ids))
                .and_then(|_| placing::base(spec, run).map(drop)),
            None if self.is_machine => machine_permits(spec),
            None => placing::host_base(spec).map(drop),
        });
        checked.map_err(|text| failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key)))
    }

    /// Whether the device leads somewhere else than to itself or to the control socket.
    fn check_way(&self, spec: &DeviceSpec) -> Result<(), String> {
        let connect = spec.connect.address();
        let files = connect.unix().is_some_and(|name| name.path().is_some());
        let one_place = match &self.run {
            Some(run) if files => run.ids.is_none(),
            Some(run) => run.shares_our_netns(),
            None => false,
        };
        if one_place && loops::leads_back(spec) {
            return Err(format!("it would connect to itself: {} leads to {}", spec.connect, spec.listen));
        }
        let host_files = plan::connect_side(spec.bind) == plan::Side::Host
            || self.run.as_ref().is_some_and(|run| run.ids.is_none());
        let path = connect.unix().and_then(portway_model::UnixName::path).filter(|_| host_files);
        let control = self.hub.settings.control_socket();
        if path.is_some_and(|path| loops::is_control_socket(path.as_path(), &control)) {
            return Err("it would publish the control socket, which is as good as root".into());
        }
        Ok(())
    }

    /// A device that needs no listener yet is tried all the same, so that a taken path is said now.
    async fn probe(&mut self, name: &DeviceName) -> Result<(), Failure> {
        let Some(device) = self.devices.get(name) else { return Ok(()) };
        if device.spec.bind == Bind::Instance {
            return Ok(());
        }
        let spec = DeviceSpec::clone(&device.spec);
        match open_elsewhere(spec.clone(), None).await {
            Ok(listeners) => close_elsewhere(listeners, spec, None).await,
            Err(problem) if problem.passes() => {}
            Err(problem) => {
                let text = self.opening_error(name, Some(spec.bind), &problem);
                return Err(failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key)));
            }
        }
        Ok(())
    }

    pub(super) fn check_size(&self, spec: &DeviceSpec) -> Result<(), Failure> {
        let (need, limit) = (u64::from(listeners::count(spec)), self.hub.settings.nofile / 2);
        if need > limit {
            let text = format!("{need} listeners are more than the {limit} that one process may have");
            return Err(Failure {
                hint: Some(
                    "raise LimitNOFILE of the service, or split the range over several devices".into(),
                ),
                ..failure(FailureKind::Refused, text)
            });
        }
        Ok(())
    }

    /// Takes devices down and forgets them. Their addresses are free when this returns.
    pub(super) async fn forget(&mut self, names: &[DeviceName]) {
        for name in names {
            let placed = self.devices.get(name).and_then(|device| device.placed.as_ref());
            if let Some(group) = placed.map(|placed| placed.group) {
                self.take(name, group, false).await;
            }
            if let Some(device) = self.devices.get_mut(name) {
                device.held_until = None;
            }
            self.close(name).await;
            self.reset_orphans(name).await;
        }
        self.hub.keeper.settle().await;
        for name in names {
            if let Some(mut device) = self.devices.remove(name) {
                self.unlead(&mut device);
            }
        }
        self.reconcile().await;
    }

    pub(super) fn shown(&self, name: &DeviceName) -> Result<api::Device, Failure> {
        self.devices.get(name).map(|device| self.show(device)).ok_or_else(|| self.missing(name))
    }

    pub(super) fn missing(&self, name: &DeviceName) -> Failure {
        let known = self.devices.keys().map(DeviceName::as_str);
        let hint = portway_model::nearest(name.as_str(), known).map(|near| format!("did you mean {near}?"));
        Failure { hint, ..failure(FailureKind::Missing, format!("{} has no device {name}", self.key)) }
    }

    /// Changes keys. What only concerns the target keeps listeners and live connections; a change
    /// that cannot be made leaves the device as it was.
    ///
    /// # Errors
    /// The device is then as before.
    pub(super) async fn change(
        &mut self,
        name: &DeviceName,
        change: &api::ChangeDevice,
    ) -> Result<api::Changed, Failure> {
        let device = self.devices.get(name).ok_or_else(|| self.missing(name))?;
        let (before, uuid, origin) = (Arc::clone(&device.spec), device.uuid.clone(), device.origin.clone());
        let after = changed_spec(&before, change)?;
        if after == *before {
            return Ok(api::Changed { device: self.shown(name)?, changed: false });
        }
        self.check_size(&after)?;
        self.look_now().await;
        self.look_for_nics(&[&after]).await;
        self.check_target(name, &after)?;
        let (hub, key) = (Arc::clone(&self.hub), self.device_key(name));
        let (_claim, mut rings) = hub.claim(vec![(key.clone(), after.clone())]);
        if let Some(text) = rings.remove(&key) {
            return Err(failure(FailureKind::Refused, format!("{key}: {text}")));
        }
        self.swap(name, &after).await.map_err(|problem| {
            let text = self.opening_error(name, Some(after.bind), &problem);
            Failure {
                hint: Some("the device is unchanged".into()),
                ..failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key))
            }
        })?;
        self.reconcile().await;
        let outcome = match self.outcome(name).await {
            Ok(()) => {
                let record = crate::state::StoredDevice {
                    instance: self.key.clone(),
                    uuid,
                    name: name.clone(),
                    keys: after,
                    origin,
                };
                let committed = self.hub.commit(vec![Change::Put(Box::new(record))]).await;
                committed
                    .map(drop)
                    .map_err(|text| failure(FailureKind::Internal, format!("change not stored: {text}")))
            }
            refused => refused,
        };
        if let Err(refusal) = outcome {
            // Back to what it was; that worked before.
            let _ = self.swap(name, &before).await;
            self.reconcile().await;
            return Err(refusal);
        }
        self.publish();
        self.hub.tell("device-changed", &self.key, Some(name), "changed".into());
        Ok(api::Changed { device: self.shown(name)?, changed: true })
    }

    /// Gives the device other options, and other listeners where they differ. The new listeners
    /// are opened before the old ones are closed, unless they are in each other's way.
    pub(super) async fn swap(&mut self, name: &DeviceName, after: &DeviceSpec) -> Result<(), OpenError> {
        let run = self.run.clone();
        let Some(device) = self.devices.get_mut(name) else { return Ok(()) };
        let before = std::mem::replace(&mut device.spec, Arc::new(after.clone()));
        device.forget_setbacks();
        if let Some(placed) = &mut device.placed {
            placed.current = false;
        }
        if same_listeners(&before, after) || device.listeners.is_none() {
            return Ok(());
        }
        let result = match open_elsewhere(after.clone(), run.clone()).await {
            Err(OpenError::Busy { .. } | OpenError::PathTaken { .. }) => {
                self.exchange(name, &before, after).await
            }
            other => other,
        };
        let Some(device) = self.devices.get_mut(name) else { return Ok(()) };
        match result {
            Ok(listeners) => {
                device.relisten = true;
                if let Some(old) = device.listeners.replace(listeners) {
                    close_elsewhere(old, DeviceSpec::clone(&before), run).await;
                }
                self.keep(name).await;
                self.hub.keeper.settle().await;
                Ok(())
            }
            Err(problem) => {
                device.spec = before;
                Err(problem)
            }
        }
    }

    /// Old and new listeners cannot exist together: the old ones go first, everywhere they are
    /// held, and come back when the new ones cannot be had.
    async fn exchange(
        &mut self,
        name: &DeviceName,
        before: &DeviceSpec,
        after: &DeviceSpec,
    ) -> Result<Listeners, OpenError> {
        let run = self.run.clone();
        let placed =
            self.devices.get(name).and_then(|device| device.placed.as_ref()).map(|placed| placed.group);
        if let Some(group) = placed {
            self.take(name, group, true).await;
        }
        if let Some(old) = self.devices.get_mut(name).and_then(|device| device.listeners.take()) {
            self.hub.keeper.drop_key(self.device_key(name).to_string()).await;
            self.hub.keeper.settle().await;
            close_elsewhere(old, before.clone(), run.clone()).await;
        }
        let result = open_elsewhere(after.clone(), run.clone()).await;
        if result.is_err() {
            let again = open_elsewhere(before.clone(), run).await;
            self.opened(name, again).await;
        }
        result
    }

    /// Removes a device: its listeners, socket files and connections with it.
    ///
    /// # Errors
    /// Nothing is changed then; unless the kernel leads its clients on, which is said.
    pub(super) async fn remove(&mut self, name: &DeviceName) -> Result<(), Failure> {
        if !self.devices.contains_key(name) {
            return Err(self.missing(name));
        }
        let committed = self.hub.commit(vec![Change::Delete(self.device_key(name))]).await;
        committed.map_err(|text| failure(FailureKind::Internal, format!("removal not stored: {text}")))?;
        self.forget(std::slice::from_ref(name)).await;
        self.hub.tell("device-removed", &self.key, Some(name), "removed".into());
        self.check_turned(name).map_err(|standing| Failure {
            error: format!("the device is removed, but {}", standing.error),
            ..standing
        })
    }

    /// Gives a device another name; its connections do not notice.
    ///
    /// # Errors
    /// Nothing is changed then.
    pub(super) async fn rename(&mut self, from: &DeviceName, to: DeviceName) -> Result<api::Device, Failure> {
        if !self.devices.contains_key(from) {
            return Err(self.missing(from));
        }
        if self.devices.contains_key(&to) {
            return Err(failure(FailureKind::Refused, format!("device {to} of {} exists already", self.key)));
        }
        let target = self.device_key(&to);
        self.hub.check_usable(&target)?;
        let change = Change::Rename { from: self.device_key(from), to: target };
        let committed = self.hub.commit(vec![change]).await;
        committed.map_err(|text| failure(FailureKind::Internal, format!("new name not stored: {text}")))?;
        self.hub.keeper.drop_key(self.device_key(from).to_string()).await;
        self.lead_as(self.device_key(from), self.device_key(&to)).await;
        if let Some(mut device) = self.devices.remove(from) {
            device.name = to.clone();
            if let Some(placed) = &mut device.placed {
                placed.current = false;
                if let Some(serving) = self.workers.get_mut(&placed.group) {
                    serving.slots.rename(placed.slot, to.clone());
                }
            }
            self.devices.insert(to.clone(), device);
        }
        self.keep(&to).await;
        self.reconcile().await;
        self.publish();
        self.hub.tell("device-changed", &self.key, Some(&to), format!("renamed from {from}"));
        self.shown(&to)
    }

    /// Binds every device to the instance that has the name now.
    ///
    /// # Errors
    /// When there is no such instance, or nothing to adopt.
    pub(super) async fn adopt_present(&mut self) -> Result<Vec<api::Device>, Failure> {
        if self.devices.is_empty() {
            return Err(failure(FailureKind::Missing, format!("{} has no devices", self.key)));
        }
        if self.key.provider() == Provider::Netns {
            let text = format!("{} has nothing to adopt: a namespace has the devices of its name", self.key);
            return Err(failure(FailureKind::Refused, text));
        }
        self.look_now().await;
        if let Some(text) = &self.unreachable {
            return Err(unreachable(self.key.provider(), text));
        }
        let present = self.run.as_ref().and(self.uuid.as_deref()).or(self.seen_uuid().flatten());
        let Some(uuid) = present.map(str::to_owned) else {
            return Err(failure(FailureKind::Missing, format!("{} does not exist", self.key)));
        };
        let mut changes = Vec::new();
        for device in self.devices.values() {
            let mut record = stored(&self.key, device);
            record.uuid = Some(uuid.clone());
            changes.push(Change::Put(Box::new(record)));
        }
        let committed = self.hub.commit(changes).await;
        committed.map_err(|text| failure(FailureKind::Internal, format!("adoption not stored: {text}")))?;
        let now = Instant::now();
        for device in self.devices.values_mut() {
            device.uuid = Some(uuid.clone());
            device.held_until = device.held_until.filter(|until| *until > now);
        }
        self.reconcile().await;
        self.publish();
        Ok(self.list())
    }
}

/// What a server that cannot be asked means for who asked.
pub(crate) fn unreachable(provider: Provider, text: &str) -> Failure {
    if text == no_socket(provider) {
        return not_there(text);
    }
    Failure {
        hint: Some("`portway doctor` looks at the sockets and permissions".into()),
        ..failure(FailureKind::Unreachable, format!("{provider} does not answer: {text}"))
    }
}

/// The same where no server is installed, or none is found.
pub(crate) fn not_there(text: &str) -> Failure {
    let hint = "install it, or name its socket; a network namespace is `netns:NAME`, a process `pid:NUMBER`";
    Failure { hint: Some(hint.into()), ..failure(FailureKind::Unreachable, text) }
}

/// The options after a change.
///
/// # Errors
/// The key that is unknown or malformed, or two that are at odds.
pub(crate) fn changed_spec(before: &DeviceSpec, change: &api::ChangeDevice) -> Result<DeviceSpec, Failure> {
    let mut keys: BTreeMap<String, String> = before.to_keys();
    for key in &change.unset {
        if keys.remove(key).is_none() {
            let known = || DeviceSpec::KEYS.iter().map(|documented| documented.name);
            if !known().any(|name| name == key) {
                let hint = portway_model::nearest(key, known()).map(|near| format!("did you mean {near}?"));
                return Err(Failure { hint, ..failure(FailureKind::Usage, format!("unknown key {key}")) });
            }
        }
    }
    keys.extend(change.set.clone());
    DeviceSpec::from_keys(keys).map_err(|problem| failure(FailureKind::Usage, problem.to_string()))
}

/// Whether the listeners of one serve the other.
fn same_listeners(one: &DeviceSpec, other: &DeviceSpec) -> bool {
    one.listen == other.listen
        && one.bind == other.bind
        && one.socket == other.socket
        && one.v6only == other.v6only
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a server that is not there is said not to answer.
    #[test]
    fn nobody_is_said_not_to_answer_who_was_not_asked() {
        let said = unreachable(Provider::Incus, &no_socket(Provider::Incus));
        assert_eq!(said.error, "no incus socket was found");
        assert!(said.hint.is_some_and(|hint| hint.contains("netns:")));
        assert_eq!(unreachable(Provider::Incus, "refused").error, "incus does not answer: refused");
    }
}
