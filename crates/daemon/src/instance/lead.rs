//! Which devices of the instance the kernel carries, at this moment.

use std::collections::BTreeSet;

use portway_control::api::{Failure, FailureKind};
use portway_incus::Assigned;
use portway_model::{DeviceKey, DeviceName, DeviceSpec, Nat};

use super::Instance;
use super::device::Device;
use crate::hub::failure;
use crate::nat::{Change, Leader, Verdict, way};

/// What decides who is carried by the kernel.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// Interfaces in the server's networks, with the addresses assigned to them; `None`: not known.
    pub(super) nics: Option<Vec<Assigned>>,
    /// A look has been answered, so that what is not known of the instance is not there.
    pub(super) looked: bool,
    /// Full names of devices that are there no more.
    unled: Vec<DeviceKey>,
}

impl Instance {
    /// Whether the addresses matter that the server has assigned.
    pub(super) fn wants_nics(&self) -> bool {
        self.devices.values().any(|device| device.spec.nat != Nat::Off)
    }

    /// Asks for them when one of these devices needs them and they are not known.
    pub(super) async fn look_for_nics(&mut self, specs: &[&DeviceSpec]) {
        if self.leading.nics.is_none() && self.run.is_some() && specs.iter().any(|spec| spec.nat != Nat::Off)
        {
            self.look_here(true).await;
        }
    }

    /// Has the kernel carry what it can carry now, and nothing else. Of a device about which nothing is known
    /// yet, what an earlier daemon has said stands.
    pub(super) async fn lead(&mut self) {
        let gone = std::mem::take(&mut self.leading.unled).into_iter();
        let mut changes: Vec<_> = gone.map(|key| (key, Change::Gone)).collect();
        let concerned = |device: &&Device| device.spec.nat != Nat::Off || matches!(device.led, Some(Some(_)));
        let names: Vec<DeviceName> =
            self.devices.values().filter(concerned).map(|device| device.name.clone()).collect();
        for name in names {
            let Some(verdict) = self.devices.get(&name).and_then(|device| self.verdict(device)) else {
                continue;
            };
            let key = self.device_key(&name);
            let Some(device) = self.devices.get_mut(&name) else { continue };
            device.mode_reason = (device.spec.nat != Nat::Off).then_some(verdict.reason);
            if device.led.as_ref() != Some(&verdict.way) {
                changes.push((key, verdict.way.clone().map_or(Change::Relayed, Change::Led)));
                device.led = Some(verdict.way);
            }
        }
        let wanted = self.leading.nics.iter().flatten().filter(|_| self.wants_nics());
        let networks: BTreeSet<String> = wanted.map(|nic| nic.network.clone()).collect();
        self.hub.watch_networks(&self.key, networks);
        if let Some(leader) = &self.hub.nat
            && !changes.is_empty()
        {
            leader.lead(changes).await;
        }
    }

    /// What becomes of a device; `None`: that cannot be told.
    fn verdict(&self, device: &Device) -> Option<Verdict> {
        let relayed = |reason: &str| Some(Verdict { way: None, reason: reason.to_owned() });
        if device.spec.nat == Nat::Off {
            return relayed("nat=false");
        }
        if self.hub.nat.is_none() {
            return relayed("a device in the foreground has no table");
        }
        if let Some(obstacle) = device.spec.nat_obstacle() {
            return relayed(&obstacle.to_string());
        }
        if self.run.is_none() {
            let absence = self.absence.as_deref().unwrap_or("the instance is down");
            return if self.leading.looked { relayed(absence) } else { None };
        }
        if !device.matches(self.key.provider(), self.uuid.as_deref()) {
            return relayed("another instance has this name now");
        }
        if device.listeners.as_ref().is_none_or(|listeners| listeners.refusing) {
            return relayed("its port is not held");
        }
        if self.hub.providers.endpoint(self.key.provider()).is_none() {
            return relayed("no server assigns addresses to it");
        }
        Some(way::way(&device.spec, self.leading.nics.as_deref()?))
    }

    /// The way of a device that goes, or gets another full name, is taken back with the next changes.
    pub(super) fn unlead(&mut self, device: &mut Device) {
        if device.led.take().is_none_or(|way| way.is_some()) {
            self.leading.unled.push(self.device_key(&device.name));
        }
    }

    /// Whether a device that must be carried by the kernel can be, as far as that is not the instance's affair.
    pub(super) fn check_lead(&self, name: &DeviceName) -> Result<(), Failure> {
        let Some(device) = self.devices.get(name).filter(|device| device.spec.nat == Nat::On) else {
            return Ok(());
        };
        let problem = match &self.hub.nat {
            None => Some("a device in the foreground cannot be carried by the kernel".to_owned()),
            Some(leader) if matches!(device.led, Some(Some(_))) => Leader::failure(leader),
            Some(_) => None,
        };
        match problem {
            Some(text) => Err(Failure {
                hint: Some("nat=auto relays what the kernel does not carry".into()),
                ..failure(FailureKind::Refused, format!("{}/{name}: {text}", self.key))
            }),
            None => Ok(()),
        }
    }
}
