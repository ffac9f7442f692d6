//! What instances are and whether they run: Incus by its API, network namespaces by the kernel.
//!
//! "Unreachable" is never "absent": a server that does not answer changes nothing.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use portway_incus::{Client, IncusError, InstanceKind, status_code};
use portway_model::{InstanceKey, Provider};
use portway_sys::{netns, pidfd, unix_path, userns::IdMap};
use tokio::sync::Semaphore;

use crate::instance::plan::RunId;
use crate::state::with_sources;

/// Clock ticks in a second as `/proc` counts them: `USER_HZ`, 100 on every Linux architecture we
/// build for (proc_pid_stat(5)).
const TICKS_PER_SECOND: u64 = 100;

/// What was found about an instance.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    /// Its UUID, where the provider has one.
    pub(crate) uuid: Option<String>,
    /// Its status.
    pub(crate) status: Status,
}

/// Whether an instance can be served.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// The server does not answer: nothing is known.
    Unreachable(String),
    /// There is no such instance.
    Absent,
    /// It exists and does not run; the server's word for its state.
    Down(String),
    /// It cannot be served from here; why.
    Unsupported(String),
    /// It runs.
    Up(Run),
}

/// One run of an instance.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Which run.
    pub(crate) id: RunId,
    /// Where its namespace is found.
    place: Place,
    /// Ends with the run; `None` for a namespace without a process.
    pub(crate) init: Option<Init>,
    /// Id maps of the instance; `None` when its ids are the host's.
    pub(crate) ids: Option<IdMap>,
    /// Threads that may be in its file system.
    pub(crate) threads: Arc<Threads>,
}

/// Bounds the threads that work in an instance's file system. Its root can make it hang for ever (FUSE
/// below an overlay reaches us too), and the threads are shared with all other instances.
#[derive(Debug)]
pub(crate) struct Threads {
    /// For opening and closing: two, since one that hangs must not keep the next from being tried.
    /// Whoever gets none fails at once.
    pub(crate) work: Arc<Semaphore>,
    /// For looking at what is there: one after the other.
    pub(crate) look: Arc<Semaphore>,
}

impl Threads {
    fn new() -> Arc<Threads> {
        Arc::new(Threads { work: Arc::new(Semaphore::new(2)), look: Arc::new(Semaphore::new(1)) })
    }
}

/// The process an instance lives and dies with.
#[derive(Debug, Clone)]
pub(crate) struct Init {
    /// Its pid.
    pub(crate) pid: i32,
    /// Readable when it is dead.
    pub(crate) pidfd: Arc<OwnedFd>,
}

#[derive(Debug, Clone)]
enum Place {
    /// A process: everything below `/proc/PID`.
    Process,
    /// A path to a network namespace. Unix paths are the host's.
    Namespace(PathBuf),
}

