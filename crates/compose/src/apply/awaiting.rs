//! Waiting for a service: that it runs, is healthy, has ended well.

use std::collections::BTreeMap;
use std::time::Duration;

use portway_incus::{Client, Exec, ExecEnd, ExecSpec, FileContent, IncusError, State, status_code};
use portway_proto::service::{self, User};
use tokio::time::{Instant, sleep, timeout};

use super::{ApplyError, Hands, server};
use crate::want::{Condition, Health, Tester};

/// Exit code of what was killed: 128 and the number of SIGKILL, as a shell has it.
const KILLED: i32 = 137;

/// Between two looks at an instance. A look takes the server 2 to 5 ms.
const LOOK: Duration = Duration::from_millis(100);

/// After so long of nothing but errors an instance is broken, and not about to start or stop.
const BLIND: Duration = Duration::from_secs(30);

/// Longest file of users that is read.
const PASSWD_MAX_BYTES: usize = 1 << 20;

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

    /// Tests until one succeeds. So many failures in a row after the start period make it unhealthy.
    async fn healthy(&self, instance: &str, health: &Health) -> Result<(), ApplyError> {
        let begin = Instant::now();
        let mut failures = 0;
        loop {
            let starting = begin.elapsed() < health.start_period;
            if probe(self.client, self.project, instance, health).await.unwrap_or(false) {
                return Ok(());
            }
            self.running(instance).await?;
            if !starting {
                failures += 1;
                if failures >= health.retries.max(1) {
                    return Err(ApplyError::Unhealthy(instance.to_owned()));
                }
            }
            // What is waited for is seen soon: the first tests come closer together.
            let gap = if starting { health.start_interval } else { health.interval };
            sleep(gap).await;
        }
    }
}

/// What a test of health is run as, by the server.
///
/// # Errors
/// When the server does not tell.
async fn tested(
    client: &Client,
    project: &str,
    instance: &str,
    health: &Health,
) -> Result<ExecSpec, IncusError> {
    let mut spec = ExecSpec {
        command: health.test.clone(),
        environment: BTreeMap::new(),
        user: 0,
        group: 0,
        cwd: "/".to_owned(),
        terminal: None,
    };
    if health.tester == Tester::Guest {
        let own = format!("{}/{}", service::DIR, service::PROGRAM);
        spec.command.splice(0..0, [own.as_str(), service::BESIDE, service::DIR].map(str::to_owned));
        return Ok(spec);
    }
    let config =
        client.instance(project, instance).await?.map(|instance| instance.config).unwrap_or_default();
    let number = |key: &str| config.get(key).and_then(|id| id.parse().ok());
    spec.user = number("oci.uid").unwrap_or(0);
    spec.group = number("oci.gid").unwrap_or(0);
    spec.cwd = config.get("oci.cwd").filter(|cwd| !cwd.is_empty()).cloned().unwrap_or(spec.cwd);
    if spec.user != 0 && !config.contains_key("environment.HOME") {
        spec.environment
            .extend(home(client, project, instance, spec.user).await.map(|home| ("HOME".to_owned(), home)));
    }
    Ok(spec)
}

/// A user's folder, as the instance's own file of users has it.
async fn home(client: &Client, project: &str, instance: &str, uid: u32) -> Option<String> {
    let file = client.file(project, instance, "/etc/passwd", PASSWD_MAX_BYTES).await.ok()??;
    let FileContent::Plain(users) = file.content else { return None };
    let user = User::find(&users, b"", uid.to_string().as_bytes(), &[]).ok()?;
    String::from_utf8(user.home?).ok()
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
    let spec = tested(client, project, instance, health).await?;
    let Some(sockets) = client.exec(project, instance, &spec).await? else { return Ok(false) };
    let ended = async {
        let Ok(exec) = Exec::new(sockets).await else { return false };
        let Exec { mut control, mut input, mut output, errors, outcome } = exec;
        let read = async {
            let _gone = input.finish().await;
            while output.next().await.is_some() {}
        };
        let errors = async {
            if let Some(mut errors) = errors {
                while errors.next().await.is_some() {}
            }
        };
        let (_, _, (), end) = tokio::join!(control.closed(), read, errors, outcome.wait());
        matches!(end, Ok(ExecEnd::Status(0)))
    };
    // Dropped, what holds the program kills it.
    Ok(timeout(health.timeout, ended).await.unwrap_or(false))
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
