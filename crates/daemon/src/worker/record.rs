//! Files of workers: a socket to be adopted by and a record of the process, so that a later daemon
//! knows which process it talks to. The folder belongs to the daemon's user alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use portway_model::InstanceKey;
use portway_relay::wire::Identity;
use portway_sys::{pidfd, process};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::watched::watched;

/// Suffixes of a worker's files: its socket, its record, a record that is being written.
const SUFFIXES: [&str; 3] = ["sock", "json", "json.new"];

/// What the daemon remembers of a worker beside its socket.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    start_time: u64,
    /// What it was started as. Its own word for it is never asked: it decides what the worker is given.
    identity: Identity,
    #[serde(default)]
    draining: bool,
}

/// The process of a worker that lives.
pub(super) struct Recorded {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// What it was started as.
    pub(super) identity: Identity,
    /// It was told to finish.
    pub(super) draining: bool,
}

/// Names of the workers that have left files in `dir`.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| {
            let file = entry.file_name().into_string().ok()?;
            let (name, suffix) = file.split_once('.')?;
            (name.starts_with('w') && SUFFIXES.contains(&suffix)).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Instance a worker of an earlier daemon serves; `None` when it was not recorded.
pub(crate) fn instance_of(dir: &Path, name: &str) -> Option<InstanceKey> {
    read(dir, name)?.identity.instance.parse().ok()
}

/// Kills the worker `name` of an earlier daemon and removes its files.
pub(crate) fn end(dir: &Path, name: &str) {
    if let Some(found) = recorded(dir, name) {
        kill(found.pidfd.as_fd());
    }
    forget(dir, name);
}

pub(super) fn kill(process: BorrowedFd<'_>) {
    if !pidfd::exited(process)
        && let Err(failure) = pidfd::send_signal(process, libc::SIGKILL)
    {
        debug!(error = %failure, "worker was gone before it was killed");
    }
}

/// Reaps a child once it is dead. Only our own children can be reaped; an adopted worker is init's.
pub(crate) fn bury(pid: i32, pidfd: Option<OwnedFd>) {
    let Some(process) = pidfd.or_else(|| pidfd::open(pid).ok()).and_then(|fd| watched(fd).ok()) else {
        return;
    };
    tokio::spawn(async move {
        let _ = process.readable().await;
        let _ = process::reap(pid);
    });
}

/// Records the process of a worker.
///
/// # Errors
/// When the process is gone, or the file cannot be written: no later daemon would know the worker.
pub(super) fn record(dir: &Path, pid: i32, identity: &Identity) -> std::io::Result<()> {
    let start_time = pidfd::start_time(pid)?;
    let record = Record { pid, start_time, identity: identity.clone(), draining: false };
    write(dir, &identity.name, &record)
}

/// Records that a worker was told to finish, if it is recorded.
pub(super) fn note_draining(dir: &Path, name: &str) {
    let Some(known) = read(dir, name) else { return };
    if let Err(failure) = write(dir, name, &Record { draining: true, ..known }) {
        warn!(worker = name, error = %failure, "end of a worker not recorded");
    }
}

fn read(dir: &Path, name: &str) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(dir.join(format!("{name}.json"))).ok()?).ok()
}

/// Replaces the record as a whole: half a one would make the worker a stranger.
fn write(dir: &Path, name: &str, record: &Record) -> std::io::Result<()> {
    let aside = dir.join(format!("{name}.json.new"));
    std::fs::write(&aside, serde_json::to_vec(record)?)?;
    std::fs::rename(&aside, dir.join(format!("{name}.json")))
}

/// The recorded process of a worker, if it still lives.
pub(super) fn recorded(dir: &Path, name: &str) -> Option<Recorded> {
    let record = read(dir, name)?;
    let pidfd = pidfd::open(record.pid).ok()?;
    let same = pidfd::start_time(record.pid).is_ok_and(|start_time| start_time == record.start_time);
    let Record { pid, identity, draining, .. } = record;
    (same && !pidfd::exited(pidfd.as_fd())).then_some(Recorded { pid, pidfd, identity, draining })
}

pub(super) fn forget(dir: &Path, name: &str) {
    for suffix in SUFFIXES {
        let path = dir.join(format!("{name}.{suffix}"));
        match std::fs::remove_file(&path) {
            Err(failure) if failure.kind() != std::io::ErrorKind::NotFound => {
                warn!(path = %path.display(), error = %failure, "worker file not removed");
            }
            _ => {}
        }
    }
}
