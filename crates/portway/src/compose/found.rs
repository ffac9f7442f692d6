//! The instances of a project, by their labels.

use std::collections::BTreeSet;
use std::num::NonZeroU32;

use portway_compose::label;
use portway_composefile::project_name;
use portway_control::api::FailureKind;
use portway_incus::{Client, IncusError, Listed, Refusal, ResourceId, Shelf, status_code};

use super::{Variables, project};
use crate::cli::compose::FileArgs;
use crate::failure::{Outcome, Stop, chain};

/// A replica of a service.
#[derive(Debug, Clone)]
pub(super) struct Replica {
    pub(super) service: String,
    /// From 1; of one that `run` made, whatever it was given.
    pub(super) index: u32,
    pub(super) listed: Listed,
}

/// What is asked of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    Listed,
    Measured,
}

impl Replica {
    /// Name of the instance.
    pub(super) fn name(&self) -> &str {
        &self.listed.definition.name
    }

    /// The server's project.
    pub(super) fn project(&self) -> &str {
        &self.listed.definition.project
    }

    /// Both.
    pub(super) fn place(&self) -> (&str, &str) {
        (self.project(), self.name())
    }

    /// Whether `run` made it.
    pub(super) fn is_one_off(&self) -> bool {
        self.listed.definition.config(label::ONE_OFF).is_some()
    }

    pub(super) fn runs(&self) -> bool {
        self.listed.status_code == status_code::RUNNING
    }
}

/// The server.
pub(super) fn client() -> Outcome<Client> {
    super::remote::client()
}

/// A failure of the server's.
#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn failed(error: IncusError) -> Stop {
    let kind = match &error {
        IncusError::Unreachable { .. } | IncusError::TimedOut { .. } | IncusError::StreamEnded { .. } => {
            FailureKind::Unreachable
        }
        // What is said in the stead of a server elsewhere.
        IncusError::Status { code: 502, .. } => FailureKind::Unreachable,
        error if error.refusal() == Some(Refusal::Absent) => FailureKind::Missing,
        _ => FailureKind::Refused,
    };
    Stop::of(kind, chain(&error))
}

/// The project's name. A name that is given makes files unnecessary.
pub(super) fn name(files: &FileArgs) -> Outcome<String> {
    match &files.project_name {
        Some(name) if files.files.is_empty() => project_name(name).ok_or_else(|| {
            Stop::usage(format!("{name:?} is no name of a project: nothing of it can be one"))
        }),
        _ => Ok(project(files, &[], Variables::Filled)?.name),
    }
}

/// The server's projects that hold something of a Compose project.
pub(super) async fn places(client: &Client, name: &str) -> Outcome<BTreeSet<String>> {
    let ours = |config: Option<&str>| config == Some(name);
    let projects = client.resources(&Shelf::Projects).await.map_err(failed)?;
    let labelled =
        projects.iter().filter(|project| ours(project.config.get(label::PROJECT).map(String::as_str)));
    let labelled = labelled.map(|project| match &project.id {
        ResourceId::Project { name } => name.clone(),
        other => other.name().to_owned(),
    });
    let mut places: BTreeSet<String> = labelled.collect();
    let all = client.definitions().await.map_err(failed)?;
    let of = all.into_iter().filter(|one| ours(one.config(label::PROJECT)));
    places.extend(of.map(|one| one.project));
    Ok(places)
}

/// The replicas of these services, of all when none is named, in the order of services and numbers.
pub(super) async fn replicas(
    client: &Client,
    name: &str,
    services: &[String],
    detail: Detail,
) -> Outcome<Vec<Replica>> {
    let mut found = Vec::new();
    for place in places(client, name).await? {
        let listed = match detail {
            Detail::Listed => client.list(&place).await,
            Detail::Measured => client.measure(&place).await,
        };
        let listed = listed.map_err(failed)?;
        let names: BTreeSet<String> = listed.iter().map(|one| one.definition.name.clone()).collect();
        found.extend(listed.into_iter().filter(|one| is_of(one, name, &names)).filter_map(replica_of));
    }
    for wanted in services {
        if !found.iter().any(|replica| replica.service == *wanted) {
            return Err(Stop::of(
                FailureKind::Missing,
                format!("no instance of the service {wanted} of the project {name}"),
            ));
        }
    }
    found.retain(|replica| services.is_empty() || services.contains(&replica.service));
    found.sort_by(|a, b| (&a.service, a.index, a.name()).cmp(&(&b.service, b.index, b.name())));
    Ok(found)
}

/// Whether it is listed as one of the project `name`, beside instances of these `names`.
pub(super) fn is_of(listed: &Listed, name: &str, names: &BTreeSet<String>) -> bool {
    let label = |key: &str| listed.definition.config(key);
    let own = listed.definition.name.as_str();
    // A copy has the labels of what it was copied from; one that was made beside another may be it under the name it was
    // made with.
    let beside = label(label::BESIDE);
    let is_copy = label(label::NAME).is_some_and(|origin| origin != own) && beside != Some(own);
    label(label::PROJECT) == Some(name)
        && !is_copy
        && label::is_listed(own, beside, |name| names.contains(name))
}

fn replica_of(listed: Listed) -> Option<Replica> {
    let label = |key: &str| listed.definition.config(key);
    let service = label(label::SERVICE)?.to_owned();
    let index = label(label::INDEX).and_then(|text| text.parse().ok()).unwrap_or(0);
    Some(Replica { service, index, listed })
}

/// One replica of a service.
pub(super) async fn replica(
    client: &Client,
    name: &str,
    service: &str,
    index: Option<NonZeroU32>,
) -> Outcome<Replica> {
    let services = [service.to_owned()];
    let found = replicas(client, name, &services, Detail::Listed).await?;
    let mut own = found.into_iter().filter(|replica| !replica.is_one_off());
    let one = own.find(|replica| index.is_none_or(|index| replica.index == index.get()));
    one.ok_or_else(|| {
        let number = index.map(|index| format!(" with number {index}")).unwrap_or_default();
        Stop::of(FailureKind::Missing, format!("the service {service} has no replica{number}"))
    })
}
