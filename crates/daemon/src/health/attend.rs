//! Asks one instance, as long as it is watched.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portway_control::api::HealthTest;
use portway_incus::{Client, ExecEnd, ExecSpec, IncusError, Whole};
use portway_model::{InstanceKey, rfc3339};
use portway_proto::service::health::{Health, Tester};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{debug, info};

use super::Passes;
use super::wanted::Wanted;
use crate::hub::Hub;
use crate::provider::Endpoint;
use crate::state::with_sources;

/// What is kept of what a test says, bytes.
const OUTPUT_BYTES: usize = 4096;

/// Pause before a program that the server has lost counts as failed: it may be the server that has ended.
const DOUBT: Duration = Duration::from_secs(1);

/// Longest time of one test, whatever its key says: so long it keeps a place that all share.
const LONGEST: Duration = Duration::from_secs(300);

/// Shortest time between two tests: they cost the server and this daemon, not the instance's share of the processors.
const GAP_MIN: Duration = Duration::from_secs(1);

/// After a test that was killed and may have left others behind, the next one comes so much later, doubled from one to
/// the next, up to [`LEFT_MAX`].
const LEFT: Duration = Duration::from_secs(10);
const LEFT_MAX: Duration = Duration::from_secs(600);

/// An instance that is asked.
pub(super) struct Attended {
    pub(super) hub: Arc<Hub>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) key: InstanceKey,
    pub(super) wanted: Wanted,
    pub(super) passes: Passes,
}

/// How a test went.
struct Tested {
    at: Instant,
    test: HealthTest,
    /// It was killed, and what it had started was not.
    leaves: bool,
}

impl Attended {
    /// Asks until nobody wants to know.
    pub(super) async fn run(
        self,
        mut orders: mpsc::Receiver<oneshot::Sender<()>>,
        mut paused: watch::Receiver<bool>,
    ) {
        let health = &self.wanted.health;
        let mut course = self.wanted.course();
        let (mut due, mut left) = (tokio::time::Instant::now(), Duration::ZERO);
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep_until(due) => None,
                order = orders.recv() => match order {
                    Some(reply) => Some(reply),
                    None => return,
                },
            };
            // What is paused cannot answer, and has not failed. Who asks at once is told what is known.
            if *paused.borrow() {
                drop(asked);
                tokio::select! {
                    running = paused.wait_for(|paused| !paused) => if running.is_err() { return },
                    order = orders.recv() => match order {
                        Some(_told) => {}
                        None => return,
                    },
                }
                continue;
            }
            let tested = self.test().await;
            // It was paused meanwhile: what did not succeed in time could not.
            let tested = tested.filter(|tested| tested.test.status == Some(0) || !*paused.borrow());
            if let Some(Tested { at, test, leaves }) = tested {
                course.take(health, at, test.status == Some(0));
                left = if leaves { (left * 2).clamp(LEFT, LEFT_MAX) } else { Duration::ZERO };
                let run = (&self.key, &self.wanted.run);
                if let Some(state) = self.hub.health.note(run, &course, test) {
                    info!(instance = %self.key, state = state.word(), "health");
                    self.hub.tell("instance-health", &self.key, None, state.word().to_owned());
                }
            }
            // Nobody may wait any more.
            let _told = asked.map(|reply| reply.send(()));
            due = tokio::time::Instant::now()
                + course.gap(health, Instant::now()).max(GAP_MIN).saturating_add(left);
        }
    }

    /// Tests it once; `None` when nothing is known after it.
    async fn test(&self) -> Option<Tested> {
        let _of_project = self.passes.acquire().await.ok()?;
        let _of_all = self.hub.health.passes.acquire().await.ok()?;
        let client = self.endpoint.client()?;
        let (at, time) = (Instant::now(), SystemTime::now());
        let health = &self.wanted.health;
        let whole = match tried(&client, &self.key, health).await {
            Ok(whole) => whole?,
            Err(problem) => {
                // It stops, or its server does: neither says that the service is ill.
                debug!(instance = %self.key, error = with_sources(&problem), "not tested");
                return None;
            }
        };
        let millis = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let said = String::from_utf8_lossy(&whole.output).into_owned();
        let (status, output, leaves) = match whole.end {
            Some(ExecEnd::Status(status)) => (Some(status), said, false),
            Some(ExecEnd::Failed(why)) => {
                tokio::time::sleep(DOUBT).await;
                if !self.endpoint.tells() {
                    return None;
                }
                (None, why.chars().take(OUTPUT_BYTES).collect(), false)
            }
            None => (None, said, health.tester == Tester::Server),
        };
        Some(Tested { at, test: HealthTest { at: rfc3339(time), millis, status, output }, leaves })
    }
}

/// Runs the test, as the service where its first process is ours.
async fn tried(client: &Client, key: &InstanceKey, health: &Health) -> Result<Option<Whole>, IncusError> {
    let project = key.project().map_or("default", |project| project.as_str());
    let name = key.name();
    let spec = match health.tester {
        Tester::Guest => ExecSpec::of_root(health.words(), health.environment()),
        Tester::Server => client.beside_image(project, name.as_str(), health.words()).await?,
    };
    client.run(project, name.as_str(), &spec, (health.patience().min(LONGEST), OUTPUT_BYTES)).await
}
