//! `cargo xtask reproduce`: the same tree, built twice in two places, is the same program and the same packages.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::only_file;
use crate::steps::run as run_command;
use crate::workspace::{Workspace, cargo};

/// What makes a build the same wherever it is done: no path of the machine in it.
pub(super) fn flags(root: &Path) -> Vec<(&'static str, OsString)> {
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"))).unwrap_or_default();
    let mut flags = OsString::new();
    for (from, to) in [(root, "/portway"), (home.as_path(), "/cargo")] {
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push(format!("={to}\u{1f}"));
    }
    let flags = flags.to_string_lossy().trim_end_matches('\u{1f}').to_owned();
    let c =
        format!("-ffile-prefix-map={}=/portway -ffile-prefix-map={}=/cargo", root.display(), home.display());
    vec![("CARGO_ENCODED_RUSTFLAGS", flags.into()), ("CFLAGS", c.into()), ("CARGO_INCREMENTAL", "0".into())]
}

/// Clones the last commit to two places, builds packages in both, and compares what came out.
///
/// # Errors
/// When a build fails, or a file differs; both trees are left for a look then.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let dir = workspace.target().join("reproduce");
    if dir.exists() {
        fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    let places = [dir.join("one"), dir.join("another/place/with-a-longer-name")];
    let mut sums = Vec::new();
    for (place, zone) in places.iter().zip(["UTC", "Pacific/Kiritimati"]) {
        fs::create_dir_all(place.parent().unwrap_or(&dir)).context("cannot make a folder")?;
        let mut clone = Command::new("git");
        run_command(clone.args(["clone", "--quiet"]).arg(workspace.root()).arg(place))?;
        let mut make = cargo();
        make.args(["run", "--quiet", "--release", "--package", "xtask", "--", "package", "deb", "rpm"]);
        make.current_dir(place).env("TZ", zone).env("CARGO_TARGET_DIR", place.join("target"));
        make.stdin(Stdio::null());
        run_command(&mut make)?;
        sums.push(sums_of(place)?);
    }
    for (name, sum) in &sums[0] {
        println!("{sum}  {name}");
    }
    ensure!(sums[0] == sums[1], "the second build is another one:\n{}", text(&sums[1]));
    fs::remove_dir_all(&dir).context("cannot remove the trees")?;
    println!("two builds in two places are the same");
    Ok(())
}

/// SHA-256 of the program and both packages.
fn sums_of(place: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let packages = place.join("target/package");
    let files =
        [place.join("target/release/portway"), only_file(&packages, "deb")?, only_file(&packages, "rpm")?];
    let sum = |file: &PathBuf| {
        let output = Command::new("sha256sum").arg(file).output().context("cannot run sha256sum")?;
        let line = String::from_utf8_lossy(&output.stdout).into_owned();
        let sum = line.split_whitespace().next().context("sha256sum printed nothing")?.to_owned();
        Ok((file.file_name().unwrap_or_default().to_string_lossy().into_owned(), sum))
    };
    files.iter().map(sum).collect()
}

fn text(sums: &[(String, String)]) -> String {
    sums.iter().map(|(name, sum)| format!("{sum}  {name}")).collect::<Vec<_>>().join("\n")
}
