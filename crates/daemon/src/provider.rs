//! What instances are and whether they run: Incus and LXD by their API, network namespaces and
//! processes by the kernel.
//!
//! "Unreachable" is never "absent": a server that does not answer changes nothing.

mod endpoint;
mod machine;
mod namespace;
mod process;
mod run;
mod server;

use std::net::IpAddr;
use std::sync::Arc;

use portway_incus::Assigned;
use portway_model::{InstanceKey, Provider};

pub(crate) use endpoint::Endpoint;
pub(crate) use machine::permits as machine_permits;
pub(crate) use run::Run;
pub(crate) use server::no_socket;

/// What was found about an instance.
#[derive(Debug, Clone)]
pub(crate) struct Observation {
    /// What tells it from others of its name: its UUID, or which process it is. `None` where the
    /// provider has nothing of the sort.
    pub(crate) uuid: Option<String>,
    /// It is a virtual machine, running or not.
    pub(crate) is_machine: bool,
    /// Its status.
    pub(crate) status: Status,
    /// Its interfaces in the server's networks, with the addresses the server has assigned; `None` where
    /// that was not asked.
    pub(crate) nics: Option<Vec<Assigned>>,
}

impl Observation {
    /// What is found where nothing but the status is known.
    pub(crate) fn of(status: Status) -> Observation {
        Observation { uuid: None, is_machine: false, status, nics: None }
    }
}

/// What is known already, and what is to be asked.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Question<'a> {
    /// The run that is known: one whose init lives needs no question for its pid.
    pub(crate) run: Option<&'a Run>,
    /// UUID of the instance whose run that is, where it is known. A server that is replaced by another may have another
    /// instance of that name, while the former's init lives on.
    pub(crate) uuid: Option<&'a str>,
    /// Whether the addresses matter that the server has assigned.
    pub(crate) nics: bool,
    /// Those it had assigned when it was asked last.
    pub(crate) assigned: &'a [IpAddr],
}

/// Whether an instance can be served.
#[derive(Debug, Clone)]
pub(crate) enum Status {
    /// The server does not answer: nothing is known.
    Unreachable(String),
    /// There is no such instance.
    Absent,
    /// It exists and does not run; the server's word for its state.
    Down(String),
    /// It runs on another member of the cluster.
    Elsewhere(String),
    /// It runs and lacks something that comes without an event; what.
    Unready(String),
    /// It cannot be served from here; why.
    Unsupported(String),
    /// It runs.
    Up(Run),
}

/// The providers of this daemon.
#[derive(Debug, Clone)]
pub(crate) struct Providers {
    /// Incus.
    pub(crate) incus: Arc<Endpoint>,
    /// LXD.
    pub(crate) lxd: Arc<Endpoint>,
}

impl Providers {
    /// The server behind a provider, if it has one.
    pub(crate) fn endpoint(&self, provider: Provider) -> Option<&Arc<Endpoint>> {
        match provider {
            Provider::Incus => Some(&self.incus),
            Provider::Lxd => Some(&self.lxd),
            Provider::Netns | Provider::Pid => None,
        }
    }

    /// Whether an instance's coming back is told by the provider, so that there is no need to ask.
    pub(crate) fn tells(&self, provider: Provider) -> bool {
        self.endpoint(provider).is_some_and(|endpoint| endpoint.tells())
    }

    /// What there is to know about an instance at this moment.
    pub(crate) async fn observe(&self, key: &InstanceKey, question: Question<'_>) -> Observation {
        match (key.provider(), self.endpoint(key.provider())) {
            (_, Some(endpoint)) => server::observe(endpoint, key, question).await,
            (Provider::Pid, None) => process::observe(key),
            (Provider::Netns | Provider::Incus | Provider::Lxd, None) => namespace::observe(key),
        }
    }
}

/// Whether a look has failed because descriptors or memory are short here: it says nothing about the instance.
fn is_shortage(failure: &std::io::Error) -> bool {
    let short = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS];
    failure.raw_os_error().is_some_and(|errno| short.contains(&errno))
}

/// What such a look has found: nothing.
fn short(failure: &std::io::Error) -> Status {
    Status::Unreachable(format!("it could not be looked at: {failure}"))
}
