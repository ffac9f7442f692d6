//! `cargo xtask package`: what operators install, made of a release build and looked at.
//!
//! Stages: the program, its man pages, completions and list of packages in `target/package`; from these a `.deb`, a
//! `.rpm` and a tarball with a static program. The first two are made by cargo-deb and cargo-generate-rpm, by the tables
//! in `crates/portway/Cargo.toml`; [`check`] installs one in a bare Debian and reads the other.

mod install;
mod reproduce;
mod tarball;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};

use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};
use crate::{man, needs, sbom};

pub(crate) use reproduce::run as reproduce;

/// A cargo command that makes packages, and the version that is used.
struct Tool {
    name: &'static str,
    version: &'static str,
}

const DEB: Tool = Tool { name: "cargo-deb", version: "3.8.0" };
const RPM: Tool = Tool { name: "cargo-generate-rpm", version: "0.21.1" };

/// Where such tools are kept between runs, as root. They are built once a machine.
const TOOLS_DIR: &str = "/var/cache/portway-testbed/tools";

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Deb,
    Rpm,
    Tarball,
}

impl Kind {
    /// By the word on the command line.
    pub(crate) fn named(word: &str) -> Option<Kind> {
        match word {
            "deb" => Some(Self::Deb),
            "rpm" => Some(Self::Rpm),
            "tar" => Some(Self::Tarball),
            _ => None,
        }
    }
}

/// Builds the program and makes these of it.
///
/// # Errors
/// When a build or a tool fails.
pub(crate) fn make(workspace: &Workspace, kinds: &[Kind]) -> anyhow::Result<()> {
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "portway", "--bin", "portway"]);
    build.envs(reproduce::flags(workspace.root())).current_dir(workspace.root()).stdin(Stdio::null());
    run_command(&mut build)?;
    let dir = stage(workspace, &workspace.release_binary())?;
    for kind in kinds {
        let file = match kind {
            Kind::Deb => deb(workspace, &dir, Effort::Best)?,
            Kind::Rpm => rpm(workspace, &dir, Effort::Best)?,
            Kind::Tarball => tarball::make(workspace, &dir)?,
        };
        println!("{}", workspace.relative(&file).display());
    }
    Ok(())
}

/// Makes a `.deb` and an `.rpm` of the release build that is there, reads both, and installs the first in a bare
/// Debian: the daemon starts and serves there, an upgrade keeps a connection, and removal leaves nothing.
///
/// # Errors
/// When not root, or one of that does not hold.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    ensure!(needs::is_root(), "only root can install a package in a root of its own");
    let dir = stage(workspace, &workspace.release_binary())?;
    let (deb, rpm) = (deb(workspace, &dir, Effort::Fast)?, rpm(workspace, &dir, Effort::Fast)?);
    let in_deb = lines(Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&deb), &["tar", "-t"])?;
    let in_deb: Vec<String> = in_deb.iter().map(|name| name.trim_start_matches('.').to_owned()).collect();
    let in_rpm = lines(Command::new("rpm").args(["-qpl"]).arg(&rpm), &[])?;
    for (what, names) in [("the .deb", &in_deb), ("the .rpm", &in_rpm)] {
        let lacking: Vec<&str> = FILES
            .iter()
            .copied()
            .filter(|file| !names.iter().any(|name| name.trim_end_matches(".gz") == *file))
            .collect();
        ensure!(lacking.is_empty(), "{what} lacks {}", lacking.join(", "));
        let odd: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| ODD.iter().any(|odd| name.starts_with(odd)))
            .collect();
        ensure!(odd.is_empty(), "{what} has {}", odd.join(", "));
    }
    let scripts = lines(Command::new("rpm").args(["-qp", "--scripts"]).arg(&rpm), &[])?.join("\n");
    for word in
        ["systemd-sysusers portway.conf", "portway daemon --purge", "systemctl try-restart portway.service"]
    {
        ensure!(scripts.contains(word), "the scripts of the .rpm lack {word:?}");
    }
    println!("{} files in the .deb, {} in the .rpm", in_deb.len(), in_rpm.len());
    install::check(workspace, &deb)
}

/// What both have, apart from completions for zsh, whose folder is another.
const FILES: [&str; 16] = [
    "/usr/bin/portway",
    "/usr/lib/systemd/system/portway.service",
    "/usr/lib/systemd/system/portway-ssh.service",
    "/usr/lib/systemd/system/portway-ssh.socket",
    "/usr/lib/sysusers.d/portway.conf",
    "/usr/lib/tmpfiles.d/portway.conf",
    "/etc/default/portway-ssh",
    "/usr/share/doc/portway/examples/portway.toml",
    "/usr/share/doc/portway/README.md",
    "/usr/share/doc/portway/CHANGELOG.md",
    "/usr/share/doc/portway/portway.cdx.json",
    "/usr/share/man/man1/portway.1",
    "/usr/share/man/man1/portway-device-add.1",
    "/usr/share/man/man1/portway-ssh-serve.1",
    "/usr/share/bash-completion/completions/portway",
    "/usr/share/fish/vendor_completions.d/portway.fish",
];

/// Where no package of ours puts anything: made at run time, or somebody else's.
const ODD: [&str; 5] = ["/run", "/var", "/home", "/root", "/usr/local"];

