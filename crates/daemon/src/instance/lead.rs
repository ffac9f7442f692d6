//! Which devices of the instance the kernel carries, at this moment.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use portway_control::api::{Failure, FailureKind};
use portway_incus::Assigned;
use portway_model::{DeviceKey, DeviceName, DeviceSpec, Nat};

use super::Instance;
use super::device::Device;
use super::life::LOOK_UNREADY;
use crate::hub::failure;
use crate::nat::obstacles::Obstacles;
use crate::nat::{Change, Leader, Verdict, Way, way};

/// Why the kernel carries nothing of a network namespace or a process.
const UNASSIGNED: &str =
    "the kernel leads to addresses that an Incus or LXD server has assigned, and this is no instance of one";

/// Why a device is relayed whose instance has just started: the kernel would have the instance refuse who comes too
/// early, the relay has them wait.
const AWAITED: &str = "the instance has started, and its service has not answered a client yet";

/// Why a device is relayed while nobody says where its clients could be led.
const UNKNOWN: &str = "the server does not say which addresses the instance has";

/// What decides who is carried by the kernel.
#[derive(Debug, Default)]
pub(super) struct Leading {
    /// Interfaces in the server's networks, with the addresses assigned to them; `None`: not known. Another one when
    /// they are other.
    pub(super) nics: Option<Arc<Vec<Assigned>>>,
    /// A look has been answered, so that what is not known of the instance is not there.
    pub(super) looked: bool,
    /// Devices that are there no more.
    unled: Vec<DeviceKey>,
}

impl Leading {
    /// Addresses that the server had assigned when it was asked last.
    pub(super) fn assigned(&self) -> Vec<IpAddr> {
        self.nics.iter().flat_map(|nics| nics.iter()).flat_map(|nic| &nic.addresses).copied().collect()
    }

    /// Takes in what a look has found of them; `None`: nothing.
    pub(super) fn found(&mut self, nics: Option<Vec<Assigned>>) {
        if let Some(nics) = nics.filter(|nics| self.nics.as_ref().is_none_or(|known| **known != *nics)) {
            self.nics = Some(Arc::new(nics));
        }
    }
}

/// A verdict that follows from a device's options and the instance's interfaces, and holds as long as both are the same.
#[derive(Debug)]
pub(crate) struct Judged {
    spec: Arc<DeviceSpec>,
    nics: Arc<Vec<Assigned>>,
    verdict: Verdict,
}

impl Judged {
    fn of(device: &Device, nics: &Arc<Vec<Assigned>>) -> Self {
        let present = device.led.as_ref().and_then(Option::as_deref);
        let verdict = way::way(&device.spec, nics, present);
        Self { spec: Arc::clone(&device.spec), nics: Arc::clone(nics), verdict }
    }

    /// Whether it is what would be said at this moment. Neither can change while it is held here.
    fn holds(&self, spec: &Arc<DeviceSpec>, nics: &Arc<Vec<Assigned>>) -> bool {
        Arc::ptr_eq(&self.spec, spec) && Arc::ptr_eq(&self.nics, nics)
    }
}

/// What is said of a device at this moment.
enum Said<'a> {
    /// As before.
    Again(&'a Verdict),
    /// For as long as its options and the interfaces are the same.
    Anew(Judged),
    /// For the moment.
    Now(Verdict),
}

