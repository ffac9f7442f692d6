//! Instances made, started, stopped and deleted, and all of a project's at one look.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::instance_target;
use crate::definition::Wire;
use crate::encode::{addressable, percent_encode};
use crate::resources::{Keys, absent_is_none};
use crate::transport::protocol;
use crate::{Client, Definition, Device, InstanceKind, Operation, RemoteImage, Result};

/// What an instance is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InstanceSource {
    /// An image of the project's, by its fingerprint.
    Fingerprint(String),
    /// An image of the project's, by a name it has there.
    Alias(String),
    /// An image that the server fetches first.
    Remote(RemoteImage),
    /// An image of another Incus or LXD, which the server fetches first.
    Pulled(Pulled),
}

/// An image of another Incus or LXD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Its name there; its fingerprint where there is a secret.
    pub image: String,
    /// Certificate of that server, PEM, where no authority vouches for it.
    pub certificate: Option<String>,
    /// What lets somebody have an image that not everybody has ([`Client::image_secret`]).
    pub secret: Option<String>,
}

impl Pulled {
    fn body(&self) -> Value {
        let image = if self.secret.is_some() { "fingerprint" } else { "alias" };
        let mut body = json!({"type": "image", "mode": "pull", "server": self.url, "protocol": "incus",
            image: self.image});
        if let Some(certificate) = &self.certificate {
            body["certificate"] = json!(certificate);
        }
        if let Some(secret) = &self.secret {
            body["secret"] = json!(secret);
        }
        body
    }
}

/// An instance to be made, stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewInstance {
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: InstanceKind,
    /// Whether it is deleted when it stops.
    pub is_ephemeral: bool,
    /// What it is made of.
    pub source: InstanceSource,
    /// Description.
    pub description: String,
    /// Its own configuration.
    pub config: Keys,
    /// Its own devices.
    pub devices: BTreeMap<String, Device>,
    /// Profiles; `None` is the default one.
    pub profiles: Option<Vec<String>>,
}

/// What becomes of a running or stopped instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateChange {
    /// It is started.
    Start,
    /// Its first process gets its stop signal. After `grace` the operation fails, and **goes on in the server**: only a
    /// forced stop ends it.
    Stop {
        /// How long it may take; whole seconds.
        grace: Duration,
    },
    /// It is killed.
    Kill,
    /// It is stopped as by [`Stop`](Self::Stop), and started again; an ephemeral one stays.
    Restart {
        /// How long the stop may take; whole seconds.
        grace: Duration,
    },
    /// It is killed, and started again; an ephemeral one stays.
    Reset,
    /// Its processes do not run until the reverse.
    Freeze,
    /// The reverse.
    Unfreeze,
}

#[derive(Serialize)]
struct StateBody {
    action: &'static str,
    timeout: i64,
    force: bool,
}

impl From<StateChange> for StateBody {
    fn from(change: StateChange) -> Self {
        let body = |action, force| Self { action, timeout: -1, force };
        match change {
            StateChange::Start => body("start", false),
            StateChange::Stop { grace } => Self { timeout: seconds(grace), ..body("stop", false) },
            StateChange::Kill => body("stop", true),
            StateChange::Restart { grace } => Self { timeout: seconds(grace), ..body("restart", false) },
            StateChange::Reset => body("restart", true),
            StateChange::Freeze => body("freeze", false),
            StateChange::Unfreeze => body("unfreeze", false),
        }
    }
}

/// As the API has it: whole seconds, and never none.
fn seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1)
}

/// An instance at a look.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// How it is defined. It cannot be put back: it has no version.
    pub definition: Definition,
    /// Its configuration, profiles merged in.
    pub expanded_config: Keys,
    /// State in the server's words: `Running`.
    pub status: String,
    /// State, one of [`status_code`](crate::status_code).
    pub status_code: u16,
    /// When it was made, as the API writes a time (RFC 3339).
    pub created_at: String,
    /// When it was started last; before 1970 when never.
    pub last_used_at: String,
    /// Cluster member it is on; `none` without a cluster.
    pub location: String,
    /// What was measured, where it was asked for.
    pub measured: Option<Measured>,
}

/// What a server measures of an instance. All zero for one that does not run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measured {
    /// Init's pid as the server's pid namespace numbers it.
    pub pid: Option<i32>,
    /// Processes.
    pub processes: u64,
    /// Time of all processors since the start.
    pub cpu: Duration,
    /// Memory in use.
    pub memory_bytes: u64,
    /// What it may use, where the server says.
    pub memory_limit_bytes: u64,
    /// Its network interfaces by name, without the loopback one.
    pub interfaces: BTreeMap<String, Interface>,
    /// When it was started, where the server says.
    pub started_at: String,
}

