//! Tests of the tests: a row's change to the product is made in a copy of the tree, and the row's test must fail
//! there, after it has passed without.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use super::Form;
use super::results::{Kill, today};
use super::rows::Row;
use super::run;
use crate::steps::run as run_command;
use crate::workspace::Workspace;

/// A clone of what is committed, with a target folder of its own that all mutations share.
pub(super) struct Bench<'a> {
    workspace: &'a Workspace,
    tree: PathBuf,
    target: PathBuf,
}

impl<'a> Bench<'a> {
    /// Makes it, or brings it to what is committed.
    pub(super) fn prepare(workspace: &'a Workspace) -> anyhow::Result<Self> {
        let dir = workspace.target().join("mutations");
        let bench = Self { workspace, tree: dir.join("tree"), target: dir.join("target") };
        let root = workspace.root();
        if !bench.tree.join(".git").exists() {
            let mut clone = Command::new("git");
            clone.args(["clone", "--quiet", "--no-checkout", "--shared"]).arg(root).arg(&bench.tree);
            run_command(&mut clone)?;
        }
        let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root).output();
        let head = head.context("cannot run git")?.stdout;
        let head = String::from_utf8_lossy(&head).trim().to_owned();
        bench.git(&["fetch", "--quiet", "origin"])?;
        // Files that are the same keep their times, so that little is built anew.
        bench.git(&["checkout", "--quiet", "--force", "--detach", &head])?;
        Ok(bench)
    }

    fn git(&self, words: &[&str]) -> anyhow::Result<()> {
        run_command(Command::new("git").args(words).current_dir(&self.tree))
    }

    /// Makes a row's change and demands that its test finds it.
    ///
    /// # Errors
    /// When it does not, or something is not understood: the test fails without the change, or the change does
    /// not build.
    pub(super) fn try_row(&self, row: &Row) -> anyhow::Result<Kill> {
        println!("\n=== {} {}: {}", row.id, row.name, row.mutation);
        ensure!(self.passes(row)?, "{} fails without the mutation", row.test);
        let patch = row.patch(self.workspace.root());
        run_command(Command::new("git").arg("apply").arg(&patch).current_dir(&self.tree))?;
        let built = self.build(row);
        let passes = built.and_then(|()| self.passes(row));
        self.git(&["checkout", "--quiet", "--force", "."])?;
        if passes.with_context(|| format!("{} cannot be tried", row.mutation))? {
            println!("--- {} SURVIVED", row.mutation);
            bail!("{} is not found by {}", row.mutation, row.test);
        }
        println!("--- {}: killed by {}", row.mutation, row.test);
        Ok(Kill { test: row.test.clone(), mutation: row.mutation.clone(), date: today()? })
    }

    fn command(&self, row: &Row) -> anyhow::Result<Command> {
        let mut command = run::command(self.workspace, row, Form::Short)?;
        command.current_dir(&self.tree).env("CARGO_TARGET_DIR", &self.target);
        Ok(command)
    }

    fn build(&self, row: &Row) -> anyhow::Result<()> {
        run_command(self.command(row)?.arg("--no-run"))
    }

    fn passes(&self, row: &Row) -> anyhow::Result<bool> {
        self.build(row)?;
        let mut command = self.command(row)?;
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(status.context("cannot run cargo nextest")?.success())
    }
}
