//! `cargo xtask bench`: Portway beside what else can stand between a client and a container. `cargo xtask counts`:
//! what its relay worker does for each operation.
//!
//! The measuring is a program of its own (`crates/bench`), so that client and service are built like what
//! they measure; here it is built, with the program under test, and started.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use portway_testkit::testbed;

use crate::needs;
use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};

/// What `--only` may name, a line each: the benchmark has a test that they are these.
const NAMES: &str = include_str!("../../crates/bench/names.txt");

/// Why these arguments of a run can be refused before anything is built, if they can: an unknown name after `--only`.
pub(crate) fn refusal(arguments: &[String]) -> Option<String> {
    if arguments.first().is_some_and(|word| word == "show") {
        return None;
    }
    if let Some(rest) = mesh_arguments(arguments) {
        let known = matches!(words(rest).as_slice(), [] | ["--quick"] | ["--write", _]);
        return (!known).then(|| "bench mesh: --quick, or --write DIR, or nothing wanted".to_owned());
    }
    let values = arguments.iter().enumerate().filter_map(|(at, word)| match word.strip_prefix("--only") {
        Some("") => arguments.get(at + 1).map(String::as_str),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    });
    let unknown =
        values.flat_map(|value| value.split(',')).find(|name| !NAMES.lines().any(|known| known == *name))?;
    let names: Vec<&str> = NAMES.lines().collect();
    Some(format!("bench --only {unknown}: no such workload or peer; one of {} wanted", names.join(", ")))
}

/// What stands behind `mesh`, if that is what is to be measured.
fn mesh_arguments(arguments: &[String]) -> Option<&[String]> {
    arguments.split_first().filter(|(word, _)| *word == "mesh").map(|(_, rest)| rest)
}

fn words(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// `bench mesh`: both engines beside the newest wireguard-go of Debian, or the installed one where that cannot be had.
/// The measuring is a part of the tests of `crates/mesh`, because without a rule a tunnel's sockets are its own.
fn mesh(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    ensure!(needs::is_root(), "tunnels are measured in network namespaces, which needs root");
    needs::provide()?;
    build(workspace, &["portway"])?;
    let dir = tempfile::tempdir().context("cannot make a folder")?;
    let page = dir.path().join("page");
    let mut command = cargo();
    command.args([
        "test",
        "--release",
        "--locked",
        "--quiet",
        "--package",
        "portway-mesh",
        "--test",
        "netns_mesh",
    ]);
    command.args(["--", "--ignored", "--exact", "figures_of_engines"]);
    command.env("PORTWAY_MESH_PAGE", &page).env("PORTWAY_MESH_PROGRAM", workspace.release_binary());
    match testbed::newest_wireguard_go() {
        Ok(program) => drop(command.env("PORTWAY_MESH_WIREGUARD_GO", program)),
        Err(error) => eprintln!("bench: the installed wireguard-go is measured: {error:#}"),
    }
    if arguments.iter().any(|word| word == "--quick") {
        command.env("PORTWAY_MESH_BRIEF", "1");
    }
    run_command(command.current_dir(workspace.root()).stdout(Stdio::null()))?;
    let text = std::fs::read_to_string(&page).context("cannot read the figures")?;
    println!("{text}");
    if let ["--write", to] = words(arguments).as_slice() {
        let path = workspace.root().join(to).join("benchmarks-mesh.md");
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// Builds what is needed and becomes the benchmark with these arguments; only a run needs root and the program
/// under test.
///
/// # Errors
/// When it cannot be built or started.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    if let Some(rest) = mesh_arguments(arguments) {
        return mesh(workspace, rest);
    }
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

/// Builds what is needed and becomes the program that counts.
///
/// # Errors
/// When it cannot be built or started, as without root.
pub(crate) fn run_counts(workspace: &Workspace, arguments: &[String]) -> anyhow::Result<()> {
    build(workspace, &["portway", "portway-bench"])?;
    Err(counts_role(workspace).args(arguments).exec()).context("cannot start counting")
}

/// Holds the counts of what is built already against their ceilings.
///
/// # Errors
/// When one is above its ceiling.
pub(crate) fn check_counts(workspace: &Workspace) -> anyhow::Result<()> {
    run_command(&mut counts_role(workspace))
}

fn counts_role(workspace: &Workspace) -> Command {
    let mut command = program(workspace);
    command.arg("counts").arg("--portway").arg(workspace.release_binary());
    command.arg("--ceilings").arg(workspace.root().join("crates/bench/ceilings.toml"));
    command
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a name that nothing has is found out only after all is built.
    #[test]
    fn an_unknown_name_is_refused_with_those_that_are_known() {
        let refused = |words: &str| {
            let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
            refusal(&words)
        };
        for words in ["--only conn,nobody", "--rounds 1 --only=nobody", "--only nobody --quick"] {
            let said = refused(words).expect("a refusal");
            assert!(said.contains("--only nobody") && said.contains("rtt-64, "), "{said}");
        }
        for words in ["mesh --rounds 3", "mesh --write", "mesh --quick --quick"] {
            assert!(refused(words).is_some_and(|said| said.contains("--write DIR")), "{words}");
        }
        for words in [
            "mesh",
            "mesh --quick",
            "mesh --write docs",
            "",
            "--quick",
            "--only conn,relay,direct",
            "--only=nat-scale",
            "--only",
            "show --only",
        ] {
            assert_eq!(refused(words), None, "{words}");
        }
    }
}