impl Run {
    /// The run of the process `pid`, if it lives.
    pub(crate) fn of_process(pid: i32) -> std::io::Result<Run> {
        let descriptor = pidfd::open(pid)?;
        let started = pidfd::start_time(pid)?;
        if pidfd::exited(descriptor.as_fd()) {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        let ids = Some(IdMap::of_pid(pid)?);
        let init = Init { pid, pidfd: Arc::new(descriptor) };
        let id = RunId(format!("{pid}:{started}"));
        Ok(Run { id, place: Place::Process, init: Some(init), ids, threads: Threads::new() })
    }

    fn of_namespace(path: &Path) -> std::io::Result<Run> {
        let descriptor = netns::open_path(path)?;
        let id = netns::id(descriptor.as_fd())?;
        let place = Place::Namespace(path.to_path_buf());
        let id = RunId(format!("{}:{}", id.dev, id.ino));
        Ok(Run { id, place, init: None, ids: None, threads: Threads::new() })
    }

    /// Whether this run is still on.
    pub(crate) fn alive(&self) -> bool {
        match (&self.init, &self.place) {
            (Some(init), _) => !pidfd::exited(init.pidfd.as_fd()),
            (None, Place::Namespace(path)) => Run::of_namespace(path).is_ok_and(|run| run.id == self.id),
            (None, Place::Process) => false,
        }
    }

    /// Whether it has begun to end: its namespaces are taken down before its init is dead.
    pub(crate) fn is_ending(&self) -> bool {
        !self.alive() || self.init.as_ref().is_some_and(|init| pidfd::dying(init.pid))
    }

    /// Opens the network namespace. The caller closes it soon: it keeps the namespace alive.
    ///
    /// # Errors
    /// `NotFound` when the run is over, also when a new process has the same pid.
    pub(crate) fn netns(&self) -> std::io::Result<OwnedFd> {
        let descriptor = match (&self.init, &self.place) {
            (_, Place::Namespace(path)) => netns::open_path(path)?,
            (Some(init), Place::Process) => netns::open_pid(init.pid)?,
            (None, Place::Process) => return Err(std::io::ErrorKind::NotFound.into()),
        };
        // Checked after the open: a pid reused before it cannot have this pidfd alive.
        if self.alive() { Ok(descriptor) } else { Err(std::io::ErrorKind::NotFound.into()) }
    }

    /// Opens the root folder the instance's paths start from (`O_PATH`).
    ///
    /// # Errors
    /// As [`Run::netns`].
    pub(crate) fn root(&self) -> std::io::Result<OwnedFd> {
        let descriptor = match (&self.init, &self.place) {
            (Some(init), Place::Process) => unix_path::open_root(init.pid)?,
            _ => unix_path::host_root()?,
        };
        if self.alive() { Ok(descriptor) } else { Err(std::io::ErrorKind::NotFound.into()) }
    }

    /// Whether its network namespace is that of this process.
    pub(crate) fn shares_our_netns(&self) -> bool {
        let ours = netns::current().and_then(|namespace| netns::id(namespace.as_fd()));
        let theirs = self.netns().and_then(|namespace| netns::id(namespace.as_fd()));
        matches!((ours, theirs), (Ok(ours), Ok(theirs)) if ours == theirs)
    }

    /// Time since the run began; `None` for a namespace without a process.
    pub(crate) fn age(&self) -> Option<Duration> {
        let init = self.init.as_ref()?;
        let ticks = pidfd::start_time(init.pid).ok()?;
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let now = Duration::new(u64::try_from(boot.tv_sec).ok()?, u32::try_from(boot.tv_nsec).ok()?);
        let started = Duration::from_millis(ticks.saturating_mul(1000 / TICKS_PER_SECOND));
        Some(now.saturating_sub(started))
    }
}

/// The providers of this daemon.
#[derive(Debug, Clone, Default)]
pub(crate) struct Providers {
    /// Incus, when its socket is known.
    pub(crate) incus: Option<Client>,
    /// The stream of Incus' events is open: a change is told at once.
    pub(crate) events: Arc<AtomicBool>,
}

impl Providers {
    /// Whether an instance's coming back is told by the provider, so that there is no need to ask.
    pub(crate) fn tells(&self, provider: Provider) -> bool {
        provider == Provider::Incus && self.events.load(Ordering::Relaxed)
    }

    /// What there is to know about an instance at this moment. `present` is the run that is known: one
    /// whose init lives needs no question for its pid.
    pub(crate) async fn observe(&self, key: &InstanceKey, present: Option<&Run>) -> Observation {
        match key.provider() {
            Provider::Incus => self.observe_incus(key, present).await,
            Provider::Netns => observe_namespace(key),
            Provider::Lxd | Provider::Pid => {
                unsupported(format!("provider {} is not in this version", key.provider()))
            }
        }
    }

