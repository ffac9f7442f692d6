//! One network, tended: started, watched, changed, ended.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portway_control::ClientError;
use portway_control::api::NetworkState;
use tokio::sync::watch;
use tokio::time::{Instant as Moment, sleep};
use tracing::{info, warn};

use super::change::Due;
use super::pace::Allowance;
use super::process::{Process, Said};
use super::record::Record;
use super::{Seen, Surroundings, Wish, locked};
use crate::hub::Hub;

/// Pauses before it is started again, and how long it has to last for the shortest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const LASTING: Duration = Duration::from_secs(30);

/// How long one that is not wanted any more may go on after the time that it gives its connections itself.
const LEAVING: Duration = Duration::from_secs(10);

/// How long it may take until its ports are open.
const STARTING: Duration = Duration::from_secs(60);

/// How often it is asked whether it still answers, and how many answers in a row it may miss.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES_MISSED: u32 = 3;

/// See the module.
pub(super) struct Tending {
    pub(super) name: String,
    hub: Arc<Hub>,
    pub(super) around: Surroundings,
    /// `None`: it is leaving.
    pub(super) wanted: Wish,
    pub(super) seen: Arc<Mutex<Seen>>,
    /// What it was last told.
    pub(super) record: Option<Record>,
    /// Its ports are open.
    pub(super) is_ready: bool,
    /// What is wanted and was not made yet.
    pub(super) due: Option<Due>,
    pause: Duration,
    /// Another network has its key: that is waited for.
    is_blocked: bool,
    /// Until when it has to have left.
    deadline: Option<Moment>,
    /// When it is asked next, and how many answers it has missed.
    probe: (Moment, u32),
    allowance: Allowance,
}

/// What came first.
enum Came {
    Ended,
    Said(Said),
    /// Something else is wanted; or nobody wants anything any more.
    Wish(bool),
    Time,
}

impl Tending {
    pub(super) fn new(
        name: &str,
        hub: &Arc<Hub>,
        around: &Surroundings,
        wanted: Wish,
        seen: Arc<Mutex<Seen>>,
    ) -> Tending {
        Tending {
            name: name.to_owned(),
            hub: Arc::clone(hub),
            around: around.clone(),
            wanted,
            seen,
            record: None,
            is_ready: false,
            due: None,
            pause: PAUSE_MIN,
            is_blocked: false,
            deadline: None,
            probe: (Moment::now(), 0),
            allowance: Allowance::new(Instant::now()),
        }
    }

    /// Until it has left and nobody asks for it, or the daemon ends.
    pub(super) async fn run(mut self, mut wishes: watch::Receiver<Wish>) {
        let mut running = self.take_over().await;
        loop {
            running = match running {
                Some(process) => match self.watch(process, &mut wishes).await {
                    Some(next) => next,
                    None => return,
                },
                None if self.wanted.is_none() => {
                    Record::forget(&self.around.run_dir, &self.name);
                    self.see(NetworkState::Ended, None, None);
                    if wishes.changed().await.is_err() {
                        return;
                    }
                    self.heed_idle(&mut wishes);
                    None
                }
                None => match self.start().await {
                    Ok(process) => Some(process),
                    Err(why) => {
                        self.fail(&why);
                        self.rest(&mut wishes).await;
                        None
                    }
                },
            };
        }
    }

    /// The one that an earlier daemon has started.
    async fn take_over(&mut self) -> Option<Process> {
        if let Some(process) = Process::unrecorded(&self.around, &self.name)
            && Record::read(&self.around.run_dir, &self.name).is_none_or(|record| record.pid != process.pid)
        {
            warn!(network = self.name, pid = process.pid, "network that no daemon has recorded is ended");
            process.end().await;
        }
        let (process, record) = Process::recorded(&self.around, &self.name)?;
        info!(network = self.name, pid = process.pid, "network taken over");
        let is_leaving = record.leaving_since.is_some();
        (self.record, self.is_ready) = (Some(record), true);
        self.see(NetworkState::Running, Some(process.pid), None);
        if self.wanted.is_none() {
            self.leave(&process);
            return Some(process);
        }
        if is_leaving {
            // It takes nobody in any more.
            self.end(&process).await;
            return None;
        }
        self.change(process).await
    }

    /// One turn of a network that runs: `Some(None)` when it does not any more, `None` when the daemon ends.
    async fn watch(
        &mut self,
        mut process: Process,
        wishes: &mut watch::Receiver<Wish>,
    ) -> Option<Option<Process>> {
        let wakes = self.wakes(&process);
        let came = tokio::select! {
            said = process.next() => said.map_or(Came::Ended, Came::Said),
            changed = wishes.changed() => Came::Wish(changed.is_ok()),
            () = tokio::time::sleep_until(wakes) => Came::Time,
        };
        match came {
            Came::Said(said) => {
                let was_ready = self.is_ready;
                self.heed(said, &mut process);
                if self.is_ready && !was_ready && self.due.is_some() {
                    return Some(self.change(process).await);
                }
                Some(Some(process))
            }
            Came::Ended => {
                self.mourn(process, wishes).await;
                Some(None)
            }
            Came::Time => Some(self.look(process, wishes).await),
            Came::Wish(false) => None,
            Came::Wish(true) => {
                let wish = wishes.borrow_and_update().clone();
                if wish.is_none() {
                    if self.wanted.take().is_some() {
                        self.leave(&process);
                    }
                    return Some(Some(process));
                }
                let was_leaving = std::mem::replace(&mut self.wanted, wish).is_none();
                self.deadline = None;
                if was_leaving {
                    // It takes nobody in any more.
                    self.end(&process).await;
                    return Some(None);
                }
                Some(self.change(process).await)
            }
        }
    }

