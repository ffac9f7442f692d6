//! Both sides over many documents.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use portway_composefile::{Environment, Host, Options, Source, load};
use serde_json::Value;

use crate::difference::{self, Verdict};

/// A folder of files and how they are read.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// For messages.
    pub(crate) name: String,
    /// Name and text.
    pub(crate) files: Vec<(String, String)>,
    pub(crate) profiles: Vec<String>,
    pub(crate) environment: Vec<(String, String)>,
}

impl Case {
    /// One file.
    pub(crate) fn of(name: String, text: String) -> Case {
        Case {
            name,
            files: vec![("compose.yaml".to_owned(), text)],
            profiles: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// What came of all of them.
#[derive(Default)]
pub(crate) struct Tally {
    counts: BTreeMap<Verdict, usize>,
    /// How many differ with each reason.
    pub(crate) reasons: BTreeMap<&'static str, usize>,
    /// One text for each that differs without a reason.
    pub(crate) different: Vec<String>,
}

impl Tally {
    /// Both together.
    fn with(mut self, other: Tally) -> Tally {
        for (verdict, count) in other.counts {
            *self.counts.entry(verdict).or_default() += count;
        }
        for (reason, count) in other.reasons {
            *self.reasons.entry(reason).or_default() += count;
        }
        self.different.extend(other.different);
        self.different.sort();
        self
    }

    /// How many ended so.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.counts.get(&verdict).copied().unwrap_or_default()
    }

    /// How many there were.
    pub(crate) fn all(&self) -> usize {
        self.counts.values().sum()
    }

    /// How many are equal or refused by both.
    pub(crate) fn agreeing(&self) -> usize {
        self.count(Verdict::Equal) + self.count(Verdict::BothRefuse)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (verdict, count) in &self.counts {
            write!(f, "{verdict:?} {count}  ")?;
        }
        for (reason, count) in &self.reasons {
            write!(f, "\n  {count}: {reason}")?;
        }
        Ok(())
    }
}

/// What one side makes of a case.
pub(crate) type Answer = Result<Value, String>;

/// Programs of the oracle that run side by side.
const SIDE_BY_SIDE: usize = 4;

/// All cases.
pub(crate) fn all(oracle: &Path, cases: &[Case]) -> Tally {
    let scratch = tempfile::tempdir().expect("a folder can be made");
    let next = AtomicUsize::new(0);
    let share = || {
        let mut tally = Tally::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(number) else { return tally };
            let dir = scratch.path().join(number.to_string());
            write(&dir, case);
            let (theirs, ours) = (ask(oracle, &dir, case), own(&dir, case));
            note(&mut tally, case, &theirs, &ours);
            fs::remove_dir_all(&dir).expect("it is ours");
        }
    };
    std::thread::scope(|scope| {
        let shares: Vec<_> = (0..SIDE_BY_SIDE).map(|_| scope.spawn(share)).collect();
        let done = shares.into_iter().map(|share| share.join().expect("it has not failed"));
        done.fold(Tally::default(), Tally::with)
    })
}

fn note(tally: &mut Tally, case: &Case, theirs: &Answer, ours: &Answer) {
    let verdict = difference::judge(case, theirs, ours);
    *tally.counts.entry(verdict).or_default() += 1;
    match verdict {
        Verdict::Explained(reason) => *tally.reasons.entry(reason).or_default() += 1,
        Verdict::Different => {
            let show =
                |answer: &Answer| answer.as_ref().map_or_else(|e| format!("refused: {e}"), Value::to_string);
            let files: String = case.files.iter().map(|(name, text)| format!("--- {name}\n{text}")).collect();
            let text = format!("=== {}\n{files}theirs {}\nours   {}", case.name, show(theirs), show(ours));
            tally.different.push(text);
        }
        Verdict::Equal | Verdict::BothRefuse => {}
    }
}

pub(crate) fn write(dir: &Path, case: &Case) {
    for (name, text) in &case.files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("it has one")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }
}

/// The oracle's `config` of a case.
pub(crate) fn command(oracle: &Path, dir: &Path, case: &Case) -> Command {
    let mut command = Command::new(oracle);
    command.args(["-p", "p"]);
    for profile in &case.profiles {
        command.args(["--profile", profile]);
    }
    command.arg("config").current_dir(dir).env_clear().env("HOME", "/home/u").env("PATH", "/usr/bin:/bin");
    command.envs(case.environment.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null());
    command
}

fn ask(oracle: &Path, dir: &Path, case: &Case) -> Answer {
    let output = command(oracle, dir, case).output().expect("the oracle can be run");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// What this crate prints, read by another reader than its own.
pub(crate) fn own(dir: &Path, case: &Case) -> Answer {
    let project = load(&options(dir, case), &Disk).map_err(|fault| fault.to_string())?;
    Ok(parse(&project.yaml()))
}

/// How this crate reads a case.
pub(crate) fn options(dir: &Path, case: &Case) -> Options {
    let names = ["compose.yaml", "compose.override.yaml"];
    let mut environment: Environment = case.environment.iter().cloned().collect();
    environment.insert("HOME".to_owned(), "/home/u".to_owned());
    Options {
        sources: names
            .iter()
            .map(|name| dir.join(name))
            .filter(|path| path.is_file())
            .map(Source::File)
            .collect(),
        dir: dir.to_path_buf(),
        name: Some("p".to_owned()),
        environment,
        env_files: None,
        profiles: case.profiles.clone(),
        services: Vec::new(),
        enabled: Vec::new(),
        interpolate: true,
    }
}

fn parse(text: &str) -> Value {
    serde_saphyr::from_str(text).expect("what is printed is YAML")
}

/// Real files.
pub(crate) struct Disk;

impl Host for Disk {
    fn read(&self, path: &Path) -> std::io::Result<String> {
        fs::read_to_string(path)
    }

    fn is_file(&self, path: &Path) -> bool {
        path.is_file()
    }
}

/// The folder of the fixtures.
pub(crate) fn fixtures_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}
