//! `cargo xtask bench`: Portway beside what else can stand between a client and a container.
//!
//! The measuring is a program of its own (`crates/bench`), so that client and service are built like what
//! they measure; here it is built, with the program under test, and started.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use crate::needs;
use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};

/// Builds what is needed and becomes the benchmark with these arguments; only a run needs root and the program
/// under test.
///
/// # Errors
/// When it cannot be built or started.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    let is_help = arguments.iter().any(|word| word == "--help" || word == "-h");
    let is_run = arguments.first().is_none_or(|word| word != "show");
    if is_run && !is_help {
        ensure!(needs::is_root(), "peers are measured with a real Incus server, which needs root");
        needs::provide()?;
        build(workspace, &["portway", "portway-bench"])?;
    } else {
        build(workspace, &["portway-bench"])?;
    }
    let mut command = if is_run { run_role(workspace) } else { program(workspace) };
    Err(command.args(arguments).exec()).context("cannot start the benchmark")
}

/// The short form of continuous integration, with what is built already: everything runs once, and no figure is
/// looked at.
///
/// # Errors
/// When something does not work.
pub(crate) fn smoke(workspace: &Workspace) -> anyhow::Result<()> {
    run_command(run_role(workspace).arg("--quick").stdout(Stdio::null()))
}

fn run_role(workspace: &Workspace) -> Command {
    let mut command = program(workspace);
    command.arg("run").arg("--portway").arg(workspace.release_binary());
    command
}

fn program(workspace: &Workspace) -> Command {
    Command::new(workspace.release_binary().with_file_name("portway-bench"))
}

fn build(workspace: &Workspace, packages: &[&str]) -> anyhow::Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked", "--quiet", "--bins"]);
    for package in packages {
        command.args(["--package", package]);
    }
    run_command(command.current_dir(workspace.root()))
}
