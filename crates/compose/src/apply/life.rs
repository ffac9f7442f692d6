//! Instances started, stopped and removed.

use std::time::Duration;

use portway_incus::{IncusError, Refusal, StateChange, status_code};

use super::awaiting::exit_code;
use super::patience::{AGAIN, EARLY, patiently, refused, to_its_end, worth};
use super::{ApplyError, Hands, server};

impl Hands<'_> {
    /// Brings about a state; one that is there already is no failure.
    pub(super) async fn state(
        &self,
        instance: &str,
        change: StateChange,
        what: &'static str,
    ) -> Result<(), ApplyError> {
        let done = patiently(worth, async || {
            to_its_end(self.client, self.client.change_state(self.project, instance, change).await).await
        });
        match done.await {
            Err(error) if refused(&error, Refusal::State) => Ok(()),
            done => done.map_err(server(what)),
        }
    }

    /// Starts one, which may be a job: where nothing tells what became of a start, it is not made again if the server has
    /// noted one meanwhile.
    pub(super) async fn start(&self, instance: &str) -> Result<(), ApplyError> {
        let last = async || self.client.last_start(self.project, instance).await;
        let before = last().await.map_err(server("it cannot be read"))?;
        let mut tries = 0;
        loop {
            let begun = self.client.change_state(self.project, instance, StateChange::Start).await;
            let Err(error) = to_its_end(self.client, begun).await else { return Ok(()) };
            tries += 1;
            if refused(&error, Refusal::State) {
                return Ok(());
            }
            if tries >= worth(&error) {
                return Err(server("it cannot be started")(error));
            }
            tokio::time::sleep(AGAIN).await;
            if last().await.map_err(server("it cannot be read"))? != before {
                return self
                    .has_run(instance)
                    .await?
                    .then_some(())
                    .ok_or_else(|| server("it cannot be started")(error));
            }
        }
    }

    /// Whether one that was started runs, or has told how it ended.
    async fn has_run(&self, instance: &str) -> Result<bool, ApplyError> {
        if self.look(instance).await?.status_code != status_code::STOPPED {
            return Ok(true);
        }
        let code =
            exit_code(self.client, self.project, instance).await.map_err(server("it cannot be read"))?;
        Ok(code.is_some())
    }

    /// Stops one: by its signal, and when that does not end it in time, by force.
    pub(super) async fn stop(&self, instance: &str, grace: Duration) -> Result<(), ApplyError> {
        Box::pin(self.before_stop(instance, grace)).await?;
        if !grace.is_zero() {
            let gone = |error: &IncusError| refused(error, Refusal::State) || refused(error, Refusal::Absent);
            let asked = self.client.change_state(self.project, instance, StateChange::Stop { grace }).await;
            let ended = match asked {
                Ok(operation) => {
                    let limit = grace + Duration::from_secs(5);
                    self.client.finish(&operation, Some(limit), |_| ()).await.map(|_| ())
                }
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return Ok(()),
                Err(error) if gone(&error) => return Ok(()),
                Err(_) => {}
            }
        }
        match self.state(instance, StateChange::Kill, "it cannot be stopped").await {
            Err(ApplyError::Server { source, .. }) if refused(&source, Refusal::Absent) => Ok(()),
            done => done,
        }
    }

    pub(super) async fn remove(&self, instance: &str) -> Result<(), ApplyError> {
        // One that has just ended counts as running for a moment still.
        let worth = |error: &IncusError| if refused(error, Refusal::State) { EARLY } else { worth(error) };
        let removed = patiently(worth, async || {
            match self.client.remove_instance(self.project, instance).await.transpose() {
                Some(begun) => to_its_end(self.client, begun).await,
                None => Ok(()),
            }
        });
        match removed.await {
            Err(error) if refused(&error, Refusal::Absent) => Ok(()),
            removed => removed.map_err(server("it cannot be removed")),
        }
    }
}
