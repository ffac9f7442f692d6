//! What the daemon knows of the health of instances. Without one nobody knows: it alone asks on once a command has ended.

use std::collections::BTreeMap;

use portway_compose::daemon::Daemon;
use portway_control::api::Health;
use portway_control::{Client as Control, Events};
use portway_incus::Client;

use super::remote;
use crate::session;

/// What [`HealthEvents`] listens for.
const KIND: &str = "instance-health";

/// The daemon beside the server, where one answers.
pub(super) async fn daemon(client: &Client) -> Option<Daemon> {
    if remote::is_far().unwrap_or(true) {
        return None;
    }
    let control = Control::new(session::paths().ok()?.socket);
    control.server().await.ok()?;
    Some(Daemon::beside(&client.server().await.ok()?, control))
}

/// What is known of instances.
pub(super) struct Healths {
    daemon: Option<Daemon>,
    known: BTreeMap<String, Health>,
}

impl Healths {
    /// Asks the daemon.
    pub(super) async fn ask(client: &Client) -> Healths {
        let daemon = daemon(client).await;
        // One of another version does not tell.
        let known = match &daemon {
            Some(daemon) => daemon.client.health(None).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let known = known.into_iter().map(|one| (one.instance.to_string(), one)).collect();
        Healths { daemon, known }
    }

    /// What is known of one.
    pub(super) fn of(&self, project: &str, instance: &str) -> Option<&Health> {
        let key = self.daemon.as_ref()?.key(project, instance).ok()?;
        self.known.get(&key.to_string())
    }
}

/// The word for what is known of an instance that has health to be asked for.
pub(super) fn word(known: Option<&Health>) -> &'static str {
    known.map_or("unknown", |one| one.state.word())
}

/// What becomes of the health of instances in one of the server's projects.
pub(super) struct HealthEvents {
    daemon: Daemon,
    /// `None` when the daemon has gone.
    events: Option<Events>,
}

/// A change of it.
pub(super) struct HealthChange {
    /// The server's project.
    pub(super) project: String,
    /// Name of the instance.
    pub(super) instance: String,
    /// The word for what it has become.
    pub(super) word: String,
}

/// The next of those that somebody may tell. Cancel safe.
pub(super) async fn next(events: &mut Option<HealthEvents>) -> HealthChange {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

impl HealthEvents {
    /// Those from now on; `None` where nobody tells.
    pub(super) async fn open(client: &Client) -> Option<HealthEvents> {
        let daemon = daemon(client).await?;
        let events = daemon.client.events().await.ok()?;
        Some(HealthEvents { daemon, events: Some(events) })
    }

    /// The next one; waits for ever where nobody tells any more. Cancel safe.
    async fn next(&mut self) -> HealthChange {
        while let Some(events) = &mut self.events {
            match events.next().await {
                Ok(Some(event)) if event.kind == KIND => {
                    let Some(key) = &event.instance else { continue };
                    let Some(project) = key.project().filter(|_| self.daemon.has(key)) else { continue };
                    let (project, instance) = (project.as_str().to_owned(), key.name().to_string());
                    return HealthChange { project, instance, word: event.text };
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => self.events = None,
            }
        }
        std::future::pending().await
    }
}
