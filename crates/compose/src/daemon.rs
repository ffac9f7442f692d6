//! The daemon that has the published ports.

use portway_control::Client;
use portway_incus::Server;
use portway_model::{InstanceKey, Provider, RefError};

/// The daemon, and what it calls the instances of the server.
#[derive(Debug)]
pub struct Daemon {
    /// The daemon.
    pub client: Client,
    provider: Provider,
}

impl Daemon {
    /// The daemon beside `server`.
    #[must_use]
    pub fn beside(server: &Server, client: Client) -> Daemon {
        Daemon { client, provider: provider(server) }
    }

    /// Its name for an instance of one of the server's projects.
    ///
    /// # Errors
    /// When it can have no such name.
    pub fn key(&self, project: &str, instance: &str) -> Result<InstanceKey, RefError> {
        InstanceKey::new(self.provider, Some(project), instance)
    }

    /// Whether an instance is one of the server's.
    #[must_use]
    pub fn has(&self, key: &InstanceKey) -> bool {
        key.provider() == self.provider
    }

    /// Whether a device is one of an instance in that project.
    pub(crate) fn is_in(&self, project: &str, key: &InstanceKey) -> bool {
        key.provider() == self.provider && key.project().is_some_and(|name| name.as_str() == project)
    }
}

/// What the daemon calls the provider that a server is.
#[must_use]
pub fn provider(server: &Server) -> Provider {
    if server.product == "lxd" { Provider::Lxd } else { Provider::Incus }
}
