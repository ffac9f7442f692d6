//! What is wanted: a Compose project in the words of the server.
//!
//! Complete but for what only a look at the server tells: free subnets, addresses, the storage pool, fingerprints of
//! images. Those the planner adds. Equal files give equal values, and so equal hashes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use portway_incus::{ImageProtocol, RemoteImage};
use portway_proto::service;
pub use portway_proto::service::health::{Health, Tester};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::build::Build;

/// Configuration keys, or keys of a device.
pub type Keys = BTreeMap<String, String>;

/// A project.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ComposeProject {
    /// Its name in Compose.
    pub name: String,
    /// Name of the server's project that holds it.
    pub incus_project: String,
    /// Configuration of the server's project.
    pub config: Keys,
    /// Images by what the file calls them.
    pub images: BTreeMap<String, Image>,
    /// What is built, by the names the images have in the file.
    pub builds: BTreeMap<String, Build>,
    /// Networks by their key in the file.
    pub networks: BTreeMap<String, Network>,
    /// Volumes by their key in the file.
    pub volumes: BTreeMap<String, Volume>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// The first process of those whose command runs in a system image.
    pub program: Program,
    /// What the user should know, one line each.
    pub warnings: Vec<String>,
    /// What the file asks for that not every file may have.
    pub privileges: Vec<Privilege>,
}

/// The program that is the first process of a service. It is no part of what a service is: another version of it is
/// put in place where a service does not run anyway.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Program {
    bytes: &'static [u8],
    hash: String,
}

impl Program {
    /// A program.
    #[must_use]
    pub fn new(bytes: &'static [u8]) -> Program {
        Program { bytes, hash: hex(&Sha256::digest(bytes)) }
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &'static [u8] {
        self.bytes
    }

    /// What tells it from others.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {}", self.bytes.len(), self.hash)
    }
}

/// Something a file asks for that reaches out of its instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Privilege {
    /// Service that asks.
    pub service: String,
    /// What for, in words.
    pub what: String,
    /// File, line and column.
    pub place: String,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Where it is from.
    pub source: ImageSource,
    /// When it is fetched.
    pub pull: Pull,
}

/// Where an image is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The server's own, by alias or fingerprint.
    Local(String),
    /// A server of images.
    Simplestreams {
        /// Its address.
        url: String,
        /// Alias there.
        alias: String,
    },
    /// A registry.
    Oci {
        /// `https://docker.io`.
        url: String,
        /// `library/nginx:1.27`.
        name: String,
    },
    /// Built from the files beside the Compose file, and known to the server by this alias.
    Built(String),
}

impl ImageSource {
    /// Where the server fetches it, if it does.
    #[must_use]
    pub fn remote(&self) -> Option<RemoteImage> {
        match self {
            ImageSource::Local(_) | ImageSource::Built(_) => None,
            ImageSource::Simplestreams { url, alias } => {
                Some(RemoteImage::new(ImageProtocol::Simplestreams, url, alias))
            }
            ImageSource::Oci { url, name } => Some(RemoteImage::new(ImageProtocol::Oci, url, name)),
        }
    }
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pull {
    /// When it is not there.
    #[default]
    Missing,
    /// Each time.
    Always,
    /// Not at all.
    Never,
    /// It is built each time.
    Build,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Name at the server.
    pub name: String,
    /// Who made it.
    pub owner: Owner,
    /// Configuration. Without `ipv4.address` it gets a subnet that is free.
    pub config: Keys,
    /// First and last address that instances are given when they say none; all of the subnet without it.
    pub range: Option<(Ipv4Addr, Ipv4Addr)>,
    /// Addresses that no instance is given.
    pub reserved: BTreeSet<Ipv4Addr>,
    /// Whether it is cut off from everything but itself and the server's host.
    pub is_internal: bool,
    /// File, line and column.
    pub place: String,
}

/// Who has made something, and so who may remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The project.
    Project,
    /// Somebody else: it must be there, and stays.
    External,
}

/// A custom volume of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Name at the server.
    pub name: String,
    /// Its pool; the one of the instances when none is said.
    pub pool: Option<String>,
    /// Who made it.
    pub owner: Owner,
    /// Configuration.
    pub config: Keys,
}

/// A service and its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Key in [`ComposeProject::images`].
    pub image: String,
    /// Services that come before it.
    pub depends_on: BTreeMap<String, Dependency>,
    /// How its health is told.
    pub health: Option<Health>,
    /// When it is started again.
    pub restart: Restart,
    /// How it is stopped.
    pub stop: Stopping,
    /// Its replicas, in the order of their numbers.
    pub instances: Vec<Instance>,
}

/// How a service depends on another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dependency {
    /// What is waited for.
    pub condition: Condition,
    /// Without the other it does not start; else only a warning tells.
    pub required: bool,
    /// It is restarted when the other is made anew or restarted.
    pub restart: bool,
}

/// What of a dependency is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// It runs.
    Started,
    /// Its health says so.
    Healthy,
    /// It has ended with exit code 0.
    Completed,
}

/// When an instance is started again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Always.
    Always,
    /// Unless somebody has stopped it.
    UnlessStopped,
    /// When it fails, so many times at most.
    OnFailure(Option<u32>),
}

/// How an instance is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopping {
    /// Signal to its first process, when it is not the usual one: `SIGINT`.
    pub signal: Option<String>,
    /// Before force is used.
    pub grace: Duration,
}

