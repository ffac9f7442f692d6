//! The rows: what is shown, by which test, and by what change that test is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::workspace::{Package, Workspace};

const FILE: &str = "xtask/faults.toml";
const MUTATIONS: &str = "xtask/mutations";

/// Modules that a macro makes, one for each server.
const SERVERS: [&str; 3] = ["incus6", "incus7", "lxd"];

/// All of them, in the order of the page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rows {
    #[serde(rename = "row")]
    pub(super) all: Vec<Row>,
}

/// One property and the test of it. Several rows may have one id, a test is in one row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// `R2`.
    pub(super) id: String,
    pub(super) name: String,
    /// `binary::path::of::test`; a library's own tests are in the binary of its crate (`portway_sys`).
    pub(super) test: String,
    /// What holds, whatever happens.
    pub(super) property: String,
    /// When the test passes.
    pub(super) pass: String,
    /// Name of a patch in `xtask/mutations`.
    pub(super) mutation: String,
    /// What of this is not shown, and why.
    pub(super) gap: Option<String>,
}

impl Row {
    /// Test binary, and the test's path in it.
    pub(super) fn parts(&self) -> (&str, &str) {
        self.test.split_once("::").unwrap_or((&self.test, ""))
    }

    /// The package that has the test.
    pub(super) fn package<'a>(&self, workspace: &'a Workspace) -> anyhow::Result<&'a Package> {
        let (binary, _) = self.parts();
        let has = |package: &&Package| {
            package.test_binaries().any(|name| name == binary) || package.name.replace('-', "_") == binary
        };
        workspace.members().find(has).with_context(|| format!("{}: there are no tests {binary}", self.id))
    }

    /// Where its patch stands.
    pub(super) fn patch(&self, root: &Path) -> PathBuf {
        root.join(MUTATIONS).join(&self.mutation).with_extension("patch")
    }

    fn has_test(&self, workspace: &Workspace) -> anyhow::Result<bool> {
        let (binary, path) = self.parts();
        let package = self.package(workspace)?;
        let is_of_library = package.name.replace('-', "_") == binary;
        let folder = package.dir().join(if is_of_library { "src" } else { "tests" });
        let mut modules: Vec<&str> = path.split("::").filter(|part| !SERVERS.contains(part)).collect();
        let name = modules.pop().unwrap_or_default();
        let has = |file: &Path| {
            let text = fs::read_to_string(file).unwrap_or_default();
            // A test that a macro runs on each server has no attribute of its own.
            text.contains(&format!("fn {name}("))
        };
        let base = if is_of_library { folder } else { folder.join(binary) };
        let mut files = vec![base.with_extension("rs"), base.join("main.rs"), base.join("lib.rs")];
        for depth in 1..=modules.len() {
            let module = base.join(modules[..depth].join("/"));
            files.extend([module.with_extension("rs"), module.join("mod.rs")]);
        }
        Ok(files.iter().any(|file| has(file)))
    }
}

impl Rows {
    /// Reads them.
    pub(super) fn load(workspace: &Workspace) -> anyhow::Result<Self> {
        let text = fs::read_to_string(workspace.root().join(FILE)).with_context(|| format!("no {FILE}"))?;
        Self::parse(&text)
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        toml::from_str(text).with_context(|| format!("{FILE} is not understood"))
    }

    /// The rows of these ids or names of tests; all of them for none.
    pub(super) fn chosen(&self, wanted: &[String]) -> anyhow::Result<Vec<&Row>> {
        let is = |row: &Row, word: &str| {
            row.id.eq_ignore_ascii_case(word) || row.test == word || row.test.ends_with(&format!("::{word}"))
        };
        for word in wanted {
            ensure!(self.all.iter().any(|row| is(row, word)), "there is no row {word}");
        }
        let chosen =
            self.all.iter().filter(|row| wanted.is_empty() || wanted.iter().any(|word| is(row, word)));
        Ok(chosen.collect())
    }

    /// What does not fit: tests that are not there, patches that do not apply.
    pub(super) fn faults(&self, workspace: &Workspace) -> anyhow::Result<Vec<String>> {
        let (mut faults, mut tests, mut used) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for row in &self.all {
            let name = format!("{FILE}: {} {}", row.id, row.name);
            match row.has_test(workspace) {
                Ok(true) => {}
                Ok(false) => faults.push(format!("{name}: there is no test {}", row.test)),
                Err(error) => faults.push(format!("{name}: {error:#}")),
            }
            if !tests.insert(&row.test) {
                faults.push(format!("{name}: {} is in another row", row.test));
            }
            used.insert(row.mutation.as_str());
            let patch = row.patch(workspace.root());
            if !patch.exists() {
                faults.push(format!("{name}: there is no mutation {}", row.mutation));
            }
        }
        for entry in fs::read_dir(workspace.root().join(MUTATIONS)).context("no mutations")? {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if !used.contains(name.as_str()) {
                faults.push(format!("{MUTATIONS}: no row has {name}"));
            }
            let mut apply = Command::new("git");
            apply.args(["apply", "--check"]).arg(&path).current_dir(workspace.root());
            let output = apply.output().context("cannot run git")?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ");
                faults.push(format!("{MUTATIONS}: {name} does not apply: {said}"));
            }
        }
        Ok(faults)
    }
}
