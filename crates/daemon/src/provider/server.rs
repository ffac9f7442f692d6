//! Instances of Incus and of LXD, by the server's API.

use std::io::{self, ErrorKind};
use std::net::IpAddr;

use portway_incus::{Assigned, Client, Holder, IncusError, Instance, InstanceKind, status_code};
use portway_model::{InstanceKey, Provider};
use tracing::debug;

use super::{Endpoint, Observation, Question, Run, Status};
use crate::state::with_sources;

/// What the server says about an instance.
pub(super) async fn observe(endpoint: &Endpoint, key: &InstanceKey, question: Question<'_>) -> Observation {
    let Some(client) = endpoint.client() else {
        return Observation::of(Status::Unreachable(no_socket(endpoint.provider())));
    };
    let project = key.project().map_or("default", |project| project.as_str());
    match ask(endpoint, &client, project, key.name().as_str(), question).await {
        Ok(observation) => observation,
        Err(failure) => Observation::of(Status::Unreachable(with_sources(&failure))),
    }
}

/// Why nobody was asked.
pub(crate) fn no_socket(provider: Provider) -> String {
    format!("no {provider} socket was found")
}

async fn ask(
    endpoint: &Endpoint,
    client: &Client,
    project: &str,
    name: &str,
    question: Question<'_>,
) -> Result<Observation, IncusError> {
    let Some(instance) = client.instance(project, name).await? else {
        return Ok(Observation::of(Status::Absent));
    };
    let is_machine = instance.kind == InstanceKind::Vm;
    let is_another = question.uuid.zip(instance.uuid.as_deref()).is_some_and(|(known, found)| known != found);
    let status = status(client, &instance, question.run.filter(|_| !is_another)).await?;
    let nics = match &status {
        Status::Up(_) if question.nics => {
            nics(endpoint, client, &instance).await.map(Some).unwrap_or_else(|problem| {
                // Anybody in a network can spoil its list of leases; the instance runs all the same.
                debug!(instance = instance.name, error = %with_sources(&problem), "addresses not known");
                None
            })
        }
        _ => None,
    };
    Ok(Observation { uuid: instance.uuid, is_machine, status, nics })
}

/// The interfaces of an instance. What it says of its addresses itself counts where no other instance says or
/// has the same, and the host does not either.
async fn nics(
    endpoint: &Endpoint,
    client: &Client,
    instance: &Instance,
) -> Result<Vec<Assigned>, IncusError> {
    let mut found = match instance.kind {
        InstanceKind::Container => client.confirmed(instance).await?,
        // What a virtual machine says of itself may come from the leases again.
        InstanceKind::Vm => client.assigned(instance).await?,
    };
    if found.iter().all(|nic| nic.claimed.is_empty()) {
        return Ok(found);
    }
    let holders = endpoint.holders(client).await?;
    let is_own = |holder: &Holder| holder.project == instance.project && holder.name == instance.name;
    let own = own_addresses();
    let is_taken = |address: &IpAddr| {
        let mut others = holders.iter().filter(|holder| !is_own(holder));
        own.contains(address) || others.any(|holder| holder.addresses.contains(address))
    };
    for nic in &mut found {
        nic.claimed.retain(|address| !is_taken(address));
    }
    Ok(found)
}

/// The addresses of this host.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    interfaces.filter_map(address).collect()
}

async fn status(client: &Client, instance: &Instance, present: Option<&Run>) -> Result<Status, IncusError> {
    if !runs(instance.status_code) {
        return Ok(Status::Down(instance.status.to_lowercase()));
    }
    if let Some(member) = other_member(client, instance).await? {
        return Ok(Status::Elsewhere(member));
    }
    let present = present.filter(|run| run.alive());
    match (instance.kind, present) {
        (InstanceKind::Vm, _) => machine(client, instance).await,
        // The question makes the server enter the instance, which goes wrong when it is ending.
        (InstanceKind::Container, Some(run)) => Ok(Status::Up(run.clone())),
        (InstanceKind::Container, None) => container(client, instance).await,
    }
}

fn runs(code: u16) -> bool {
    matches!(code, status_code::RUNNING | status_code::FROZEN | status_code::STOPPING)
}

/// The member of the cluster that the instance is on, when it is not the one we ask.
async fn other_member(client: &Client, instance: &Instance) -> Result<Option<String>, IncusError> {
    // Without a cluster the location is `none`, and there is nothing to compare it with.
    if matches!(instance.location.as_str(), "" | "none") {
        return Ok(None);
    }
    let server = client.server().await?;
    let here = !server.clustered || server.server_name == instance.location;
    Ok((!here).then(|| instance.location.clone()))
}

/// Init's pid, or the status that stands for it.
async fn pid(client: &Client, instance: &Instance) -> Result<Result<i32, Status>, IncusError> {
    let state = match client.state(&instance.project, &instance.name).await {
        // It cannot say while the instance starts or stops.
        Err(IncusError::Status { code: 500.., .. }) => {
            return Ok(Err(Status::Down("starting or stopping".into())));
        }
        state => state?,
    };
    let Some(state) = state else { return Ok(Err(Status::Absent)) };
    Ok(state.pid.ok_or_else(|| Status::Down(state.status.to_lowercase())))
}

async fn container(client: &Client, instance: &Instance) -> Result<Status, IncusError> {
    let pid = match pid(client, instance).await? {
        Ok(pid) => pid,
        Err(status) => return Ok(status),
    };
    // The pid may be of a process that is gone, or be in a namespace we do not see: then the
    // instance is starting, stopping or on another machine.
    Ok(match Run::of_process(pid) {
        // Early in its life the process is still in our own namespaces: it must not pass for the instance.
        Ok(run) if run.shares_our_netns() => Status::Down("starting".into()),
        Ok(run) => Status::Up(run),
        Err(failure) => unseen(pid, &failure),
    })
}

/// A virtual machine: its emulator's process, and the addresses the server has assigned to it.
async fn machine(client: &Client, instance: &Instance) -> Result<Status, IncusError> {
    let pid = match pid(client, instance).await? {
        Ok(pid) => pid,
        Err(status) => return Ok(status),
    };
    let addresses = client.assigned_addresses(instance).await?;
    if addresses.is_empty() {
        return Ok(Status::Unready("the server has not assigned it an address".into()));
    }
    Ok(match Run::of_machine(pid, addresses) {
        Ok(run) => Status::Up(run),
        Err(failure) => unseen(pid, &failure),
    })
}

fn unseen(pid: i32, failure: &io::Error) -> Status {
    match failure.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => {
            Status::Unsupported(format!("cannot look at its init, pid {pid}: {failure}"))
        }
        _ => Status::Down("its init is not on this machine, or just ended".into()),
    }
}
