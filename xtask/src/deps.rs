//! Which crate of ours may use which, dependencies nobody uses, and where `unsafe` may stand.
//!
//! The arrows are the architecture: a new one is a commit of its own that changes this table and
//! ARCHITECTURE.md.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, bail};

use crate::source::{code_only, lines_with_word};
use crate::workspace::{Package, Workspace};

/// Crate, and the crates of ours it may use. Names without the `portway-` prefix.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("proto", &["model"]),
    ("config", &["model"]),
    ("control", &["model"]),
    ("sys", &["model"]),
    ("incus", &["model"]),
    ("composefile", &[]),
    ("compose", &["model", "proto", "config", "control", "incus", "composefile"]),
    ("relay", &["model", "proto", "config", "sys"]),
    ("nat", &["model", "sys"]),
    ("sshgw", &["model", "proto", "config", "control", "sys", "incus", "relay", "guestbin"]),
    ("guest", &["model", "proto", "sys"]),
    ("guestbin", &[]),
    ("mesh", &["model", "proto", "config", "control", "sys", "relay"]),
    ("daemon", &["model", "proto", "config", "control", "sys", "incus", "relay", "nat"]),
    (
        "portway",
        &[
            "model",
            "proto",
            "config",
            "control",
            "sys",
            "incus",
            "relay",
            "nat",
            "sshgw",
            "guestbin",
            "composefile",
            "compose",
            "mesh",
            "daemon",
        ],
    ),
    ("testkit", &[]),
    ("bench", &["testkit"]),
    ("xtask", &["model", "config", "testkit"]),
];

/// The crate every other may use in its tests, and only there (`bench` and `xtask` apart).
const TESTKIT: &str = "testkit";

/// The one crate that may say `unsafe`.
const UNSAFE_CRATE: &str = "sys";

/// Checks all three.
///
/// # Errors
/// One line per offence.
pub(crate) fn check(workspace: &Workspace) -> anyhow::Result<()> {
    let members: BTreeSet<&str> = workspace.members().map(short_name).collect();
    let mut faults = Vec::new();
    for package in workspace.members() {
        faults.extend(wrong_arrows(package, &members));
        faults.extend(lint_faults(package)?);
        let sources = Sources::read(workspace, package)?;
        for line in sources.unused(package) {
            println!("warning: {line}");
        }
        faults.extend(sources.unsafe_lines(package));
    }
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    println!("{} crates: arrows, unused dependencies and unsafe are as they should be", members.len());
    Ok(())
}

fn short_name(package: &Package) -> &str {
    strip(&package.name)
}

fn strip(name: &str) -> &str {
    name.strip_prefix("portway-").unwrap_or(name)
}

fn wrong_arrows(package: &Package, members: &BTreeSet<&str>) -> Vec<String> {
    let from = short_name(package);
    let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == from) else {
        return vec![format!("{from}: not in the table of arrows (xtask/src/deps.rs)")];
    };
    let ours = package.dependencies.iter().filter(|d| members.contains(strip(&d.name)));
    ours.filter_map(|dependency| {
        let to = strip(&dependency.name);
        let for_tests = dependency.kind.as_deref() == Some("dev");
        let fine = allowed.contains(&to) || (for_tests && (to == TESTKIT || to == from));
        (!fine).then(|| format!("{from} -> {to}: no such arrow (xtask/src/deps.rs)"))
    })
    .collect()
}

/// A crate that does not take the workspace's lints could say `unsafe` unseen.
fn lint_faults(package: &Package) -> anyhow::Result<Option<String>> {
    let text = fs::read_to_string(&package.manifest_path).context("cannot read a manifest")?;
    let manifest: toml::Table = toml::from_str(&text).context("cannot parse a manifest")?;
    let inherits =
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    let name = short_name(package);
    let fine = inherits == Some(true) || name == UNSAFE_CRATE;
    Ok((!fine).then(|| format!("{name}: does not inherit the workspace's lints ([lints] workspace = true)")))
}

/// Every Rust file of one package, code only.
struct Sources {
    /// Path from the top folder, code.
    files: Vec<(String, String)>,
}

impl Sources {
    fn read(workspace: &Workspace, package: &Package) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for path in package.rust_files()? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            files.push((workspace.relative(&path).display().to_string(), code_only(&text)));
        }
        Ok(Self { files })
    }

    fn unsafe_lines(&self, package: &Package) -> Vec<String> {
        if short_name(package) == UNSAFE_CRATE {
            return Vec::new();
        }
        let mut faults = Vec::new();
        for (path, code) in &self.files {
            let lines =
                lines_with_word(code, "unsafe").into_iter().chain(lines_with_word(code, "unsafe_code"));
            faults.extend(
                lines.map(|line| format!("{path}:{line}: unsafe belongs into crates/{UNSAFE_CRATE}")),
            );
        }
        faults
    }

    fn unused(&self, package: &Package) -> Vec<String> {
        let names = package.dependencies.iter().map(|d| d.rename.as_ref().unwrap_or(&d.name));
        let unused = names.filter(|name| {
            let word = name.replace('-', "_");
            self.files.iter().all(|(_, code)| lines_with_word(code, &word).is_empty())
        });
        unused.map(|name| format!("{}: dependency {name} is not used", short_name(package))).collect()
    }
}
