//! Looks at a server: which of its instances are to be asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{Failure, FailureKind};
use portway_incus::{Client, IncusError};
use portway_model::InstanceKey;
use tracing::debug;

use super::wanted::Wanted;
use super::{is_asked, watch_all, watch_one};
use crate::hub::{Hub, failure};
use crate::provider::{Endpoint, no_socket};
use crate::state::with_sources;

/// Pause between two looks without an event.
const PAUSE: Duration = Duration::from_secs(30);

/// Pause after an event: they come in heaps.
const SOON: Duration = Duration::from_millis(200);

/// Pauses as long as this many answers, at least: a server that takes its time is asked less often.
const PAUSE_ANSWERS: u32 = 10;

/// Looks again and again, and after each event.
pub(crate) async fn follow(hub: Arc<Hub>, endpoint: Arc<Endpoint>) {
    loop {
        let begin = Instant::now();
        if let Some(client) = endpoint.client()
            && let Err(problem) = all(&hub, &endpoint, &client).await
        {
            // What was known stays: a server that does not answer says nothing of its instances.
            debug!(provider = %endpoint.provider(), error = with_sources(&problem), "instances not known");
        }
        let rest = begin.elapsed().saturating_mul(PAUSE_ANSWERS).max(SOON);
        // Not an error: nothing has happened.
        let _quiet = tokio::time::timeout(PAUSE, endpoint.news.notified()).await;
        tokio::time::sleep(rest).await;
    }
}

async fn all(hub: &Arc<Hub>, endpoint: &Arc<Endpoint>, client: &Client) -> Result<(), IncusError> {
    let (server, listed) = (client.server().await?, client.list_everywhere().await?);
    let of = |one| Wanted::of(endpoint.provider(), &server, one);
    watch_all(hub, endpoint, listed.iter().filter_map(of).collect());
    Ok(())
}

/// Looks at one.
///
/// # Errors
/// When its server does not answer. It is watched then as before.
pub(super) async fn one(hub: &Arc<Hub>, endpoint: &Arc<Endpoint>, key: &InstanceKey) -> Result<(), Failure> {
    let unreachable = |text: String| failure(FailureKind::Unreachable, format!("{key}: {text}"));
    let client = endpoint.client().filter(|_| is_asked(key.provider()));
    let client = client.ok_or_else(|| unreachable(no_socket(endpoint.provider())))?;
    let project = key.project().map_or("default", |project| project.as_str());
    let found = async {
        let (server, listed) = (client.server().await?, client.listing(project, key.name().as_str()).await?);
        Ok::<_, IncusError>(listed.and_then(|listed| Wanted::of(endpoint.provider(), &server, &listed)))
    };
    match found.await.map_err(|problem| unreachable(with_sources(&problem)))? {
        Some((key, wanted)) => watch_one(hub, endpoint, key, wanted),
        None => drop(hub.health.watched().remove(key)),
    }
    Ok(())
}
