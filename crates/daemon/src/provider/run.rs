//! One run of an instance: the process or the namespace it lives with, and what is opened of it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use portway_model::DeviceSpec;
use portway_sys::{netns, pidfd, unix_path, userns::IdMap};
use tokio::sync::Semaphore;

use super::{is_shortage, machine};
use crate::instance::plan::RunId;

/// Clock ticks in a second as `/proc` counts them: `USER_HZ`, 100 on every Linux architecture we
/// build for (proc_pid_stat(5)).
const TICKS_PER_SECOND: u64 = 100;

/// What stands between the process and the addresses in the id of a virtual machine's run.
const AT: char = '@';

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
    /// A virtual machine: no namespace of its own, reached at these addresses from the host's.
    Machine(Vec<IpAddr>),
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

    /// The run of the virtual machine whose emulator is `pid`, reached at `addresses`. Another address
    /// makes another run: what was open to the old one may lead to somebody else.
    pub(super) fn of_machine(pid: i32, addresses: Vec<IpAddr>) -> std::io::Result<Run> {
        let run = Run::of_process(pid)?;
        let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let id = RunId(format!("{}{AT}{}", run.id.0, texts.join(",")));
        Ok(Run { id, place: Place::Machine(addresses), ids: None, ..run })
    }

    /// The run whose id is `text`, of an instance with a process, if it is still on.
    pub(crate) fn of_id(text: &str) -> Option<Run> {
        let pid = text.split_once(':').and_then(|(pid, _)| pid.parse().ok())?;
        let run = match text.split_once(AT) {
            Some((_, addresses)) => {
                let addresses: Result<_, _> = addresses.split(',').map(str::parse).collect();
                Run::of_machine(pid, addresses.ok()?)
            }
            None => Run::of_process(pid),
        };
        run.ok().filter(|run| run.id.0 == text)
    }

    pub(super) fn of_namespace(path: &Path) -> std::io::Result<Run> {
        let descriptor = netns::open_path(path)?;
        let id = namespace_id(&descriptor)?;
        let place = Place::Namespace(path.to_path_buf());
        Ok(Run { id, place, init: None, ids: None, threads: Threads::new() })
    }

    /// The same run, whose network namespace is found at `path` and whose files are the host's.
    pub(super) fn in_namespace(self, path: &Path) -> Run {
        Run { place: Place::Namespace(path.to_path_buf()), ids: None, ..self }
    }

    /// Whether it is a virtual machine: it is dialled from the host's namespace.
    pub(crate) fn is_machine(&self) -> bool {
        matches!(self.place, Place::Machine(_))
    }

    /// The device as its worker is to have it: with a virtual machine, `connect` is one of the
    /// addresses the server has assigned to it.
    ///
    /// # Errors
    /// One line: why this instance cannot have the device.
    pub(crate) fn dialled<'a>(&self, spec: &'a DeviceSpec) -> Result<Cow<'a, DeviceSpec>, String> {
        match &self.place {
            Place::Machine(addresses) => machine::dialled(spec, addresses).map(Cow::Owned),
            Place::Process | Place::Namespace(_) => Ok(Cow::Borrowed(spec)),
        }
    }

    /// Whether this run is still on.
    pub(crate) fn alive(&self) -> bool {
        match (&self.init, &self.place) {
            (Some(init), _) => !pidfd::exited(init.pidfd.as_fd()),
            (None, Place::Namespace(path)) => match Run::of_namespace(path) {
                Ok(run) => run.id == self.id,
                // It was there when it could be looked at last.
                Err(failure) => is_shortage(&failure),
            },
            (None, Place::Process | Place::Machine(_)) => false,
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
            (init, Place::Namespace(path)) => {
                let descriptor = netns::open_path(path)?;
                if init.is_none() && namespace_id(&descriptor)? != self.id {
                    return Err(std::io::ErrorKind::NotFound.into());
                }
                descriptor
            }
            (Some(init), Place::Process) => netns::open_pid(init.pid)?,
            (None, Place::Process) | (_, Place::Machine(_)) => {
                return Err(std::io::ErrorKind::NotFound.into());
            }
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
            (_, Place::Machine(_)) => return Err(std::io::ErrorKind::NotFound.into()),
            (None, Place::Process) | (_, Place::Namespace(_)) => unix_path::host_root()?,
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

/// What tells a namespace without a process from others.
fn namespace_id(namespace: &OwnedFd) -> std::io::Result<RunId> {
    let id = netns::id(namespace.as_fd())?;
    Ok(RunId(format!("{}:{}", id.dev, id.ino)))
}
