//! From a fresh process to a confined one that serves.
//!
//! Everything that needs privilege or a path is done first; then the process gives up, in this order, its root, its
//! ids, its capabilities, the way back to any of them, and every system call the engine does not make.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use portway_sys::sandbox::{Files, Role};
use portway_sys::seqpacket::Channel;
use portway_sys::{netns, process, resident, sandbox};

use super::engine::{Engine, Parts};
use crate::wire::{FromWorker, Ids, Init, PROTOCOL_VERSION, Sandbox, ToWorker};

/// Why a worker ends before its time.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// It was not started by a daemon.
    #[error("a worker is started by the daemon only")]
    NotStarted(#[source] io::Error),
    /// The first message did not come, or is another one.
    #[error("no init message: {0}")]
    Init(String),
    /// The daemon speaks another version.
    #[error("the daemon speaks protocol version {0}, not {PROTOCOL_VERSION}")]
    Version(u32),
    /// The network namespace cannot be entered.
    #[error("cannot enter the network namespace")]
    Namespace(#[source] io::Error),
    /// Memory or descriptors are short.
    #[error("cannot set up the engine")]
    Engine(#[source] io::Error),
    /// A part of the sandbox was refused.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Refused),
    /// The event queue failed.
    #[error("the event queue failed")]
    Poll(#[source] io::Error),
}

/// What of its surroundings the worker may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// It is the only thread of its process: it gives up everything it does not need.
    Process,
    /// It is one thread of a program that does other things, as in tests: it enters the namespace, nothing
    /// else.
    Thread,
}

/// Receives [`Init`], confines the caller, serves until told to end, until the instance dies, or until
/// everything is drained.
///
/// # Errors
/// Any [`WorkerError`]; the daemon is told, too.
pub fn serve(
    channel: Channel,
    adoption: Option<OwnedFd>,
    confinement: Confinement,
) -> Result<(), WorkerError> {
    let (init, fds) = receive_init(&channel)?;
    let voice = channel.as_fd().try_clone_to_owned().map_err(WorkerError::Engine)?;
    match set_up(channel, adoption, init, fds, confinement) {
        Ok(mut engine) => {
            drop(voice);
            if confinement == Confinement::Process {
                resident::shed();
            }
            engine.say_ready();
            engine.run().map_err(WorkerError::Poll)
        }
        Err(error) => {
            if let Ok(voice) = Channel::from_fd(voice) {
                tell(&voice, &FromWorker::Done { seq: 0, error: Some(chain(&error)) });
            }
            Err(error)
        }
    }
}

fn set_up(
    channel: Channel,
    adoption: Option<OwnedFd>,
    init: Init,
    fds: Vec<OwnedFd>,
    confinement: Confinement,
) -> Result<Engine, WorkerError> {
    let (namespace, pidfd) = sort(&init, fds)?;
    if let Some(namespace) = namespace {
        netns::enter(namespace.as_fd()).map_err(WorkerError::Namespace)?;
    }
    let nofile = process::raise_nofile();
    let (ids, insists) = (init.ids, init.sandbox == Sandbox::Full);
    let mut engine =
        Engine::new(Parts { channel, adoption, pidfd, init, nofile }).map_err(WorkerError::Engine)?;
    if confinement == Confinement::Process {
        process::set_name("portway-relay");
        let files = if insists { Files::Gone } else { Files::GoneIfPermitted };
        let ids = ids.as_ref().map(Ids::of_process);
        let entered = sandbox::enter(Role::Worker, ids, files)?;
        // It has given up what this one has; the filter is for all threads, and permits no new one.
        engine.start_haul();
        entered.seal()?;
    } else {
        engine.start_haul();
    }
    Ok(engine)
}

fn receive_init(channel: &Channel) -> Result<(Init, Vec<OwnedFd>), WorkerError> {
    let fail = |text: &str| WorkerError::Init(text.to_owned());
    let mut packet = Vec::new();
    let fds = channel
        .recv(&mut packet)
        .map_err(|error| fail(&error.to_string()))?
        .ok_or_else(|| fail("the daemon has gone"))?;
    // The version first: another one may have another shape.
    let version = serde_json::from_slice::<Versioned>(&packet).map(|init| init.version);
    match (version, serde_json::from_slice(&packet)) {
        (Ok(version), _) if version != PROTOCOL_VERSION => {
            tell(channel, &FromWorker::Version { version: PROTOCOL_VERSION });
            Err(WorkerError::Version(version))
        }
        (_, Ok(ToWorker::Init(init))) => Ok((init, fds)),
        (_, Ok(_)) => Err(fail("another message came first")),
        (_, Err(error)) => Err(fail(&error.to_string())),
    }
}

/// What is the same in the first message of every version.
#[derive(serde::Deserialize)]
struct Versioned {
    version: u32,
}

/// Namespace and pidfd, as the flags of `init` say.
fn sort(init: &Init, fds: Vec<OwnedFd>) -> Result<(Option<OwnedFd>, Option<OwnedFd>), WorkerError> {
    let expected = usize::from(init.has_netns) + usize::from(init.has_pidfd);
    if fds.len() != expected {
        return Err(WorkerError::Init(format!("{} descriptors came, {expected} were announced", fds.len())));
    }
    let mut fds = fds.into_iter();
    let namespace = if init.has_netns { fds.next() } else { None };
    let pidfd = if init.has_pidfd { fds.next() } else { None };
    Ok((namespace, pidfd))
}

fn tell(channel: &Channel, message: &FromWorker) {
    let sent =
        serde_json::to_vec(message).map_err(io::Error::other).and_then(|bytes| channel.send(&bytes, &[]));
    if let Err(error) = sent {
        tracing::debug!(%error, "daemon not told");
    }
}

/// The error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
