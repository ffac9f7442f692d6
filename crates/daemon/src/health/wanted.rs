//! Which instances are watched, and what they are asked.

use std::time::{Duration, Instant, SystemTime};

use portway_control::api::HealthState;
use portway_incus::{Listed, Server, status_code};
use portway_model::{InstanceKey, Provider, read_rfc3339};
use portway_proto::service::health::{Course, Health, KEY, Verdict};
use portway_proto::service::label;
use tracing::debug;

/// One that runs for so long was not seen to begin.
const NEW: Duration = Duration::from_secs(10);

/// One life of an instance: its UUID, and when it was started, in the server's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    uuid: String,
    started: String,
}

/// Longest name of a project or a service that is repeated.
const WORD_MAX_BYTES: usize = 255;

/// What is asked of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Compose project.
    pub(super) project: String,
    /// Service.
    pub(super) service: String,
    /// How its health is told.
    pub(super) health: Health,
    pub(super) run: Run,
    /// Its processes exist and do not run.
    pub(super) is_paused: bool,
}

impl Wanted {
    /// What is asked of an instance of `provider`, whose server says this of itself; `None` when nothing is.
    pub(super) fn of(provider: Provider, server: &Server, listed: &Listed) -> Option<(InstanceKey, Wanted)> {
        let definition = &listed.definition;
        let text = definition.config(KEY)?;
        let own = definition.name.as_str();
        // Of a cluster each member asks its own.
        let is_here = !server.clustered || listed.location == server.server_name;
        let is_copy = definition.config(label::NAME).is_some_and(|name| name != own)
            && definition.config(label::BESIDE) != Some(own);
        let is_paused = match listed.status_code {
            status_code::RUNNING | status_code::READY => false,
            status_code::FROZEN => true,
            _ => return None,
        };
        if !is_here || is_copy {
            return None;
        }
        let key = InstanceKey::new(provider, Some(&definition.project), own).ok()?;
        let health = Health::read(text)
            .inspect_err(|problem| debug!(instance = %key, error = %problem, "health not asked for"))
            .ok()?;
        // Whoever owns the instance writes them; they are repeated in every answer and in the metrics.
        let short = |text: &&str| text.len() <= WORD_MAX_BYTES;
        let word = |key: &str| definition.config(key).filter(short).unwrap_or_default().to_owned();
        let run = Run { uuid: word("volatile.uuid"), started: listed.last_used_at.clone() };
        let (project, service) = (word(label::PROJECT), word(label::SERVICE));
        Some((key, Wanted { project, service, health, run, is_paused }))
    }

    /// Whether what is known of it is still about it.
    pub(super) fn is_same(&self, other: &Wanted) -> bool {
        self.run == other.run && self.health == other.health
    }

    /// Its course from now on: since when it runs is what the server's clock says, as far as that can be.
    pub(super) fn course(&self) -> Course {
        let started = read_rfc3339(&self.run.started);
        let age = started.and_then(|started| SystemTime::now().duration_since(started).ok());
        let age = age.unwrap_or_default();
        let begin = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        if age < NEW { Course::begun(begin) } else { Course::found(begin) }
    }
}

/// In the words of the control API.
pub(super) const fn state(verdict: Verdict) -> HealthState {
    match verdict {
        Verdict::Starting => HealthState::Starting,
        Verdict::Healthy => HealthState::Healthy,
        Verdict::Unhealthy => HealthState::Unhealthy,
    }
}

#[cfg(test)]
mod tests;
