//! `portway device import` and `export`: devices move between Incus or LXD and Portway, one
//! at a time.

use std::fmt::Write as _;

use portway_control::Direction;
use portway_control::api::{Failure, Move, MoveDevice, Place, Progress};
use portway_model::InstanceKey;
use serde::Serialize;

use crate::cli::{MoveArgs, keys, target};
use crate::device::state_word;
use crate::failure::{Outcome, Stop, printable};
use crate::output::{Format, Out, csv};
use crate::session::Session;

/// What became of a device, for programs. Stable: fields are added, never changed.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    what: Move,
    /// Why it did not move.
    error: Option<String>,
}

/// Moves what the arguments name, or says what would be moved.
pub(crate) fn run(direction: Direction, args: &MoveArgs) -> Outcome {
    let project = args.project.as_deref().map(target::project).transpose()?;
    if args.instances.is_empty() && project.is_none() && !args.all {
        return Err(Stop::usage("no instance is named").hint("name instances, or --project, or --all"));
    }
    let instances: Vec<InstanceKey> = args
        .instances
        .iter()
        .map(|text| target::instance(text, args.project.as_deref()))
        .collect::<Outcome<_>>()?;
    let session = Session::open()?;
    let mut found = Vec::new();
    if instances.is_empty() {
        found = session.run("asking the daemon", session.client.movable(direction, None))?;
        found.retain(|one| project.is_none() || one.instance.project() == project.as_ref());
    }
    for key in &instances {
        found.extend(session.run("asking the daemon", session.client.movable(direction, Some(key)))?);
    }
    let mut out = Out::new();
    let mut rows = Vec::new();
    let mut failed = false;
    for one in found {
        let row = if args.dry_run || one.progress == Progress::Skipped {
            Row { what: one, error: None }
        } else {
            attempt(&session, direction, one)?
        };
        failed |= row.error.is_some();
        if args.format.format == Format::Table {
            // At once: each may take seconds.
            out.text(&text(direction, &row))?;
        }
        rows.push(row);
    }
    match args.format.format {
        Format::Table if rows.is_empty() => out.line("No devices to move")?,
        Format::Table => {}
        Format::Json => out.json(&rows)?,
        Format::Yaml => out.yaml(&rows)?,
        Format::Csv => out.text(&csv_text(&rows))?,
    }
    if failed { Err(Stop::Found) } else { Ok(()) }
}

/// Moves one device. A refusal is its own; a daemon that is gone ends the command.
fn attempt(session: &Session, direction: Direction, one: Move) -> Outcome<Row> {
    let name = target::device_name(&one.name)?;
    let body = MoveDevice { instance: one.instance.clone(), name };
    let what = if direction == Direction::Import { "importing" } else { "exporting" };
    match session.run(what, session.client.move_device(direction, &body)) {
        Ok(moved) => Ok(Row { what: moved, error: None }),
        Err(Stop::Failed(Failure { kind: portway_control::api::FailureKind::Unreachable, error, hint })) => {
            let stop = Stop::of(portway_control::api::FailureKind::Unreachable, error);
            Err(hint.into_iter().fold(stop, Stop::hint))
        }
        Err(Stop::Failed(Failure { error, .. })) => Ok(Row { what: one, error: Some(error) }),
        Err(stop) => Err(stop),
    }
}

/// `imported  c1 web`, its keys, and what is to be said of them.
fn text(direction: Direction, row: &Row) -> String {
    let what = &row.what;
    let word = match (what.progress, direction) {
        _ if row.error.is_some() => "failed",
        (Progress::Skipped, _) => "skipped",
        (Progress::Ready, Direction::Import) => "would import",
        (Progress::Ready, Direction::Export) => "would export",
        (Progress::Unfinished, _) => "would finish",
        (Progress::Moved, Direction::Import) => "imported",
        (Progress::Moved, Direction::Export) => "exported",
    };
    let place = target::short(&what.instance, target::default_provider());
    let from = if what.place == Place::Profile { " (of a profile)" } else { "" };
    let mut text = format!("{word}  {place} {}{from}\n", printable(&what.name));
    let mut say = |line: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "    {}", printable(line));
    };
    let pairs = keys::in_order(&what.keys);
    let pairs: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={value}")).collect();
    say(&pairs.join(" "));
    if let Some(error) = &row.error {
        say(&format!("error: {error}"));
    }
    match (&what.reason, what.state) {
        (Some(reason), Some(state)) => say(&format!("{}: {reason}", state_word(state))),
        (Some(reason), None) => say(&format!("reason: {reason}")),
        (None, _) => {}
    }
    what.notes.iter().for_each(|note| say(&format!("note: {note}")));
    text
}

fn csv_text(rows: &[Row]) -> String {
    let mut text =
        csv::line(["instance", "name", "place", "progress", "keys", "notes", "reason", "state", "error"]);
    for Row { what, error } in rows {
        let pairs: Vec<String> = what.keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let place = if what.place == Place::Profile { "profile" } else { "instance" };
        let progress = match what.progress {
            Progress::Ready => "ready",
            Progress::Skipped => "skipped",
            Progress::Unfinished => "unfinished",
            Progress::Moved => "moved",
        };
        text.push_str(&csv::line([
            what.instance.to_string().as_str(),
            &what.name,
            place,
            progress,
            &pairs.join(" "),
            &what.notes.join("; "),
            what.reason.as_deref().unwrap_or_default(),
            what.state.map_or("", state_word),
            error.as_deref().unwrap_or_default(),
        ]));
    }
    text
}
