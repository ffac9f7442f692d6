//! Checks of the documentation: links between its files.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::workspace::Workspace;

/// Files below the top folder that are read, besides everything in `docs/`.
const TOP_FILES: &[&str] =
    &["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"];

/// Checks README.md, its neighbours, and docs/.
///
/// # Errors
/// One line per offence.
pub(crate) fn check(workspace: &Workspace, _portway: &Path) -> anyhow::Result<()> {
    let mut faults = Vec::new();
    let pages = pages(workspace)?;
    for page in &pages {
        let text = fs::read_to_string(page).with_context(|| format!("cannot read {}", page.display()))?;
        let name = workspace.relative(page).display();
        let dir = page.parent().unwrap_or(workspace.root());
        let broken = links(&text).into_iter().filter(|link| !dir.join(link).exists());
        faults.extend(broken.map(|link| format!("{name}: link to {link}, which is not there")));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} pages", pages.len());
    Ok(())
}

fn pages(workspace: &Workspace) -> anyhow::Result<Vec<PathBuf>> {
    let mut pages: Vec<PathBuf> = TOP_FILES.iter().map(|name| workspace.root().join(name)).collect();
    for entry in fs::read_dir(workspace.root().join("docs")).context("cannot list docs/")? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// Files a page links to, without their anchors.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|target| !target.is_empty() && !target.contains("://") && !target.contains(' ')).collect()
}

#[cfg(test)]
mod tests {
    use super::links;

    #[test]
    fn only_files() {
        assert_eq!(
            links("[a](docs/a.md#x) [b](#y) [c](https://example.com/) [d](b.md)"),
            ["docs/a.md", "b.md"]
        );
    }
}
