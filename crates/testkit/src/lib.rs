//! For developers: real servers, namespaces, daemons, load and check programs. No part of the
//! product, and built on nothing of it, so that a fault there cannot hide here.

mod api;
mod bed;
pub mod check;
mod clients;
mod container;
pub mod corpus;
mod daemon;
pub mod faults;
pub mod fds;
mod front;
mod hall;
mod lacking;
mod load;
mod messages;
mod netns;
mod oci;
pub mod packets;
mod patience;
mod pattern;
mod ports;
pub mod process;
mod require;
mod rig;
pub mod segments;
mod service;
mod site;
mod stream;
mod talk;
pub mod testbed;
mod tidy;
pub mod udp;
mod watch;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

pub use api::{Answer, Api, Incus};
pub use bed::{Bed, HTTPS_ADDRESS, Project, Trusted, bed, bed_of, certificate};
pub use clients::client;
pub use container::{Container, ContainerSpec, Image};
pub use daemon::{Daemon, DaemonSpec};
pub use front::{Deed, Front, Gate, Manner, Script, Verdict};
pub use hall::Hall;
pub use lacking::without;
pub use load::{Load, Outcome, Pace, Record, Report, RunningLoad};
pub use messages::MessageSocket;
pub use netns::Netns;
pub use oci::{OciImage, Registry};
pub use patience::wait_for;
pub use pattern::Pattern;
pub use ports::Ports;
pub use require::{is_root, require};
pub use rig::Rig;
pub use service::{Behaviour, Service};
pub use site::Site;
pub use stream::{Addr, Listener, Stream};
pub use talk::{Ending, Spoken, Talk};
pub use testbed::Server;
pub use tidy::Belongings;
pub use watch::{Canary, Watch};

/// Runs each of the functions, which take a [`Server`], as a test on each of the servers.
#[macro_export]
macro_rules! on_every_server {
    ($($case:ident),* $(,)?) => {
        mod incus6 { $(#[test] fn $case() { super::$case($crate::Server::Incus6); })* }
        mod incus7 { $(#[test] fn $case() { super::$case($crate::Server::Incus7); })* }
        mod lxd { $(#[test] fn $case() { super::$case($crate::Server::Lxd); })* }
    };
}

/// Runs a command to its end and returns its standard output; a failure carries what it wrote to
/// standard error.
///
/// # Errors
/// When it cannot be started, or does not exit with 0.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = || {
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    };
    let shown = shown();
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{shown}` failed with {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