impl Default for Stopping {
    fn default() -> Stopping {
        // The Compose specification, stop_grace_period.
        Stopping { signal: None, grace: Duration::from_secs(10) }
    }
}

/// One replica of a service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Instance {
    /// Name at the server.
    pub name: String,
    /// Number of the replica, from 1.
    pub index: u32,
    /// What the file calls its image.
    pub image: String,
    /// Configuration, labels of users included; the labels of [`label`](crate::label) are the planner's.
    pub config: Keys,
    /// Devices but interfaces, volumes and the root disk.
    pub devices: BTreeMap<String, Keys>,
    /// Interfaces: `eth0` is the first.
    pub nics: Vec<Nic>,
    /// Volumes of the project inside.
    pub mounts: Vec<Mount>,
    /// Keys of the root disk besides its pool, such as `size`.
    pub root: Keys,
    /// Files that are written before it starts.
    pub files: Vec<File>,
    /// How its interfaces come to their addresses.
    pub addressing: Addressing,
    /// Published ports as devices of Portway: keys as `portway device add` takes them, by the device's name. With the
    /// server's own devices they are among `devices` instead.
    pub ports: BTreeMap<String, Keys>,
    /// Ports of the host that are still to be chosen, first and last that may be, by the name of the device that has one
    /// of them; it stands there with the first.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub open: BTreeMap<String, (u16, u16)>,
    /// Ports that the kernel is to lead to it by devices of the server's, by the name of the device that relays them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub leads: BTreeMap<String, Lead>,
}

/// A published port that the kernel is to lead to an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lead {
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Address of the host; everywhere, of this family, when it is the unspecified one.
    pub address: IpAddr,
    /// Port of the host.
    pub port: u16,
    /// Port inside.
    pub target: u16,
    /// Whether nothing relays what the kernel does not lead.
    pub is_strict: bool,
}

/// An interface in a network of the project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// Key of the network in the file.
    pub network: String,
    /// Address, when the file says one.
    pub ipv4: Option<Ipv4Addr>,
    /// Names besides those of service and instance.
    pub aliases: Vec<String>,
    /// Other keys of the device: `hwaddr`, `ipv6.address`.
    pub keys: Keys,
}

/// How the interfaces of an instance come to their addresses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Addressing {
    /// Its own init asks by DHCP.
    #[default]
    Inside,
    /// Nobody inside asks: they are given to it when it starts.
    Outside,
    /// The same, and the server makes a `/etc/resolv.conf` at each start, which ours lies over. It also asks by DHCP in its
    /// stead, with two faults (Incus 7.0): in a network without a gateway it takes no address, and of several gateways
    /// it takes any.
    Over,
}

/// A volume inside an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Name of the device.
    pub device: String,
    /// Key in [`ComposeProject::volumes`].
    pub volume: String,
    /// Where.
    pub path: String,
    /// Other keys of the device: `readonly`.
    pub keys: Keys,
}

/// A file that is written into an instance.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub struct File {
    /// Where; absolute.
    pub path: String,
    /// Owner inside.
    pub uid: u32,
    /// Group inside.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: Vec<u8>,
}

impl File {
    /// The same to lie over the one that the server makes for application containers at each start. By LXC, for the file is
    /// inside (lxc.container.conf(5): `relative` to the container's root).
    pub(crate) fn over(self, config: &mut Keys) -> File {
        let target = self.path.trim_start_matches('/');
        let name = target.rsplit('/').next().unwrap_or(target);
        let line = format!("lxc.mount.entry = .portway/{name} {target} none bind,relative,create=file 0 0");
        lxc(config, &[line]);
        File { path: format!("/.portway/{name}"), ..self }
    }
}

/// Adds lines to what is passed to LXC as it is.
pub(crate) fn lxc(config: &mut Keys, lines: &[String]) {
    for line in lines {
        let text = config.entry("raw.lxc".to_owned()).or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(line);
    }
}

impl fmt::Debug for File {
    /// Without what it holds: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{} {:04o}, {} bytes", self.path, self.uid, self.gid, self.mode, self.content.len())
    }
}

impl ComposeProject {
    /// All replicas with their services.
    pub fn instances(&self) -> impl Iterator<Item = (&Service, &Instance)> {
        self.services.values().flat_map(|service| service.instances.iter().map(move |one| (service, one)))
    }
}

impl Instance {
    /// Hash of all that it is: equal when nothing is to be done. It may hold secrets, which nobody who reads the hash and
    /// does not know the `seal` can guess at.
    #[must_use]
    pub fn hash(&self, seal: &str) -> String {
        hash(&(seal, self))
    }

    /// Whether its first process is ours.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        is_guest(&self.files)
    }
}

/// Whether the first process that reads one of these is ours.
pub(crate) fn is_guest(files: &[File]) -> bool {
    files.iter().any(|file| file.path.strip_prefix(service::DIR) == Some(&format!("/{}", service::SPEC)))
}

/// SHA-256 of a value's JSON, in hexadecimal. Nothing that is hashed holds a map with keys other than texts.
pub(crate) fn hash<T: Serialize>(value: &T) -> String {
    hex(&Sha256::digest(serde_json::to_vec(value).unwrap_or_default()))
}

fn hex(bytes: &[u8]) -> String {
    let mut hex = String::new();
    for byte in bytes {
        let _infallible = write!(hex, "{byte:02x}");
    }
    hex
}
