//! Which process of ours gives up what, in one order for all of them.
//!
//! [`enter`] takes everything but the system calls, [`Entered::seal`] those and the right to start anything. Between the
//! two a process may start its last threads.

use std::io;

use rustix::process::Resource;
use rustix::thread::CapabilitySet;

use super::landlock::{Calls, landlock};
use super::limits::forbid;
use super::seccomp::{self, Allowed};
use super::{drop_ids, limit_caps, no_new_privs, private_root, undumpable};
use crate::process::program::Ids;

/// A process that is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A relay worker.
    Worker,
    /// What speaks SSH, one for each connection.
    Session,
    /// What speaks TLS with a server elsewhere, for the gateway.
    Tunnel,
    /// What holds duplicates of listeners.
    Keeper,
    /// The TCP stack of a mesh network that is no kernel's.
    Stack,
    /// What makes sockets in the namespace of a mesh network. It is root there, in a user namespace that has nothing
    /// else.
    Inside,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 6] =
        [Role::Worker, Role::Session, Role::Tunnel, Role::Keeper, Role::Stack, Role::Inside];

    /// One word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Role::Worker => "worker",
            Role::Session => "session",
            Role::Tunnel => "tunnel",
            Role::Keeper => "keeper",
            Role::Stack => "stack",
            Role::Inside => "inside",
        }
    }

    /// The system calls it may make.
    pub fn calls(self) -> impl Iterator<Item = &'static Allowed> {
        seccomp::calls_of(self)
    }
}

/// Raw sockets for echoes and ports below 1024, of a namespace that it has made itself.
pub(super) fn keeps(role: Role) -> CapabilitySet {
    match role {
        Role::Inside => CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE,
        _ => CapabilitySet::empty(),
    }
}

pub(super) fn dials(role: Role) -> Calls {
    match role {
        Role::Worker => Calls::Out,
        Role::Inside => Calls::Inside,
        _ => Calls::Nobody,
    }
}

/// What becomes of the files of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {
    /// They go, or there is no process.
    Gone,
    /// They go where that is permitted.
    GoneIfPermitted,
    /// They stay as they are, for who could not hide them anyway.
    Left,
}

/// A part of the sandbox that the kernel has refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct Refused {
    /// Which part.
    pub step: &'static str,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

fn step(step: &'static str) -> impl Fn(io::Error) -> Refused {
    move |source| Refused { step, source }
}

/// Everything is given up but system calls.
#[must_use = "it is not confined before it is sealed"]
#[derive(Debug)]
pub struct Entered(Role);

/// Gives up, for good and on the only thread: the file system, every other id than `ids` (all groups but theirs
/// too), capabilities, ways to gain any, being looked into, core dumps and locked memory, and by Landlock files, ports
/// and other processes. `None`: it has its ids already.
///
/// # Errors
/// [`Refused`]. That there is no Landlock is no error.
pub fn enter(role: Role, ids: Option<Ids<'_>>, files: Files) -> Result<Entered, Refused> {
    if files != Files::Left
        && let Err(source) = private_root()
        && files == Files::Gone
    {
        return Err(Refused { step: "hide the file system", source });
    }
    if let Some(ids) = ids {
        drop_ids(ids.uid, ids.gid, ids.groups).map_err(step("become the user it runs as"))?;
    }
    limit_caps(keeps(role)).map_err(step("drop capabilities"))?;
    no_new_privs().map_err(step("forbid new privileges"))?;
    undumpable().map_err(step("forbid tracing"))?;
    forbid(Resource::Core).map_err(step("forbid core dumps"))?;
    // Keys of a session are kept out of swap.
    if role != Role::Session {
        forbid(Resource::Memlock).map_err(step("forbid locked memory"))?;
    }
    match landlock(dials(role)) {
        // A kernel without it: the ids and the private root stand alone.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
        other => other.map_err(step("leave the other processes of its user"))?,
    }
    Ok(Entered(role))
}

impl Entered {
    /// Gives up every system call that is not in [`Role::calls`], in all threads and for good: another one ends the
    /// process. No thread and no process is started any more.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn seal(self) -> Result<(), Refused> {
        forbid(Resource::Nproc).map_err(step("forbid new processes"))?;
        seccomp::confine(self.0).map_err(step("limit system calls"))
    }
}
