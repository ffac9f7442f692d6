//! Everything else that `config` prints: JSON, hashes, lists.

use std::collections::BTreeSet;
use std::path::Path;

use portway_composefile::{Project, load};
use serde_json::Value;

use crate::run::{Case, Disk, command, options, write};

/// One option of `config`, and ours to the same question as a set of lines, or as JSON.
type Question = (&'static [&'static str], fn(&Project) -> String);

const QUESTIONS: [Question; 6] = [
    (&["--format", "json"], |project| project.json().to_string()),
    (&["--hash", "*"], |project| {
        let hashes = project.hashes(&["*"]).expect("they are there");
        lines(hashes.into_iter().map(|(name, hash)| format!("{name} {hash}")))
    }),
    (&["--services"], |project| lines(project.service_names())),
    (&["--volumes"], |project| lines(project.names("volumes"))),
    (&["--images"], |project| lines(project.images())),
    (&["--profiles"], |project| lines(project.profiles.iter().cloned())),
];

fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().map(|line| format!("{line}\n")).collect()
}

/// How many answers are the same, and what the others are.
pub(crate) fn compare(oracle: &Path, cases: &[Case]) -> (usize, Vec<String>) {
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let (mut same, mut different) = (0, Vec::new());
    for (number, case) in cases.iter().enumerate() {
        let dir = scratch.path().join(number.to_string());
        write(&dir, case);
        let Ok(project) = load(&options(&dir, case), &Disk) else { continue };
        let mut ask = |arguments: &[&str], ours: String| {
            let output = command(oracle, &dir, case).args(arguments).output().expect("the oracle can be run");
            let theirs = String::from_utf8_lossy(&output.stdout).into_owned();
            // What it cannot print is no answer.
            if !output.status.success() {
                return;
            }
            if equal(&theirs, &ours) || explained(arguments, case) {
                same += 1;
            } else {
                let files: String =
                    case.files.iter().map(|(name, text)| format!("--- {name}\n{text}")).collect();
                different.push(format!(
                    "=== {} {arguments:?}\n{files}\ntheirs {theirs}\nours   {ours}",
                    case.name
                ));
            }
        };
        for (arguments, answer) in QUESTIONS {
            ask(arguments, answer(&project));
        }
    }
    (same, different)
}

/// Lines in any order, or JSON without what ours has more of: `x-*`, and members that are empty.
fn equal(theirs: &str, ours: &str) -> bool {
    match (serde_json::from_str::<Value>(theirs), serde_json::from_str::<Value>(ours)) {
        (Ok(theirs), Ok(ours)) => bare(theirs) == bare(ours),
        _ => theirs.lines().collect::<BTreeSet<_>>() == ours.lines().collect::<BTreeSet<_>>(),
    }
}

fn bare(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .filter(|(key, _)| !key.starts_with("x-"))
                .map(|(key, value)| (key, bare(value)))
                .filter(|(_, value)| !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty()))
                .collect(),
        ),
        Value::Array(list) => Value::Array(list.into_iter().map(bare).collect()),
        // `1` and `1.0` are one.
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        other => other,
    }
}

/// Whether a difference is meant.
fn explained(arguments: &[&str], case: &Case) -> bool {
    let has = |text: &str| case.files.iter().any(|(_, file)| file.contains(text));
    match arguments {
        // What was read from files of variables counts in another way there.
        ["--hash", ..] => has("env_file:") || has("label_file:"),
        // Members there are `Path` and `Rate`, which no file may say.
        ["--format", ..] => has("blkio_config:"),
        _ => false,
    }
}
