//! The program that `portway compose config` is held against: Docker Compose of Debian 13, which resolves a file
//! without an engine. It is taken out of its package and kept like packages are; this machine's own release has
//! another Compose, or none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{lock, packages, say};
use crate::run;

/// Where it is kept.
const DIR: &str = "/var/cache/portway-testbed/docker-compose";

/// Where its package has it.
const PROGRAM: &str = "usr/libexec/docker/cli-plugins/docker-compose";

/// The release it is of.
const SUITE: &str = "trixie";

/// The program, fetched where it is not there yet.
///
/// # Errors
/// When apt cannot fetch it, as without root.
pub fn compose_oracle() -> Result<PathBuf> {
    let program = Path::new(DIR).join(PROGRAM);
    if program.is_file() {
        return Ok(program);
    }
    let _fetching = lock::shared_build()?;
    // Whoever held the lock may have done it.
    if program.is_file() {
        return Ok(program);
    }
    say("fetching Docker Compose of Debian 13, a quarter of a minute");
    let unfinished = PathBuf::from(format!("{DIR}.new"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    for dir in ["lists/partial", "cache/archives/partial", "sources"] {
        fs::create_dir_all(unfinished.join(dir)).context("cannot make a folder for packages")?;
    }
    let entry = packages::entry_of(SUITE)?;
    let source = unfinished.join(format!("sources/{SUITE}.{}", entry.ending));
    fs::write(&source, entry.text).with_context(|| format!("cannot write {}", source.display()))?;
    apt(&unfinished, &["update", "-q"])?;
    apt(&unfinished, &["download", "-q", "docker-compose"])?;
    let packages = fs::read_dir(&unfinished).context("cannot list what was fetched")?;
    let package = packages
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
        .context("apt fetched no package")?;
    run(Command::new("dpkg").arg("-x").arg(&package).arg(&unfinished)).context("cannot unpack it")?;
    if Path::new(DIR).exists() {
        fs::remove_dir_all(DIR).with_context(|| format!("cannot remove {DIR}"))?;
    }
    fs::rename(&unfinished, DIR).context("cannot put it in place")?;
    Ok(program)
}

/// Runs apt with lists and sources of its own.
fn apt(dir: &Path, args: &[&str]) -> Result<()> {
    let mut command = Command::new("apt-get");
    let mut option = |name: &str, path: &str| {
        command.arg("-o").arg(format!("{name}={}", dir.join(path).display()));
    };
    option("Dir::Etc::SourceParts", "sources");
    option("Dir::State::Lists", "lists");
    option("Dir::Cache", "cache");
    command.args(["-o", "Dir::Etc::SourceList=/dev/null", "-o", "APT::Sandbox::User=root"]);
    command.args(args).current_dir(dir).env("DEBIAN_FRONTEND", "noninteractive");
    run(&mut command).map(|_| ())
}