/// Everything but the program, fresh, in `package` of the target folder.
fn stage(workspace: &Workspace, portway: &Path) -> anyhow::Result<PathBuf> {
    // The tables of both packages name files below `target`.
    let expected = workspace.root().join("target");
    ensure!(workspace.target() == expected, "packages are made in {} only", expected.display());
    let dir = workspace.target().join("package");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let (pages, completions) = (dir.join("man"), dir.join("completions"));
    man::generate(portway, &pages)?;
    fs::create_dir_all(&completions).with_context(|| format!("cannot make {}", completions.display()))?;
    for entry in fs::read_dir(&pages).with_context(|| format!("cannot list {}", pages.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "1") {
            let name = path.file_name().unwrap_or_default();
            fs::rename(&path, completions.join(name)).context("cannot move a completion")?;
        }
    }
    sbom::write(workspace, Some(&dir.join("portway.cdx.json")))?;
    Ok(dir)
}

/// How long may be spent on a small file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    Best,
    Fast,
}

fn deb(workspace: &Workspace, dir: &Path, effort: Effort) -> anyhow::Result<PathBuf> {
    let mut command = DEB.command()?;
    command.args(["deb", "--quiet", "--no-build", "--package", "portway", "--output"]).arg(dir);
    command.args((effort == Effort::Fast).then_some("--fast"));
    run_command(reproducibly(&mut command, workspace)?)?;
    only_file(dir, "deb")
}

fn rpm(workspace: &Workspace, dir: &Path, effort: Effort) -> anyhow::Result<PathBuf> {
    let mut command = RPM.command()?;
    command.args(["generate-rpm", "--package", "crates/portway", "--output"]).arg(dir.join("portway.rpm"));
    if effort == Effort::Fast {
        command.args(["--payload-compress", "none"]);
    }
    run_command(reproducibly(&mut command, workspace)?)?;
    let file = only_file(dir, "rpm")?;
    let name = lines(
        Command::new("rpm")
            .args(["-qp", "--queryformat", "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH}.rpm\n"])
            .arg(&file),
        &[],
    );
    // Where there is no rpm to ask, the plain name will do.
    let Some(name) = name.ok().and_then(|lines| lines.into_iter().next()) else { return Ok(file) };
    let named = dir.join(name);
    fs::rename(&file, &named).context("cannot name the .rpm")?;
    Ok(named)
}

/// At the top of the tree, with the time of its last commit as the only time.
fn reproducibly<'a>(command: &'a mut Command, workspace: &Workspace) -> anyhow::Result<&'a mut Command> {
    let epoch = epoch(workspace.root())?;
    Ok(command.current_dir(workspace.root()).env("SOURCE_DATE_EPOCH", epoch).stdin(Stdio::null()))
}

/// Seconds of the last commit, or of the lock file where there is no repository.
fn epoch(root: &Path) -> anyhow::Result<String> {
    let mut git = Command::new("git");
    let output = git.args(["log", "-1", "--format=%ct"]).current_dir(root).stderr(Stdio::null()).output();
    if let Some(output) = output.ok().filter(|output| output.status.success()) {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let changed = fs::metadata(root.join("Cargo.lock")).and_then(|meta| meta.modified());
    let changed = changed.context("cannot look at Cargo.lock")?;
    Ok(changed.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs().to_string())
}

impl Tool {
    /// The program, built first where it is not there. Only its own lock file decides what it is built of.
    fn command(&self) -> anyhow::Result<Command> {
        let built = Path::new(TOOLS_DIR).join("bin").join(self.name);
        let ours = Command::new(&built).arg("--version").output();
        if ours.is_ok_and(|output| output.status.success()) {
            return Ok(Command::new(built));
        }
        if !needs::is_root() {
            let there = Command::new(self.name).arg("--version").output();
            ensure!(there.is_ok(), "missing: {0}, install it with: cargo install --locked {0}", self.name);
            return Ok(Command::new(self.name));
        }
        println!("building {} {}", self.name, self.version);
        let mut install = cargo();
        install.args(["install", "--locked", "--quiet", "--root", TOOLS_DIR]);
        install.arg(format!("{}@{}", self.name, self.version));
        // Not this workspace's toolchain settings and flags.
        install.current_dir("/").env_remove("RUSTFLAGS").stdin(Stdio::null());
        run_command(&mut install).with_context(|| format!("cannot build {}", self.name))?;
        Ok(Command::new(built))
    }
}

/// What a command prints, or prints through another, line by line.
fn lines(command: &mut Command, through: &[&str]) -> anyhow::Result<Vec<String>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = match through {
        [] => command.stdin(Stdio::null()).output(),
        [program, arguments @ ..] => {
            let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
            let pipe = child.stdout.take().context("no pipe")?;
            let output = Command::new(program).args(arguments).stdin(pipe).output();
            ensure!(child.wait()?.success(), "{name} failed");
            output
        }
    };
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn only_file(dir: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let entries = fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))?;
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found = paths.filter(|path| path.extension().is_some_and(|one| one == extension));
    match (found.next(), found.next()) {
        (Some(file), None) => Ok(file),
        (None, _) => bail!("no .{extension} was made"),
        (Some(_), Some(_)) => bail!("more than one .{extension} in {}", dir.display()),
    }
}
