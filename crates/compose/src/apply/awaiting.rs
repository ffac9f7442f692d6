//! Waiting for a service: that it runs, is healthy, has ended well.

use std::time::Duration;

use portway_incus::{Client, ExecEnd, ExecSpec, FileContent, IncusError, State, status_code};
use portway_proto::service;
use portway_proto::service::health::{Course, Verdict};
use tokio::time::{Instant, sleep, timeout};

use super::{ApplyError, Hands, server};
use crate::want::{Condition, Health, Tester};

/// Exit code of what was killed: 128 and the number of SIGKILL, as a shell has it.
const KILLED: i32 = 137;

/// Between two looks at an instance. A look takes the server 2 to 5 ms.
const LOOK: Duration = Duration::from_millis(100);

/// After so long of nothing but errors an instance is broken, and not about to start or stop.
const BLIND: Duration = Duration::from_secs(30);

impl Hands<'_> {
    /// Waits until all of `instances` have reached `condition`, one after the other: the slowest decides.
    pub(super) async fn reached(
        &self,
        condition: Condition,
        instances: &[String],
        health: Option<&Health>,
    ) -> Result<(), ApplyError> {
        let mut halt = self.halt.clone();
        tokio::select! {
            done = self.all(condition, instances, health) => done,
            Ok(_) = halt.wait_for(|halted| *halted) => Err(ApplyError::Halted),
        }
    }

    async fn all(
        &self,
        condition: Condition,
        instances: &[String],
        health: Option<&Health>,
    ) -> Result<(), ApplyError> {
        for instance in instances {
            match (condition, health) {
                (Condition::Healthy, Some(health)) => self.healthy(instance, health).await?,
                (Condition::Started | Condition::Healthy, _) => self.running(instance).await?,
                (Condition::Completed, _) => self.completed(instance).await?,
            }
        }
        Ok(())
    }

    /// Its state. An answer of 500 while it starts or stops is none, for a while.
    pub(super) async fn look(&self, instance: &str) -> Result<State, ApplyError> {
        self.look_for(instance, BLIND).await
    }

    /// The same, with how long a while is.
    pub(super) async fn look_for(&self, instance: &str, limit: Duration) -> Result<State, ApplyError> {
        let begin = Instant::now();
        loop {
            match self.client.state(self.project, instance).await {
                Err(IncusError::Status { code: 500.., .. }) if begin.elapsed() < limit => sleep(LOOK).await,
                Ok(None) => return Err(ApplyError::Gone(instance.to_owned())),
                Ok(Some(state)) => return Ok(state),
                Err(error) => return Err(server("it cannot be looked at")(error)),
            }
        }
    }

    async fn running(&self, instance: &str) -> Result<(), ApplyError> {
        match self.look(instance).await?.status_code {
            status_code::STOPPED | status_code::ERROR => Err(ApplyError::Stopped(instance.to_owned())),
            _ => Ok(()),
        }
    }

    async fn completed(&self, instance: &str) -> Result<(), ApplyError> {
        while self.look(instance).await?.status_code != status_code::STOPPED {
            sleep(LOOK).await;
        }
        match exit_code(self.client, self.project, instance).await.map_err(server("it cannot be read"))? {
            Some(0) => Ok(()),
            Some(code) => Err(ApplyError::Code { instance: instance.to_owned(), code }),
            None => Err(ApplyError::NoCode(instance.to_owned())),
        }
    }

    /// Tests until one succeeds, or it is unhealthy. The daemon, where there is one, looks then too: what it says of the
    /// instance from here on is not older than what was waited for.
    async fn healthy(&self, instance: &str, health: &Health) -> Result<(), ApplyError> {
        let mut course = Course::begun(std::time::Instant::now());
        loop {
            let at = std::time::Instant::now();
            let has_passed = probe(self.client, self.project, instance, health).await.unwrap_or(false);
            if !has_passed {
                self.running(instance).await?;
            }
            course.take(health, at, has_passed);
            match course.verdict() {
                Verdict::Starting => sleep(course.gap(health, std::time::Instant::now())).await,
                Verdict::Healthy => break,
                Verdict::Unhealthy => return Err(ApplyError::Unhealthy(instance.to_owned())),
            }
        }
        if let Some((daemon, key)) =
            self.watcher.and_then(|daemon| Some((daemon, daemon.key(self.project, instance).ok()?)))
        {
            // It may be of another version, or not watch the instance; the service is well all the same.
            let _unknown = timeout(health.timeout, daemon.client.ask_health(&key)).await;
        }
        Ok(())
    }
}

/// Runs a service's test once, in the service's own surroundings; whether it succeeded in its time.
///
/// # Errors
/// When the server cannot run it.
pub async fn probe(
    client: &Client,
    project: &str,
    instance: &str,
    health: &Health,
) -> Result<bool, IncusError> {
    let spec = match health.tester {
        Tester::Guest => ExecSpec::of_root(health.words(), health.environment()),
        Tester::Server => client.beside_image(project, instance, health.words()).await?,
    };
    let whole = client.run(project, instance, &spec, (health.patience(), 0)).await?;
    Ok(whole.is_some_and(|whole| whole.end == Some(ExecEnd::Status(0))))
}

/// The exit code that the service of an instance that does not run has left; `None` when its first process is not ours.
///
/// # Errors
/// When the server cannot read it.
pub async fn exit_code(client: &Client, project: &str, instance: &str) -> Result<Option<i32>, IncusError> {
    let file = client.file(project, instance, &format!("{}/{}", service::DIR, service::STATE), 64).await?;
    Ok(file.and_then(|file| match file.content {
        FileContent::Plain(text) => service::State::read(&text).map(|state| match state {
            service::State::Exited(code, _) => i32::from(code),
            // It had no time to say more.
            service::State::Running(_) => KILLED,
        }),
        FileContent::Link(_) | FileContent::Directory => None,
    }))
}
