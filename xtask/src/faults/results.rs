//! What runs have found, kept in `docs/reliability.toml`.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::{Deserialize, Serialize};

use super::Form;
use super::rows::Rows;
use crate::workspace::Workspace;

pub(super) const FILE: &str = "docs/reliability.toml";

/// The last result of each test in each form, and of each mutation.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Results {
    #[serde(default, rename = "result", skip_serializing_if = "Vec::is_empty")]
    pub(super) all: Vec<TestResult>,
    #[serde(default, rename = "kill", skip_serializing_if = "Vec::is_empty")]
    pub(super) kills: Vec<Kill>,
}

/// What a test found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TestResult {
    pub(super) test: String,
    /// `short` or `long`.
    pub(super) form: String,
    pub(super) passed: bool,
    /// Of its end, in UTC.
    pub(super) date: String,
    pub(super) seconds: u64,
    pub(super) machine: String,
    #[serde(default, rename = "figure", skip_serializing_if = "Vec::is_empty")]
    pub(super) figures: Vec<Figure>,
}

/// A number, and what it is one of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Figure {
    /// Only in what a test writes.
    #[serde(default, skip_serializing)]
    pub(super) row: String,
    pub(super) what: String,
    pub(super) value: String,
    #[serde(default)]
    pub(super) unit: String,
}

/// A mutation that a test has found.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Kill {
    pub(super) test: String,
    pub(super) mutation: String,
    pub(super) date: String,
}

impl Results {
    /// Reads them; none where there is no file.
    pub(super) fn load(workspace: &Workspace) -> anyhow::Result<Self> {
        let path = workspace.root().join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("{FILE} is not understood"))
    }

    pub(super) fn save(&mut self, workspace: &Workspace) -> anyhow::Result<()> {
        self.all.sort_by(|one, other| (&one.test, &one.form).cmp(&(&other.test, &other.form)));
        self.kills.sort_by(|one, other| one.test.cmp(&other.test));
        let text = toml::to_string(self).context("results cannot be written")?;
        let head = "# Results of `cargo xtask faults --write`: the last of each test.\n\n";
        fs::write(workspace.root().join(FILE), format!("{head}{text}"))
            .with_context(|| format!("cannot write {FILE}"))
    }

    /// Puts a result in the place of the one before it.
    pub(super) fn keep(&mut self, result: TestResult) {
        self.all.retain(|known| (&known.test, &known.form) != (&result.test, &result.form));
        self.all.push(result);
    }

    pub(super) fn keep_kill(&mut self, kill: Kill) {
        self.kills.retain(|known| known.test != kill.test);
        self.kills.push(kill);
    }

    pub(super) fn find(&self, test: &str, form: Form) -> Option<&TestResult> {
        self.all.iter().find(|result| result.test == test && result.form == form.name())
    }

    /// Tests of results that no row has.
    pub(super) fn strangers<'a>(&'a self, rows: &'a Rows) -> impl Iterator<Item = &'a str> {
        let tests = self.all.iter().map(|one| &one.test).chain(self.kills.iter().map(|one| &one.test));
        tests.filter(|test| !rows.all.iter().any(|row| row.test == **test)).map(String::as_str)
    }

    pub(super) fn drop_strangers(&mut self, rows: &Rows) {
        let is_known = |test: &str| rows.all.iter().any(|row| row.test == test);
        self.all.retain(|one| is_known(&one.test));
        self.kills.retain(|one| is_known(&one.test));
    }
}

/// Lines that a test has written.
pub(super) fn figures(path: &Path) -> anyhow::Result<Vec<Figure>> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).context("a figure is not understood")).collect()
}

/// What a run stood on: kernel, processors, memory, and the limits that matter to the figures.
pub(super) fn machine(note: &str) -> anyhow::Result<String> {
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").context("no /proc")?;
    let kib = memory.split_whitespace().nth(1).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let files = limits.maximum.map_or("without limit".to_owned(), |limit| limit.to_string());
    let gib = kib.div_ceil(1 << 20);
    let rest = if note.is_empty() { String::new() } else { format!(", {note}") };
    Ok(format!("Linux {kernel}, {cores} cores, {gib} GiB, {files} descriptors per process{rest}"))
}

/// Today, in UTC.
pub(super) fn today() -> anyhow::Result<String> {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output().context("cannot run date")?;
    ensure!(output.status.success(), "date failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
