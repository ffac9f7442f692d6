//! `ps`: the instances of a project.

use portway_compose::observe::{Life, Seen};
use portway_compose::plan::Select;
use portway_compose::want::Keys;
use serde::Serialize;

use super::lifecycle::{open, with};
use super::published;
use crate::cli::compose::FileArgs;
use crate::cli::compose::lifecycle::{PsArgs, PsFormat};
use crate::failure::{Outcome, printable};
use crate::output::Out;
use crate::output::table::{self, Text, Tone};

/// One instance.
#[derive(Debug, Serialize)]
struct Row {
    name: String,
    service: String,
    index: u32,
    status: &'static str,
    addresses: Vec<String>,
    ports: Vec<String>,
}

/// Runs it.
pub(super) fn run(files: &FileArgs, args: &PsArgs) -> Outcome {
    let (stage, name, project) = open(files)?;
    let mut rows = Vec::new();
    if let Some(project) = project {
        let seen = stage.look(&project, None)?;
        let select = Select { project: name.clone(), services: args.services.clone(), ..Select::default() };
        let services = with(args.with_deps, &select, &seen).services;
        for (instance, one) in seen.ours(&name) {
            let service = one.service().unwrap_or_default();
            let named = services.is_empty() || services.iter().any(|name| name == service);
            if named && (args.all || one.life != Life::Stopped) {
                let ours = seen.published.get(instance).into_iter().flat_map(|devices| devices.values());
                let is_proxy = |device: &&Keys| device.get("type").is_some_and(|kind| kind == "proxy");
                let devices = ours.chain(one.devices.values().filter(is_proxy));
                rows.push(row(instance, one, published::shown(devices)));
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
                let tone = if row.status == "running" { Tone::Good } else { Tone::Warn };
                [
                    Text::new(&row.name),
                    Text::new(&row.service),
                    Text::new(row.status).tone(tone),
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

fn row(name: &str, one: &Seen, ports: Vec<String>) -> Row {
    let of = |kind: &'static str| {
        one.devices.values().filter(move |device| device.get("type").is_some_and(|own| own == kind))
    };
    Row {
        name: name.to_owned(),
        service: one.service().unwrap_or_default().to_owned(),
        index: one.index(),
        status: match one.life {
            Life::Running => "running",
            Life::Stopped => "stopped",
            Life::Paused => "paused",
            Life::Unknown => "unknown",
        },
        addresses: of("nic").filter_map(|device| device.get("ipv4.address")).cloned().collect(),
        ports,
    }
}
