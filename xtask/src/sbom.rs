//! `cargo xtask sbom`: which packages are in the program, as CycloneDX 1.6 (ECMA-424).
//!
//! Made from `cargo metadata` and the lock file alone: it holds no time and no random number, so that two builds of
//! one tree have the same. What only tests, build scripts and developers' commands use is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::workspace::{Workspace, cargo};

/// The programs that are shipped: the one binary, and the one it carries into instances.
const ROOTS: [&str; 2] = ["portway", "portway-guest"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<EdgeKind>,
}

/// Why a package is needed.
#[derive(Deserialize)]
struct EdgeKind {
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

/// Writes the list for this machine's architecture to `file`, or prints it.
///
/// # Errors
/// When cargo fails, or the file cannot be written.
pub(crate) fn write(workspace: &Workspace, file: Option<&Path>) -> anyhow::Result<()> {
    let text = render(workspace)?;
    match file {
        Some(path) => {
            let dir = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
        }
        None => {
            print!("{text}");
            Ok(())
        }
    }
}

fn render(workspace: &Workspace) -> anyhow::Result<String> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["metadata", "--format-version", "1", "--locked", "--filter-platform", &target];
    let mut command: Command = cargo();
    let output = command.args(arguments).current_dir(workspace.root()).output();
    let output = output.context("cannot run cargo metadata")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "cargo metadata failed: {}", said.trim());
    let metadata: Metadata = serde_json::from_slice(&output.stdout).context("cannot read cargo metadata")?;
    let lock = fs::read_to_string(workspace.root().join("Cargo.lock")).context("cannot read Cargo.lock")?;
    let lock: Lock = toml::from_str(&lock).context("cannot parse Cargo.lock")?;
    let list = serde_json::to_string_pretty(&list(&metadata, &lock)?).context("cannot write JSON")?;
    Ok(list + "\n")
}

fn list(metadata: &Metadata, lock: &Lock) -> anyhow::Result<Value> {
    let packages: BTreeMap<&str, &Package> =
        metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let edges: BTreeMap<&str, Vec<&str>> =
        metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), normal(node))).collect();
    let is_root = |package: &&Package| package.source.is_none() && ROOTS.contains(&package.name.as_str());
    let roots: Vec<&Package> = metadata.packages.iter().filter(is_root).collect();
    ensure!(roots.len() == ROOTS.len(), "the workspace lacks one of {}", ROOTS.join(", "));
    let shipped = reached(roots.iter().map(|package| package.id.as_str()), &edges);
    let sums: BTreeMap<(&str, &str), &str> = lock
        .package
        .iter()
        .filter_map(|one| Some(((one.name.as_str(), one.version.as_str()), one.checksum.as_deref()?)))
        .collect();
    let named = |id: &&str| packages.get(id).copied();
    let mut components: Vec<&Package> = shipped.iter().filter_map(named).collect();
    components.sort_by_key(|package| (&package.name, &package.version));
    let portway = roots.iter().find(|package| package.name == ROOTS[0]).context("no portway")?;
    let dependencies = components.iter().map(|package| {
        let to = edges.get(package.id.as_str()).into_iter().flatten();
        let to: BTreeSet<String> = to.filter_map(named).map(purl).collect();
        json!({ "ref": purl(package), "dependsOn": to })
    });
    Ok(json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": "portway-program", "name": portway.name, "version": portway.version,
            "licenses": licences(portway),
        }},
        "dependencies": dependencies.collect::<Vec<_>>(),
        "components": components.iter().map(|package| {
            let sum = sums.get(&(package.name.as_str(), package.version.as_str())).copied();
            component(package, sum)
        }).collect::<Vec<_>>(),
    }))
}

/// What a package is built with and of, but not what only its tests or its build script use.
fn normal(node: &Node) -> Vec<&str> {
    let needed = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
    node.deps.iter().filter(needed).map(|edge| edge.pkg.as_str()).collect()
}

fn reached<'a>(
    from: impl Iterator<Item = &'a str>,
    edges: &BTreeMap<&'a str, Vec<&'a str>>,
) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut waiting: Vec<&str> = from.collect();
    while let Some(id) = waiting.pop() {
        if found.insert(id) {
            waiting.extend(edges.get(id).into_iter().flatten());
        }
    }
    found
}

/// Package URL (purl specification, type `cargo`).
fn purl(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

fn licences(package: &Package) -> Value {
    // An SPDX expression; `/` is cargo's old way to say OR.
    let expression = package.license.as_deref().map(|text| text.replace('/', " OR "));
    expression.map_or_else(|| json!([]), |text| json!([{ "expression": text }]))
}

fn component(package: &Package, sum: Option<&str>) -> Value {
    let mut value = json!({
        "type": "library",
        "bom-ref": purl(package),
        "name": package.name,
        "version": package.version,
        "scope": "required",
        "purl": purl(package),
        "licenses": licences(package),
    });
    if let Some(text) = &package.description {
        value["description"] = json!(text.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if let Some(sum) = sum {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    if let Some(url) = &package.repository {
        value["externalReferences"] = json!([{ "type": "vcs", "url": url }]);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_is_listed_with_sums_and_what_is_not_is_not() {
        let workspace = Workspace::load().unwrap();
        let first = render(&workspace).unwrap();
        assert_eq!(first, render(&workspace).unwrap());
        let list: Value = serde_json::from_str(&first).unwrap();
        let components = list["components"].as_array().unwrap();
        let named = |name: &str| components.iter().find(|one| one["name"] == name);
        for name in ["tokio", "russh", "rustix", "ring"] {
            let one = named(name).unwrap_or_else(|| panic!("{name} is missing"));
            assert_eq!(one["hashes"][0]["content"].as_str().unwrap().len(), 64, "{name}");
        }
        // Ours are there without a sum; tests' and developers' packages are not.
        assert!(named("portway-relay").unwrap().get("hashes").is_none());
        for name in ["insta", "proptest", "portway-testkit", "xtask"] {
            assert!(named(name).is_none(), "{name} is not shipped");
        }
        let refs: BTreeSet<&str> = components.iter().map(|one| one["bom-ref"].as_str().unwrap()).collect();
        assert_eq!(refs.len(), components.len());
        for one in list["dependencies"].as_array().unwrap() {
            for to in one["dependsOn"].as_array().unwrap() {
                assert!(refs.contains(to.as_str().unwrap()), "{to}");
            }
        }
    }
}
