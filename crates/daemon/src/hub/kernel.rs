//! What the kernel's NAT needs of all instances, and has of all devices.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_control::api;
use portway_model::{Bind, DeviceKey, DeviceSpec, InstanceKey, Nat, Provider};

use super::{Hub, locked};
use crate::rivals::Rival;

impl Hub {
    /// Takes note of the networks whose leases matter to an instance; none: they do not any more.
    pub(crate) fn watch_networks(&self, key: &InstanceKey, networks: BTreeSet<String>) {
        let mut watched = locked(&self.networks);
        if networks.is_empty() {
            watched.remove(key);
        } else {
            watched.insert(key.clone(), networks);
        }
    }

    /// Networks of a provider whose leases matter, with the instances they matter to.
    pub(crate) fn watched_networks(
        &self,
        provider: Provider,
    ) -> BTreeMap<(String, String), Vec<InstanceKey>> {
        let mut found: BTreeMap<(String, String), Vec<InstanceKey>> = BTreeMap::new();
        for (key, networks) in locked(&self.networks).iter().filter(|(key, _)| key.provider() == provider) {
            let project = key.project().map_or("default", |project| project.as_str());
            for network in networks {
                found.entry((project.to_owned(), network.clone())).or_default().push(key.clone());
            }
        }
        found
    }

    /// Whether a device listens on a port of the host.
    pub(crate) fn listens_on_ports(&self) -> bool {
        let listens = |spec: &DeviceSpec| spec.bind == Bind::Host && spec.listen.address().ports().is_some();
        locked(&self.desired).values().any(|device| listens(&device.keys))
    }

    /// Whether the kernel is to carry a device.
    pub(crate) fn wants_nat(&self) -> bool {
        locked(&self.desired).values().any(|device| device.keys.nat != Nat::Off)
    }

    /// Who takes what comes to ports of the host before a device gets it, as far as is known.
    pub(crate) fn rivals(&self) -> [Arc<Vec<Rival>>; 2] {
        [&self.providers.incus, &self.providers.lxd].map(|endpoint| endpoint.rivals())
    }

    /// The devices with what the kernel has carried of them. Bytes are not counted there.
    pub(super) async fn with_kernel_counts(&self, mut devices: Vec<api::Device>) -> Vec<api::Device> {
        if let Some(leader) = self.nat.as_ref().filter(|leader| leader.has_counts()) {
            let counts = leader.counts().await;
            // One that is relayed at present may have been led before.
            for device in &mut devices {
                let key = DeviceKey { instance: device.instance.clone(), device: device.name.clone() };
                let counted = counts.get(&key.to_string()).copied().unwrap_or_default();
                device.connections_total = device.connections_total.saturating_add(counted.total);
                device.connections_now = device.connections_now.saturating_add(counted.now);
            }
        }
        devices
    }
}
