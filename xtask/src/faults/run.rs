//! Runs the test of a row.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::Context as _;
use portway_testkit::faults::{FIGURES, FORM};

use super::Form;
use super::results::{self, TestResult};
use super::rows::Row;
use crate::workspace::{Workspace, cargo};

/// The command that runs the test of a row and nothing else.
pub(super) fn command(workspace: &Workspace, row: &Row, form: Form) -> anyhow::Result<Command> {
    let package = row.package(workspace)?;
    let (binary, test) = row.parts();
    let mut command = cargo();
    command.args(["nextest", "run", "--release", "--locked", "--package", &package.name]);
    // What says its figures is not to wait for them until the end.
    command.args(["--no-capture", "--run-ignored", "all", "--cargo-quiet"]);
    if form == Form::Long {
        command.args(["--profile", "faults"]);
    }
    if package.test_binaries().any(|name| name == binary) {
        command.args(["--test", binary]);
    } else {
        command.arg("--lib");
    }
    command.args(["--filterset", &format!("test(={test})")]);
    command.env(FORM, form.name()).env("PORTWAY_TESTS", "require").env("RUST_BACKTRACE", "0");
    command.current_dir(workspace.root()).stdin(Stdio::null());
    Ok(command)
}

/// Runs it, and says what it found.
pub(super) fn row(workspace: &Workspace, row: &Row, form: Form, note: &str) -> anyhow::Result<TestResult> {
    println!("\n=== {} {} ({}): {}", row.id, row.name, form.name(), row.test);
    let figures = tempfile::NamedTempFile::new().context("cannot make a file")?;
    let begin = Instant::now();
    let mut command = command(workspace, row, form)?;
    command.env(FIGURES, figures.path());
    let status = command.status().context("cannot run cargo nextest")?;
    let result = TestResult {
        test: row.test.clone(),
        form: form.name().to_owned(),
        passed: status.success(),
        date: results::today()?,
        seconds: begin.elapsed().as_secs(),
        machine: results::machine(note)?,
        figures: results::figures(figures.path())?,
    };
    println!("--- {} {}: {}", row.id, row.name, super::page::outcome(&result));
    Ok(result)
}
