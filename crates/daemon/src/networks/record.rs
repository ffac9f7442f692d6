//! What runs, for the next daemon: a file beside the control socket of each network, root's alone.
//!
//! Pid and start time name one process; its program is looked at besides. The fingerprint and the rules are those it was
//! last told, so that a daemon that was away knows what has changed meanwhile.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::socket;
use crate::aside::Aside;
use crate::state::with_sources;

/// Longest file that is read, bytes.
const FILE_BYTES: u64 = 1024 * 1024;

/// A network that runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) fingerprint: String,
    pub(super) rules: Vec<(String, String)>,
}

impl Record {
    /// Keeps it. Without it the next daemon would find the name taken: that is said.
    pub(super) fn write(&self, run_dir: &Path, name: &str) {
        let text = serde_json::to_vec(self).unwrap_or_default();
        let path = path(run_dir, name);
        let written = Aside::write(&path, &text, 0o600).and_then(Aside::replace);
        if let Err(error) = written {
            warn!(
                network = name,
                error = with_sources(&error),
                "not recorded: another daemon will not know it"
            );
        }
    }

    /// What was kept; a file that is none counts as nothing.
    pub(super) fn read(run_dir: &Path, name: &str) -> Option<Record> {
        let path = path(run_dir, name);
        let is_read =
            fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= FILE_BYTES);
        let text = is_read.then(|| fs::read(&path).ok()).flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes what a network that has ended leaves.
    pub(super) fn forget(run_dir: &Path, name: &str) {
        for path in [path(run_dir, name), socket(run_dir, name)] {
            // Not there is as good.
            let _gone = fs::remove_file(path);
        }
    }
}

fn path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("mesh-{name}.json"))
}

/// Networks that are recorded.
pub(super) fn names(run_dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        Some(file.strip_prefix("mesh-")?.strip_suffix(".json")?.to_owned())
    };
    entries.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a daemon follows a link somewhere else, or takes anything for a record.
    #[test]
    fn what_is_recorded_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let rules = vec![("egress".to_owned(), "tcp:80:10.0.0.1:80".to_owned())];
        let record = Record { pid: 7, start_time: 8, fingerprint: "f".to_owned(), rules };
        record.write(dir.path(), "a");
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(Record::read(dir.path(), "a"), Some(record));
        std::os::unix::fs::symlink(path(dir.path(), "a"), path(dir.path(), "b")).unwrap();
        fs::write(path(dir.path(), "c"), "{").unwrap();
        assert_eq!(Record::read(dir.path(), "b"), None);
        assert_eq!(Record::read(dir.path(), "c"), None);
        Record::forget(dir.path(), "a");
        assert_eq!(Record::read(dir.path(), "a"), None);
    }
}
