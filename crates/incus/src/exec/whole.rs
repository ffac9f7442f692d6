//! A program from its start to its end, within bounds of time and of what is kept of its output.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Exec, ExecEnd, ExecSpec, Output};
use crate::files::FileContent;
use crate::{Client, Result};

/// Longest file of users that is read.
const PASSWD_MAX_BYTES: usize = 1 << 20;

/// A program that has run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    /// How it has ended; `None` when it took too long and was killed.
    pub end: Option<ExecEnd>,
    /// The first of what it said, on both outputs.
    pub output: Vec<u8>,
}

impl Client {
    /// Runs a program that reads nothing, for at most `limit`, and keeps the first `keep_bytes` of what it says. Dropped,
    /// or after `limit`, it is killed; its children live on. `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub async fn run(
        &self,
        project: &str,
        name: &str,
        spec: &ExecSpec,
        (limit, keep_bytes): (Duration, usize),
    ) -> Result<Option<Whole>> {
        let Some(sockets) = self.exec(project, name, spec).await? else { return Ok(None) };
        let begin = Instant::now();
        let mut output = Vec::new();
        let ended = async {
            let Ok(exec) = Exec::new(sockets).await else {
                return ExecEnd::Failed("its streams cannot be read".to_owned());
            };
            let Exec { mut control, mut input, output: said, errors, outcome } = exec;
            let read = async {
                let _gone = input.finish().await;
                keep(said, errors, &mut output, keep_bytes).await;
            };
            let (_, (), end) = tokio::join!(control.closed(), read, outcome.wait());
            end.unwrap_or_else(|error| ExecEnd::Failed(error.to_string()))
        };
        // Dropped, what holds the program kills it.
        let end = match begin.checked_add(limit) {
            Some(late) => timeout_at(late, ended).await.ok(),
            None => Some(ended.await),
        };
        Ok(Some(Whole { end, output }))
    }

    /// What the server runs `command` as beside the program of an instance's image: its user, group and folder where the
    /// image is one of a registry, else root in `/`.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn beside_image(&self, project: &str, name: &str, command: Vec<String>) -> Result<ExecSpec> {
        let instance = self.instance(project, name).await?;
        let config = instance.map(|instance| instance.config).unwrap_or_default();
        let number = |key: &str| config.get(key).and_then(|id| id.parse().ok()).unwrap_or(0);
        let (user, group) = (number("oci.uid"), number("oci.gid"));
        let mut environment = BTreeMap::new();
        if user != 0 && !config.contains_key("environment.HOME") {
            environment.extend(self.home(project, name, user).await.map(|home| ("HOME".to_owned(), home)));
        }
        let cwd = config.get("oci.cwd").filter(|cwd| !cwd.is_empty()).cloned();
        let cwd = cwd.unwrap_or_else(|| "/".to_owned());
        Ok(ExecSpec { command, environment, user, group, cwd, terminal: None })
    }

    /// A user's folder, as the instance's own file of users has it (passwd(5)).
    async fn home(&self, project: &str, name: &str, uid: u32) -> Option<String> {
        let file = self.file(project, name, "/etc/passwd", PASSWD_MAX_BYTES).await.ok()??;
        let FileContent::Plain(users) = file.content else { return None };
        let users = String::from_utf8(users.to_vec()).ok()?;
        let home = |line: &str| {
            let fields: Vec<&str> = line.split(':').collect();
            let is_it = fields.get(2).and_then(|id| id.parse().ok()) == Some(uid);
            fields.get(5).filter(|_| is_it).map(|home| (*home).to_owned())
        };
        users.lines().find_map(home)
    }
}

/// Pause before each further piece of what is not kept: who says more than anybody wants to know has to wait for it.
const UNWANTED: Duration = Duration::from_millis(20);

/// Reads both outputs to their ends.
async fn keep(mut said: Output, errors: Option<Output>, kept: &mut Vec<u8>, keep_bytes: usize) {
    let Some(mut errors) = errors else {
        while let Some(piece) = said.next().await {
            add(kept, &piece, keep_bytes).await;
        }
        return;
    };
    let (mut says, mut complains) = (true, true);
    while says || complains {
        let piece = tokio::select! {
            piece = said.next(), if says => { says = piece.is_some(); piece }
            piece = errors.next(), if complains => { complains = piece.is_some(); piece }
        };
        add(kept, piece.as_deref().unwrap_or_default(), keep_bytes).await;
    }
}

async fn add(kept: &mut Vec<u8>, piece: &[u8], keep_bytes: usize) {
    let room = keep_bytes.saturating_sub(kept.len());
    kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
    if room < piece.len() {
        tokio::time::sleep(UNWANTED).await;
    }
}
