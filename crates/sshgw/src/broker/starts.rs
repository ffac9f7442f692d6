//! Instances that are started for somebody: each once, however many ask for it.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_incus::{
    Client, ExecEnd, ExecSpec, IncusError, InstanceKind, Refusal as Reason, StateChange, status_code,
};

use super::grant::Grant;
use super::open::{NOT_RUNNING, Refusal, absent, failure, frozen, not_running};
use super::turns::{self, Place, Turns};

/// How long a start may take. A session waits a minute for its answer.
const PATIENCE: Duration = Duration::from_secs(50);

/// Pause between two looks at an instance that starts or stops.
const LOOK: Duration = Duration::from_millis(200);

/// How long a program that does nothing may take.
const RUN: Duration = Duration::from_secs(5);

/// Looks after a start that failed, at most, and those in a row that find it stopped: for half a second Incus 6 says now this,
/// now that.
const SETTLING: u32 = 15;
const CALM: u32 = 4;

/// The instances that are being started.
#[derive(Debug, Default)]
pub(super) struct Starts(Turns);

impl Starts {
    /// Has the instance of a grant run. Whether it was started for this; `false` when it runs by somebody else's doing.
    pub(super) async fn start(&self, client: &Client, grant: &Grant) -> Result<bool, Refusal> {
        self.start_within(client, grant, PATIENCE).await
    }

    /// The same with a time of its own: for one that is still being made.
    pub(super) async fn start_within(
        &self,
        client: &Client,
        grant: &Grant,
        patience: Duration,
    ) -> Result<bool, Refusal> {
        let place = turns::place(grant);
        let started = async {
            let _turn = self.0.take(&place).await;
            run(client, &place).await
        };
        tokio::time::timeout(patience, started).await.unwrap_or_else(|_| {
            let text = format!("instance {} does not start within {} s", place.2, patience.as_secs());
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
                if started {
                    runs_programs(client, project, name).await;
                }
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
                // Something else is being done with it, as making it; that has an end.
                Err(error) if error.refusal() == Some(Reason::Busy) => {}
                // Somebody else was faster, or is about to be. Otherwise what is seen for a moment is no sign of life:
                // Incus 6 says of what could not be started that it runs, for half a second.
                Err(error) if error.refusal() == Some(Reason::State) => {
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

/// Waits until a program can be run in what was just started: under load the servers cannot yet, for a moment. Which program
/// does not matter, nor whether there is one.
async fn runs_programs(client: &Client, project: &str, name: &str) {
    let spec = ExecSpec {
        command: vec!["true".to_owned()],
        environment: BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    for _ in 0..SETTLING {
        let ran = client.run(project, name, &spec, (RUN, 0)).await;
        if ran.is_ok_and(|ran| ran.is_none_or(|ran| !matches!(ran.end, Some(ExecEnd::Failed(_))))) {
            return;
        }
        tokio::time::sleep(LOOK).await;
    }
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