/// A network interface as the instance has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Addresses that others reach.
    pub addresses: Vec<IpAddr>,
    /// Hardware address.
    pub hwaddr: String,
    /// Bytes that came in.
    pub received_bytes: u64,
    /// Bytes that went out.
    pub sent_bytes: u64,
}

#[derive(Deserialize)]
struct ListedWire {
    #[serde(flatten)]
    definition: Wire,
    #[serde(default)]
    state: Option<StateWire>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct StateWire {
    pid: i64,
    processes: i64,
    cpu: CpuWire,
    memory: MemoryWire,
    network: Option<BTreeMap<String, InterfaceWire>>,
    started_at: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CpuWire {
    usage: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct MemoryWire {
    usage: i64,
    total: i64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct InterfaceWire {
    hwaddr: String,
    addresses: Option<Vec<AddressWire>>,
    counters: CountersWire,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AddressWire {
    address: String,
    scope: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct CountersWire {
    bytes_received: i64,
    bytes_sent: i64,
}

/// What a server could not count is -1.
fn count(of: i64) -> u64 {
    u64::try_from(of).unwrap_or_default()
}

impl From<StateWire> for Measured {
    fn from(from: StateWire) -> Self {
        let interfaces = from.network.into_iter().flatten().filter(|(name, _)| name != "lo");
        let interface = |of: InterfaceWire| {
            let global = of.addresses.into_iter().flatten().filter(|address| address.scope == "global");
            Interface {
                addresses: global.filter_map(|address| address.address.parse().ok()).collect(),
                hwaddr: of.hwaddr,
                received_bytes: count(of.counters.bytes_received),
                sent_bytes: count(of.counters.bytes_sent),
            }
        };
        Self {
            pid: i32::try_from(from.pid).ok().filter(|pid| *pid > 0),
            processes: count(from.processes),
            cpu: Duration::from_nanos(count(from.cpu.usage)),
            memory_bytes: count(from.memory.usage),
            memory_limit_bytes: count(from.memory.total),
            interfaces: interfaces.map(|(name, of)| (name, interface(of))).collect(),
            started_at: from.started_at,
        }
    }
}

impl Client {
    /// Makes an instance and leaves it stopped.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn create_instance(&self, project: &str, new: &NewInstance) -> Result<Operation> {
        let target = format!("/1.0/instances?project={}", percent_encode(project));
        if !addressable(&new.name) || project.is_empty() {
            return Err(protocol(&target, "no instance can have such a name"));
        }
        let source = match &new.source {
            InstanceSource::Fingerprint(fingerprint) => json!({"type": "image", "fingerprint": fingerprint}),
            InstanceSource::Alias(alias) => json!({"type": "image", "alias": alias}),
            InstanceSource::Remote(from) => json!({"type": "image", "mode": "pull", "server": from.server,
                "protocol": from.protocol, "alias": from.alias}),
            InstanceSource::Pulled(from) => from.body(),
        };
        let mut body = json!({"name": new.name, "type": new.kind.as_str(), "ephemeral": new.is_ephemeral,
            "source": source, "description": new.description, "config": new.config, "devices": new.devices});
        if let Some(profiles) = &new.profiles {
            body["profiles"] = json!(profiles);
        }
        let started = self.submit(Method::POST, &target, Some(&body), None).await?;
        started.ok_or_else(|| protocol(&target, "an instance without an operation"))
    }

    /// Starts, stops or freezes an instance. How long a start or a kill takes is the server's; a refusal can come with
    /// the operation too.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn change_state(&self, project: &str, name: &str, change: StateChange) -> Result<Operation> {
        let target = named(project, name, "/state")?;
        let started = self.submit(Method::PUT, &target, Some(&StateBody::from(change)), None).await?;
        started.ok_or_else(|| protocol(&target, "a state without an operation"))
    }

    /// When an instance was started last, as the API writes a time: another after each start, as the server notes it just
    /// before the first process runs. `None` when there is no such instance.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn last_start(&self, project: &str, name: &str) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Used {
            #[serde(default)]
            last_used_at: String,
        }
        let target = named(project, name, "")?;
        let found: Option<Used> = self.door().get(&target, self.limits().answer_bytes).await?;
        Ok(found.map(|used| used.last_used_at))
    }

    /// Deletes a stopped instance; `None` when there is none.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`Refusal::State`](crate::Refusal::State) while it runs.
    pub async fn remove_instance(&self, project: &str, name: &str) -> Result<Option<Operation>> {
        let target = named(project, name, "")?;
        let started = self.submit(Method::DELETE, &target, None::<&Value>, None).await;
        let Some(started) = absent_is_none(started)? else { return Ok(None) };
        started.map(Some).ok_or_else(|| protocol(&target, "an end without an operation"))
    }

    /// Gives a stopped instance another name.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`Refusal::State`](crate::Refusal::State) while it runs.
    pub async fn rename_instance(&self, project: &str, name: &str, to: &str) -> Result<Operation> {
        let target = named(project, name, "")?;
        if !addressable(to) {
            return Err(protocol(to, "no instance can have such a name"));
        }
        let started = self.submit(Method::POST, &target, Some(&json!({"name": to})), None).await?;
        started.ok_or_else(|| protocol(&target, "a name without an operation"))
    }

    /// Sets these keys of an instance and leaves the others; what somebody else changes at the same time stays.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn set_keys(&self, project: &str, name: &str, config: &Keys) -> Result<()> {
        let target = named(project, name, "")?;
        self.carry_out(Method::PATCH, &target, Some(&json!({"config": config})), None).await
    }

    /// All instances of a project; none when there is no such project. About 0.5 ms for each.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn list(&self, project: &str) -> Result<Vec<Listed>> {
        self.listed(project, 1).await
    }

