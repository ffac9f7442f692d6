//! What is there: the part of the server's state a plan is made from.
//!
//! What is ours is told by labels. Everything else is looked at only for what it takes up: names, subnets, addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::label;
use crate::want::Keys;

/// Whether a project of the server's with this configuration has images of its own.
#[must_use]
pub fn has_images(project: Option<&Keys>) -> bool {
    let said = project.and_then(|project| project.get("features.images"));
    said.is_some_and(|is| portway_incus::is_true(is))
}

/// The server as a project sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Configuration of the server's project; `None` when there is no such project.
    pub project: Option<Keys>,
    /// Paths of what is in the server's project, the profile apart that each has.
    pub inhabitants: Vec<String>,
    /// Pool of root disks and volumes that say none.
    pub pool: String,
    /// Instances of the server's project.
    pub instances: BTreeMap<String, Seen>,
    /// Networks of the server, those that are not its own included.
    pub networks: BTreeMap<String, SeenNetwork>,
    /// Networks for which there are access lists of the Compose project whose server's project this is; looked for where
    /// nothing is wanted.
    pub fenced: BTreeSet<String>,
    /// Custom volumes of the server's project, by pool and name.
    pub volumes: BTreeMap<(String, String), SeenVolume>,
    /// Fingerprints of images that are there, by what the file calls them.
    pub images: BTreeMap<String, String>,
    /// Devices of Portway, by instance and name, with the keys they were made with.
    pub published: BTreeMap<String, BTreeMap<String, Keys>>,
    /// Devices by which others take ports of the host, by whose they are: the server's, with a type, and Portway's.
    pub rivals: BTreeMap<String, Vec<Keys>>,
}

/// An instance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Configuration of its own, without profiles.
    pub config: Keys,
    /// Devices of its own, without profiles.
    pub devices: BTreeMap<String, Keys>,
    /// What it does.
    pub life: Life,
    /// Addresses that its interfaces have been leased, by their devices.
    pub leased: BTreeMap<String, Ipv4Addr>,
}

/// What an instance does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// It does not run.
    #[default]
    Stopped,
    /// It runs.
    Running,
    /// It is held.
    Paused,
    /// The server cannot tell.
    Unknown,
}

/// A network of the server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenNetwork {
    /// Whether it is the server's own, and not just an interface of its host.
    pub managed: bool,
    /// Whether the server was interrupted when it made it: there is no bridge, and no change of its keys makes one.
    pub half: bool,
    /// Configuration.
    pub config: Keys,
    /// Subnets that its interface has on the server's host, as `10.1.2.3/24`.
    pub addresses: Vec<String>,
    /// Paths of what uses it.
    pub used_by: Vec<String>,
    /// Addresses that somebody has in it, with the hardware addresses or names of those who do; of a network that others
    /// use too, or in which an instance of the project has no address of its own.
    pub leases: BTreeMap<Ipv4Addr, BTreeSet<String>>,
}

/// A custom volume.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SeenVolume {
    /// Configuration.
    pub config: Keys,
    /// Paths of what uses it.
    pub used_by: Vec<String>,
}

impl Observed {
    /// Instances of a Compose project.
    pub fn ours<'a>(&'a self, project: &'a str) -> impl Iterator<Item = (&'a String, &'a Seen)> {
        self.instances.iter().filter(move |(name, seen)| label::are_of(&seen.config, project, name))
    }

    /// The same, each once: without those that were made to replace another and wait for that.
    pub fn listed<'a>(&'a self, project: &'a str) -> impl Iterator<Item = (&'a String, &'a Seen)> {
        let is_there = |name: &str| self.instances.contains_key(name);
        self.ours(project)
            .filter(move |(name, seen)| label::is_listed(name, seen.label(label::BESIDE), is_there))
    }

    /// What has the labels of a Compose project and another name than they say, and is left alone: a line for each.
    #[must_use]
    pub fn copies(&self, project: &str) -> Vec<String> {
        let instances = self.instances.iter().map(|(name, seen)| ("instance", name, &seen.config));
        let volumes = self.volumes.iter().map(|((_, name), seen)| ("volume", name, &seen.config));
        let line = |(kind, name, config): (&str, &String, &Keys)| {
            let origin = config.get(label::NAME).filter(|origin| *origin != name)?;
            let of = config.get(label::PROJECT).is_some_and(|of| of == project);
            let of = of && config.get(label::BESIDE).is_none_or(|gets| gets != name);
            of.then(|| format!("{kind} {name} was copied or renamed from {origin} and is left alone"))
        };
        instances.chain(volumes).filter_map(line).collect()
    }

    /// Networks of a Compose project, by the server's name.
    pub fn our_networks<'a>(
        &'a self,
        project: &'a str,
    ) -> impl Iterator<Item = (&'a String, &'a SeenNetwork)> {
        let ours = move |network: &SeenNetwork| {
            network.config.get(label::PROJECT).map(String::as_str) == Some(project)
        };
        self.networks.iter().filter(move |(_, network)| network.managed && ours(network))
    }

    /// Volumes of a Compose project.
    pub fn our_volumes<'a>(
        &'a self,
        project: &'a str,
    ) -> impl Iterator<Item = (&'a (String, String), &'a SeenVolume)> {
        self.volumes.iter().filter(move |((_, name), volume)| label::are_of(&volume.config, project, name))
    }
}

impl Seen {
    /// A configuration key of its own.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.config.get(key).map(String::as_str)
    }

    /// Its service, by its label.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.label(label::SERVICE)
    }

    /// Number of the replica; 0 without a label.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.label(label::INDEX).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    /// Whether `run` made it.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        self.label(label::ONE_OFF).is_some()
    }

    /// Whether it was made to replace another, and whoever made it has not come that far.
    #[must_use]
    pub fn is_beside(&self) -> bool {
        self.label(label::BESIDE).is_some()
    }

    /// Services it depends on, by its label.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        self.label(label::DEPENDS).unwrap_or_default().split(',').filter(|name| !name.is_empty())
    }

    /// How long it has to stop before force is used, by its label.
    #[must_use]
    pub fn grace(&self) -> Option<Duration> {
        self.label(label::GRACE)?.parse().ok().map(Duration::from_millis)
    }

    /// Whether it was made from an image of a registry.
    #[must_use]
    pub fn is_application(&self) -> bool {
        self.label("volatile.container.oci") == Some("true")
    }

    /// The image it was made from.
    #[must_use]
    pub fn base_image(&self) -> Option<&str> {
        self.label("volatile.base_image")
    }

    /// The address that its interface in a network has been given, or has leased.
    #[must_use]
    pub fn address_in(&self, network: &str) -> Option<Ipv4Addr> {
        let (name, nic) = self.nic_in(network)?;
        let said = nic.get("ipv4.address").and_then(|text| text.parse().ok());
        said.or_else(|| self.leased.get(name).copied())
    }

    /// Name and keys of the interface in a network.
    #[must_use]
    pub fn nic_in(&self, network: &str) -> Option<(&String, &Keys)> {
        let is = |device: &Keys, key: &str, value: &str| device.get(key).is_some_and(|has| has == value);
        self.devices.iter().find(|(_, device)| is(device, "type", "nic") && is(device, "network", network))
    }

    /// The hardware address of an interface.
    #[must_use]
    pub fn hwaddr(&self, device: &str) -> Option<String> {
        let said = self.devices.get(device).and_then(|nic| nic.get("hwaddr")).map(String::as_str);
        Some(said.or_else(|| self.label(&format!("volatile.{device}.hwaddr")))?.to_ascii_lowercase())
    }
}
