//! One network, tended: started, watched, changed, ended.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portway_config::MeshSettings;
use portway_control::api::{ChangeMeshRules, Failure, NetworkState, NewMeshRule};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::{info, warn};

use super::process::{Process, Said};
use super::record::Record;
use super::{Judged, Seen, Surroundings, locked};
use crate::hub::Hub;
use crate::state::with_sources;

/// Orders that wait to be taken.
pub(super) const ORDERS: usize = 16;

/// Pauses before it is started again, and how long it has to last for the shortest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const LASTING: Duration = Duration::from_secs(30);

/// How long connections of a network that is not wanted any more may go on, beside the time that it gives them itself.
const LEAVING: Duration = Duration::from_secs(600);

/// What is wanted of a network.
#[derive(Debug)]
pub(super) enum Order {
    /// It is to be this.
    Want(Box<MeshSettings>),
    /// It is not to be, once its connections have ended.
    Leave,
}

/// See the module.
pub(super) struct Tending {
    name: String,
    hub: Arc<Hub>,
    around: Surroundings,
    /// `None`: it is leaving.
    wanted: Option<MeshSettings>,
    seen: Arc<Mutex<Seen>>,
    /// What it was last told.
    record: Option<Record>,
    pause: Duration,
    /// Until when it has to have left.
    deadline: Option<tokio::time::Instant>,
}

/// What came first.
enum Came {
    Ended,
    Said(Said),
    Order(Option<Order>),
    Late,
}

impl Tending {
    pub(super) fn new(
        name: &str,
        hub: &Arc<Hub>,
        around: &Surroundings,
        wanted: Option<MeshSettings>,
        seen: Arc<Mutex<Seen>>,
    ) -> Tending {
        Tending {
            name: name.to_owned(),
            hub: Arc::clone(hub),
            around: around.clone(),
            wanted,
            seen,
            record: None,
            pause: PAUSE_MIN,
            deadline: None,
        }
    }

