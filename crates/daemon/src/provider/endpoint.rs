//! Where a server is, and whether its events come in.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use portway_incus::Client;
use portway_model::Provider;
use tokio::sync::Mutex;

/// A server of instances, there or not.
#[derive(Debug)]
pub(crate) struct Endpoint {
    provider: Provider,
    /// The socket that the settings name.
    configured: Option<PathBuf>,
    /// The stream of events is open: a change is told at once.
    tells: AtomicBool,
    /// Held while a device moves to the server or from it.
    pub(crate) moving: Mutex<()>,
}

impl Endpoint {
    /// The server of `provider`, at the socket the settings name if they do.
    pub(crate) fn new(provider: Provider, configured: Option<PathBuf>) -> Endpoint {
        Endpoint { provider, configured, tells: AtomicBool::new(false), moving: Mutex::default() }
    }

    /// Whose server it is.
    pub(crate) fn provider(&self) -> Provider {
        self.provider
    }

    /// A client of it; `None` when no socket is to be found. Looked for at each call: the server may be
    /// installed or started after us.
    pub(crate) fn client(&self) -> Option<Client> {
        let env = |name: &str| std::env::var(name).ok();
        let discovered = || match self.provider {
            Provider::Lxd => Client::discover_lxd(env),
            Provider::Incus | Provider::Netns | Provider::Pid => Client::discover(env),
        };
        self.configured.clone().or_else(discovered).map(Client::new)
    }

    /// Whether its events come in.
    pub(crate) fn tells(&self) -> bool {
        self.tells.load(Ordering::Relaxed)
    }

    /// Takes note of whether its events come in.
    pub(crate) fn set_tells(&self, tells: bool) {
        self.tells.store(tells, Ordering::Relaxed);
    }
}
