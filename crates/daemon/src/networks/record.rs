//! What runs, for the next daemon: a file beside the control socket of each network, root's alone.
//!
//! Boot, pid and start time name one process; its arguments are looked at besides. The fingerprint and the rules are those
//! it was last told, so that a daemon that was away knows what has changed meanwhile. Who has the lock of a name says so
//! in it: a network whose daemon was killed before it wrote this is found by that.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Judged, socket};
use crate::aside::{Aside, AsideError};
use crate::state::with_sources;

/// Longest file that is read or written, bytes.
const FILE_BYTES: usize = 1024 * 1024;

/// Longest content of a lock, bytes.
const LOCK_BYTES: u64 = 64;

/// A network that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) pid: i32,
    pub(super) start_time: u64,
    pub(super) fingerprint: String,
    pub(super) rules: Vec<(String, String)>,
    /// During which boot of the host it was started.
    #[serde(default)]
    pub(super) boot: String,
    /// The program it runs.
    #[serde(default)]
    pub(super) build: String,
    /// What it is known by in its network.
    #[serde(default)]
    pub(super) key: String,
    /// How long its connections may go on when it is told to end.
    #[serde(default)]
    pub(super) drain: Duration,
    /// When it was told to, since boot.
    #[serde(default)]
    pub(super) leaving_since: Option<Duration>,
}

impl Record {
    /// Of a process that runs what was judged.
    pub(super) fn of(pid: i32, start_time: u64, judged: &Judged, build: &str) -> Record {
        Record {
            pid,
            start_time,
            fingerprint: judged.fingerprint.clone(),
            rules: judged.rules.clone(),
            boot: boot(),
            build: build.to_owned(),
            key: judged.key.clone(),
            drain: judged.drain,
            leaving_since: None,
        }
    }

    /// Keeps it.
    ///
    /// # Errors
    /// Why it cannot be: the next daemon would not know it.
    pub(super) fn write(&self, run_dir: &Path, name: &str) -> Result<(), String> {
        self.aside(&path(run_dir, name), |aside| aside.replace())
    }

    /// Makes room for it beside what is kept: [`Record::write`] takes that room.
    ///
    /// # Errors
    /// As [`Record::write`].
    pub(super) fn make_room(&self, run_dir: &Path, name: &str) -> Result<(), String> {
        self.aside(&path(run_dir, name), |_stays| Ok(()))
    }

    fn aside(
        &self,
        path: &Path,
        then: impl FnOnce(Aside<'_>) -> Result<(), AsideError>,
    ) -> Result<(), String> {
        let text = serde_json::to_vec(self).unwrap_or_default();
        if text.len() > FILE_BYTES {
            return Err(format!("it has too many rules to be recorded: {} bytes", text.len()));
        }
        let written = Aside::write(path, &text, 0o600).and_then(then);
        written.map_err(|error| format!("it cannot be recorded: {}", with_sources(&error)))
    }

    /// What was kept; a file that is none counts as nothing.
    pub(super) fn read(run_dir: &Path, name: &str) -> Option<Record> {
        let path = path(run_dir, name);
        let length = u64::try_from(FILE_BYTES).unwrap_or(u64::MAX);
        let is_read = fs::symlink_metadata(&path).is_ok_and(|found| found.is_file() && found.len() <= length);
        let text = is_read.then(|| fs::read(&path).ok()).flatten()?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes what a network that has ended leaves. The socket stays while somebody else has the name: it is theirs.
    pub(super) fn forget(run_dir: &Path, name: &str) {
        // Not there is as good, here and below.
        let path = path(run_dir, name);
        let _gone = fs::remove_file(&path);
        let _room = fs::remove_file(path.with_extension("json.new"));
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).mode(0o600);
        if let Ok(lock) = lock.open(lock_path(run_dir, name))
            && lock.try_lock().is_ok()
        {
            let _gone = fs::remove_file(socket(run_dir, name));
        }
    }
}

/// Who has the name as its lock says: pid and start time. A lock that nobody has says nothing.
pub(super) fn holder(run_dir: &Path, name: &str) -> Option<(i32, u64)> {
    let mut lock = File::open(lock_path(run_dir, name)).ok()?;
    if !matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)) {
        return None;
    }
    let mut text = String::new();
    (&mut lock).take(LOCK_BYTES).read_to_string(&mut text).ok()?;
    let (pid, start_time) = text.trim_end().split_once(' ')?;
    Some((pid.parse().ok()?, start_time.parse().ok()?))
}

/// This boot of the host.
pub(super) fn boot() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().to_owned()
}

fn path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("mesh-{name}.json"))
}

fn lock_path(run_dir: &Path, name: &str) -> PathBuf {
    run_dir.join(format!("mesh-{name}.lock"))
}

/// Networks that are recorded.
pub(super) fn names(run_dir: &Path) -> Vec<String> {
    names_of(run_dir, ".json")
}

/// Names that somebody has or had.
pub(super) fn locked_names(run_dir: &Path) -> Vec<String> {
    names_of(run_dir, ".lock")
}

fn names_of(run_dir: &Path, end: &str) -> Vec<String> {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        Some(file.strip_prefix("mesh-")?.strip_suffix(end)?.to_owned())
    };
    entries.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a daemon follows a link somewhere else, takes anything for a record, or writes what it will not read.
    #[test]
    fn what_is_recorded_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let rules = vec![("egress".to_owned(), "tcp:80:10.0.0.1:80".to_owned())];
        let record = Record { pid: 7, start_time: 8, rules, ..Record::default() };
        record.write(dir.path(), "a").unwrap();
        assert_eq!(names(dir.path()), ["a"]);
        assert_eq!(Record::read(dir.path(), "a"), Some(record.clone()));
        let long = Record { fingerprint: "x".repeat(FILE_BYTES), ..record.clone() };
        assert!(
            long.write(dir.path(), "a").unwrap_err().starts_with("it has too many rules to be recorded: ")
        );
        assert_eq!(Record::read(dir.path(), "a"), Some(record));
        std::os::unix::fs::symlink(path(dir.path(), "a"), path(dir.path(), "b")).unwrap();
        fs::write(path(dir.path(), "c"), "{").unwrap();
        assert_eq!(Record::read(dir.path(), "b"), None);
        assert_eq!(Record::read(dir.path(), "c"), None);
        Record::forget(dir.path(), "a");
        assert_eq!(Record::read(dir.path(), "a"), None);
    }

    /// Fails when: what is forgotten takes the socket of a process that has the name meanwhile, or one that was left behind
    /// stays.
    #[test]
    fn a_socket_goes_with_its_own_network_only() {
        let dir = tempfile::tempdir().unwrap();
        let socket = socket(dir.path(), "a");
        fs::write(&socket, "").unwrap();
        fs::write(lock_path(dir.path(), "a"), "7 8\n").unwrap();
        let lock = File::open(lock_path(dir.path(), "a")).unwrap();
        assert_eq!(holder(dir.path(), "a"), None);
        lock.try_lock().unwrap();
        assert_eq!(holder(dir.path(), "a"), Some((7, 8)));
        Record::forget(dir.path(), "a");
        assert!(socket.exists());
        drop(lock);
        Record::forget(dir.path(), "a");
        assert!(!socket.exists());
    }
}
