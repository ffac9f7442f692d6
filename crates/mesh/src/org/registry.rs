//! One organization as a registrar serves it: what the store has, verified, and changes to it, one after the other.
//!
//! What is known here may be behind the store, where there are several registrars. So a refusal is said only of what was
//! read just now, and a change that somebody else was faster than is thought through again.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;
use tokio::sync::{Mutex, watch};
use tracing::warn;

use super::head::Settings;
use super::label::OrgName;
use super::ledger::{Ledger, LedgerError, Step};
use super::refusal::Refusal;
use super::signed::OrgKey;
use super::store::{Commit, Store, StoreError};
use super::view::View;

/// How often a change is tried: each time somebody else's was in between.
const TRIES: usize = 32;

/// Between two questions to a store that fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum RegistryError {
    /// It is not allowed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store did not do it, or not surely.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What the store has is not what was signed.
    #[error("organization {org}: the store is not to be trusted: {source}")]
    Ledger {
        /// Which one.
        org: OrgName,
        /// Why.
        source: LedgerError,
    },
    /// The store has something older than what was read of it before.
    #[error("organization {org}: the store was set back from revision {known} to {found}")]
    SetBack {
        /// Which one.
        org: OrgName,
        /// What it had.
        known: u64,
        /// What it has.
        found: u64,
    },
    /// The store has it already.
    #[error("there is an organization {0} already")]
    Exists(OrgName),
    /// Others change it all the time.
    #[error("organization {0} is changed too often, try again")]
    Busy(OrgName),
}

/// What is known of the store.
#[derive(Debug, Default)]
struct Known {
    /// The store's version and what it has; `None` when it has to be read.
    current: Option<(u64, Ledger)>,
    /// The greatest revision that was ever read or written here.
    revision: u64,
}

/// One organization.
#[derive(Debug)]
pub struct Registry {
    org: OrgName,
    signer: Arc<OrgKey>,
    store: Arc<dyn Store>,
    known: Mutex<Known>,
    published: watch::Sender<Option<Arc<View>>>,
}

/// Seconds since 1970, by this host's clock.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

impl Registry {
    /// An organization that `store` has. Nothing is read yet.
    #[must_use]
    pub fn new(org: OrgName, signer: Arc<OrgKey>, store: Arc<dyn Store>) -> Registry {
        let published = watch::Sender::new(None);
        Registry { org, signer, store, known: Mutex::default(), published }
    }

    /// Puts a new organization into the store.
    ///
    /// # Errors
    /// [`RegistryError::Exists`], and what becomes of the store.
    pub async fn create(
        org: OrgName,
        signer: Arc<OrgKey>,
        store: Arc<dyn Store>,
        settings: Settings,
    ) -> Result<Registry, RegistryError> {
        let step = Ledger::create(Arc::clone(&signer), org.clone(), settings, unix_now());
        match store.commit(&org, 0, &step.writes).await? {
            Commit::Conflict => Err(RegistryError::Exists(org)),
            Commit::Done(version) => {
                let registry = Registry::new(org, signer, store);
                registry.know(&mut *registry.known.lock().await, version, step.ledger);
                Ok(registry)
            }
        }
    }

    /// Its name.
    #[must_use]
    pub fn org(&self) -> &OrgName {
        &self.org
    }

    /// Who signs for it.
    #[must_use]
    pub fn signer(&self) -> &OrgKey {
        &self.signer
    }

    /// What is told to devices, from now on and whenever it changes; `None` until it was read.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Option<Arc<View>>> {
        self.published.subscribe()
    }

    /// Something asked of what the store has at this moment.
    ///
    /// # Errors
    /// The store fails, or lies.
    pub async fn look<T>(&self, ask: impl FnOnce(&Ledger) -> T) -> Result<T, RegistryError> {
        let mut known = self.known.lock().await;
        let (_, ledger) = self.read(&mut known).await?;
        Ok(ask(ledger))
    }

    /// Changes something: `plan` says how, from what there is, and what to answer then. It is asked again when somebody
    /// else was faster, or when it may not be known whether the store has done it.
    ///
    /// # Errors
    /// [`RegistryError`].
    pub async fn change<T>(
        &self,
        plan: impl Fn(&Ledger, u64) -> Result<(T, Option<Step>), Refusal>,
    ) -> Result<T, RegistryError> {
        let mut known = self.known.lock().await;
        let mut is_fresh = false;
        for _ in 0..TRIES {
            let (version, ledger) = match &known.current {
                Some((version, ledger)) => (*version, ledger),
                None => {
                    is_fresh = true;
                    let (version, ledger) = self.read(&mut known).await?;
                    (version, ledger)
                }
            };
            let (answer, step) = match plan(ledger, unix_now()) {
                Ok(planned) => planned,
                Err(refusal) if is_fresh => return Err(refusal.into()),
                // Only what somebody else has changed meanwhile is read again: whoever is refused may ask often.
                Err(refusal) => {
                    if self.store.version(&self.org).await? == version {
                        return Err(refusal.into());
                    }
                    known.current = None;
                    continue;
                }
            };
            let Some(step) = step else { return Ok(answer) };
            match self.store.commit(&self.org, version, &step.writes).await {
                Ok(Commit::Done(version)) => {
                    self.know(&mut known, version, step.ledger);
                    return Ok(answer);
                }
                Ok(Commit::Conflict) | Err(StoreError::Unsure(_)) => known.current = None,
                Err(error) => {
                    known.current = None;
                    return Err(error.into());
                }
            }
        }
        Err(RegistryError::Busy(self.org.clone()))
    }

    /// Follows the store until the future is dropped: what others change is told to devices too.
    pub async fn follow(&self) {
        loop {
            let version = self.known.lock().await.current.as_ref().map_or(0, |(version, _)| *version);
            let done = match self.store.changed(&self.org, version).await {
                Ok(()) => self.catch_up(version).await,
                Err(error) => Err(error.into()),
            };
            if let Err(error) = done {
                warn!(org = %self.org, %error, "cannot follow the store");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn catch_up(&self, seen: u64) -> Result<(), RegistryError> {
        let mut known = self.known.lock().await;
        // A change of our own was told already.
        if known.current.as_ref().is_none_or(|(version, _)| *version == seen) {
            known.current = None;
            self.read(&mut known).await?;
        }
        Ok(())
    }

    /// What is known, read if it has to be.
    async fn read<'a>(&self, known: &'a mut Known) -> Result<(u64, &'a Ledger), RegistryError> {
        if known.current.is_none() {
            let image = self.store.load(&self.org).await?;
            let ledger = Ledger::read(Arc::clone(&self.signer), &self.org, &image.entries)
                .map_err(|source| RegistryError::Ledger { org: self.org.clone(), source })?;
            let found = ledger.view().revision();
            if found < known.revision {
                return Err(RegistryError::SetBack { org: self.org.clone(), known: known.revision, found });
            }
            self.know(known, image.version, ledger);
        }
        match &known.current {
            Some((version, ledger)) => Ok((*version, ledger)),
            None => Err(RegistryError::Busy(self.org.clone())),
        }
    }

    fn know(&self, known: &mut Known, version: u64, ledger: Ledger) {
        let view = ledger.view();
        known.revision = known.revision.max(view.revision());
        let is_new =
            |told: &Option<Arc<View>>| told.as_ref().is_none_or(|told| told.revision() < view.revision());
        self.published.send_if_modified(|told| {
            let is_new = is_new(told);
            if is_new {
                *told = Some(Arc::new(view.clone()));
            }
            is_new
        });
        known.current = Some((version, ledger));
    }
}