    /// When something is to be done though nothing comes.
    fn wakes(&self, process: &Process) -> Moment {
        match self.deadline {
            Some(deadline) => deadline,
            None if !self.is_ready => Moment::from_std(process.since + STARTING),
            None => self.due.and_then(|due| due.at).unwrap_or(self.probe.0).min(self.probe.0),
        }
    }

    /// Does what is due; `None` when it does not run any more.
    async fn look(&mut self, process: Process, wishes: &mut watch::Receiver<Wish>) -> Option<Process> {
        let now = Moment::now();
        if self.deadline.is_some() {
            self.end(&process).await;
            return None;
        }
        let why = if self.is_ready {
            if self.due.and_then(|due| due.at).is_some_and(|at| at <= now) {
                return self.change(process).await;
            }
            let asked = self.around.client(&self.name).mesh().await;
            // One that says something odd is there; what it says is shown where it is asked for.
            let is_silent = matches!(asked, Err(ClientError::TimedOut { .. }));
            let missed = if is_silent { self.probe.1 + 1 } else { 0 };
            self.probe = (Moment::now() + PROBE_EVERY, missed);
            if missed < PROBES_MISSED {
                return Some(process);
            }
            "it does not answer, and is started again".to_owned()
        } else {
            format!("it was not ready within {} s", STARTING.as_secs())
        };
        self.end(&process).await;
        self.fail(&why);
        self.rest(wishes).await;
        None
    }

    /// Ends it, and it is nobody's any more.
    pub(super) async fn end(&mut self, process: &Process) {
        process.end().await;
        self.is_gone();
        if self.wanted.is_some() {
            self.see(NetworkState::Starting, None, None);
        }
    }

    fn is_gone(&mut self) {
        (self.record, self.due, self.deadline, self.is_ready) = (None, None, None, false);
        self.around.claims.release(&self.name);
    }

    /// Has it end with its connections. It is told once, whichever daemon does: told again it would end at once.
    fn leave(&mut self, process: &Process) {
        let now = since_boot();
        let Some(record) = &mut self.record else { return };
        let (is_told, since) = (record.leaving_since.is_some(), *record.leaving_since.get_or_insert(now));
        if !is_told {
            info!(network = self.name, "network is not wanted any more: it ends with its connections");
            if let Err(why) = record.write(&self.around.run_dir, &self.name) {
                warn!(network = self.name, why, "another daemon will not know that it ends");
            }
            process.drain();
        }
        let left = (record.drain + LEAVING).saturating_sub(now.saturating_sub(since));
        self.deadline = Some(Moment::now() + left);
        self.see(NetworkState::Ending, Some(process.pid), None);
    }

    fn heed_idle(&mut self, wishes: &mut watch::Receiver<Wish>) {
        self.wanted = wishes.borrow_and_update().clone();
        if self.wanted.is_some() {
            self.pause = PAUSE_MIN;
            self.see(NetworkState::Starting, None, None);
        }
    }

    fn heed(&mut self, said: Said, process: &mut Process) {
        let (network, pid) = (self.name.as_str(), process.pid);
        match said {
            // It is so once.
            Said::Ready(_) if self.is_ready => {}
            Said::Ready(text) => {
                self.is_ready = true;
                self.probe = (Moment::now() + PROBE_EVERY, 0);
                info!(network, pid, text, "network runs");
                self.hub.tell_network("network-started", network, text);
                self.see(NetworkState::Running, Some(pid), None);
            }
            Said::Trouble(text) => {
                if let Some(unsaid) = self.allowance.take(Instant::now()) {
                    warn!(network, text, unsaid, "network");
                }
            }
            Said::Failed(_) if process.has_failed => {}
            Said::Failed(text) => {
                process.has_failed = true;
                self.fail(&text);
            }
        }
    }

    /// It has ended by itself.
    async fn mourn(&mut self, mut process: Process, wishes: &mut watch::Receiver<Wish>) {
        if let Some(said) = process.last_said() {
            self.heed(said, &mut process);
        }
        let exit = process.exit();
        self.is_gone();
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
        self.rest(wishes).await;
    }

    /// Waits before it is started again, or until something else is wanted.
    async fn rest(&mut self, wishes: &mut watch::Receiver<Wish>) {
        let pause = if self.is_blocked { PAUSE_MIN } else { self.pause };
        tokio::select! {
            () = sleep(pause) => if !self.is_blocked {
                self.pause = (self.pause * 2).min(PAUSE_MAX);
            },
            changed = wishes.changed() => match changed {
                Ok(()) => self.heed_idle(wishes),
                Err(_) => self.wanted = None,
            },
        }
    }

    async fn start(&mut self) -> Result<Process, String> {
        let settings = self.wanted.clone().ok_or("it is not wanted")?;
        self.is_blocked = false;
        let judged = self.judge(settings).await?;
        if let Err(other) = self.around.claims.take(&judged.key, &self.name) {
            self.is_blocked = true;
            return Err(format!("mesh.{other} has the same key: it waits until that has ended"));
        }
        for warning in &judged.warnings {
            warn!(network = self.name, warning, "network");
        }
        let started = Process::start(&self.around, &self.name, &judged).await;
        let (process, record) = started.inspect_err(|_| self.around.claims.release(&self.name))?;
        (self.record, self.is_ready, self.due) = (Some(record), false, None);
        let mut seen = locked(&self.seen);
        seen.restarts += u64::from(seen.pid.is_some());
        seen.pid = Some(process.pid);
        if seen.error.is_none() {
            (seen.state, seen.since) = (NetworkState::Starting, Instant::now());
        }
        drop(seen);
        Ok(process)
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

/// The clock of one boot, which goes on while the host sleeps.
fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0))
}
