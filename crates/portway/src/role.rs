//! Hidden roles: the program run again by itself, as a worker, the keeper or a part of the demo.
//!
//! They are chosen by the first argument, before anything else is looked at and before any thread is started.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use crate::{demo, doctor, mesh};

/// First process in the demo's namespaces.
pub(crate) const DEMO_INSIDE: &str = "demo-inside";

/// Process that holds the network namespace of the demo's instance.
pub(crate) const DEMO_INSTANCE: &str = "demo-instance";

/// A network that the daemon runs.
pub(crate) const NETWORK: &str = "mesh-network";

/// Tries to make a user namespace.
pub(crate) const PROBE_USERNS: &str = "probe-userns";

/// Runs a role. `None`: `arguments` are none of them.
pub(crate) fn run(arguments: &[String]) -> Option<ExitCode> {
    let (role, rest) = arguments.split_first()?;
    match role.as_str() {
        "worker" => Some(portway_relay::worker::run()),
        "ssh" if portway_sshgw::session::is_role(arguments) => Some(portway_sshgw::session::run()),
        "ssh" if portway_sshgw::tunnel::is_role(arguments) => Some(portway_sshgw::tunnel::run()),
        portway_mesh::engine::ROLE => Some(portway_mesh::engine::run()),
        NETWORK => Some(mesh::network(rest)),
        "keeper" => Some(portway_relay::keeper::run(rest)),
        DEMO_INSIDE => Some(demo::inside(rest)),
        DEMO_INSTANCE => Some(demo::instance()),
        PROBE_USERNS => Some(doctor::try_userns()),
        _ => None,
    }
}

/// This program, to be run again: the one that runs, whatever has become of its file.
pub(crate) fn ourselves() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("portway");
    command
}
