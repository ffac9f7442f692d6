//! The ways in force, kept beside the workers' sockets: after a restart of the daemon they stand until
//! each instance has been looked at again. Like the table itself they are gone after a boot.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use portway_config::files::{self, FileError, Trust};
use portway_model::DeviceKey;
use serde::Deserialize;

use super::Way;
use super::ways::Ways;

/// Longest file that is read, bytes: a way takes some 300, and a state file of the largest size has
/// fewer than 100,000 devices.
const MAX_BYTES: u64 = 64 << 20;

/// Who publishes what is nobody's business, as in the state file.
const MODE: u32 = 0o600;

/// Changes with what is in the file. One of another version is not used.
const VERSION: u32 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout {
    version: u32,
    ways: BTreeMap<String, Way>,
    counted: BTreeMap<String, u64>,
}

/// What is kept.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// The ways in force.
    pub(super) ways: BTreeMap<DeviceKey, Way>,
    /// Connections that were counted by ways before these.
    pub(super) counted: BTreeMap<DeviceKey, u64>,
}

/// What was kept; nothing when there is no such file, or it cannot be used. Then a line says why.
pub(super) fn load(path: &Path) -> (Kept, Option<String>) {
    let text = match files::read(path, MAX_BYTES, Trust::Own) {
        Ok(text) => text,
        Err(FileError::Missing { .. }) => return Default::default(),
        Err(problem) => return (Kept::default(), Some(crate::state::with_sources(&problem))),
    };
    let failed = |reason: String| (Kept::default(), Some(format!("{}: {reason}", path.display())));
    match serde_json::from_slice::<Layout>(&text) {
        Ok(layout) if layout.version == VERSION => {
            let kept = Kept { ways: by_key(layout.ways), counted: by_key(layout.counted) };
            (kept, None)
        }
        Ok(layout) => failed(format!("version {} is not {VERSION}", layout.version)),
        Err(problem) => failed(problem.to_string()),
    }
}

fn by_key<T>(named: BTreeMap<String, T>) -> BTreeMap<DeviceKey, T> {
    named.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value))).collect()
}

/// A way as the file has it.
pub(super) fn text(name: &str, way: &Way) -> String {
    // Text and numbers: there is nothing that JSON could not hold.
    let json = |value: serde_json::Result<String>| value.unwrap_or_default();
    format!("{}:{}", json(serde_json::to_string(name)), json(serde_json::to_string(way)))
}

/// Writes it; no file when there is nothing. It need not outlive the kernel, so it is not synced.
///
/// # Errors
/// The file is then as before.
pub(super) fn save(path: &Path, ways: &Ways, counted: &BTreeMap<DeviceKey, u64>) -> std::io::Result<()> {
    if ways.is_empty() && counted.is_empty() {
        return match fs::remove_file(path) {
            Err(problem) if problem.kind() != std::io::ErrorKind::NotFound => Err(problem),
            _ => Ok(()),
        };
    }
    let counted: BTreeMap<String, u64> =
        counted.iter().map(|(key, count)| (key.to_string(), *count)).collect();
    let mut text = format!("{{\"version\":{VERSION},\"ways\":{{");
    for (number, way) in ways.texts().enumerate() {
        text.push_str(if number == 0 { "" } else { "," });
        text.push_str(way);
    }
    text.push_str("},\"counted\":");
    text.push_str(&serde_json::to_string(&counted)?);
    text.push('}');
    let aside = path.with_extension("json.new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(&aside)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&aside, path)
}
