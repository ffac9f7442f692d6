//! For developers: real servers, namespaces, daemons, load and check programs. No part of the
//! product, and built on nothing of it, so that a fault there cannot hide here.

mod api;
pub mod testbed;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub use api::{Answer, Api, Incus};

/// Runs a command to its end and returns its standard output; a failure carries what it wrote to
/// standard error.
///
/// # Errors
/// When it cannot be started, or does not exit with 0.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
