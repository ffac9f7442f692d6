//! Processes: the network namespace, the root folder and the ids of `pid:N`.
//!
//! A pid is a number that another process may have tomorrow. Which process is meant is said by the
//! boot, the pid and the time it was started, which stand where a server has a UUID.

use std::io;

use portway_model::InstanceKey;

use super::{Observation, Run, Status, is_shortage, short};

/// The process `pid:N`.
pub(super) fn observe(key: &InstanceKey) -> Observation {
    // The name was checked to be a pid when it was read.
    let Ok(pid) = key.name().as_str().parse::<i32>() else { return Observation::of(Status::Absent) };
    match look(pid) {
        Ok((run, identity)) => Observation { uuid: Some(identity), ..Observation::of(Status::Up(run)) },
        Err(failure) => Observation::of(refusal(pid, &failure)),
    }
}

/// The run, with both namespaces known to be within reach, and which process it is.
fn look(pid: i32) -> io::Result<(Run, String)> {
    let run = Run::of_process(pid)?;
    drop((run.netns()?, run.root()?));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let identity = format!("{}:{}", boot.trim(), run.id.0);
    Ok((run, identity))
}

fn refusal(pid: i32, failure: &io::Error) -> Status {
    match (failure.kind(), failure.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ESRCH)) => Status::Absent,
        // The number of a thread is no pid (pidfd_open(2)).
        (_, Some(libc::EINVAL)) => Status::Absent,
        (io::ErrorKind::PermissionDenied, _) => {
            Status::Unsupported(format!("not permitted to look at process {pid}"))
        }
        _ if is_shortage(failure) => short(failure),
        _ => Status::Unsupported(format!("cannot look at process {pid}: {failure}")),
    }
}
