//! `list`, `incus`, `healthd`, `version`: what scripts for incus-compose call.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use portway_compose::label;
use portway_control::api::FailureKind;
use portway_incus::{Client, Resource, Shelf, status_code};
use serde::Serialize;

use super::found::{self, Detail, Replica};
use super::health::{self, Healths};
use super::lifecycle::open;
use super::{lists, remote};
use crate::cli::compose::FileArgs;
use crate::cli::compose::dropin::{
    HealthdArgs, IncusArgs, ResourceFormat, ResourcesArgs, VersionArgs, VersionFormat,
};
use crate::failure::{Outcome, Stop};
use crate::output::Out;
use crate::output::table::{Text, render};
use crate::session::runtime;

/// Something that was made for a project. What is empty is left out.
#[derive(Debug, Default, Serialize)]
struct Row {
    kind: &'static str,
    name: String,
    incus_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    image: String,
    status: &'static str,
    /// Of a service that says how it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
}

/// Runs `list`.
pub(super) fn list(files: &FileArgs, args: &ResourcesArgs) -> Outcome {
    super::without_healthd(args.no_healthd);
    let name = found::name(files)?;
    let client = found::client()?;
    let rows = runtime()?.block_on(rows(&client, &name, &args.services))?;
    let mut out = Out::new();
    match args.format {
        ResourceFormat::Json => out.json(&rows),
        ResourceFormat::Yaml => out.yaml(&rows),
        ResourceFormat::Table => {
            let row = |row: &Row| {
                [
                    Text::new(row.kind),
                    Text::new(&row.name),
                    Text::new(&row.incus_name),
                    Text::new(&row.image),
                    Text::new(row.status),
                    Text::new(match row.health {
                        Some("healthy") => "Healthy",
                        Some("unhealthy") => "Unhealthy",
                        Some("starting") => "Starting",
                        _ => "Unknown",
                    }),
                    Text::new(row.addresses.join(" ")),
                ]
            };
            let header = ["KIND", "NAME", "INCUSNAME", "IMAGE", "STATUS", "HEALTH", "ADDRESSES"];
            let text = render(header, rows.iter().map(row).collect(), out.look);
            out.text(&text)
        }
    }
}

async fn rows(client: &Client, name: &str, services: &[String]) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    if services.is_empty() {
        let shelf = Shelf::Networks { project: "default".to_owned() };
        let networks = client.resources(&shelf).await.map_err(found::failed)?;
        let ours =
            networks.into_iter().filter(|one| one.config.get(label::PROJECT).is_some_and(|of| of == name));
        rows.extend(ours.map(|network| resource("network", &network)));
    }
    for (volume, _) in lists::volumes_of(client, name, services).await? {
        let row = Row { kind: "volume", name: volume.clone(), incus_name: volume, ..Row::default() };
        rows.push(Row { status: "Exists", ..row });
    }
    let replicas = found::replicas(client, name, services, Detail::Listed).await?;
    let healths = Healths::ask(client).await;
    rows.extend(replicas.iter().map(|replica| instance(replica, &healths)));
    Ok(rows)
}

fn resource(kind: &'static str, one: &Resource) -> Row {
    let incus_name = one.id.name().to_owned();
    let name = one.config.get(label::KEY).cloned().unwrap_or_else(|| incus_name.clone());
    Row { kind, name, incus_name, status: "Exists", ..Row::default() }
}

fn instance(replica: &Replica, healths: &Healths) -> Row {
    let lives = matches!(replica.listed.status_code, status_code::RUNNING | status_code::FROZEN);
    let known = healths.of(replica.project(), replica.name());
    let definition = &replica.listed.definition;
    let addresses = definition.devices().into_values().filter_map(|mut device| device.remove("ipv4.address"));
    Row {
        kind: "instance",
        name: replica.service.clone(),
        incus_name: replica.name().to_owned(),
        image: definition.config("image.description").unwrap_or_default().to_owned(),
        status: match replica.listed.status_code {
            status_code::RUNNING => "Running",
            status_code::STOPPED => "Stopped",
            status_code::FROZEN => "Frozen",
            _ => "Unknown",
        },
        health: (lives && definition.config(label::HEALTH).is_some()).then(|| health::word(known)),
        addresses: addresses.collect(),
    }
}

/// Runs `incus`: the client of Incus, in the server's project.
pub(super) fn incus(files: &FileArgs, args: &IncusArgs) -> Outcome {
    let (_stage, name, project) = open(files)?;
    let project =
        project.ok_or_else(|| Stop::of(FailureKind::Missing, format!("project {name} is not there")))?;
    let mut command = Command::new("incus");
    command.args(&args.words).env("INCUS_PROJECT", project);
    if let Some(remote) = remote::name() {
        command.env("INCUS_REMOTE", remote);
    }
    let error = command.exec();
    Err(Stop::refused(format!("cannot run incus: {error}")))
}

/// Runs `healthd`, of which nothing is needed.
pub(super) fn healthd(args: &HealthdArgs) -> Outcome {
    let words: Vec<_> = args.words.iter().map(|word| word.to_string_lossy()).collect();
    let said = format!("healthd {}", words.join(" "));
    let line = format!(
        "{}: not needed: `up` asks the services for their health itself, and then Portway's daemon does",
        said.trim_end()
    );
    Out::new().line(&crate::failure::printable(&line))
}

/// Runs `version`.
pub(super) fn version(args: &VersionArgs) -> Outcome {
    let version = env!("CARGO_PKG_VERSION");
    let mut out = Out::new();
    match (args.short, args.format) {
        (true, _) => out.line(version),
        (false, VersionFormat::Json) => out.json_line(&serde_json::json!({ "version": version })),
        (false, VersionFormat::Pretty) => out.line(&format!("Portway Compose version {version}")),
    }
}
