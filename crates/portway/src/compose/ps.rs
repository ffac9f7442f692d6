//! `ps`: the instances of a project.

use clap::ValueEnum as _;
use portway_compose::apply::exit_code;
use portway_compose::label;
use portway_compose::observe::{Life, Seen};
use portway_compose::plan::Select;
use portway_compose::want::Keys;
use portway_composefile::Project;
use portway_control::api::Health;
use serde::Serialize;

use super::health::{self, Healths};
use super::lifecycle::{open, with};
use super::published;
use super::stage::server;
use crate::cli::compose::FileArgs;
use crate::cli::compose::lifecycle::{PsArgs, PsFormat, StatusArg};
use crate::failure::{Outcome, Stop, printable};
use crate::output::Out;
use crate::output::table::{self, Text, Tone};

/// One instance.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    service: String,
    index: u32,
    status: String,
    /// Of a service that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    /// Of a service that runs and says how it is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'static str>,
    /// What the test said last, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    health_output: Option<String>,
    addresses: Vec<String>,
    ports: Vec<String>,
}

/// Runs it.
pub(super) fn run(files: &FileArgs, args: &PsArgs) -> Outcome {
    let statuses = statuses(args)?;
    // Without files every service counts as theirs.
    let declared = if args.orphans { None } else { Some(super::quiet(files)?) };
    let is_declared = |service: &str| {
        let of = |project: &Project| {
            project.services().any(|(name, _)| name == service) || project.disabled.contains(service)
        };
        declared.as_ref().is_none_or(of)
    };
    let (stage, name, project) = open(files)?;
    let mut rows = Vec::new();
    if let Some(project) = project {
        let seen = stage.look(&project, None)?;
        let select = Select { project: name.clone(), services: args.services.clone(), ..Select::default() };
        let healths = stage.runtime.block_on(Healths::ask(&stage.client));
        let services = with(args.with_deps, &select, &seen).services;
        for (instance, one) in seen.listed(&name) {
            let service = one.service().unwrap_or_default();
            let named = services.is_empty() || services.iter().any(|name| name == service);
            let is_shown = args.all || !statuses.is_empty() || one.life != Life::Stopped;
            if named && is_shown && is_declared(service) {
                let code = if one.life == Life::Stopped && one.label(label::GUEST).is_some() {
                    let code = exit_code(&stage.client, &project, instance);
                    stage.runtime.block_on(code).map_err(|error| server(&error))?
                } else {
                    None
                };
                if !statuses.is_empty() && !statuses.iter().any(|status| is(*status, one)) {
                    continue;
                }
                let ours = seen.published.get(instance).into_iter().flat_map(|devices| devices.values());
                let is_proxy = |device: &&Keys| device.get("type").is_some_and(|kind| kind == "proxy");
                let devices = ours.chain(one.devices.values().filter(is_proxy));
                let known = healths.of(&project, instance);
                rows.push(row(instance, (one, code), known, published::shown(devices)));
            }
        }
    }
    let mut out = Out::new();
    if args.only_services || args.quiet {
        let mut names: Vec<String> =
            rows.into_iter().map(|row| if args.quiet { row.name } else { row.service }).collect();
        names.dedup();
        return out.text(&names.iter().map(|name| format!("{}\n", printable(name))).collect::<String>());
    }
    match args.format {
        PsFormat::Json => out.json(&rows),
        PsFormat::Table => {
            let cells = rows.into_iter().map(|row| {
                let is_good = row.status == "running" && row.health.is_none_or(|word| word == "healthy");
                let tone = if is_good { Tone::Good } else { Tone::Warn };
                let health = row.health.map(|word| match word {
                    "unknown" => " (health unknown)".to_owned(),
                    word => format!(" ({word})"),
                });
                [
                    Text::new(&row.name),
                    Text::new(&row.service),
                    Text::new(format!("{}{}", row.status, health.unwrap_or_default())).tone(tone),
                    Text::new(row.addresses.join(" ")),
                    Text::new(row.ports.join(", ")),
                ]
            });
            let header = ["NAME", "SERVICE", "STATUS", "ADDRESSES", "PORTS"];
            let text = table::render(header, cells.collect(), out.look);
            out.text(&text)
        }
    }
}

/// Those that are asked for; none is all.
fn statuses(args: &PsArgs) -> Outcome<Vec<StatusArg>> {
    let of = |filter: &String| {
        let status = filter.strip_prefix("status=").and_then(|word| StatusArg::from_str(word, false).ok());
        status.ok_or_else(|| {
            let stop = Stop::usage(format!("--filter: {filter:?} is no filter"));
            stop.hint("say status= and one of created, dead, exited, paused, removing, restarting, running")
        })
    };
    let filters: Vec<StatusArg> = args.filter.iter().map(of).collect::<Outcome<_>>()?;
    Ok(args.status.iter().copied().chain(filters).collect())
}

/// Whether an instance does that. The server has no words for being removed or started again: nothing is.
fn is(status: StatusArg, one: &Seen) -> bool {
    let has_run = one.label("volatile.last_state.power").is_some_and(|power| !power.is_empty());
    match status {
        StatusArg::Created => one.life == Life::Stopped && !has_run,
        StatusArg::Exited => one.life == Life::Stopped && has_run,
        StatusArg::Paused => one.life == Life::Paused,
        StatusArg::Running => one.life == Life::Running,
        StatusArg::Dead => one.life == Life::Unknown,
        StatusArg::Removing | StatusArg::Restarting => false,
    }
}

fn row(name: &str, (one, code): (&Seen, Option<i32>), known: Option<&Health>, ports: Vec<String>) -> Row {
    let lives = matches!(one.life, Life::Running | Life::Paused);
    let is_told = lives && one.label(label::HEALTH).is_some();
    let failed = known.and_then(|known| known.last.as_ref()).filter(|last| last.status != Some(0));
    let of = |kind: &'static str| {
        one.devices.values().filter(move |device| device.get("type").is_some_and(|own| own == kind))
    };
    Row {
        name: name.to_owned(),
        service: one.service().unwrap_or_default().to_owned(),
        index: one.index(),
        status: match (one.life, code) {
            (Life::Stopped, Some(code)) => format!("exited ({code})"),
            (Life::Stopped, None) => "stopped".to_owned(),
            (Life::Running, _) => "running".to_owned(),
            (Life::Paused, _) => "paused".to_owned(),
            (Life::Unknown, _) => "unknown".to_owned(),
        },
        exit_code: code,
        health: is_told.then(|| health::word(known)),
        health_output: failed.filter(|_| is_told).map(|last| last.output.clone()),
        addresses: of("nic").filter_map(|device| device.get("ipv4.address")).cloned().collect(),
        ports,
    }
}
