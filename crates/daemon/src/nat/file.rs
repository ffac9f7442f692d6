//! The ways in force, kept beside the workers' sockets: after a restart of the daemon they stand until
//! each instance has been looked at again. Like the table itself they are gone after a boot.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use portway_config::files::{self, FileError, Trust};
use portway_model::DeviceKey;
use serde::{Deserialize, Serialize};

use super::Way;

/// Longest file that is read, bytes: a way takes some 300, and a state file of the largest size has
/// fewer than 100,000 devices.
const MAX_BYTES: u64 = 64 << 20;

/// Changes with what is in the file. One of another version is not used.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Layout<W> {
    version: u32,
    ways: BTreeMap<String, W>,
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
    match serde_json::from_slice::<Layout<Way>>(&text) {
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

fn by_name<T>(keyed: &BTreeMap<DeviceKey, T>) -> BTreeMap<String, &T> {
    keyed.iter().map(|(key, value)| (key.to_string(), value)).collect()
}

/// Writes it; no file when there is nothing. It need not outlive the kernel, so it is not synced.
///
/// # Errors
/// The file is then as before.
pub(super) fn save(path: &Path, kept: &Kept) -> std::io::Result<()> {
    if kept.ways.is_empty() && kept.counted.is_empty() {
        return match fs::remove_file(path) {
            Err(problem) if problem.kind() != std::io::ErrorKind::NotFound => Err(problem),
            _ => Ok(()),
        };
    }
    let counted = by_name(&kept.counted).into_iter().map(|(name, count)| (name, *count)).collect();
    let layout = Layout { version: VERSION, ways: by_name(&kept.ways), counted };
    let text = serde_json::to_vec(&layout)?;
    let aside = path.with_extension("json.new");
    fs::write(&aside, text)?;
    fs::rename(&aside, path)
}
