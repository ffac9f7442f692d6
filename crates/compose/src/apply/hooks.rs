//! What a service runs when it has started, and before it is stopped.

use std::time::Duration;

use portway_incus::Instance;

use super::{ApplyError, Hands, server};
use crate::hook::Hooks;
use crate::inside::{self, InsideError, Program};

/// Where in a service's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Started,
    Stopping,
}

impl Turn {
    const fn key(self) -> &'static str {
        match self {
            Turn::Started => "post_start",
            Turn::Stopping => "pre_stop",
        }
    }
}

impl Hands<'_> {
    /// Starts it, and runs what is to run then; not in one that has been running.
    pub(super) async fn start_with_hooks(&self, instance: &str) -> Result<(), ApplyError> {
        let said = self.want.and_then(|want| want.instances().find(|(_, one)| one.name == instance));
        let said = said.map(|(_, one)| Hooks::of(&one.config));
        if said.as_ref().is_some_and(|hooks| hooks.post_start.is_empty()) {
            return self.start(instance).await;
        }
        let before = self.hooked(instance).await?;
        self.start(instance).await?;
        match before {
            Some((there, own)) if !there.is_running() => {
                let hooks = said.unwrap_or(own);
                self.run_all(&there, Turn::Started, &hooks.post_start).await
            }
            _ => Ok(()),
        }
    }

    /// Runs what is to run before it is stopped, when it runs and has time.
    pub(super) async fn before_stop(&self, instance: &str, grace: Duration) -> Result<(), ApplyError> {
        if grace.is_zero() {
            return Ok(());
        }
        match self.hooked(instance).await? {
            Some((there, hooks)) if there.is_running() => {
                self.run_all(&there, Turn::Stopping, &hooks.pre_stop).await
            }
            _ => Ok(()),
        }
    }

    /// An instance, and what it is labelled with.
    async fn hooked(&self, instance: &str) -> Result<Option<(Instance, Hooks)>, ApplyError> {
        let there = self.client.instance(self.project, instance).await;
        let there = there.map_err(server("it cannot be read"))?;
        Ok(there.map(|there| {
            let hooks = Hooks::of(&there.config);
            (there, hooks)
        }))
    }

    /// Runs them one after the other, until one fails or waiting is to end.
    async fn run_all(&self, there: &Instance, turn: Turn, programs: &[Program]) -> Result<(), ApplyError> {
        let mut halt = self.halt.clone();
        for program in programs {
            tokio::select! {
                done = self.run_one(there, turn, program) => done?,
                Ok(_) = halt.wait_for(|halted| *halted) => return Err(ApplyError::Halted),
            }
        }
        Ok(())
    }

    async fn run_one(&self, there: &Instance, turn: Turn, program: &Program) -> Result<(), ApplyError> {
        let place = (self.project, there.name.as_str());
        let ran = async {
            let spec = inside::spec(self.client, place, &there.config, program).await?;
            inside::run(self.client, place, &spec).await
        };
        let done = match ran.await {
            Ok((end, said)) => inside::outcome(&end, &said),
            Err(InsideError::Server(error)) => return Err(server("its hook cannot be run")(error)),
            Err(error) => Err(format!("cannot be run: {error}")),
        };
        let Err(why) = done else { return Ok(()) };
        let command = program.command.first().cloned().unwrap_or_default();
        Err(ApplyError::Hook { key: turn.key(), command, why })
    }
}
