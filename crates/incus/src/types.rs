//! What the server says, reduced to what we use. Unknown fields are ignored, missing ones of the
//! lesser sort are empty.

use std::collections::BTreeMap;

use serde::Deserialize;

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
    /// Running, and has said so itself.
    pub const READY: u16 = 113;
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
    /// What its programs are built for, in the kernel's words: `x86_64`.
    pub architecture: String,
}

impl Server {
    /// Whether the server has an API extension.
    #[must_use]
    pub fn has(&self, extension: &str) -> bool {
        self.api_extensions.iter().any(|name| name == extension)
    }
}

/// What an instance is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum InstanceKind {
    /// A container, system or application.
    #[serde(rename = "container")]
    Container,
    /// A virtual machine.
    #[serde(rename = "virtual-machine")]
    Vm,
}

impl InstanceKind {
    /// As the API has it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Vm => "virtual-machine",
        }
    }
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
    /// Devices by name, each a map of keys; profiles merged in.
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
    /// `volatile.uuid`: set at creation, kept through restart, rename and move, new after
    /// delete and create. Absent only on servers older than any we know.
    pub uuid: Option<String>,
}

impl Instance {
    /// Whether programs can run in it.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        matches!(self.status_code, status_code::RUNNING | status_code::READY)
    }
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
    /// Processes inside; `None` when that cannot be told, of a virtual machine because its agent does not answer.
    pub process_count: Option<u32>,
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

/// The shapes on the wire.
pub(crate) mod wire {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, de};

    use super::InstanceKind;

    #[derive(Deserialize)]
    pub(crate) struct Server {
        #[serde(default)]
        api_extensions: Vec<String>,
        #[serde(default)]
        auth: String,
        #[serde(default)]
        environment: Environment,
    }

    #[derive(Deserialize, Default)]
    struct Environment {
        #[serde(default)]
        server: String,
        #[serde(default)]
        server_version: String,
        #[serde(default)]
        server_clustered: bool,
        #[serde(default)]
        server_name: String,
        #[serde(default)]
        kernel_architecture: String,
    }

    #[derive(Deserialize)]
    pub(crate) struct Instance {
        name: String,
        project: String,
        #[serde(rename = "type")]
        kind: InstanceKind,
        status: String,
        status_code: u16,
        #[serde(default)]
        location: String,
        expanded_config: BTreeMap<String, String>,
        #[serde(default)]
        expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
    }

    /// What an instance is built for.
    #[derive(Deserialize)]
    pub(crate) struct Built {
        #[serde(default)]
        pub(crate) architecture: String,
    }

    #[derive(Deserialize)]
    pub(crate) struct Network {
        #[serde(default, rename = "type")]
        pub(crate) kind: String,
        #[serde(default)]
        pub(crate) config: BTreeMap<String, String>,
    }

    #[derive(Deserialize)]
    pub(crate) struct Lease {
        #[serde(default)]
        pub(crate) hwaddr: String,
        #[serde(default)]
        pub(crate) address: String,
    }

    #[derive(Deserialize)]
    pub(crate) struct State {
        status: String,
        status_code: u16,
        #[serde(deserialize_with = "pid")]
        pid: Option<i32>,
        #[serde(default)]
        processes: i64,
        /// Absent, or null, of one that does not run.
        #[serde(default)]
        pub(crate) network: Option<BTreeMap<String, Interface>>,
    }

    /// A network interface as the instance itself has it.
    #[derive(Deserialize)]
    pub(crate) struct Interface {
        #[serde(default)]
        pub(crate) hwaddr: String,
        #[serde(default)]
        pub(crate) addresses: Option<Vec<InterfaceAddress>>,
    }

    #[derive(Deserialize)]
    pub(crate) struct InterfaceAddress {
        #[serde(default)]
        pub(crate) address: String,
    }

    /// An instance with its state, of the list of all.
    #[derive(Deserialize)]
    pub(crate) struct Full {
        pub(crate) name: String,
        pub(crate) project: String,
        #[serde(default)]
        pub(crate) expanded_devices: BTreeMap<String, BTreeMap<String, String>>,
        #[serde(default)]
        pub(crate) state: Option<FullState>,
    }

    #[derive(Deserialize)]
    pub(crate) struct FullState {
        #[serde(default)]
        pub(crate) network: Option<BTreeMap<String, Interface>>,
    }

    #[derive(Deserialize)]
    pub(crate) struct Summary {
        name: String,
        project: String,
        #[serde(rename = "type")]
        kind: InstanceKind,
        status: String,
        status_code: u16,
        config: Uuid,
    }

    #[derive(Deserialize)]
    struct Uuid {
        #[serde(rename = "volatile.uuid")]
        uuid: Option<String>,
    }

    /// 0 and -1 both mean "none".
    fn pid<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
        let pid = i64::deserialize(from)?;
        let pid = i32::try_from(pid).map_err(|_| de::Error::custom("pid out of range"))?;
        Ok(Some(pid).filter(|pid| *pid > 0))
    }

    impl From<Server> for super::Server {
        fn from(from: Server) -> Self {
            Self {
                version: from.environment.server_version,
                product: from.environment.server,
                api_extensions: from.api_extensions,
                auth: from.auth,
                clustered: from.environment.server_clustered,
                server_name: from.environment.server_name,
                architecture: from.environment.kernel_architecture,
            }
        }
    }

    impl From<Instance> for super::Instance {
        fn from(from: Instance) -> Self {
            Self {
                uuid: from.expanded_config.get("volatile.uuid").cloned(),
                name: from.name,
                project: from.project,
                kind: from.kind,
                status: from.status,
                status_code: from.status_code,
                location: from.location,
                config: from.expanded_config,
                devices: from.expanded_devices,
            }
        }
    }

    impl From<State> for super::State {
        fn from(from: State) -> Self {
            let process_count = u32::try_from(from.processes).ok().filter(|count| *count > 0);
            Self { status: from.status, status_code: from.status_code, pid: from.pid, process_count }
        }
    }

    impl From<Summary> for super::Summary {
        fn from(from: Summary) -> Self {
            Self {
                project: from.project,
                name: from.name,
                kind: from.kind,
                status: from.status,
                status_code: from.status_code,
                uuid: from.config.uuid,
            }
        }
    }
}
