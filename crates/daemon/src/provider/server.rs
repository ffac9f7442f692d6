//! Instances of Incus and of LXD, by the server's API.

use std::io::{self, ErrorKind};

use portway_incus::{Client, IncusError, Instance, InstanceKind, status_code};
use portway_model::{InstanceKey, Provider};

use super::{Endpoint, Observation, Question, Run, Status};
use crate::state::with_sources;

/// What the server says about an instance.
pub(super) async fn observe(endpoint: &Endpoint, key: &InstanceKey, question: Question<'_>) -> Observation {
    let Some(client) = endpoint.client() else {
        return Observation::of(Status::Unreachable(no_socket(endpoint.provider())));
    };
    let project = key.project().map_or("default", |project| project.as_str());
    match ask(&client, project, key.name().as_str(), question).await {
        Ok(observation) => observation,
        Err(failure) => Observation::of(Status::Unreachable(with_sources(&failure))),
    }
}

/// Why nobody was asked.
pub(crate) fn no_socket(provider: Provider) -> String {
    format!("no {provider} socket was found")
}

async fn ask(
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
        Status::Up(_) if question.nics => Some(client.assigned(&instance).await?),
        _ => None,
    };
    Ok(Observation { uuid: instance.uuid, is_machine, status, nics })
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
