//! Programs of other releases of Debian than this machine's: taken out of their package and kept like packages are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{lock, packages, say};
use crate::run;

/// Where they are kept, each in a folder of its own.
const DIR: &str = "/var/cache/portway-testbed";

/// One of them.
struct Foreign {
    package: &'static str,
    /// Where the package has it.
    program: &'static str,
    /// The release it is of.
    suite: &'static str,
}

/// The program that `portway compose config` is held against: it resolves a file without an engine. This machine's own
/// release has another Compose, or none.
const COMPOSE: Foreign = Foreign {
    package: "docker-compose",
    program: "usr/libexec/docker/cli-plugins/docker-compose",
    suite: "trixie",
};

/// What the mesh is measured beside.
const WIREGUARD_GO: Foreign =
    Foreign { package: "wireguard-go", program: "usr/bin/wireguard-go", suite: "sid" };

/// Docker Compose of Debian 13, fetched where it is not there yet.
///
/// # Errors
/// When apt cannot fetch it, as without root.
pub fn compose_oracle() -> Result<PathBuf> {
    COMPOSE.provide()
}

/// The newest wireguard-go that Debian has, fetched where none is there yet.
///
/// # Errors
/// As [`compose_oracle`].
pub fn newest_wireguard_go() -> Result<PathBuf> {
    WIREGUARD_GO.provide()
}

impl Foreign {
    fn provide(&self) -> Result<PathBuf> {
        let dir = Path::new(DIR).join(self.package);
        let program = dir.join(self.program);
        if program.is_file() {
            return Ok(program);
        }
        let _fetching = lock::shared_build()?;
        // Whoever held the lock may have done it.
        if program.is_file() {
            return Ok(program);
        }
        say(&format!("fetching {} of Debian {}, a quarter of a minute", self.package, self.suite));
        let unfinished = Path::new(DIR).join(format!("{}.new", self.package));
        for old in [&unfinished, &dir] {
            if old.exists() {
                fs::remove_dir_all(old).with_context(|| format!("cannot remove {}", old.display()))?;
            }
        }
        self.fetch(&unfinished)?;
        fs::rename(&unfinished, &dir).context("cannot put it in place")?;
        Ok(program)
    }

    /// Unpacks the package into `dir`.
    fn fetch(&self, dir: &Path) -> Result<()> {
        for part in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(dir.join(part)).context("cannot make a folder for packages")?;
        }
        let entry = packages::entry_of(self.suite)?;
        let source = dir.join(format!("sources/{}.{}", self.suite, entry.ending));
        fs::write(&source, entry.text).with_context(|| format!("cannot write {}", source.display()))?;
        apt(dir, &["update", "-q"])?;
        apt(dir, &["download", "-q", self.package])?;
        let package = fs::read_dir(dir)
            .context("cannot list what was fetched")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|ending| ending == "deb"))
            .context("apt fetched no package")?;
        run(Command::new("dpkg").arg("-x").arg(&package).arg(dir)).context("cannot unpack it")?;
        Ok(())
    }
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
