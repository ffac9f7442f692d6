//! The questions.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::{Events, Instance, Result, Server, State, Summary, discover};

/// What bounds every exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From connect to the last byte of the answer; for events, to the end of the handshake.
    pub request: Duration,
    /// Length of an answer.
    pub answer_bytes: usize,
    /// Length of the list of all instances (about 2.5 kB each).
    pub list_bytes: usize,
    /// Length of one event.
    pub event_bytes: usize,
    /// An event stream that says nothing for this long is asked for a sign of life, and given
    /// up after as long again.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(10),
            answer_bytes: 16 << 20,
            list_bytes: 64 << 20,
            event_bytes: 1 << 20,
            silence: Duration::from_secs(30),
        }
    }
}

/// A server's address and our limits. Cheap to clone; every call makes its own connection.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    limits: Limits,
}

impl Client {
    /// A client of the server at `socket`.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        Self::with_limits(socket, Limits::default())
    }

    /// The same with limits of one's own.
    #[must_use]
    pub fn with_limits(socket: PathBuf, limits: Limits) -> Self {
        Self { socket, limits }
    }

    /// The Incus socket: `INCUS_SOCKET`, else `unix.socket` in `INCUS_DIR`, else the default
    /// place where one exists. What the environment names is taken unseen, so that a wrong value
    /// is an error about that value and not a silent use of another server. `env` looks up a
    /// variable; an empty value counts as unset.
    pub fn discover(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        discover::discover(env)
    }

    /// The same for LXD: `LXD_SOCKET`, `LXD_DIR`, the default places.
    pub fn discover_lxd(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
        discover::discover_lxd(env)
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The server itself.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn server(&self) -> Result<Server> {
        todo!()
    }

    /// One instance; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn instance(&self, project: &str, name: &str) -> Result<Option<Instance>> {
        todo!()
    }

    /// Its run-time state, with init's pid; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn state(&self, project: &str, name: &str) -> Result<Option<State>> {
        todo!()
    }

    /// The instance with this UUID, whatever its name and project are.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn instance_by_uuid(&self, uuid: &str) -> Result<Option<Instance>> {
        todo!()
    }

    /// All instances of all projects this connection may see.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn instances(&self) -> Result<Vec<Summary>> {
        todo!()
    }

    /// Lifecycle events of instances, all projects, from this moment on.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn events(&self) -> Result<Events> {
        todo!()
    }
}
