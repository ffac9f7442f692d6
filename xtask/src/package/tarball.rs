//! The tarball: a static program for any distribution, and the files that go with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::{epoch, reproduce};
use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};

/// What goes in beside the program, man pages, completions and the list of packages.
const BESIDE: [&str; 5] = ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", "contrib"];

/// Builds the program with musl and puts it into a tarball with everything an operator installs by hand.
///
/// # Errors
/// When the target's library or a C compiler for it is missing, or a program fails.
pub(super) fn make(workspace: &Workspace, dir: &Path) -> anyhow::Result<PathBuf> {
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--package", "portway", "--bin", "portway"]);
    build.args(["--target", &target]).current_dir(workspace.root()).stdin(Stdio::null());
    // Debian's musl-tools have no prefixed compiler.
    build.env(format!("CC_{}", target.replace('-', "_")), "musl-gcc");
    build.envs(reproduce::flags(workspace.root()));
    run_command(&mut build).with_context(|| {
        format!("cannot build for {target}; it needs `rustup target add {target}` and the package musl-tools")
    })?;
    let program = workspace.target().join(&target).join("release/portway");
    let name = format!("portway-{}-{target}", env!("CARGO_PKG_VERSION"));
    let folder = dir.join(&name);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut strip = Command::new("strip");
    run_command(strip.arg("-o").arg(folder.join("portway")).arg(&program))?;
    ensure!(is_static(&folder.join("portway"))?, "the program for {target} is not static");
    for from in BESIDE {
        run_command(Command::new("cp").arg("-R").arg(workspace.root().join(from)).arg(&folder))?;
    }
    for from in ["man", "completions", "portway.cdx.json"] {
        run_command(Command::new("cp").arg("-R").arg(dir.join(from)).arg(&folder))?;
    }
    let file = dir.join(format!("{name}.tar.gz"));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"]);
    tar.arg(format!("--mtime=@{}", epoch(workspace.root())?)).args(["--mode=u+rw,go+r-w,a+X"]);
    // gzip writes a time of its own unless told not to.
    tar.args(["--use-compress-program=gzip -9n", "--file"]).arg(&file);
    run_command(tar.arg("--directory").arg(dir).arg(&name))?;
    fs::remove_dir_all(&folder).context("cannot remove the folder")?;
    Ok(file)
}

/// Whether no loader is asked for: an ELF file's program headers have no PT_INTERP (elf(5)).
fn is_static(program: &Path) -> anyhow::Result<bool> {
    let output = Command::new("readelf").arg("--program-headers").arg("--wide").arg(program).output();
    let output = output.context("cannot run readelf (package binutils)")?;
    ensure!(output.status.success(), "readelf cannot read {}", program.display());
    Ok(!String::from_utf8_lossy(&output.stdout).contains("INTERP"))
}