    async fn observe_incus(&self, key: &InstanceKey, present: Option<&Run>) -> Observation {
        let Some(client) = &self.incus else {
            return Observation {
                uuid: None,
                status: Status::Unreachable("no Incus socket was found".into()),
            };
        };
        let project = key.project().map_or("default", |project| project.as_str());
        match incus_observation(client, project, key.name().as_str(), present).await {
            Ok(observation) => observation,
            Err(failure) => Observation { uuid: None, status: Status::Unreachable(with_sources(&failure)) },
        }
    }
}

async fn incus_observation(
    client: &Client,
    project: &str,
    name: &str,
    present: Option<&Run>,
) -> Result<Observation, IncusError> {
    let Some(instance) = client.instance(project, name).await? else {
        return Ok(Observation { uuid: None, status: Status::Absent });
    };
    let uuid = instance.uuid.clone();
    let status = match instance.kind {
        InstanceKind::Vm => Status::Unsupported("virtual machines are not in this version".into()),
        InstanceKind::Container if runs(instance.status_code) => match present.filter(|run| run.alive()) {
            // The question makes the server enter the instance, which goes wrong when it is ending.
            Some(run) => Status::Up(run.clone()),
            None => incus_run(client, project, name).await?,
        },
        InstanceKind::Container => Status::Down(instance.status.to_lowercase()),
    };
    Ok(Observation { uuid, status })
}

fn runs(code: u16) -> bool {
    matches!(code, status_code::RUNNING | status_code::FROZEN | status_code::STOPPING)
}

async fn incus_run(client: &Client, project: &str, name: &str) -> Result<Status, IncusError> {
    let state = match client.state(project, name).await {
        // It cannot say while the instance starts or stops.
        Err(IncusError::Status { code: 500.., .. }) => {
            return Ok(Status::Down("starting or stopping".into()));
        }
        state => state?,
    };
    let Some(state) = state else { return Ok(Status::Absent) };
    let Some(pid) = state.pid else { return Ok(Status::Down(state.status.to_lowercase())) };
    // The pid may be of a process that is gone, or be in a namespace we do not see: then the
    // instance is starting, stopping or on another machine.
    Ok(match Run::of_process(pid) {
        // Early in its life the process is still in our own namespaces: it must not pass for the instance.
        Ok(run) if run.shares_our_netns() => Status::Down("starting".into()),
        Ok(run) => Status::Up(run),
        Err(failure) if failure.kind() == std::io::ErrorKind::PermissionDenied => {
            Status::Unsupported(format!("cannot look at its init, pid {pid}: {failure}"))
        }
        Err(_) => Status::Down("its init is not on this machine, or just ended".into()),
    })
}

fn unsupported(reason: String) -> Observation {
    Observation { uuid: None, status: Status::Unsupported(reason) }
}

/// A namespace by name (`/run/netns/NAME`) or path. `/proc/PID/ns/net` lives and dies with PID.
fn observe_namespace(key: &InstanceKey) -> Observation {
    let name = key.name().as_str();
    let path = if name.starts_with('/') { PathBuf::from(name) } else { Path::new("/run/netns").join(name) };
    let status = match process_of(name)
        .map_or_else(|| Run::of_namespace(&path), |pid| of_process_namespace(pid, &path))
    {
        Ok(run) => Status::Up(run),
        Err(failure) if failure.kind() == std::io::ErrorKind::NotFound => Status::Absent,
        Err(failure) if failure.raw_os_error() == Some(libc::ESRCH) => Status::Absent,
        Err(failure) => Status::Unsupported(format!("cannot use {}: {failure}", path.display())),
    };
    Observation { uuid: None, status }
}

fn of_process_namespace(pid: i32, path: &Path) -> std::io::Result<Run> {
    let run = Run::of_process(pid)?;
    Ok(Run { place: Place::Namespace(path.to_path_buf()), ids: None, ..run })
}

fn process_of(name: &str) -> Option<i32> {
    name.strip_prefix("/proc/")?.strip_suffix("/ns/net")?.parse().ok()
}
