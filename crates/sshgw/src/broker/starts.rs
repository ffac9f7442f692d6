//! Instances that are started for somebody: each once, however many ask for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use portway_incus::{Client, IncusError, InstanceKind, Refusal as Reason, StateChange, status_code};

use super::grant::Grant;
use super::lock;
use super::open::{NOT_RUNNING, Refusal, absent, failure, frozen, not_running};

/// How long a start may take. A session waits a minute for its answer.
const PATIENCE: Duration = Duration::from_secs(50);

/// Pause between two looks at an instance that starts or stops.
const LOOK: Duration = Duration::from_millis(200);

/// Looks after a start that failed, at most, and those in a row that find it stopped: for half a second Incus 6 says now this,
/// now that.
const SETTLING: u32 = 15;
const CALM: u32 = 4;

/// Server, project and name.
type Place = (String, String, String);

/// The instances that are being started.
#[derive(Debug, Default)]
pub(super) struct Starts(Mutex<BTreeMap<Place, Arc<tokio::sync::Mutex<()>>>>);

impl Starts {
    /// Has the instance of a grant run. Whether it was started for this; `false` when it runs by somebody else's doing.
    pub(super) async fn start(&self, client: &Client, grant: &Grant) -> Result<bool, Refusal> {
        let place = (grant.remote.clone(), grant.project.clone(), grant.instance.clone());
        let turn = Arc::clone(lock(&self.0).entry(place.clone()).or_default());
        let started = async {
            let _turn = turn.lock().await;
            run(client, &place).await
        };
        let started = tokio::time::timeout(PATIENCE, started).await;
        let mut all = lock(&self.0);
        // The table's and ours: nobody else waits.
        if Arc::strong_count(&turn) == 2 {
            all.remove(&place);
        }
        started.unwrap_or_else(|_| {
            let text = format!("instance {} does not start within {} s", place.2, PATIENCE.as_secs());
            Err(Refusal::new(NOT_RUNNING, text))
        })
    }
}

async fn run(client: &Client, (_, project, name): &Place) -> Result<bool, Refusal> {
    let of = |error: &IncusError| failure(name, error);
    let (mut started, mut failed) = (false, None);
    loop {
        let found = client.instance(project, name).await.map_err(|error| of(&error))?;
        let found = found.ok_or_else(|| absent(project, name))?;
        match found.status_code {
            _ if found.is_running()
                && (found.kind == InstanceKind::Container || is_inhabited(client, project, name).await) =>
            {
                return Ok(started);
            }
            // It has ended again, or somebody else was not faster after all.
            status_code::STOPPED if started => return Err(not_running(name)),
            status_code::STOPPED | status_code::ERROR if failed.is_some() => {
                return Err(failed.unwrap_or_else(|| not_running(name)));
            }
            status_code::STOPPED => match start(client, project, name).await {
                Ok(()) => {
                    started = true;
                    continue;
                }
                // Somebody else was faster, or is about to be. Otherwise what is seen for a moment is no sign of life:
                // Incus 6 says of what could not be started that it runs, for half a second.
                Err(error) if matches!(error.refusal(), Some(Reason::Busy | Reason::State)) => {
                    failed = Some(unable(name, &error));
                }
                Err(error) => {
                    settled(client, project, name).await;
                    return Err(unable(name, &error));
                }
            },
            status_code::FROZEN => return Err(frozen(name)),
            status_code::ERROR => return Err(not_running(name)),
            // On its way.
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn start(client: &Client, project: &str, name: &str) -> Result<(), IncusError> {
    let operation = client.change_state(project, name, StateChange::Start).await?;
    client.finish(&operation, Some(PATIENCE), |_| ()).await.map(|_| ())
}

/// Waits until the server no longer says of what it could not start that it runs: the next program would be begun in
/// nothing.
async fn settled(client: &Client, project: &str, name: &str) {
    let mut calm = 0;
    for _ in 0..SETTLING {
        let found = client.instance(project, name).await.ok().flatten();
        calm = if found.is_some_and(|found| found.is_running()) { 0 } else { calm + 1 };
        if calm == CALM {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether the agent of a virtual machine answers: without it nothing can be run there.
async fn is_inhabited(client: &Client, project: &str, name: &str) -> bool {
    let state = client.state(project, name).await.ok().flatten();
    state.is_some_and(|state| state.process_count.is_some())
}

/// What the server says of a start that failed, on one line.
fn unable(name: &str, error: &IncusError) -> Refusal {
    match error {
        IncusError::Operation { message, .. } | IncusError::Status { message, .. } => {
            Refusal::new(NOT_RUNNING, format!("instance {name} does not start: {message}"))
        }
        other => failure(name, other),
    }
}
