//! An instance as the server is told to make it: what is wanted, with pool, subnets and addresses filled in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::address::Subnet;
use crate::difference::Written;
use crate::label;
use crate::lead;
use crate::want::{Addressing, File, Instance, Keys, Network, Service, hash};

/// An instance in the words of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// Name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// What the file calls its image.
    pub image: String,
    /// Configuration, our labels included.
    pub config: Keys,
    /// Devices.
    pub devices: BTreeMap<String, Keys>,
    /// Files that are written before it starts.
    pub files: Vec<File>,
    /// What their hash is made with.
    pub seal: String,
}

/// What a look at the server has told.
#[derive(Debug, Default)]
pub(crate) struct Facts<'a> {
    /// Name of the Compose project.
    pub(crate) project: &'a str,
    /// Pool of root disks.
    pub(crate) pool: &'a str,
    /// Hash of the first process.
    pub(crate) guest: &'a str,
    /// What hashes of secrets are made with.
    pub(crate) seal: &'a str,
    /// Networks by their key in the file.
    pub(crate) networks: BTreeMap<&'a str, Place<'a>>,
    /// Name and pool of the volumes by their key in the file.
    pub(crate) volumes: BTreeMap<&'a str, (&'a str, &'a str)>,
    /// Addresses by instance and by the network's key.
    pub(crate) addresses: BTreeMap<(&'a str, &'a str), Ipv4Addr>,
    /// Those of them that somebody else has leased.
    pub(crate) contested: BTreeSet<(&'a str, &'a str)>,
    /// Addresses of the server's host.
    pub(crate) host: BTreeSet<IpAddr>,
    /// Those of interfaces that are not the server's own.
    pub(crate) outer: BTreeSet<IpAddr>,
    /// Devices that the instances have.
    pub(crate) devices: BTreeMap<&'a str, &'a BTreeMap<String, Keys>>,
}

/// A network as instances see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) network: &'a Network,
    /// Its subnet; none where the server says none.
    pub(crate) subnet: Option<Subnet>,
    /// Whether nothing is forwarded in or out.
    pub(crate) is_closed: bool,
    /// Whether who asks there gets an address.
    pub(crate) gives_addresses: bool,
}

/// The name of what is made beside an instance. No longer than an instance's may be, 63.
pub(crate) fn beside(name: &str) -> String {
    let begin: String = name.chars().take(48).collect();
    let mark: String = hash(&name).chars().take(8).collect();
    format!("{begin}-new-{mark}")
}

/// `instance` of `service` in the words of the server.
pub(crate) fn render(service: &Service, instance: &Instance, facts: &Facts<'_>) -> Rendered {
    let mut one = Rendered {
        name: instance.name.clone(),
        service: service.name.clone(),
        image: instance.image.clone(),
        config: instance.config.clone(),
        devices: instance.devices.clone(),
        files: instance.files.clone(),
        seal: facts.seal.to_owned(),
    };
    one.root(instance, facts);
    one.interfaces(instance, facts);
    one.mounts(instance, facts);
    one.leads(instance, facts);
    one.labels(service, instance, facts);
    one
}

impl Rendered {
    /// The same to be made beside the one that has the name at present: under another name, and with nothing that only
    /// one of the two can have.
    pub(crate) fn beside(&self) -> Rendered {
        let mut one = self.clone();
        one.name = beside(&self.name);
        one.config.insert(label::NAME.to_owned(), one.name.clone());
        one.config.insert(label::BESIDE.to_owned(), self.name.clone());
        one.devices
            .retain(|_, device| !matches!(device.get("type").map(String::as_str), Some("nic" | "proxy")));
        one
    }

    /// Hash of the files; empty without any.
    #[must_use]
    pub fn files_hash(&self) -> String {
        if self.files.is_empty() { String::new() } else { hash(&(&self.seal, &self.files)) }
    }

    /// Hash of the program that is to be its first process, when that is ours.
    #[must_use]
    pub fn guest(&self) -> Option<&str> {
        self.config.get(label::GUEST).map(String::as_str)
    }

    fn root(&mut self, instance: &Instance, facts: &Facts<'_>) {
        let root = keys(&[("type", "disk"), ("path", "/"), ("pool", facts.pool)]);
        let root = root.into_iter().chain(instance.root.clone()).collect();
        self.devices.entry("root".to_owned()).or_insert(root);
    }

