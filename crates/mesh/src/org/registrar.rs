//! The registrar: it lets devices in, gives them addresses, signs what it has done, and tells everybody.
//!
//! [`Registrar`] is what it knows; [`serve`](serve::serve) answers devices over TLS and its owner on a unix socket.

pub mod admin;
mod admin_api;
mod device_api;
mod keys;
mod limits;
pub mod run;
pub mod serve;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::crypto::ring;
use rustls::{ServerConfig, version};
use thiserror::Error;
use tokio::task::JoinSet;

use self::keys::Keys;
use super::certificate::private_key;
use super::disk::DiskError;
use super::head::Settings;
use super::label::OrgName;
use super::registry::{Registry, RegistryError};
use super::signed::OrgKey;
use super::store::Store;
use super::token::{Pin, Secret, Token};
use crate::spec::PrivateKey;

/// Why there is no registrar.
#[derive(Debug, Error)]
pub enum RegistrarError {
    /// Its keys.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The organization.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Its certificate.
    #[error("the registrar's key cannot be used for TLS")]
    Tls(#[source] rustls::Error),
    /// The kernel has no random numbers to give.
    #[error("no random numbers: {0}")]
    Random(#[from] getrandom::Error),
}

/// A registrar and its organizations.
pub struct Registrar {
    store: Arc<dyn Store>,
    keys: Mutex<Keys>,
    pin: Pin,
    /// What devices prove themselves to.
    proof: PrivateKey,
    orgs: Mutex<BTreeMap<OrgName, Arc<Registry>>>,
    following: Mutex<JoinSet<()>>,
    devices: limits::Devices,
}

/// A lock that a panic elsewhere does not take away: what it guards is replaced whole.
fn hold<T>(lock: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registrar {
    /// The registrar of this folder, with new keys if it has none. Belongs into a runtime: it follows its store.
    ///
    /// # Errors
    /// Its keys cannot be read or written.
    pub fn open(dir: &Path, store: Arc<dyn Store>) -> Result<Arc<Registrar>, RegistrarError> {
        let keys = Keys::open(dir)?;
        let orgs = keys.orgs.clone();
        let registrar = Registrar {
            store,
            pin: keys.pin(),
            proof: keys.proof.clone(),
            keys: Mutex::new(keys),
            orgs: Mutex::default(),
            following: Mutex::default(),
            devices: limits::Devices::default(),
        };
        for (name, signer) in orgs {
            registrar.adopt(Registry::new(name, signer, Arc::clone(&registrar.store)));
        }
        Ok(Arc::new(registrar))
    }

    /// Takes an organization in and follows it.
    fn adopt(&self, registry: Registry) -> Arc<Registry> {
        let registry = Arc::new(registry);
        let mut following = hold(&self.following);
        following.spawn({
            let registry = Arc::clone(&registry);
            async move { registry.follow().await }
        });
        hold(&self.orgs).insert(registry.org().clone(), Arc::clone(&registry));
        registry
    }

    /// What tokens name it by.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// Makes an organization. Its key is on disk before the first thing is signed with it.
    ///
    /// # Errors
    /// There is one of that name, or it cannot be kept.
    pub async fn create(&self, org: OrgName, settings: Settings) -> Result<Arc<Registry>, RegistrarError> {
        let signer = {
            let mut keys = hold(&self.keys);
            if hold(&self.orgs).contains_key(&org) {
                return Err(RegistryError::Exists(org).into());
            }
            // A key that was left by a try that failed is as good as a new one.
            match keys.orgs.get(&org) {
                Some(signer) => Arc::clone(signer),
                None => {
                    let signer = Arc::new(OrgKey::generate()?);
                    keys.orgs.insert(org.clone(), Arc::clone(&signer));
                    keys.write()?;
                    signer
                }
            }
        };
        let made = Registry::create(org, signer, Arc::clone(&self.store), settings).await?;
        Ok(self.adopt(made))
    }

    /// The organization of this name.
    #[must_use]
    pub fn org(&self, name: &str) -> Option<Arc<Registry>> {
        let name: OrgName = name.parse().ok()?;
        hold(&self.orgs).get(&name).cloned()
    }

    /// Names of all.
    #[must_use]
    pub fn orgs(&self) -> Vec<OrgName> {
        hold(&self.orgs).keys().cloned().collect()
    }

    /// A token of `registry` with this secret.
    fn token(&self, registry: &Registry, secret: Secret) -> Token {
        let trust = super::view::Trust { org: registry.org().clone(), signer: registry.signer().public() };
        Token { trust, pin: self.pin, secret }
    }

    /// TLS as devices are spoken to.
    fn tls(&self) -> Result<ServerConfig, RegistrarError> {
        let keys = hold(&self.keys);
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(RegistrarError::Tls)?
            .with_no_client_auth()
            .with_single_cert(vec![keys.certificate()], private_key(&keys.tls))
            .map_err(RegistrarError::Tls)?;
        // A proof is of one connection: nothing of an earlier one is taken up.
        config.send_tls13_tickets = 0;
        Ok(config)
    }
}

/// How long a request may take to arrive, and an answer to be found.
const PATIENCE: Duration = Duration::from_secs(20);
