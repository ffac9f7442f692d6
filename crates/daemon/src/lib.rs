//! The daemon: privileges, supervision, control server, reconcile, drain. And the same engine for
//! one device in the foreground, without state and without a keeper.
//!
//! It relays no byte itself. What it holds is rebuilt at every start from the state file, from the
//! workers that go on without it, and from the keeper.

mod access;
mod apply;
mod aside;
mod companion;
mod connections;
mod control;
mod foreground;
mod forwards;
#[doc(hidden)]
pub mod fuzz;
mod health;
mod http;
mod hub;
mod instance;
mod keeper;
mod known;
mod listeners;
mod logging;
mod loops;
mod metrics;
mod moves;
mod nat;
mod networks;
mod owner;
mod provider;
mod rivals;
mod serve;
mod setup;
mod state;
mod tally;
mod watched;
mod worker;

pub use companion::Companion;
pub use networks::{Judged, NetworkRole};
use portway_config::{Paths, Settings};
use portway_control::api::{self, Failure};
use portway_model::{DeviceSpec, InstanceKey};

/// What the daemon is to do.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    /// Files and sockets.
    pub paths: Paths,
    /// Settings, read from `paths.config`; read again at SIGHUP.
    pub settings: Settings,
    /// Serve, or end what a daemon left behind.
    pub action: DaemonAction,
    /// What runs beside it.
    pub companion: Companion,
    /// How networks of `[mesh.NAME]` are judged and started.
    pub networks: NetworkRole,
}

/// What `portway daemon` is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DaemonAction {
    /// Serve until SIGTERM.
    Serve,
    /// End every worker and the keeper, and exit.
    Purge,
}

/// One device in the foreground.
#[derive(Debug, Clone)]
pub struct ForegroundOptions {
    /// Instance; `None`: both sides are the host.
    pub instance: Option<InstanceKey>,
    /// The device.
    pub spec: DeviceSpec,
    /// Settings: whom workers run as, where Incus is.
    pub settings: Settings,
}

/// Runs the daemon until SIGTERM, SIGINT or, with [`DaemonAction::Purge`], until everything an
/// earlier one left is ended. Call it before any thread is started.
///
/// # Errors
/// Why it cannot start: another daemon runs, a folder cannot be used, a socket is taken.
pub fn run(options: DaemonOptions) -> Result<(), Failure> {
    serve::run(&options)
}

/// What there is to say about a device in the foreground.
#[derive(Debug, Clone, Copy)]
pub enum Notice<'a> {
    /// It was added, or its state has changed.
    State(&'a api::Device),
    /// It could not serve; at most every ten seconds.
    Failures {
        /// Clients whose service could not be called, since the last time.
        dials: u64,
        /// The last failure, one line.
        last: &'a str,
    },
}

/// Runs one device until SIGTERM or SIGINT, then lets its connections finish. `report` is told of it.
///
/// # Errors
/// Why the device cannot be served; nothing is left behind then.
pub fn foreground(options: ForegroundOptions, report: impl FnMut(Notice<'_>)) -> Result<(), Failure> {
    foreground::run(options, report)
}