    fn interfaces(&mut self, instance: &Instance, facts: &Facts<'_>) {
        let mut lines = String::new();
        let (mut gateway, mut resolver) = (None, None);
        for (at, nic) in instance.nics.iter().enumerate() {
            let Some(place) = facts.networks.get(nic.network.as_str()) else { continue };
            let name = format!("eth{at}");
            let mut device = keys(&[("type", "nic"), ("name", &name), ("network", &place.network.name)]);
            device.extend(nic.keys.clone());
            let address = facts.addresses.get(&(instance.name.as_str(), nic.network.as_str()));
            if let Some(address) = address {
                device.insert("ipv4.address".to_owned(), address.to_string());
            }
            self.devices.insert(name, device);
            let address = address.filter(|_| instance.addressing != Addressing::Inside);
            if let (Some(address), Some(subnet)) = (address, place.subnet) {
                let _infallible =
                    write!(lines, "\nlxc.net.{at}.ipv4.address = {address}/{}", subnet.prefix());
                resolver.get_or_insert(subnet.gateway());
                if gateway.is_none() && !place.is_closed {
                    gateway = Some(subnet.gateway());
                    let _infallible = write!(lines, "\nlxc.net.{at}.ipv4.gateway = {}", subnet.gateway());
                }
            }
        }
        if !lines.is_empty() {
            let raw = self.config.entry("raw.lxc".to_owned()).or_default();
            raw.push_str(&lines);
            let trimmed = raw.trim_start().to_owned();
            *raw = trimmed;
        }
        // An internal network's resolver knows nobody outside.
        if let Some(resolver) = gateway.or(resolver) {
            self.resolver(resolver, instance.addressing);
        }
    }

    /// Whoever gets its address from outside learns from there who answers for names.
    fn resolver(&mut self, gateway: Ipv4Addr, addressing: Addressing) {
        let content = format!("search incus\nnameserver {gateway}\n").into_bytes();
        let path = "/etc/resolv.conf".to_owned();
        let file = File { path, uid: 0, gid: 0, mode: 0o644, content };
        let mut config = self.config.clone();
        let file = if addressing == Addressing::Over { file.over(&mut config) } else { file };
        if self.files.iter().all(|other| other.path != file.path) {
            self.config = config;
            self.files.push(file);
        }
    }

    fn mounts(&mut self, instance: &Instance, facts: &Facts<'_>) {
        for mount in &instance.mounts {
            let Some((pool, volume)) = facts.volumes.get(mount.volume.as_str()) else { continue };
            let mut device =
                keys(&[("type", "disk"), ("pool", pool), ("source", volume), ("path", &mount.path)]);
            device.extend(mount.keys.clone());
            self.devices.insert(mount.device.clone(), device);
        }
    }

    fn leads(&mut self, instance: &Instance, facts: &Facts<'_>) {
        let led = lead::led(instance, facts);
        self.devices.retain(|name, _| !led.without.contains(name.as_str()));
        self.devices.extend(led.devices);
    }

    fn labels(&mut self, service: &Service, instance: &Instance, facts: &Facts<'_>) {
        let written = Written {
            config: self.config.keys().cloned().collect(),
            devices: self.devices.keys().cloned().collect(),
            ports: instance.ports.keys().cloned().collect(),
        };
        let depends: Vec<&str> = service.depends_on.keys().map(String::as_str).collect();
        let mounts: BTreeSet<(&str, &str)> =
            instance.mounts.iter().map(|mount| (mount.volume.as_str(), mount.path.as_str())).collect();
        // One that `run` made has a first process that only waits: there is no service to be well.
        let health = service.health.as_ref().filter(|_| !instance.config.contains_key(label::ONE_OFF));
        let labels = [
            (label::PROJECT, facts.project.to_owned()),
            (label::NAME, instance.name.clone()),
            // One that `run` made is called like itself, and its service like the label says.
            (label::SERVICE, instance.config.get(label::ONE_OFF).unwrap_or(&service.name).clone()),
            (label::INDEX, instance.index.to_string()),
            (label::HASH, instance.hash(facts.seal)),
            (label::BORN, hash(&(&instance.image, mounts))),
            (label::FILES, self.files_hash()),
            (label::GUEST, if instance.is_guest() { facts.guest.to_owned() } else { String::new() }),
            (label::KEYS, serde_json::to_string(&written).unwrap_or_default()),
            (label::DEPENDS, depends.join(",")),
            (label::GRACE, service.stop.grace.as_millis().to_string()),
            // What is too long to be kept was refused when the file was read.
            (label::HEALTH, health.and_then(|health| health.write().ok()).unwrap_or_default()),
        ];
        // An empty value is how the server says that there is none.
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        self.config.extend(labels.map(|(key, value)| (key.to_owned(), value)));
    }
}

/// Keys of a device.
pub(crate) fn keys(pairs: &[(&str, &str)]) -> Keys {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
