//! A network that runs: the tunnel, its engine, and its rules, as one ordinary user's process with two helpers.
//!
//! - The relay worker ([`portway_relay`]) accepts and carries: it is what proxy devices use. Its listeners are made here
//!   (egress) or on the inside (ingress), and for each connection it asks for the other end, or calls it where nothing is
//!   to be chosen.
//! - Those ends are dialled here: a rule is chosen ([`balance`]), its destination looked up and connected to, on the
//!   host or through the tunnel (`dial`); the next rule is tried when that fails.
//! - The stack's process makes the sockets of the inside.
//!
//! A worker that ends is replaced: listeners stay, its connections are lost. Without its stack the network is nothing:
//! then this ends too, and says so.

pub mod balance;
mod change;
mod confine;
mod control;
mod cut;
mod dial;
mod discover;
mod endpoints;
mod enter;
mod events;
mod flows;
mod gates;
mod given;
mod home;
mod link;
mod names;
mod org;
mod outside;
mod ping;
mod ports;
mod room;
mod serve;
mod shares;
mod start;
mod status;
mod table;

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use portway_config::LogFilter;
use portway_model::RuleListen;
use thiserror::Error;
use tracing_subscriber::EnvFilter;

use crate::engine::{EngineError, Way};
use crate::org::OrgName;
use crate::org::membership::MembershipError;
use crate::spec::{Place, Spec, SpecError};
use crate::tunnel::TunnelError;
use balance::Policy;

pub use confine::Confine;
pub use enter::{Entered, enter, rehearse, run};
pub use home::{Home, HomeError};
pub(crate) use names::probe as probe_names;
pub use org::Joined;

/// How the engine is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineChoice {
    /// The kernel's where a user namespace is allowed, else smoltcp.
    #[default]
    Auto,
    /// The kernel's TCP in a namespace of its own, or none.
    Kernel,
    /// TCP in a process of our own.
    Smoltcp,
}

/// What is to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// What it is called, and where its files are.
    pub home: Home,
    /// The network and its rules.
    pub spec: Spec,
    /// The organization that the network is, if it is one.
    pub joined: Option<Joined>,
    /// Its engine.
    pub engine: EngineChoice,
    /// How rules of one port share connections.
    pub policy: Policy,
    /// How long connections may go on after it was told to end.
    pub drain: Duration,
    /// Where what happens to its tunnel is written, if anywhere. It is emptied when nobody else has the name.
    pub trace: Option<Arc<File>>,
    /// Whom it becomes before it hears anything from outside; `None`: it stays who it is.
    pub confine: Option<Confine>,
}

impl Options {
    /// What the node is known by to whatever is kept for it: its public key, or the organization, in which it may be given
    /// another one.
    #[must_use]
    pub fn identity(&self) -> String {
        match &self.joined {
            Some(joined) => format!("organization {}", joined.org),
            None => self.spec.network.private_key.public().to_string(),
        }
    }
}

/// It runs: every port is open, and the tunnel is ready for its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// Where TCP and UDP live.
    pub engine: &'static str,
    /// What the engine's packets go through.
    pub way: Way,
    /// Why it is not the kernel's, when that was tried.
    pub why: Option<String>,
    /// Where peers send to.
    pub udp: SocketAddr,
    /// How many rules there are.
    pub rules: usize,
    /// How many proxies, whose clients say where they want to go.
    pub proxies: usize,
}

/// What is told while it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Once.
    Ready(Ready),
    /// Something went wrong and was mended, or is tried again.
    Trouble(String),
}

/// Why it does not run, or not any more.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The network or its rules cannot be used here.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its files cannot be used.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The privilege that it was started with cannot be given up.
    #[error("cannot give up what it was started with")]
    Confine(#[source] io::Error),
    /// A port cannot be had.
    #[error("{place}: cannot listen on {listen} {side}")]
    Listen {
        /// Where its rule stands.
        place: Place,
        /// Which.
        listen: RuleListen,
        /// On the host, or in the network.
        side: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The port that peers send to cannot be had.
    #[error("cannot listen on UDP port {port} for peers")]
    Outer {
        /// Which; 0: any.
        port: u16,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The tunnel did not start.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// The relay worker did not start.
    #[error("cannot start the relay worker")]
    Worker(#[source] io::Error),
    /// The organization cannot be followed.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// This device is no member any more.
    #[error("this device was revoked in organization {0}")]
    Revoked(OrgName),
    /// A process that everything depends on is gone.
    #[error("{0} has ended")]
    Gone(&'static str),
    /// The runtime, a signal handler or the like.
    #[error("cannot {step}")]
    System {
        /// What.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Logs what `filter` lets through, on standard error. The first call of a process counts.
pub fn log(filter: &LogFilter) {
    let filter = EnvFilter::new(filter.as_str());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(io::stderr().is_terminal());
    // To be told of a line that cannot be written, as on a full disk, would end the thread: eprintln! panics.
    let builder = builder.log_internal_errors(false);
    let _second = builder.with_writer(io::stderr).try_init();
}

impl ProxyError {
    /// Whether no user namespace could be made, which an administrator may have forbidden.
    #[must_use]
    pub fn is_no_namespace(&self) -> bool {
        matches!(self, ProxyError::Engine(EngineError::SetUp { step, .. }) if step == "namespaces")
    }
}
