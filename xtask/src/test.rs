//! `cargo xtask test`: everything continuous integration checks, step by step.
//!
//! One release build serves the tests, the demo and the documentation's examples; clippy and
//! rustdoc run with the release profile too, so that build scripts and macros are built once.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use portway_testkit::testbed::{self, Place, Server};

use crate::steps::{Steps, run as run_command};
use crate::workspace::{Package, Workspace, cargo};
use crate::{bench, deps, docs, licences, limits, man, needs, package, sizes, units};

/// Runs all steps; `quick` leaves out the tests that need an Incus server.
///
/// # Errors
/// When a step failed.
pub(crate) fn run(workspace: &Workspace, quick: bool) -> anyhow::Result<()> {
    let mut steps = Steps::new();
    steps.run("needs", needs::provide);
    steps.run("fmt", || run_command(&mut in_root(workspace, &["fmt", "--all", "--check"])));
    steps.run("deps", || deps::check(workspace));
    steps.run("licences", || licences::check(workspace));
    steps.run("sizes", || sizes::check(workspace));
    if needs::has("systemd-analyze") || needs::strict() {
        steps.run("units", || units::check(workspace, false));
    } else {
        steps.leave("units", "systemd-analyze is not there");
    }
    steps.run("limits", || limits::run(workspace, limits::Mode::Check));
    steps.run("clippy", || run_command(&mut clippy(workspace)));
    steps.run("rustdoc", || run_command(&mut rustdoc(workspace)));
    if steps.run("build", || run_command(&mut build(workspace))) {
        if quick {
            steps.leave("testbed", "--quick");
        } else if needs::is_root() {
            steps.run("testbed", || {
                Server::ALL.into_iter().map(Place::of).try_for_each(|place| testbed::provide(&place))
            });
        } else {
            steps.leave("testbed", "not root");
        }
        steps.run("tests", || run_command(&mut tests(workspace, quick)));
        steps.run("doc tests", || run_command(&mut doc_tests(workspace)));
        steps.run("demo", || demo(&workspace.release_binary()));
        if quick || !needs::is_root() {
            steps.leave("bench", if quick { "--quick" } else { "not root" });
        } else {
            steps.run("bench", || bench::smoke(workspace));
        }
        if cfg!(not(target_arch = "x86_64")) || !needs::is_root() {
            steps.leave("counts", "needs root on x86-64");
        } else {
            steps.run("counts", || bench::check_counts(workspace));
        }
        if quick || !needs::is_root() {
            steps.leave("package", if quick { "--quick" } else { "not root" });
        } else {
            steps.run("package", || package::check(workspace));
        }
        steps.run("man", || man::generate(&workspace.release_binary(), &workspace.target().join("man")));
        steps.run("docs", || docs::check(workspace, &workspace.release_binary()));
    } else {
        for name in ["testbed", "tests", "doc tests", "demo", "bench", "counts", "package", "man", "docs"] {
            steps.leave(name, "the build failed");
        }
    }
    steps.finish()
}

fn in_root(workspace: &Workspace, arguments: &[&str]) -> Command {
    let mut command = cargo();
    command.args(arguments).current_dir(workspace.root()).stdin(Stdio::null());
    command
}

fn clippy(workspace: &Workspace) -> Command {
    let arguments =
        ["clippy", "--release", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"];
    in_root(workspace, &arguments)
}

fn rustdoc(workspace: &Workspace) -> Command {
    let arguments = ["doc", "--release", "--workspace", "--no-deps", "--document-private-items", "--locked"];
    let mut command = in_root(workspace, &arguments);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// Apart from the tests, so that the time each takes is seen.
fn build(workspace: &Workspace) -> Command {
    in_root(workspace, &["build", "--release", "--workspace", "--all-targets", "--locked"])
}

fn tests(workspace: &Workspace, quick: bool) -> Command {
    if has_nextest() {
        let mut command = in_root(workspace, &["nextest", "run", "--release", "--workspace", "--locked"]);
        command.args(["--no-tests", "pass"]);
        if needs::strict() {
            command.args(["--profile", "ci"]);
        }
        // A panic's line is not to drown in frames of the test harness.
        command.env("RUST_BACKTRACE", "0");
        if quick {
            command.args(["--filterset", "not binary(/^incus_/)"]);
        }
        return command;
    }
    println!(
        "cargo-nextest is not installed (cargo install --locked cargo-nextest): cargo test runs the tests"
    );
    println!("instead, one at a time and without a time limit for each");
    let mut command = in_root(workspace, &["test", "--release", "--workspace", "--locked", "--no-fail-fast"]);
    command.args(["--lib", "--bins"]).env("RUST_TEST_THREADS", "1");
    let binaries = workspace.members().flat_map(Package::test_binaries);
    for name in binaries.filter(|name| !(quick && name.starts_with("incus_"))) {
        command.args(["--test", name]);
    }
    command
}

fn doc_tests(workspace: &Workspace) -> Command {
    in_root(workspace, &["test", "--release", "--workspace", "--doc", "--locked"])
}

/// Longest time for the demo, seconds: it takes a few.
const DEMO_SECONDS: &str = "60";

/// An unprivileged user: `nobody`, the kernel's overflow ids.
const NOBODY: &str = "65534";

/// Runs the demo to its end. Root runs it as `nobody`, from a place `nobody` can reach, because it must
/// work for anyone.
fn demo(portway: &Path) -> anyhow::Result<()> {
    if !needs::is_root() {
        return run_command(Command::new("timeout").arg(DEMO_SECONDS).arg(portway).args(["demo", "--once"]));
    }
    let dir = tempfile::Builder::new().prefix("portway-demo-").tempdir().context("cannot make a folder")?;
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).context("cannot open the folder")?;
    let copy = dir.path().join("portway");
    fs::copy(portway, &copy).context("cannot copy portway")?;
    let mut command = Command::new("setpriv");
    command.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    command.args(["timeout", DEMO_SECONDS]).arg(copy).args(["demo", "--once"]);
    command.current_dir("/").env("HOME", "/").env_remove("PORTWAY_DIR").stdin(Stdio::null());
    run_command(&mut command)
}

fn has_nextest() -> bool {
    let version = cargo().args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}
