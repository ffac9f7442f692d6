//! Examples of files: each is read by what would read it.
//!
//! A `toml` block is the settings of the daemon, or a network of the mesh when it has peers; a `yaml` block is a file of
//! devices, or a Compose file when it has services; a `json` block is at least JSON.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use portway_config::Settings;
use portway_config::devices::{self, Form, Meaning};
use portway_model::Provider;

use super::Runner;
use crate::shell::blocks;

/// The keys that files of the mesh name beside them: any 32 bytes.
const KEYS: [&str; 3] = ["node.key", "b.psk", "proxy.pass"];

/// What is wrong with the blocks of a page, each with its line.
pub(super) fn faults(runner: &Runner, name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut note = |line: usize, what: &str, result: anyhow::Result<()>| {
        faults.extend(result.err().map(|error| format!("{name}:{line}: {what}: {error:#}")));
    };
    for (line, lines) in blocks(text, "toml") {
        let text = lines.join("\n");
        if lines.contains(&"[[peers]]") {
            note(line, "network", network(runner, &text));
        } else {
            note(line, "settings", Settings::parse(Path::new(name), &text).map(drop).map_err(Into::into));
        }
    }
    for (line, lines) in blocks(text, "yaml") {
        let text = lines.join("\n");
        if lines.first() == Some(&"services:") {
            note(line, "Compose file", compose_file(runner, &text));
        } else {
            let meaning = Meaning { provider: Provider::Incus, project: None };
            let devices = devices::parse(Path::new(name), text.into_bytes(), Form::Yaml, &meaning);
            note(line, "devices", devices.map(drop).map_err(Into::into));
        }
    }
    for (line, lines) in blocks(text, "json") {
        let value = serde_json::from_str::<serde_json::Value>(&lines.join("\n"));
        note(line, "json", value.map(drop).map_err(Into::into));
    }
    faults
}

fn network(runner: &Runner, text: &str) -> anyhow::Result<()> {
    for key in KEYS {
        let path = runner.dir.join(key);
        fs::write(&path, format!("{}=\n", "A".repeat(42) + "E")).context("cannot write a key")?;
        private(&path)?;
    }
    passes(runner, "network.toml", text, &["mesh", "check", "--config", "network.toml"])
}

fn compose_file(runner: &Runner, text: &str) -> anyhow::Result<()> {
    passes(runner, "example.yaml", text, &["compose", "-f", "example.yaml", "config", "-q"])
}

/// Whether a command ends well with `text` in a file.
fn passes(runner: &Runner, file: &str, text: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let path = runner.dir.join(file);
    fs::write(&path, text).context("cannot write the example")?;
    private(&path)?;
    let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
    let output = runner.run(&arguments)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// As files with secrets have to be.
fn private(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).context("cannot close the example")
}