    /// Those of all projects this connection may see.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn list_everywhere(&self) -> Result<Vec<Listed>> {
        self.listed_at("/1.0/instances?recursion=1&all-projects=true").await
    }

    /// The same with what is [`measured`](Listed::measured). About 5 ms for each that runs.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn measure(&self, project: &str) -> Result<Vec<Listed>> {
        self.listed(project, 2).await
    }

    async fn listed(&self, project: &str, recursion: u8) -> Result<Vec<Listed>> {
        if project.is_empty() {
            return Ok(Vec::new());
        }
        self.listed_at(&format!("/1.0/instances?recursion={recursion}&project={}", percent_encode(project)))
            .await
    }

    async fn listed_at(&self, target: &str) -> Result<Vec<Listed>> {
        let found: Option<Vec<ListedWire>> = self.door().get(target, self.limits().list_bytes).await?;
        Ok(found.unwrap_or_default().into_iter().map(Listed::from).collect())
    }

    /// One instance as it is listed; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn listing(&self, project: &str, name: &str) -> Result<Option<Listed>> {
        let Some(target) = instance_target(project, name, "") else { return Ok(None) };
        let found: Option<ListedWire> = self.door().get(&target, self.limits().answer_bytes).await?;
        Ok(found.map(Listed::from))
    }
}

impl From<ListedWire> for Listed {
    fn from(wire: ListedWire) -> Self {
        let of = |key: &str| wire.definition.rest.get(key);
        let text = |key: &str| of(key).and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = of("status_code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok());
        Listed {
            status: text("status"),
            status_code: code.unwrap_or(0),
            created_at: text("created_at"),
            last_used_at: text("last_used_at"),
            location: text("location"),
            expanded_config: of("expanded_config")
                .and_then(|map| Keys::deserialize(map).ok())
                .unwrap_or_default(),
            measured: wire.state.map(Measured::from),
            definition: Definition::of(wire.definition, None),
        }
    }
}

/// Path of an instance that must be there.
fn named(project: &str, name: &str, below: &str) -> Result<String> {
    instance_target(project, name, below).ok_or_else(|| protocol(name, "no instance can have such a name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_is_whole_seconds_and_never_none() {
        let timeout =
            |millis| StateBody::from(StateChange::Stop { grace: Duration::from_millis(millis) }).timeout;
        assert_eq!([0, 1, 1000, 1001].map(timeout), [1, 1, 1, 2]);
        assert!(StateBody::from(StateChange::Kill).force);
    }

    #[test]
    fn what_is_not_counted_is_nothing() {
        let wire = json!({"pid": -1, "processes": -1, "cpu": {"usage": -1}, "memory": {"usage": 5},
            "network": {"lo": {}, "eth0": {"hwaddr": "a", "addresses": [
                {"address": "10.0.0.2", "scope": "global"}, {"address": "fe80::1", "scope": "link"}],
                "counters": {"bytes_received": 7}}}});
        let measured = Measured::from(StateWire::deserialize(wire).expect("a state"));
        assert_eq!((measured.pid, measured.processes, measured.cpu), (None, 0, Duration::ZERO));
        assert_eq!(measured.interfaces.len(), 1, "without the loopback one");
        let eth0 = &measured.interfaces["eth0"];
        assert_eq!((eth0.received_bytes, eth0.addresses.len()), (7, 1));
    }
}
