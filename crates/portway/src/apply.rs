//! `portway apply`: a file of devices becomes the state.

use std::collections::BTreeSet;
use std::io::{self, Read as _};
use std::path::Path;

use portway_config::devices::{self, DevicesError, Entry, FILE_MAX_BYTES, Form, Meaning};
use portway_control::api::{Action, AddDevice, Applied, Apply, FailureKind, Planned, Scope};
use portway_model::Provider;

use crate::cli::{ApplyArgs, keys, target};
use crate::device::state_word;
use crate::failure::{Outcome, Stop, chain, printable};
use crate::output::{Format, Out, csv, human};
use crate::session::Session;

/// Reads the file, has the daemon make it the state, and prints the plan.
pub(crate) fn run(args: &ApplyArgs) -> Outcome {
    let project = args.project.as_deref().map(target::project).transpose()?;
    let meaning = Meaning { provider: target::default_provider(), project };
    let entries = read(&args.file, &meaning)?;
    let prune = if args.prune { scopes(&entries, &meaning) } else { BTreeSet::new() };
    let devices = entries.into_iter().map(|entry| AddDevice {
        instance: entry.key.instance,
        name: entry.key.device,
        keys: entry.spec.to_keys(),
    });
    let devices = devices.collect();
    let session = Session::open()?;
    let applied = session.run("applying", async {
        let generation = Some(session.client.server().await?.generation);
        let prune = prune.into_iter().collect();
        session.client.apply(&Apply { devices, prune, dry_run: args.dry_run, generation }).await
    })?;
    print(&mut Out::new(), &applied, args.format)
}

fn read(file: &Path, meaning: &Meaning) -> Outcome<Vec<Entry>> {
    let read = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let taken = io::stdin().lock().take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes);
        taken.map_err(|error| Stop::refused(format!("cannot read standard input: {}", chain(&error))))?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_MAX_BYTES {
            return Err(Stop::usage(format!("standard input is larger than {FILE_MAX_BYTES} bytes")));
        }
        devices::parse(Path::new("standard input"), bytes, Form::Yaml, meaning)
    } else {
        devices::load(file, meaning)
    };
    read.map_err(|error| {
        let (kind, hint) = match &error {
            DevicesError::Wrong { .. } => (FailureKind::Usage, None),
            DevicesError::File(file) if file.is_malformed() => (FailureKind::Usage, file.hint()),
            DevicesError::File(file) => (FailureKind::Refused, file.hint()),
        };
        let stop = Stop::of(kind, chain(&error));
        match hint {
            Some(hint) => stop.hint(hint),
            None => stop,
        }
    })
}

/// Where devices that the file does not name are removed.
fn scopes(entries: &[Entry], meaning: &Meaning) -> BTreeSet<Scope> {
    let named = entries.iter().map(|entry| Scope::of(&entry.key.instance));
    let asked = meaning.project.clone().map(|project| Scope {
        provider: if meaning.provider.has_projects() { meaning.provider } else { Provider::Incus },
        project: Some(project),
        instance: None,
    });
    named.chain(asked).collect()
}

fn print(out: &mut Out, applied: &Applied, format: Format) -> Outcome {
    out.show(format, applied, |_| text(applied), || csv_text(applied))
}

fn sign(action: Action) -> (&'static str, &'static str) {
    match action {
        Action::Add => ("+", "add"),
        Action::Change => ("~", "change"),
        Action::Remove => ("-", "remove"),
        Action::Keep => ("=", "keep"),
    }
}

/// One line for each device that is not kept, one more for each key that changes, and a sum.
fn text(applied: &Applied) -> String {
    let mut text = String::new();
    for planned in applied.plan.iter().filter(|planned| planned.action != Action::Keep) {
        let place = target::short(&planned.instance, target::default_provider());
        let state = match (planned.state, planned.reason.as_deref()) {
            (Some(state), Some(why)) => format!("  {}: {}", state_word(state), printable(why)),
            _ => String::new(),
        };
        text.push_str(&format!("{} {place} {}{state}\n", sign(planned.action).0, planned.name));
        if planned.action != Action::Remove {
            changes(planned, &mut text);
        }
    }
    let count = |action: Action| applied.plan.iter().filter(|planned| planned.action == action).count();
    let number = u64::try_from(applied.plan.len()).unwrap_or(u64::MAX);
    let tense = if applied.applied { "" } else { " (nothing was changed)" };
    text.push_str(&format!(
        "{}: {} added, {} changed, {} removed, {} kept{tense}\n",
        human::count(number, "device"),
        count(Action::Add),
        count(Action::Change),
        count(Action::Remove),
        count(Action::Keep)
    ));
    text
}

fn changes(planned: &Planned, text: &mut String) {
    let names: keys::Pairs = planned.keys.keys().map(|key| (key.clone(), String::new())).collect();
    for (key, _) in keys::in_order(&names) {
        let Some(change) = planned.keys.get(key) else { continue };
        let shown = |value: &Option<String>| value.as_deref().map_or("(default)".to_owned(), printable);
        let line = match planned.action {
            Action::Add => format!("    {key}={}\n", shown(&change.to)),
            _ => format!("    {key}: {} -> {}\n", shown(&change.from), shown(&change.to)),
        };
        text.push_str(&line);
    }
}

fn csv_text(applied: &Applied) -> String {
    let mut text = csv::line(["instance", "name", "action", "keys", "state", "reason"]);
    for planned in &applied.plan {
        text.push_str(&csv::line([
            planned.instance.to_string().as_str(),
            planned.name.as_str(),
            sign(planned.action).1,
            &planned.keys.keys().cloned().collect::<Vec<_>>().join(" "),
            planned.state.map_or("", state_word),
            planned.reason.as_deref().unwrap_or_default(),
        ]));
    }
    text
}
