//! `cargo xtask figures`: what the documentation claims in numbers, measured on this machine.

use std::process::Stdio;

use crate::needs;
use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};

/// Test binaries that print figures.
const BINARIES: [&str; 6] = [
    "incus_figures",
    "incus_figures_ssh",
    "incus_figures_compose",
    "incus_memory",
    "incus_blackhole",
    "incus_scale",
];

/// Runs them one test after the other and shows what they print.
///
/// # Errors
/// When one fails, as without root: they need an Incus server.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    anyhow::ensure!(needs::is_root(), "figures are measured with a real Incus server, which needs root");
    needs::provide()?;
    let mut command = cargo();
    command.args(["test", "--release", "--package", "portway", "--locked"]);
    for binary in BINARIES {
        command.args(["--test", binary]);
    }
    command.args(["--", "--include-ignored", "--nocapture", "--test-threads", "1"]);
    command.env("PORTWAY_TESTS", "require").current_dir(workspace.root()).stdin(Stdio::null());
    run_command(&mut command)
}
