//! What a running network is made to be: judged first, then told of its rules, or ended for one that was tried.

use std::collections::BTreeSet;
use std::time::Duration;

use portway_config::MeshSettings;
use portway_control::api::{ChangeMeshRules, Failure, MeshRuleStatus, NetworkState, NewMeshRule};
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{info, warn};

use super::process::Process;
use super::record::Record;
use super::tend::Tending;
use super::{Judged, locked};
use crate::state::with_sources;

/// Pauses between two tries to change the rules of a network that has not taken them.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// Where a rule stands that no file names, as a network says it.
const BY_HAND: &str = "added while it ran";

/// Something is wanted that the network is not yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    /// When it is tried again; `None`: when the network is ready, or something else is wanted.
    pub(super) at: Option<Instant>,
    pause: Duration,
}

impl Tending {
    /// What is wanted, read as its process will.
    pub(super) async fn judge(&self, settings: MeshSettings) -> Result<Judged, String> {
        let judge = self.around.role.judge;
        let judged = spawn_blocking(move || judge(&settings)).await;
        let said = |failure: Failure| match failure.hint {
            Some(hint) => format!("{} (hint: {hint})", failure.error),
            None => failure.error,
        };
        let mut judged = judged.map_err(|_| "it could not be read".to_owned())?.map_err(said)?;
        if let Some(ids) = &self.around.ids {
            judged.fingerprint += &format!(" {} {}", ids.uid, ids.gid);
        }
        Ok(judged)
    }

    /// Makes a network that runs what is wanted; `None`: it has to be started anew for that.
    pub(super) async fn change(&mut self, process: Process) -> Option<Process> {
        let Some(settings) = self.wanted.clone() else { return Some(process) };
        let judged = match self.judge(settings).await {
            Ok(judged) => judged,
            Err(why) => return Some(self.leave_as_it_is(process, &why)),
        };
        let build = &self.around.build;
        let same = |record: &Record| record.fingerprint == judged.fingerprint && record.build == *build;
        let Some(record) = self.record.clone().filter(same) else {
            // One that has not started has nothing to lose.
            if self.is_ready
                && let Err(why) = self.rehearse(&judged).await
            {
                // What was in the way may be gone later: another network's end, memory.
                let process = self.leave_as_it_is(process, &why);
                self.try_again();
                return Some(process);
            }
            info!(network = self.name, "more than rules has changed: the network is started anew");
            self.end(&process).await;
            self.around.claims.take(&judged.key, &self.name).ok();
            return None;
        };
        if !self.is_ready {
            self.due = Some(Due { at: None, pause: AGAIN });
            return Some(process);
        }
        match self.change_rules(&record.rules, &judged.rules).await {
            Ok(()) => self.changed(Record { rules: judged.rules, ..record }),
            Err(why) => {
                let why = format!("its rules are as before: {why}");
                if self.note(&why) {
                    warn!(network = self.name, why, "rules not changed");
                }
                self.try_again();
            }
        }
        Some(process)
    }

    /// Whether what is wanted could take the place of what runs, and be recorded.
    async fn rehearse(&self, judged: &Judged) -> Result<(), String> {
        let longest = Record::of(i32::MAX, u64::MAX, judged, &self.around.build);
        longest.make_room(&self.around.run_dir, &self.name)?;
        let claims = &self.around.claims;
        let taken = claims.take(&judged.key, &self.name);
        taken.map_err(|other| format!("mesh.{other} has the same key and has not ended"))?;
        let rehearsed = Process::rehearse(&self.around, judged).await;
        if rehearsed.is_err() && self.record.as_ref().is_none_or(|record| record.key != judged.key) {
            claims.give_up(&judged.key, &self.name);
        }
        rehearsed
    }

    fn try_again(&mut self) {
        let pause = self.due.map_or(AGAIN, |due| due.pause);
        let at = Some(Instant::now() + pause);
        self.due = Some(Due { at, pause: (pause * 2).min(AGAIN_MAX) });
    }

    fn leave_as_it_is(&mut self, process: Process, why: &str) -> Process {
        if self.note(&format!("it runs as before: {why}")) {
            warn!(network = self.name, why, "network not changed");
        }
        self.due = Some(Due { at: None, pause: self.due.map_or(AGAIN, |due| due.pause) });
        process
    }

    fn changed(&mut self, record: Record) {
        self.due = None;
        if let Err(why) = record.write(&self.around.run_dir, &self.name) {
            warn!(network = self.name, why, "another daemon will not know what has changed");
        }
        self.record = Some(record);
        let mut seen = locked(&self.seen);
        if seen.state == NetworkState::Running {
            seen.error = None;
        }
    }

    /// Shows what is wrong with one that runs; whether it is new.
    fn note(&self, why: &str) -> bool {
        let mut seen = locked(&self.seen);
        let is_new = seen.error.as_deref() != Some(why);
        seen.error = Some(why.to_owned());
        is_new
    }

    /// Has it make all of its rules what the file says, or none. What was added by hand and stands in the file from now on
    /// is the file's.
    async fn change_rules(&self, old: &[(String, String)], new: &[(String, String)]) -> Result<(), String> {
        let client = self.around.client(&self.name);
        let failed = |error: portway_control::ClientError| with_sources(&error);
        let present = client.mesh().await.map_err(failed)?.rules;
        let of_files: BTreeSet<(&str, &str)> = present
            .iter()
            .filter(|rule| rule.place != BY_HAND)
            .map(|rule| (rule.direction.as_str(), rule.rule.as_str()))
            .collect();
        let is_missing = |(direction, rule): &&(String, String)| !of_files.contains(&(direction, rule));
        let add = new.iter().filter(is_missing).map(|(direction, rule)| NewMeshRule {
            direction: direction.clone(),
            rule: rule.clone(),
            configured: true,
        });
        // What was recorded may be older than what it was last told.
        let pairs =
            |rules: &[(String, String)]| -> BTreeSet<(String, String)> { rules.iter().cloned().collect() };
        let (old, new) = (pairs(old), pairs(new));
        let is_gone = |rule: &&MeshRuleStatus| {
            let pair = (rule.direction.clone(), rule.rule.clone());
            !new.contains(&pair) && (rule.place != BY_HAND || old.contains(&pair))
        };
        let remove = present.iter().filter(is_gone).map(|rule| rule.id.clone());
        let change = ChangeMeshRules { add: add.collect(), remove: remove.collect() };
        if change.add.is_empty() && change.remove.is_empty() {
            return Ok(());
        }
        client.change_rules(&change).await.map_err(failed)?;
        info!(network = self.name, added = change.add.len(), removed = change.remove.len(), "rules changed");
        Ok(())
    }
}
