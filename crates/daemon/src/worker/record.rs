//! Files of workers: a socket to be adopted by and a record of the process, so that a later daemon
//! knows which process it talks to. The folder belongs to the daemon's user alone.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use portway_model::InstanceKey;
use portway_sys::{pidfd, process};
use serde::{Deserialize, Serialize};
use tracing::{debug, warn};

use crate::watched::watched;

/// What the daemon remembers of a worker beside its socket.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    start_time: u64,
    instance: String,
}

/// Names of the workers that have left files in `dir`.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok()?.strip_suffix(".sock").map(str::to_owned))
        .filter(|name| name.starts_with('w'))
        .collect();
    names.sort();
    names
}

/// Instance a worker of an earlier daemon serves; `None` when it was not recorded.
pub(crate) fn instance_of(dir: &Path, name: &str) -> Option<InstanceKey> {
    let text = std::fs::read(dir.join(format!("{name}.json"))).ok()?;
    serde_json::from_slice::<Record>(&text).ok()?.instance.parse().ok()
}

/// Kills the worker `name` of an earlier daemon and removes its files.
pub(crate) fn end(dir: &Path, name: &str) {
    if let Some((_, pidfd)) = recorded(dir, name) {
        kill(pidfd.as_fd());
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
pub(super) fn bury(pid: i32, pidfd: Option<OwnedFd>) {
    let Some(process) = pidfd.or_else(|| pidfd::open(pid).ok()).and_then(|fd| watched(fd).ok()) else {
        return;
    };
    tokio::spawn(async move {
        let _ = process.readable().await;
        let _ = process::reap(pid);
    });
}

pub(super) fn record(dir: &Path, name: &str, pid: i32, instance: &str) {
    let written = pidfd::start_time(pid).and_then(|start_time| {
        let text = serde_json::to_vec(&Record { pid, start_time, instance: instance.to_owned() })?;
        std::fs::write(dir.join(format!("{name}.json")), text)
    });
    if let Err(failure) = written {
        warn!(worker = name, error = %failure, "worker not recorded: a later daemon cannot adopt it");
    }
}

/// The recorded process of a worker, if it still lives.
pub(super) fn recorded(dir: &Path, name: &str) -> Option<(i32, OwnedFd)> {
    let text = std::fs::read(dir.join(format!("{name}.json"))).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    let descriptor = pidfd::open(record.pid).ok()?;
    let same = pidfd::start_time(record.pid).is_ok_and(|start_time| start_time == record.start_time);
    (same && !pidfd::exited(descriptor.as_fd())).then_some((record.pid, descriptor))
}

pub(super) fn forget(dir: &Path, name: &str) {
    for suffix in ["sock", "json"] {
        let path = dir.join(format!("{name}.{suffix}"));
        match std::fs::remove_file(&path) {
            Err(failure) if failure.kind() != std::io::ErrorKind::NotFound => {
                warn!(path = %path.display(), error = %failure, "worker file not removed");
            }
            _ => {}
        }
    }
}