    /// Until it has left, or the daemon ends.
    pub(super) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut running = self.take_over().await;
        loop {
            running = match running {
                Some(process) => match self.watch(process, &mut orders).await {
                    Some(next) => next,
                    None => return,
                },
                None if self.wanted.is_none() => {
                    Record::forget(&self.around.run_dir, &self.name);
                    self.see(NetworkState::Ended, None, None);
                    match orders.recv().await {
                        Some(order) => self.heed_idle(order),
                        None => return,
                    }
                    None
                }
                None => match self.start().await {
                    Ok(process) => Some(process),
                    Err(why) => {
                        self.fail(&why);
                        self.rest(&mut orders).await;
                        None
                    }
                },
            };
        }
    }

    /// The one that an earlier daemon has started.
    async fn take_over(&mut self) -> Option<Process> {
        let (process, record) = Process::recorded(&self.around.run_dir, &self.name)?;
        if !process.is_of_this_build() {
            info!(network = self.name, pid = process.pid, "network is of another build and is started anew");
            process.end().await;
            return None;
        }
        info!(network = self.name, pid = process.pid, "network taken over");
        self.record = Some(record);
        self.see(NetworkState::Running, Some(process.pid), None);
        if self.wanted.is_none() {
            self.leave(&process);
            return Some(process);
        }
        self.change(process).await
    }

    /// One turn of a network that runs: `Some(None)` when it does not any more, `None` when the daemon ends.
    async fn watch(
        &mut self,
        mut process: Process,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Option<Option<Process>> {
        let end = self.deadline.unwrap_or_else(tokio::time::Instant::now);
        let came = tokio::select! {
            said = process.next() => said.map_or(Came::Ended, Came::Said),
            order = orders.recv() => Came::Order(order),
            () = tokio::time::sleep_until(end), if self.deadline.is_some() => Came::Late,
        };
        match came {
            Came::Said(said) => {
                self.heed(said, &mut process);
                Some(Some(process))
            }
            Came::Ended => {
                self.mourn(process, orders).await;
                Some(None)
            }
            Came::Late => {
                process.end().await;
                Some(None)
            }
            Came::Order(None) => None,
            Came::Order(Some(Order::Leave)) => {
                if self.wanted.take().is_some() {
                    self.leave(&process);
                }
                Some(Some(process))
            }
            Came::Order(Some(Order::Want(settings))) => {
                let was_leaving = self.wanted.replace(*settings).is_none();
                self.deadline = None;
                if was_leaving {
                    // It takes nobody in any more.
                    process.end().await;
                    return Some(None);
                }
                Some(self.change(process).await)
            }
        }
    }

    fn leave(&mut self, process: &Process) {
        info!(network = self.name, "network is not wanted any more: it ends with its connections");
        process.drain();
        self.deadline = Some(tokio::time::Instant::now() + LEAVING);
        self.see(NetworkState::Ending, Some(process.pid), None);
    }

    fn heed_idle(&mut self, order: Order) {
        match order {
            Order::Want(settings) => {
                (self.wanted, self.pause) = (Some(*settings), PAUSE_MIN);
                self.see(NetworkState::Starting, None, None);
            }
            Order::Leave => self.wanted = None,
        }
    }

    fn heed(&mut self, said: Said, process: &mut Process) {
        let (network, pid) = (self.name.as_str(), process.pid);
        match said {
            Said::Ready(text) => {
                info!(network, pid, text, "network runs");
                self.hub.tell_network("network-started", network, text);
                self.see(NetworkState::Running, Some(pid), None);
            }
            Said::Trouble(text) => warn!(network, text, "network"),
            Said::Failed(text) => {
                process.has_failed = true;
                self.fail(&text);
            }
        }
    }

    /// It has ended by itself.
    async fn mourn(&mut self, mut process: Process, orders: &mut mpsc::Receiver<Order>) {
        if let Some(said) = process.last_said() {
            self.heed(said, &mut process);
        }
        let exit = process.exit();
        self.record = None;
        if self.wanted.is_none() {
            info!(network = self.name, ?exit, "network has ended");
            return;
        }
        if !process.has_failed {
            let how = match exit {
                Some(portway_sys::process::Exit::Signal(signal)) => {
                    format!("its process was ended by signal {signal}")
                }
                Some(portway_sys::process::Exit::Code(code)) => {
                    format!("its process has ended with code {code}")
                }
                None => "its process has ended".to_owned(),
            };
            self.fail(&how);
        }
        if process.since.elapsed() >= LASTING {
            self.pause = PAUSE_MIN;
        }
        self.rest(orders).await;
    }

    /// Waits before it is started again, or until something else is wanted.
    async fn rest(&mut self, orders: &mut mpsc::Receiver<Order>) {
        tokio::select! {
            () = sleep(self.pause) => self.pause = (self.pause * 2).min(PAUSE_MAX),
            order = orders.recv() => match order {
                Some(order) => self.heed_idle(order),
                None => self.wanted = None,
            },
        }
    }

    async fn judge(&self, settings: MeshSettings) -> Result<Judged, String> {
        let judge = self.around.role.judge;
        let judged = spawn_blocking(move || judge(&settings)).await;
        let said = |failure: Failure| match failure.hint {
            Some(hint) => format!("{} (hint: {hint})", failure.error),
            None => failure.error,
        };
        judged.map_err(|_| "it could not be read".to_owned())?.map_err(said)
    }

    async fn start(&mut self) -> Result<Process, String> {
        let settings = self.wanted.clone().ok_or("it is not wanted")?;
        let judged = self.judge(settings).await?;
        for warning in &judged.warnings {
            warn!(network = self.name, warning, "network");
        }
        let started = Process::start(&self.around, &judged);
        let (process, record) = started.map_err(|error| format!("it cannot be started: {error}"))?;
        record.write(&self.around.run_dir, &self.name);
        self.record = Some(record);
        {
            let mut seen = locked(&self.seen);
            seen.restarts += u64::from(seen.pid.is_some());
            seen.pid = Some(process.pid);
            if seen.error.is_none() {
                (seen.state, seen.since) = (NetworkState::Starting, Instant::now());
            }
        }
        Ok(process)
    }

    /// Makes a network that runs what is wanted; `None`: it has to be started anew for that.
    async fn change(&mut self, process: Process) -> Option<Process> {
        let settings = self.wanted.clone()?;
        let judged = match self.judge(settings).await {
            Ok(judged) => judged,
            Err(why) => {
                warn!(network = self.name, why, "network not changed");
                locked(&self.seen).error = Some(format!("it runs as before: {why}"));
                return Some(process);
            }
        };
        let before = self.record.clone().filter(|record| record.fingerprint == judged.fingerprint);
        let Some(mut record) = before else {
            info!(network = self.name, "more than rules has changed: the network is started anew");
            process.end().await;
            return None;
        };
        match self.change_rules(&record.rules, &judged.rules).await {
            Ok(()) => {
                record.rules = judged.rules;
                record.write(&self.around.run_dir, &self.name);
                self.record = Some(record);
                let mut seen = locked(&self.seen);
                if seen.state == NetworkState::Running {
                    seen.error = None;
                }
            }
            Err(why) => {
                warn!(network = self.name, why, "rules not changed");
                locked(&self.seen).error = Some(format!("its rules are as before: {why}"));
            }
        }
        Some(process)
    }

    /// Has it make all of its rules what the file says, or none.
    async fn change_rules(&self, old: &[(String, String)], new: &[(String, String)]) -> Result<(), String> {
        let client = self.around.client(&self.name);
        let failed = |error: portway_control::ClientError| with_sources(&error);
        let present = client.mesh().await.map_err(failed)?.rules;
        let there: BTreeSet<(&str, &str)> =
            present.iter().map(|rule| (rule.direction.as_str(), rule.rule.as_str())).collect();
        let is_missing = |(direction, rule): &&(String, String)| !there.contains(&(direction, rule));
        let add = new.iter().filter(is_missing).map(|(direction, rule)| NewMeshRule {
            direction: direction.clone(),
            rule: rule.clone(),
            configured: true,
        });
        let gone: BTreeSet<(&str, &str)> = old
            .iter()
            .filter(|rule| !new.contains(rule))
            .map(|(direction, rule)| (direction.as_str(), rule.as_str()))
            .collect();
        let remove = present
            .iter()
            .filter(|rule| gone.contains(&(rule.direction.as_str(), rule.rule.as_str())))
            .map(|rule| rule.id.clone());
        let change = ChangeMeshRules { add: add.collect(), remove: remove.collect() };
        if change.add.is_empty() && change.remove.is_empty() {
            return Ok(());
        }
        client.change_rules(&change).await.map_err(failed)?;
        info!(network = self.name, added = change.add.len(), removed = change.remove.len(), "rules changed");
        Ok(())
    }

    fn see(&self, state: NetworkState, pid: Option<i32>, error: Option<String>) {
        let mut seen = locked(&self.seen);
        if seen.state != state {
            seen.since = Instant::now();
        }
        (seen.state, seen.error) = (state, error);
        seen.pid = pid.or(seen.pid);
    }

    /// It does not run, and why. The same again is said once.
    fn fail(&self, why: &str) {
        let is_new = locked(&self.seen).error.as_deref() != Some(why);
        self.see(NetworkState::Failed, None, Some(why.to_owned()));
        if is_new {
            warn!(network = self.name, why, "network does not run");
            self.hub.tell_network("network-failed", &self.name, why.to_owned());
        }
    }
}