impl Said<'_> {
    fn verdict(&self) -> &Verdict {
        match self {
            Said::Again(verdict) => verdict,
            Said::Anew(judged) => &judged.verdict,
            Said::Now(verdict) => verdict,
        }
    }
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
        if !self.wants_nics() {
            // Nobody follows them any more.
            self.leading.nics = None;
        }
        self.hear_addresses().await;
        let gone = std::mem::take(&mut self.leading.unled).into_iter();
        let mut changes: Vec<_> = gone.map(|key| (key, Change::Gone)).collect();
        let concerned = |device: &&Device| device.spec.nat != Nat::Off || matches!(device.led, Some(Some(_)));
        let obstacles = self.hub.nat.as_ref().map(Leader::obstacles).unwrap_or_default();
        let (mut is_loose, mut news) = (false, Vec::new());
        for device in self.devices.values().filter(concerned) {
            let Some(said) = self.verdict(device) else { continue };
            let said = self.here(said, &obstacles, device.spec.nat);
            let verdict = said.verdict();
            is_loose |= verdict.is_loose;
            let reason = (device.spec.nat != Nat::Off).then_some(&verdict.reason);
            let is_known = device.mode_reason.as_ref() == reason && device.led.as_ref() == Some(&verdict.way);
            if is_known && !matches!(said, Said::Anew(_)) {
                continue;
            }
            let (way, reason) = (verdict.way.clone(), reason.cloned());
            let judged = if let Said::Anew(judged) = said { Some(judged) } else { None };
            news.push((device.name.clone(), way, reason, judged));
        }
        for (name, way, reason, judged) in news {
            let key = self.device_key(&name);
            let Some(device) = self.devices.get_mut(&name) else { continue };
            device.mode_reason = reason;
            device.judged = judged.or(device.judged.take());
            if device.led.as_ref() != Some(&way) {
                changes.push((key, way.clone().map_or(Change::Relayed, Change::Led)));
                device.led = Some(way);
            }
        }
        if is_loose {
            self.next_look = self.next_look.min(Instant::now() + LOOK_UNREADY);
        }
        let wanted = self.leading.nics.iter().flat_map(|nics| nics.iter()).filter(|_| self.wants_nics());
        let networks: BTreeSet<String> = wanted.map(|nic| nic.network.clone()).collect();
        self.hub.watch_networks(&self.key, networks);
        if let Some(leader) = &self.hub.nat
            && !changes.is_empty()
        {
            leader.lead(changes).await;
        }
    }

    /// What becomes of a device; `None`: that cannot be told.
    fn verdict<'a>(&self, device: &'a Device) -> Option<Said<'a>> {
        let relayed = |reason: &str| Some(Said::Now(Verdict::relayed(reason)));
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
            return if self.leading.looked { relayed(absence) } else { self.kept(device).map(Said::Now) };
        }
        if !device.matches(self.key.provider(), self.uuid.as_deref()) {
            return relayed("another instance has this name now");
        }
        if device.listeners.as_ref().is_none_or(|listeners| listeners.refusing) {
            return relayed("its port is not held");
        }
        if self.hub.providers.endpoint(self.key.provider()).is_none() {
            return relayed(UNASSIGNED);
        }
        if device.is_awaited() {
            return relayed(AWAITED);
        }
        match &self.leading.nics {
            Some(nics) => Some(match &device.judged {
                Some(judged) if judged.holds(&device.spec, nics) => Said::Again(&judged.verdict),
                _ => Said::Anew(Judged::of(device, nics)),
            }),
            None => self.kept(device).map(Said::Now).or_else(|| {
                let unknown = || Verdict { is_loose: true, ..Verdict::relayed(UNKNOWN) };
                self.leading.looked.then(unknown).map(Said::Now)
            }),
        }
    }

    /// The same on a host that stops some of it, or with what it stands on where that is old.
    fn here<'a>(&self, said: Said<'a>, obstacles: &Obstacles, nat: Nat) -> Said<'a> {
        if said.verdict().way.is_none() || (obstacles.is_empty() && self.unreachable.is_none()) {
            return said;
        }
        let verdict = said.verdict().clone().on(obstacles, nat);
        if self.unreachable.is_none() || self.leading.nics.is_none() || verdict.way.is_none() {
            return Said::Now(verdict);
        }
        let reason = format!("{}, as the server said when it answered last", verdict.reason);
        Said::Now(Verdict { reason, ..verdict })
    }

    /// What becomes of a device while the instance's addresses are not known: the way stands that it has, if that is one
    /// for its options and it holds its port. `None`: it has none.
    fn kept(&self, device: &Device) -> Option<Verdict> {
        let Some(Some(way)) = &device.led else { return None };
        if !way.fits(&device.spec) {
            return Some(Verdict { is_loose: true, ..Verdict::relayed(UNKNOWN) });
        }
        if device.listeners.is_none() {
            return Some(Verdict::relayed("its port is not held"));
        }
        let why = match &self.unreachable {
            Some(_) => "the server does not answer",
            None => "the server has not been asked yet",
        };
        let reason = format!("to {}, the last known address; {why}", way.targets());
        Some(Verdict { way: Some(Arc::clone(way)), reason, is_loose: true })
    }

    /// The way of a device that an earlier daemon has left in the table.
    pub(super) fn kept_way(&self, name: &DeviceName) -> Option<Option<Arc<Way>>> {
        self.hub.nat.as_ref()?.take_kept(&self.device_key(name)).map(Some)
    }

    /// The way of a device that goes is taken back with the next changes, and what it has counted.
    pub(super) fn unlead(&mut self, device: &mut Device) {
        device.led = None;
        self.leading.unled.push(self.device_key(&device.name));
    }

    /// The way of a device that gets another full name goes on under that.
    pub(super) async fn lead_as(&self, from: DeviceKey, to: DeviceKey) {
        if let Some(leader) = &self.hub.nat {
            leader.lead(vec![(from, Change::Renamed(to))]).await;
        }
    }

    /// Whether the kernel leads the clients of a device as it is now, and not as it was before.
    pub(super) fn check_turned(&self, name: &DeviceName) -> Result<(), Failure> {
        let failures = self.hub.nat.as_ref().map(Leader::failures).unwrap_or_default();
        match failures.standing(&self.device_key(name)) {
            None => Ok(()),
            Some(text) => Err(Failure {
                hint: Some("it is tried again every second; `portway doctor` looks at the table".into()),
                ..failure(
                    FailureKind::Refused,
                    format!("{}/{name}: the kernel leads its clients as before: {text}", self.key),
                )
            }),
        }
    }

    /// Whether a device that must be carried by the kernel can be, as far as that is not the instance's affair.
    pub(super) fn check_lead(&self, name: &DeviceName) -> Result<(), Failure> {
        let Some(device) = self.devices.get(name).filter(|device| device.spec.nat == Nat::On) else {
            return Ok(());
        };
        let problem = match &self.hub.nat {
            None => Some("a device in the foreground cannot be carried by the kernel".to_owned()),
            Some(_) if self.hub.providers.endpoint(self.key.provider()).is_none() => {
                Some(UNASSIGNED.to_owned())
            }
            Some(leader) if matches!(device.led, Some(Some(_))) => {
                leader.failures().of(|| self.device_key(name)).map(str::to_owned)
            }
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
