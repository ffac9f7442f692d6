//! Instances of Incus and of LXD, by the server's API.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use portway_incus::{Assigned, Client, Holder, IncusError, Instance, InstanceKind, Lease, status_code};
use portway_model::{InstanceKey, Provider};
use tracing::debug;

use super::{Endpoint, Observation, Question, Run, Status, is_shortage, short};
use crate::state::with_sources;

/// Pause before a list of leases is read again that lacks an address the instance has: the server's file of leases is
/// cut to nothing and written anew, some milliseconds later.
const DOUBT: Duration = Duration::from_millis(500);

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
            nics(endpoint, client, &instance, question.assigned).await.map(Some).unwrap_or_else(|problem| {
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
    before: &[IpAddr],
) -> Result<Vec<Assigned>, IncusError> {
    if instance.kind == InstanceKind::Vm {
        // What a virtual machine says of itself may come from the leases again.
        return client.assigned(instance).await;
    }
    let mut found = client.confirmed(instance).await?;
    if is_doubtful(before, &found) {
        tokio::time::sleep(DOUBT).await;
        found = client.confirmed(instance).await?;
    }
    if found.iter().all(|nic| nic.claimed.is_empty()) {
        return Ok(found);
    }
    let holders = endpoint.holders(client).await?;
    let is_own = |holder: &Holder| holder.project == instance.project && holder.name == instance.name;
    let mut taken = own_addresses();
    taken.extend(holders.iter().filter(|holder| !is_own(holder)).flat_map(|holder| &holder.addresses));
    // Of its own project they are known. A network that the other does not use has none there.
    let projects = holders.iter().map(|holder| holder.project.as_str());
    let projects: BTreeSet<&str> = projects.filter(|project| *project != instance.project).collect();
    for nic in &mut found {
        for project in projects.iter().filter(|_| !nic.claimed.is_empty()) {
            let leases = client.leases(project, &nic.network).await?;
            taken.extend(leases.iter().flatten().map(Lease::address));
        }
        nic.claimed.retain(|address| !taken.contains(address));
    }
    Ok(found)
}

/// Whether the server may be writing its list of leases anew: an address is not on it that was, and the instance has
/// it all the same.
fn is_doubtful(before: &[IpAddr], found: &[Assigned]) -> bool {
    before.iter().any(|address| {
        let mut nics = found.iter();
        nics.any(|nic| nic.claimed.contains(address) || nic.unlisted.contains(address))
    })
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
        _ if is_shortage(failure) => short(failure),
        _ => Status::Down("its init is not on this machine, or just ended".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a list of leases is believed at once that was read while it was empty; or one is doubted that has
    /// given the address to somebody else, or whose instance has left it.
    #[test]
    fn an_address_is_gone_when_the_instance_has_left_it_or_somebody_else_has_it() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let nic = |addresses: &[&str], claimed: &[&str], unlisted: &[&str]| {
            let [addresses, claimed, unlisted] =
                [addresses, claimed, unlisted].map(|texts| texts.iter().map(|text| ip(text)).collect());
            let (device, network) = ("eth0".into(), "br0".into());
            let (host_name, hwaddr, is_bridge, subnets) = (None, None, true, Vec::new());
            [Assigned {
                device,
                host_name,
                hwaddr,
                network,
                is_bridge,
                subnets,
                addresses,
                claimed,
                unlisted,
            }]
        };
        let before = [ip("10.0.0.5")];
        assert!(!is_doubtful(&before, &nic(&["10.0.0.5"], &[], &["10.0.0.6"])));
        assert!(is_doubtful(&before, &nic(&[], &["10.0.0.5"], &[])));
        assert!(is_doubtful(&before, &nic(&["10.0.0.9"], &[], &["10.0.0.5"])));
        assert!(!is_doubtful(&before, &nic(&["10.0.0.9"], &[], &[])));
        assert!(!is_doubtful(&[], &nic(&[], &["10.0.0.5"], &[])));
    }
}
