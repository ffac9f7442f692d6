//! Network namespaces, by name or path.

use std::path::{Path, PathBuf};

use portway_model::InstanceKey;

use super::{Observation, Run, Status, is_shortage, short};

/// A namespace by name (`/run/netns/NAME`) or path. `/proc/PID/ns/net` lives and dies with PID.
pub(super) fn observe(key: &InstanceKey) -> Observation {
    let name = key.name().as_str();
    let path = if name.starts_with('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
    let run = match process_of(name) {
        Some(pid) => Run::of_process(pid).map(|run| run.in_namespace(&path)),
        None => Run::of_namespace(&path),
    };
    Observation::of(match run {
        Ok(run) => Status::Up(run),
        Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => Status::Absent,
        Err(failure) if failure.raw_os_error() == Some(libc::ESRCH) => Status::Absent,
        Err(failure) if is_shortage(&failure) => short(&failure),
        Err(failure) => Status::Unsupported(format!("cannot use {}: {failure}", path.display())),
    })
}

fn process_of(name: &str) -> Option<i32> {
    name.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}
