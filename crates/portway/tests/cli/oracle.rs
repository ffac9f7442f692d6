//! `portway compose config` beside Docker Compose's own: the same arguments, in the same folder.
//!
//! Each folder of `projects/` has a file `commands`: variables and arguments on a line, as in a shell but for what quotes
//! mean; after ` => ` what the other one is told, where that is something else. Not asked is what differs on purpose:
//! `--services` beside names of services, which the other one does not look at.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use portway_testkit::{require, testbed};
use serde_json::Value;

use crate::support::Place;

fn projects_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/projects")
}

/// Variables, then arguments.
struct Line {
    variables: Vec<(String, String)>,
    arguments: Vec<String>,
}

impl Line {
    fn of(text: &str) -> Line {
        let mut line = Line { variables: Vec::new(), arguments: Vec::new() };
        for word in text.split_whitespace() {
            let word = word.trim_matches('\'').to_owned();
            match word.split_once('=') {
                Some((name, value)) if line.arguments.is_empty() && !word.starts_with('-') => {
                    line.variables.push((name.to_owned(), value.to_owned()));
                }
                _ => line.arguments.push(word),
            }
        }
        line
    }

    fn run(&self, mut command: Command, dir: &Path) -> Output {
        command.env_clear().env("HOME", "/home/u").env("PATH", "/usr/bin:/bin").env("FROM_SHELL", "shell");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments).current_dir(dir).output().expect("it can be run")
    }

    /// Whether names or other lines are asked for, and not the project.
    fn is_list(&self) -> bool {
        let lists = ["--services", "--volumes", "--images", "--profiles", "--variables", "--hash"];
        self.arguments.iter().any(|argument| lists.contains(&argument.as_str()))
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

/// Lines in any order, blanks counted once.
fn lines(text: &str) -> BTreeSet<String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// What is printed; `1` and `1.0` are one.
fn tree(text: &str) -> Value {
    fn bare(value: Value) -> Value {
        match value {
            Value::Object(map) => {
                Value::Object(map.into_iter().map(|(key, value)| (key, bare(value))).collect())
            }
            Value::Array(list) => Value::Array(list.into_iter().map(bare).collect()),
            Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
            other => other,
        }
    }
    bare(serde_saphyr::from_str(text).expect("what is printed is YAML"))
}

/// What differs of one command, if anything.
fn difference(oracle: &Path, dir: &Path, text: &str) -> Option<String> {
    let (ours, theirs) = text.split_once(" => ").unwrap_or((text, text));
    let (ours, theirs) = (Line::of(ours), Line::of(theirs));
    let mut program = Command::new(env!("CARGO_BIN_EXE_portway"));
    program.arg("compose");
    let own = ours.run(program, dir);
    let other = theirs.run(Command::new(oracle), dir);
    let [out, expected] =
        [&own.stdout, &other.stdout].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    let same = match (own.status.success(), other.status.success()) {
        (true, true) if ours.is_list() => lines(&out) == lines(&expected),
        (true, true) if out.is_empty() || expected.is_empty() => out == expected,
        (true, true) => tree(&out) == tree(&expected),
        (own, other) => own == other,
    };
    let errors = [&own.stderr, &other.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (!same).then(|| format!("{text}\nours {out}{}\ntheirs {expected}{}", errors[0], errors[1]))
}

/// Fails when: a file, a profile, a service or a variable is chosen otherwise than Docker Compose chooses it.
#[test]
fn files_profiles_services_and_variables_are_chosen_as_docker_compose_does() {
    let oracle = match testbed::compose_oracle() {
        Ok(oracle) => oracle,
        Err(error) => return require(&format!("no oracle: {error:#}")),
    };
    let place = Place::new();
    let (mut same, mut different) = (0, Vec::new());
    for entry in fs::read_dir(projects_dir()).unwrap() {
        let from = entry.unwrap().path();
        let dir = place.path().join(from.file_name().unwrap());
        copy(&from, &dir);
        let commands = fs::read_to_string(dir.join("commands")).unwrap();
        for text in commands.lines() {
            match difference(&oracle, &dir, text) {
                None => same += 1,
                Some(difference) => different.push(format!("=== {}: {difference}", from.display())),
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    assert!(same >= 75, "{same}");
}
