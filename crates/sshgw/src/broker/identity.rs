//! Which instance a session is about, beyond its name: one that was deleted and made again is another.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use portway_incus::Client;

use super::open::{self, ABSENT, Refusal};
use super::{Grant, lock};

/// How long after the login the instance of a name is taken to be the one that was looked at then, for one program.
const FRESH: Duration = Duration::from_secs(1);

/// What tells an instance from others of its name.
#[derive(Debug, Default)]
pub(super) struct Identity {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Stays through its names; every instance has its own.
    uuid: Option<String>,
    /// When somebody has logged in, until the first program.
    entered: Option<Instant>,
}

impl Identity {
    /// The one that was noted before.
    pub(super) fn of(uuid: Option<String>) -> Self {
        Self { known: Mutex::new(Known { uuid, entered: None }) }
    }

    /// Somebody has logged in, for which the instance was looked at.
    pub(super) fn entered(&self) {
        lock(&self.known).entered = Some(Instant::now());
    }

    /// Asks which instance it is, and keeps that; `None` when nobody can tell.
    pub(super) async fn learn(&self, client: &Client, grant: &Grant) -> Option<String> {
        let instance = client.instance(&grant.project, &grant.instance).await.ok().flatten();
        let uuid = instance.and_then(|instance| instance.uuid)?;
        lock(&self.known).uuid.get_or_insert_with(|| uuid.clone());
        Some(uuid)
    }

    /// Whether the instance of a grant is the one it was. One without an identity is not another; a server that cannot be
    /// asked is refused as such.
    pub(super) async fn check(&self, client: &Client, grant: &Grant) -> Result<(), Refusal> {
        if lock(&self.known).entered.take().is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        let found = client.instance(&grant.project, &grant.instance).await;
        let found = found.map_err(|error| open::failure(&grant.instance, &error))?;
        // That there is none is told by whoever looks for it.
        let Some(found) = found.and_then(|instance| instance.uuid) else { return Ok(()) };
        if *lock(&self.known).uuid.get_or_insert_with(|| found.clone()) == found {
            return Ok(());
        }
        Err(Refusal::new(ABSENT, format!("instance {} is another than it was", grant.instance)))
    }
}
