//! Lines per file: 500 is where to look for the second noun, 800 needs a reason.
//!
//! Test code is not counted: files called `tests.rs` or below a `tests` folder, and a
//! `#[cfg(test)] mod tests` that ends a file. The length of functions is clippy's to count
//! (`too_many_lines` at 70 in clippy.toml); here every exception from it must have its reason in
//! `xtask/sizes.toml` too, so that all exceptions stand in one place.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;

use crate::source::{code_only, lines_with_word};
use crate::workspace::Workspace;

/// From here on a file is named.
const WARN_LINES: usize = 500;
/// Above this a file needs a reason.
const FAIL_LINES: usize = 800;
/// Clippy's limit for a function, lines.
const FUNCTION_LINES: i64 = 70;

/// `xtask/sizes.toml`: path from the top folder to reason.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reasons {
    /// Files over the limit.
    files: BTreeMap<String, String>,
    /// Files that hold a function over clippy's limit.
    functions: BTreeMap<String, String>,
}

/// Checks every Rust file of the workspace.
///
/// # Errors
/// One line per file over the limit without a reason, and per reason that is not needed.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let reasons = read_reasons(workspace)?;
    check_clippy_limit(workspace)?;
    let mut found = Found::default();
    for package in workspace.members() {
        for path in package.rust_files()? {
            let name = workspace.relative(&path).display().to_string();
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {name}"))?;
            found.look(&path, name, &text);
        }
    }
    let mut faults = Vec::new();
    for (name, lines) in &found.large {
        if *lines <= FAIL_LINES || reasons.files.contains_key(name) {
            println!("warning: {name} has {lines} lines; look for the second noun");
        } else {
            faults
                .push(format!("{name}: {lines} lines, over {FAIL_LINES}, and no reason in xtask/sizes.toml"));
        }
    }
    let over: BTreeSet<&String> =
        found.large.iter().filter(|(_, n)| **n > FAIL_LINES).map(|(name, _)| name).collect();
    let stale = reasons.files.keys().filter(|name| !over.contains(name));
    faults.extend(stale.map(|name| format!("{name}: has a reason in xtask/sizes.toml and needs none")));
    let unexplained = found.long_functions.iter().filter(|name| !reasons.functions.contains_key(*name));
    faults.extend(
        unexplained.map(|name| format!("{name}: too_many_lines without a reason in xtask/sizes.toml")),
    );
    let stale = reasons.functions.keys().filter(|name| !found.long_functions.contains(*name));
    faults.extend(
        stale.map(|name| format!("{name}: has a function's reason in xtask/sizes.toml and needs none")),
    );
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} files, {} of them over {WARN_LINES} lines", found.count, found.large.len());
    Ok(())
}

#[derive(Default)]
struct Found {
    count: usize,
    /// Name to lines, those over the warning.
    large: BTreeMap<String, usize>,
    /// Files that except a function from clippy's limit.
    long_functions: BTreeSet<String>,
}

impl Found {
    fn look(&mut self, path: &Path, name: String, text: &str) {
        self.count += 1;
        if !lines_with_word(&code_only(text), "too_many_lines").is_empty() {
            self.long_functions.insert(name.clone());
        }
        let lines = counted_lines(path, text);
        if lines > WARN_LINES {
            self.large.insert(name, lines);
        }
    }
}

/// Lines of `text` that count.
fn counted_lines(path: &Path, text: &str) -> usize {
    let is_test = path.file_name() == Some(OsStr::new("tests.rs")) || path.iter().any(|part| part == "tests");
    if is_test {
        return 0;
    }
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).position(|pair| pair[0] == "#[cfg(test)]" && pair[1].starts_with("mod "));
    tests.unwrap_or(lines.len())
}

fn read_reasons(workspace: &Workspace) -> anyhow::Result<Reasons> {
    let path = workspace.root().join("xtask/sizes.toml");
    let text = fs::read_to_string(&path).context("cannot read xtask/sizes.toml")?;
    let reasons: Reasons = toml::from_str(&text).context("cannot parse xtask/sizes.toml")?;
    let empty = reasons.files.iter().chain(&reasons.functions).find(|(_, reason)| reason.trim().len() < 10);
    if let Some((name, _)) = empty {
        bail!("xtask/sizes.toml: {name} has no reason");
    }
    Ok(reasons)
}

fn check_clippy_limit(workspace: &Workspace) -> anyhow::Result<()> {
    let text = fs::read_to_string(workspace.root().join("clippy.toml")).context("cannot read clippy.toml")?;
    let clippy: toml::Table = toml::from_str(&text).context("cannot parse clippy.toml")?;
    let limit = clippy.get("too-many-lines-threshold").and_then(toml::Value::as_integer);
    ensure!(limit == Some(FUNCTION_LINES), "clippy.toml: too-many-lines-threshold is not {FUNCTION_LINES}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::counted_lines;

    #[test]
    fn tests_are_not_counted() {
        assert_eq!(counted_lines(Path::new("a.rs"), "fn a() {}\n\n#[cfg(test)]\nmod tests {\n}\n"), 2);
        assert_eq!(counted_lines(Path::new("a.rs"), "#[cfg(test)]\nuse x;\nfn a() {}\n"), 3);
        assert_eq!(counted_lines(Path::new("a/tests.rs"), "fn a() {}\n"), 0);
        assert_eq!(counted_lines(Path::new("tests/a.rs"), "fn a() {}\n"), 0);
    }
}
