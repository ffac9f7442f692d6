//! Man pages and shell completions, made by the binary itself and looked at.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Shells that completions are made for, and the name each looks for.
const COMPLETIONS: &[(&str, &str)] =
    &[("bash", "portway.bash"), ("zsh", "_portway"), ("fish", "portway.fish")];

/// Writes man pages and completions into `dir`.
///
/// # Errors
/// When the binary fails, or what it wrote is empty or lacks a page for a command it has.
pub(crate) fn generate(portway: &Path, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let output = Command::new(portway).arg("man").arg(dir).output().context("cannot run portway man")?;
    ensure!(
        output.status.success(),
        "portway man failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    for (shell, name) in COMPLETIONS {
        let output = Command::new(portway).args(["completion", shell]).output();
        let output = output.context("cannot run portway completion")?;
        ensure!(output.status.success() && !output.stdout.is_empty(), "portway completion {shell} failed");
        fs::write(dir.join(name), output.stdout).with_context(|| format!("cannot write {name}"))?;
    }
    let pages = man_pages(dir)?;
    ensure!(pages.iter().any(|page| page == "portway.1"), "portway man wrote no portway.1");
    println!("{} man pages, {} completions in {}", pages.len(), COMPLETIONS.len(), dir.display());
    Ok(())
}

fn man_pages(dir: &Path) -> anyhow::Result<Vec<String>> {
    let mut pages = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "1") {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            ensure!(text.contains(".SH"), "{} is no man page", path.display());
            pages.extend(path.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    pages.sort();
    Ok(pages)
}
