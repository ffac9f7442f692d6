//! What the server says, reduced to what we use. Unknown fields are ignored, missing ones of the
//! lesser sort are empty.

use std::collections::BTreeMap;

/// Numbers of the API's instance states.
///
/// Source: the table of status codes in the Incus REST API documentation.
pub mod status_code {
    /// Stopped.
    pub const STOPPED: u16 = 102;
    /// Running.
    pub const RUNNING: u16 = 103;
    /// Starting.
    pub const STARTING: u16 = 106;
    /// Stopping.
    pub const STOPPING: u16 = 107;
    /// Paused: its processes exist and do not run.
    pub const FROZEN: u16 = 110;
    /// In error: the server cannot tell, for instance because its monitor is gone.
    pub const ERROR: u16 = 112;
}

/// The server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    /// `6.0.4`.
    pub version: String,
    /// What the program calls itself: `incus` or `lxd`.
    pub product: String,
    /// API extensions, in the order of their age.
    pub api_extensions: Vec<String>,
    /// `trusted`, or `untrusted` when this connection may read next to nothing.
    pub auth: String,
    /// Whether it is a member of a cluster.
    pub clustered: bool,
    /// Its name: in a cluster what `location` of an instance is compared with.
    pub server_name: String,
}

impl Server {
    /// Whether the server has an API extension.
    #[must_use]
    pub fn has(&self, extension: &str) -> bool {
        self.api_extensions.iter().any(|name| name == extension)
    }
}

/// What an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstanceKind {
    /// A container, system or application.
    Container,
    /// A virtual machine.
    Vm,
}

/// An instance, without its run-time state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Name.
    pub name: String,
    /// Project.
    pub project: String,
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// State in the server's words: `Running`.
    pub status: String,
    /// State, one of [`status_code`].
    pub status_code: u16,
    /// Cluster member it is on; `none` without a cluster.
    pub location: String,
    /// Configuration, profiles merged in.
    pub config: BTreeMap<String, String>,
    /// `volatile.uuid`: set at creation, kept through restart, rename and move, new after
    /// delete and create. Absent only on servers older than any we know.
    pub uuid: Option<String>,
}

/// Run-time state of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// State in the server's words.
    pub status: String,
    /// State, one of [`status_code`].
    pub status_code: u16,
    /// Init's pid as the server's pid namespace numbers it; a virtual machine's is its emulator.
    /// `None` while there is no such process.
    pub pid: Option<i32>,
}

/// One line of the list of instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// State in the server's words.
    pub status: String,
    /// State, one of [`status_code`].
    pub status_code: u16,
    /// See [`Instance::uuid`].
    pub uuid: Option<String>,
}
