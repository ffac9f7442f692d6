//! What instances stand on: the server's project, networks and volumes.

use std::collections::BTreeSet;

use super::super::{Action, PlanError};
use super::Builder;
use super::surplus::Fate;
use crate::label;
use crate::observe::SeenNetwork;
use crate::place;
use crate::want::{Keys, Owner};

/// Keys of `wanted` that `there` has otherwise.
fn changed(wanted: Keys, there: &Keys) -> Keys {
    wanted.into_iter().filter(|(key, value)| there.get(key) != Some(value)).collect()
}

/// Whether a network's key has an address that somebody has chosen.
fn has_address(there: &SeenNetwork, key: &str) -> bool {
    let has = there.config.get(key).is_some_and(|value| value != "none" && value != "auto");
    has && matches!(key, "ipv4.address" | "ipv6.address")
}

impl Builder<'_> {
    /// A project of the server's that says nothing is taken when nothing is in it, and is somebody's otherwise.
    pub(super) fn project(&mut self) -> Result<(), PlanError> {
        let name = self.want.incus_project.clone();
        let labelled = self.seen.project.as_ref().and_then(|there| there.get(label::PROJECT));
        let free = labelled.map_or(self.seen.inhabitants.is_empty(), |of| *of == self.want.name);
        if self.seen.project.is_some() && !free {
            return Err(PlanError::Taken { what: format!("the server's project {name}") });
        }
        let mut set = self.want.config.clone();
        set.insert(label::PROJECT.to_owned(), self.want.name.clone());
        let there = self.seen.project.as_ref();
        if let Some(there) = there {
            set = changed(set, there);
            // Another one would make all that it was used for look changed.
            set.retain(|key, _| key != label::SEAL || !there.contains_key(key));
        }
        if there.is_none() || !set.is_empty() {
            self.base.push(self.plan.push(Action::Project { name, set, there: there.is_some() }, Vec::new()));
        }
        Ok(())
    }

    pub(super) fn networks(&mut self) {
        for (key, place) in self.facts.networks.clone() {
            if place.network.owner == Owner::External {
                continue;
            }
            let mut set = place.network.config.clone();
            if place.subnet.is_some() {
                set.retain(|key, value| key != "ipv4.address" || value != "auto");
            }
            let choose = !set.contains_key("ipv4.address");
            let mut default = |key: &str, value: String| {
                set.entry(key.to_owned()).or_insert(value);
            };
            if let Some(subnet) = place.subnet {
                if choose {
                    default("ipv4.dhcp.ranges", subnet.dhcp_range());
                }
                default("ipv4.address", subnet.to_string());
                default("ipv4.nat", "true".to_owned());
            }
            default("ipv6.address", "none".to_owned());
            default(label::PROJECT, self.want.name.clone());
            default(label::KEY, key.to_owned());
            let kept = self
                .unwanted()
                .filter(|(_, _, fate)| *fate != Fate::Goes)
                .map(|(name, seen, _)| (name, seen));
            let names = place::names(key, self.want, &self.facts, (self.seen, kept));
            let raw = set.get("raw.dnsmasq").map(|said| format!("{said}\n")).unwrap_or_default() + &names;
            if !raw.is_empty() {
                set.insert("raw.dnsmasq".to_owned(), raw);
            }
            let there = self.seen.networks.get(&place.network.name).filter(|there| !there.half);
            if let Some(there) = there {
                set = changed(set, &there.config);
                // The server has chosen, and would choose again.
                set.retain(|key, value| value != "auto" || !has_address(there, key));
            }
            if there.is_none() || !set.is_empty() {
                let (name, there) = (place.network.name.clone(), there.is_some());
                let step = self.plan.push(Action::Network { name, set, there }, self.base.clone());
                self.made.insert(("network", key), step);
            }
        }
    }

    pub(super) fn volumes(&mut self) -> Result<(), PlanError> {
        let services = self.want.services.values().filter(|service| self.selected.contains(&service.name));
        let instances = services.flat_map(|service| &service.instances);
        let used: BTreeSet<&str> =
            instances.flat_map(|one| one.mounts.iter().map(|mount| mount.volume.as_str())).collect();
        for (key, volume) in self.want.volumes.iter().filter(|(key, _)| used.contains(key.as_str())) {
            let pool = volume.pool.as_ref().unwrap_or(&self.seen.pool).clone();
            let there = self.seen.volumes.get(&(pool.clone(), volume.name.clone()));
            let what = || format!("volume {}", volume.name);
            match (volume.owner, there) {
                (Owner::External, None) => {
                    let (name, project) = (volume.name.clone(), self.want.incus_project.clone());
                    return Err(PlanError::NoVolume { name, pool, project });
                }
                (Owner::Project, Some(there))
                    if there.config.get(label::PROJECT).is_some_and(|name| *name != self.want.name) =>
                {
                    return Err(PlanError::Taken { what: what() });
                }
                (_, Some(_)) => continue,
                (Owner::Project, None) => {}
            }
            let mut config = volume.config.clone();
            config.insert(label::PROJECT.to_owned(), self.want.name.clone());
            config.insert(label::KEY.to_owned(), key.clone());
            config.insert(label::NAME.to_owned(), volume.name.clone());
            let action = Action::Volume { pool, name: volume.name.clone(), config };
            let step = self.plan.push(action, self.base.clone());
            self.made.insert(("volume", key), step);
        }
        Ok(())
    }
}
