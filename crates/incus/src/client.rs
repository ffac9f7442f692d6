//! The questions.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::encode::{addressable, percent_encode};
use crate::network::{self, Assigned, Holder, Lease, Network, Nic};
use crate::transport::{Dial, Door, protocol};
use crate::types::wire;
use crate::{Events, IncusError, Instance, Result, Server, State, Summary, discover};

/// What bounds every exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From connect to the last byte of the answer; for events, to the end of the handshake.
    pub request: Duration,
    /// For a change, from connect to the end of the operation: a device of Incus that does not come
    /// up takes it six seconds.
    pub change: Duration,
    /// Length of an answer.
    pub answer_bytes: usize,
    /// Length of the list of all instances (about 2.5 kB each).
    pub list_bytes: usize,
    /// Length of one event.
    pub event_bytes: usize,
    /// An event stream that says nothing for this long is asked for a sign of life, and given
    /// up after as long again.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            change: Duration::from_secs(40),
            answer_bytes: 16 << 20,
            list_bytes: 64 << 20,
            event_bytes: 1 << 20,
            silence: Duration::from_secs(30),
        }
    }
}

/// A server's address and our limits. Cheap to clone; every call makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    dial: Option<Arc<dyn Dial>>,
    limits: Limits,
}

impl Client {
    /// A client of the server at `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self::with_limits(socket, Limits::default())
    }

    /// The same with limits of one's own.
    #[must_use]
    pub fn with_limits(socket: PathBuf, limits: Limits) -> Self {
        Self { socket, dial: None, limits }
    }

    /// A client of a server that is reached otherwise than by a socket of its own; errors name it as this.
    #[must_use]
    pub fn through(name: impl Into<PathBuf>, dial: Arc<dyn Dial>) -> Self {
        Self { socket: name.into(), dial: Some(dial), limits: Limits::default() }
    }

    /// The Incus socket: `INCUS_SOCKET`, else `unix.socket` in `INCUS_DIR`, else the default
    /// place where one exists. What the environment names is taken unseen, so that a wrong value
    /// is an error about that value and not a silent use of another server. `env` looks up a
    /// variable; an empty value counts as unset.
    pub fn discover(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        discover::discover(env)
    }

    /// The same for LXD: `LXD_SOCKET`, `LXD_DIR`, the default places.
    pub fn discover_lxd(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        discover::discover_lxd(env)
    }

    /// The socket, or what the server is named instead.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server itself.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn server(&self) -> Result<Server> {
        let target = "/1.0";
        let answer: Option<wire::Server> = self.door().get(target, self.limits.answer_bytes).await?;
        answer.map(Server::from).ok_or_else(|| protocol(target, "the API's root is not found"))
    }

    /// One instance; `None` when the project or the instance does not exist. About 1.7 ms; 90 ms
    /// while it stops or starts.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether the instance exists.
    pub async fn instance(&self, project: &str, name: &str) -> Result<Option<Instance>> {
        let Some(target) = instance_target(project, name, "") else {
            return Ok(None);
        };
        let answer: Option<wire::Instance> = self.ask(&target).await?;
        Ok(answer.map(Instance::from))
    }

    /// What an instance's programs are built for, in the kernel's words; `None` when the project or the instance does not
    /// exist.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether the instance exists.
    pub async fn architecture(&self, project: &str, name: &str) -> Result<Option<String>> {
        let Some(target) = instance_target(project, name, "") else {
            return Ok(None);
        };
        let answer: Option<wire::Built> = self.ask(&target).await?;
        Ok(answer.map(|built| built.architecture))
    }

    /// Its run-time state, with init's pid; `None` when the project or the instance does not
    /// exist. About 5 ms; while it stops or starts up to 700 ms, or a
    /// [`Status`](IncusError::Status) of 500 that is gone at the next try.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether the instance exists or runs.
    pub async fn state(&self, project: &str, name: &str) -> Result<Option<State>> {
        let Some(target) = instance_target(project, name, "/state") else {
            return Ok(None);
        };
        let answer: Option<wire::State> = self.ask(&target).await?;
        Ok(answer.map(State::from))
    }

    /// The addresses the server has assigned to an instance, see [`assigned`](Self::assigned); IPv4 first.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether there are any.
    pub async fn assigned_addresses(&self, instance: &Instance) -> Result<Vec<IpAddr>> {
        let found = self.assigned(instance).await?;
        let mut addresses: Vec<IpAddr> = found.into_iter().flat_map(|nic| nic.addresses).collect();
        addresses.sort_by_key(IpAddr::is_ipv6);
        Ok(addresses)
    }

    /// The interfaces of an instance in networks of the server's, in the order of their devices, with the
    /// addresses the server has assigned to them: those its devices reserve and those leased to its
    /// interfaces, inside the network, nobody else's. A network without leases has none of them. What the
    /// instance says about itself is not asked. Two requests per network.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether there are any.
    pub async fn assigned(&self, instance: &Instance) -> Result<Vec<Assigned>> {
        let parts = self.networks_of(instance).await?;
        Ok(parts.iter().map(|(nic, of, leases)| network::assigned(nic, of, leases)).collect())
    }

    /// The same of a container that runs: only those it has itself, and, where it has none of them, what it says its
    /// addresses are. One request more.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether there are any.
    pub async fn confirmed(&self, instance: &Instance) -> Result<Vec<Assigned>> {
        let parts = self.networks_of(instance).await?;
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let said = self.interfaces(instance).await?;
        let confirmed = parts.iter().map(|(nic, of, leases)| {
            let mut one = network::assigned(nic, of, leases);
            let own = network::confirmed(&one.addresses, &said);
            // What is leased in its name is nobody else's, whoever has asked for it.
            (one.claimed, one.unlisted) = network::claimed(nic, of, (leases, &own), said.iter());
            Assigned { addresses: own, ..one }
        });
        Ok(confirmed.collect())
    }

    /// Whose addresses are whose, of all instances of all projects this connection may see. About 5 ms for each
    /// that runs.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn holders(&self) -> Result<Vec<Holder>> {
        let target = "/1.0/instances?recursion=2&all-projects=true";
        let answer: Option<Vec<wire::Full>> = self.door().get(target, self.limits.list_bytes).await?;
        Ok(answer.unwrap_or_default().into_iter().map(Holder::from).collect())
    }

    /// The instance's interfaces in networks that have leases, each with its network and the leases there.
    async fn networks_of(&self, instance: &Instance) -> Result<Vec<(Nic, Network, Vec<Lease>)>> {
        let mut found = Vec::new();
        for nic in network::nics(instance) {
            let name = &nic.network;
            let Some(target) = network_target(&instance.project, name, "") else { continue };
            let Some(of_network) = self.ask::<wire::Network>(&target).await? else { continue };
            let of_network = Network::from(of_network);
            if !of_network.has_leases() {
                continue;
            }
            let Some(leases) = self.leases(&instance.project, name).await? else { continue };
            found.push((nic, of_network, leases));
        }
        Ok(found)
    }

    /// The interfaces of an instance as it has them.
    async fn interfaces(&self, instance: &Instance) -> Result<Vec<wire::Interface>> {
        let Some(target) = instance_target(&instance.project, &instance.name, "/state") else {
            return Ok(Vec::new());
        };
        let state: Option<wire::State> = self.ask(&target).await?;
        Ok(state.and_then(|state| state.network).unwrap_or_default().into_values().collect())
    }

    /// The leases and reservations of a network; `None` when it is not one that has any. An error that may
    /// pass is none: an instance must not lose its address by it.
    ///
    /// # Errors
    /// [`IncusError`], any; it says nothing about whether there are any.
    pub async fn leases(&self, project: &str, network: &str) -> Result<Option<Vec<Lease>>> {
        let Some(target) = network_target(project, network, "/leases") else { return Ok(None) };
        let leases: Vec<wire::Lease> = match self.ask(&target).await {
            Ok(leases) => leases.unwrap_or_default(),
            Err(IncusError::Status { code: 400 | 501, .. }) => return Ok(None),
            Err(problem) => return Err(problem),
        };
        Ok(Some(leases.iter().filter_map(Lease::from_wire).collect()))
    }

    /// The instances with this UUID, whatever their name and project. One, or none; while an
    /// instance moves between projects, two for some 200 ms.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn with_uuid(&self, uuid: &str) -> Result<Vec<Instance>> {
        // The server's filters are a language: nothing but a UUID goes into one.
        if uuid.is_empty() || !uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Ok(Vec::new());
        }
        let filter = percent_encode(&format!("config.volatile.uuid eq {uuid}"));
        let target = format!("/1.0/instances?recursion=1&all-projects=true&filter={filter}");
        let answer: Option<Vec<wire::Instance>> = self.ask(&target).await?;
        let found = answer.ok_or_else(|| protocol(&target, "the list of instances is not found"))?;
        // A server that knows no filters answers with everything.
        Ok(found
            .into_iter()
            .map(Instance::from)
            .filter(|instance| instance.uuid.as_deref() == Some(uuid))
            .collect())
    }

    /// All instances of all projects this connection may see.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn instances(&self) -> Result<Vec<Summary>> {
        let target = "/1.0/instances?recursion=1&all-projects=true";
        let answer: Option<Vec<wire::Summary>> = self.door().get(target, self.limits.list_bytes).await?;
        let found = answer.ok_or_else(|| protocol(target, "the list of instances is not found"))?;
        Ok(found.into_iter().map(Summary::from).collect())
    }

    /// Lifecycle events of instances, all projects. Everything that happens after this returns
    /// is in the stream: open it first, then read what is there.
    ///
    /// # Errors
    /// [`IncusError`], any.
    pub async fn events(&self) -> Result<Events> {
        Events::open(self.door()).await
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(crate) fn door(&self) -> Door<'_> {
        Door { socket: &self.socket, dial: self.dial.as_deref(), limits: &self.limits }
    }

    async fn ask<T: DeserializeOwned>(&self, target: &str) -> Result<Option<T>> {
        self.door().get(target, self.limits.answer_bytes).await
    }
}

/// Path of an instance, or `None` when no instance can have such a name.
pub(crate) fn instance_target(project: &str, name: &str, below: &str) -> Option<String> {
    if !addressable(name) || project.is_empty() {
        return None;
    }
    let (project, name) = (percent_encode(project), percent_encode(name));
    Some(format!("/1.0/instances/{name}{below}?project={project}"))
}

/// Path of a network, or `None` when no network can have such a name.
fn network_target(project: &str, name: &str, below: &str) -> Option<String> {
    if !addressable(name) || project.is_empty() {
        return None;
    }
    let (project, name) = (percent_encode(project), percent_encode(name));
    Some(format!("/1.0/networks/{name}{below}?project={project}"))
}

#[cfg(test)]
mod tests;
