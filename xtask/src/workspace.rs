//! The workspace as `cargo metadata` describes it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

/// This workspace.
pub(crate) struct Workspace {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
}

/// One package, ours or a dependency.
#[derive(Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    /// `None` for a package of this workspace.
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

/// Something a package builds.
#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// One line of a package's dependency tables.
#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Name in the source when it differs from `name`.
    pub(crate) rename: Option<String>,
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Package {
    /// Folder of the manifest.
    pub(crate) fn dir(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }

    /// Names of its integration test binaries.
    pub(crate) fn test_binaries(&self) -> impl Iterator<Item = &str> {
        let tests = self.targets.iter().filter(|target| target.kind.iter().any(|kind| kind == "test"));
        tests.map(|target| target.name.as_str())
    }

    /// Every Rust file of the package, sorted.
    pub(crate) fn rust_files(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(self.dir(), &mut files)?;
        files.sort();
        Ok(files)
    }
}

impl Workspace {
    /// Asks cargo, with every dependency.
    pub(crate) fn load() -> anyhow::Result<Self> {
        let output = cargo()
            .args(["metadata", "--format-version", "1", "--locked"])
            .output()
            .context("cannot run cargo metadata")?;
        ensure!(
            output.status.success(),
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
        let metadata =
            serde_json::from_slice(&output.stdout).context("cannot read what cargo metadata printed")?;
        Ok(Self { metadata })
    }

    /// Top folder of the tree.
    pub(crate) fn root(&self) -> &Path {
        &self.metadata.workspace_root
    }

    /// Where cargo builds.
    pub(crate) fn target(&self) -> &Path {
        &self.metadata.target_directory
    }

    /// Packages of this workspace.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.metadata.packages.iter().filter(|package| package.source.is_none())
    }

    /// Packages from registries.
    pub(crate) fn external(&self) -> impl Iterator<Item = &Package> {
        self.metadata.packages.iter().filter(|package| package.source.is_some())
    }

    /// `path` as it is named from the top folder.
    pub(crate) fn relative<'a>(&self, path: &'a Path) -> &'a Path {
        path.strip_prefix(self.root()).unwrap_or(path)
    }

    /// Builds the release binary and names it.
    pub(crate) fn portway(&self) -> anyhow::Result<PathBuf> {
        let status = cargo()
            .args(["build", "--release", "--locked", "--package", "portway", "--bin", "portway"])
            .current_dir(self.root())
            .status()
            .context("cannot run cargo build")?;
        ensure!(status.success(), "cargo build of portway failed");
        Ok(self.release_binary())
    }

    /// Where a release build puts the binary.
    pub(crate) fn release_binary(&self) -> PathBuf {
        self.target().join("release").join("portway")
    }
}

/// The cargo that runs this program, else the one on the path.
pub(crate) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name() != Some(OsStr::new("target")) {
                walk(&path, files)?;
            }
        } else if path.extension() == Some(OsStr::new("rs")) {
            files.push(path);
        }
    }
    Ok(())
}
