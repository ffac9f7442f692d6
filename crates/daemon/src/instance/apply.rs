//! Carries the planned steps out: listeners, workers, placements, and the keeper's copies.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_model::{Bind, DeviceName, DeviceSpec};
use portway_relay::wire::{Identity, Init, Lifetime, PROTOCOL_VERSION, WireDevice};
use tokio::sync::{OwnedSemaphorePermit, TryAcquireError};
use tracing::{info, warn};

use super::device::{Placement, Setback};
use super::plan::{self, Group, Side, Step, View, WorkerView};
use super::slots::Slots;
use super::{Crashes, ENDING_LIMIT, Instance, Leaving, Serving, placing};
use crate::listeners::{self, Listeners, OpenError};
use crate::provider::Run;
use crate::state::with_sources;
use crate::tally::{self, Done, Hit};
use crate::worker::{Put, Worker, WorkerError};

/// Pause before something that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// First pause after a worker that ended by itself twice in a row; doubled up to [`CRASH_PAUSE_MAX`].
const CRASH_PAUSE: Duration = Duration::from_millis(100);

/// Longest pause between two starts of a crashing worker.
const CRASH_PAUSE_MAX: Duration = Duration::from_secs(5);

/// A worker that lived this long did not crash at the start.
const STEADY: Duration = Duration::from_secs(10);

/// Longest wait for listeners to open: a file system of the instance may never answer.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time connections of a device that moved to another worker may go on.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Rounds of planning before the actor looks at its other work again.
const ROUNDS_MAX: usize = 32;

impl Instance {
    /// Plans and applies until nothing is left to do.
    pub(super) async fn reconcile(&mut self) {
        let begin = Instant::now();
        self.reconcile_all().await;
        tally::reconciled(begin.elapsed());
    }

    async fn reconcile_all(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let steps = plan::plan(&self.view());
            if steps.is_empty() {
                return self.lead().await;
            }
            for step in steps {
                self.apply(step).await;
            }
        }
        tally::hit(Hit::ReconcileRounds);
        warn!(instance = %self.key, "the plan does not come to an end");
    }

    fn view(&self) -> View {
        let now = Instant::now();
        let devices = self.devices.values().map(|device| {
            let matches = device.matches(self.key.provider(), self.uuid.as_deref());
            device.view(matches, self.group_for(device).ok().flatten(), now)
        });
        let serving = self
            .workers
            .iter()
            .map(|(group, serving)| WorkerView::Serving { group: *group, run: serving.run.clone() });
        let broken = self.crashes.iter().filter_map(|(group, crashes)| {
            let setback = crashes.setback.as_ref().filter(|_| !self.workers.contains_key(group))?;
            Some(WorkerView::Broken { group: *group, due: setback.retry_at <= now })
        });
        View {
            run: self.run.as_ref().map(|run| run.id.clone()),
            devices: devices.collect(),
            workers: serving.chain(broken).collect(),
        }
    }

    async fn apply(&mut self, step: Step) {
        match step {
            Step::Open(name) => self.open(&name).await,
            Step::Close(name) => self.close(&name).await,
            Step::Refuse(name) => self.refuse(&name).await,
            Step::Reopen(name) => self.reopen(&name).await,
            Step::StartWorker(group) => self.start_worker(group).await,
            Step::Put { device, group, keep_listeners } => self.put(&device, group, keep_listeners).await,
            Step::Take { device, group } => self.take(&device, group, true).await,
            Step::StopWorker(group) => self.stop_worker(group).await,
        }
    }

    async fn open(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get(name) else { return };
        let result = open_elsewhere(DeviceSpec::clone(&device.spec), self.run.clone()).await;
        self.opened(name, result).await;
    }

    /// Takes note of opened listeners, or of why there are none.
    pub(super) async fn opened(&mut self, name: &DeviceName, result: Result<Listeners, OpenError>) {
        let bind = self.devices.get(name).map(|device| device.spec.bind);
        let text = result.as_ref().err().map(|failure| self.opening_error(name, bind, failure));
        let taken = result.as_ref().err().is_some_and(|failure| self.is_anothers(name, failure));
        let Some(device) = self.devices.get_mut(name) else { return };
        device.taken = taken;
        match result {
            Ok(listeners) => {
                device.broken = None;
                device.listeners = Some(listeners);
                self.keep(name).await;
            }
            Err(failure) => {
                let text = text.unwrap_or_default();
                device.last_error = Some(text.clone());
                let passes = failure.passes();
                device.broken = Some(Setback { text, passes, retry_at: Instant::now() + RETRY });
            }
        }
    }

    /// Why listeners of `name` on the side of `bind` cannot be opened, with the owner of a busy address
    /// of the host.
    pub(super) fn opening_error(&self, name: &DeviceName, bind: Option<Bind>, failure: &OpenError) -> String {
        let mut text = with_sources(failure);
        if let OpenError::Busy { address } = failure
            && bind == Some(Bind::Host)
            && let Some(owner) = self.hub.owner_of(address, &self.device_key(name))
        {
            text.push_str(&format!(" by {owner}"));
        }
        if let OpenError::PathTaken { path, .. } = failure
            && bind == Some(Bind::Host)
            && let Some(owner) = self.hub.device_of_file(path, &self.device_key(name))
        {
            return format!("{path} is taken by device {owner}");
        }
        text
    }

    /// Whether listeners of `name` cannot be opened because of somebody else, who is no device of ours.
    fn is_anothers(&self, name: &DeviceName, failure: &OpenError) -> bool {
        match failure {
            OpenError::Busy { address } => self.hub.device_at(address, &self.device_key(name)).is_none(),
            OpenError::PathTaken { .. } => true,
            _ => false,
        }
    }

    /// Has the keeper hold the host-side listeners of a device.
    pub(super) async fn keep(&self, name: &DeviceName) {
        let Some(listeners) = self.devices.get(name).and_then(|device| device.listeners.as_ref()) else {
            return;
        };
        if listeners.run.is_none() {
            let key = self.device_key(name).to_string();
            self.hub.keeper.keep(key, listeners.note(), &listeners.borrowed()).await;
        }
    }

    /// Supplies a new keeper.
    pub(super) async fn supply_keeper(&self) {
        for name in self.devices.keys() {
            self.keep(name).await;
            self.keep_orphans(name).await;
        }
    }

    pub(super) async fn close(&mut self, name: &DeviceName) {
        let key = self.device_key(name).to_string();
        let Some(device) = self.devices.get_mut(name) else { return };
        let Some(listeners) = device.listeners.take() else { return };
        if listeners.run.is_none() {
            self.hub.keeper.drop_key(key).await;
        }
        let spec = DeviceSpec::clone(&device.spec);
        let (run, is_held) = (self.run.clone(), device.held_until.is_some());
        if !is_held {
            self.reset_orphans(name).await;
        }
        close_elsewhere(listeners, spec, run).await;
    }

    async fn refuse(&mut self, name: &DeviceName) {
        self.reset_orphans(name).await;
        let Some(device) = self.devices.get_mut(name) else { return };
        if let Some(listeners) = &mut device.listeners
            && let Err(failure) = listeners.refuse()
        {
            warn!(instance = %self.key, device = %name, error = %failure, "listener does not refuse");
        }
    }

    async fn reopen(&mut self, name: &DeviceName) {
        let Some(device) = self.devices.get_mut(name) else { return };
        let Some(listeners) = &mut device.listeners else { return };
        if let Err(failure) = listeners.reopen() {
            let text = format!("cannot listen again on {}: {failure}", device.spec.listen);
            device.last_error = Some(text.clone());
            self.close(name).await;
            if let Some(device) = self.devices.get_mut(name) {
                device.broken = Some(Setback { text, passes: false, retry_at: Instant::now() + RETRY });
            }
        }
    }

    async fn start_worker(&mut self, group: Group) {
        let Some(run) = self.run.clone() else { return };
        let result = match self.worker_init(group, &run) {
            Ok((init, descriptors)) => {
                let dir = &self.hub.settings.workers_dir;
                Worker::start(dir, init, descriptors, self.news_sink.clone()).await
            }
            Err(failure) => Err(WorkerError::Start(failure)),
        };
        match result {
            Ok(mut worker) => {
                tally::count(Done::WorkerStarted);
                if self.hub.access.is_on() {
                    worker.want_access(true).await;
                }
                info!(instance = %self.key, pid = worker.pid(), worker = worker.name(), "worker started");
                self.hub.tell("worker-started", &self.key, None, format!("pid {}", worker.pid()));
                let serving = Serving { worker, run: run.id, slots: Slots::default() };
                self.workers.insert(group, serving);
            }
            Err(failure) if run.is_ending() => {
                let text = "the instance is ending".to_owned();
                info!(instance = %self.key, error = %failure, text);
                let setback = Setback { text, passes: true, retry_at: Instant::now() + CRASH_PAUSE };
                let crashes = Crashes { count: 0, last: Instant::now(), setback: Some(setback) };
                self.crashes.insert(group, crashes);
            }
            Err(failure) => {
                let text = with_sources(&failure);
                tally::count(Done::WorkerNotStarted);
                warn!(instance = %self.key, error = text, "worker not started");
                self.count_crash(group, text);
            }
        }
    }

    fn worker_init(&self, group: Group, run: &Run) -> std::io::Result<(Init, Vec<OwnedFd>)> {
        let settings = &self.hub.settings;
        let mut descriptors = Vec::new();
        if group.connect_side == Side::Instance {
            let namespace = run.netns()?;
            if portway_sys::netns::id(namespace.as_fd())? != settings.own_netns {
                descriptors.push(namespace);
            }
        }
        let has_netns = !descriptors.is_empty();
        if let Some(init) = &run.init {
            descriptors.push(init.pidfd.try_clone()?);
        }
        let identity = Identity {
            name: format!("w{:016x}", u64::from_ne_bytes(portway_sys::random::bytes()?)),
            instance: self.key.to_string(),
            run: run.id.0.clone(),
            group: serde_json::to_string(&placing::GroupText::from(group))?,
            build: settings.build.clone(),
        };
        let init = Init {
            version: PROTOCOL_VERSION,
            has_netns,
            has_pidfd: run.init.is_some(),
            init_pid: run.init.as_ref().map(|init| init.pid),
            ids: group.ids,
            sandbox: settings.sandbox,
            lifetime: settings.lifetime,
            owner_uid: settings.owner_uid,
            identity,
        };
        debug_assert!(settings.lifetime == Lifetime::WithDaemon || !init.identity.name.is_empty());
        Ok((init, descriptors))
    }

    fn count_crash(&mut self, group: Group, text: String) {
        let now = Instant::now();
        let crashes = self.crashes.entry(group).or_insert(Crashes { count: 0, last: now, setback: None });
        if now.duration_since(crashes.last) > STEADY {
            crashes.count = 0;
        }
        crashes.count += 1;
        crashes.last = now;
        let pause = CRASH_PAUSE * 2_u32.saturating_pow(crashes.count.min(16)) / 4;
        // The first restart is immediate: one crash is an accident, several are a state.
        let pause = if crashes.count == 1 { Duration::ZERO } else { pause.min(CRASH_PAUSE_MAX) };
        crashes.setback = Some(Setback { text, passes: false, retry_at: now + pause });
    }

    async fn put(&mut self, name: &DeviceName, group: Group, keep_listeners: bool) {
        let Some(run) = self.run.clone() else { return };
        if self.group_of(name) != Ok(Some(group)) {
            // Those before it in this plan have filled the worker; the next plan finds it another.
            return;
        }
        let result = self.put_now(name, group, keep_listeners, &run).await;
        let Some(device) = self.devices.get_mut(name) else { return };
        match result {
            Ok(()) => {
                device.unplaced = None;
                self.crashes.retain(|_, crashes| crashes.last.elapsed() < STEADY);
                self.hand_over_orphans(name).await;
            }
            Err(failure) => {
                let text = with_sources(&failure);
                warn!(instance = %self.key, device = %name, error = text, "device not served");
                device.last_error = Some(text.clone());
                device.unplaced =
                    Some(Setback { text: text.clone(), passes: false, retry_at: Instant::now() + RETRY });
                if matches!(failure, WorkerError::Silent(_) | WorkerError::Ended(_)) {
                    self.lose_worker(group, &text);
                }
            }
        }
    }

    async fn put_now(
        &mut self,
        name: &DeviceName,
        group: Group,
        keep_listeners: bool,
        run: &Run,
    ) -> Result<(), WorkerError> {
        let key = self.device_key(name).to_string();
        let (Some(device), Some(serving)) = (self.devices.get_mut(name), self.workers.get_mut(&group)) else {
            return Ok(());
        };
        let Some(listeners) = &device.listeners else { return Ok(()) };
        let base = placing::base(&device.spec, run).map_err(WorkerError::Refused)?;
        let spec = run.dialled(&device.spec).map_err(WorkerError::Refused)?.into_owned();
        let replies = placing::reply_base(&device.spec, run).map_err(WorkerError::Refused)?;
        let slot = match &device.placed {
            Some(placed) => placed.slot,
            None => serving.slots.give(name.clone()).ok_or_else(|| {
                tally::hit(Hit::WorkerDevices);
                WorkerError::Full
            })?,
        };
        let (kind, base_name, descriptor) = match base {
            Some(base) => (Some(base.kind), base.name, Some(base.descriptor)),
            None => (None, None, None),
        };
        let borrowed: Vec<BorrowedFd<'_>> = listeners.borrowed();
        let put = Put {
            slot,
            device: WireDevice {
                key,
                spec,
                base: kind,
                base_name,
                replies: replies.as_ref().map(|base| base.kind),
                brokered: false,
                direct: None,
                note: listeners.note(),
            },
            bases: descriptor.into_iter().chain(replies.map(|base| base.descriptor)).collect(),
            listen_count: listeners::count(&device.spec),
            listeners: (!keep_listeners || device.relisten).then_some(borrowed.as_slice()),
            hold: device.hold_rest(Instant::now()),
        };
        let taken = serving.worker.put(put).await;
        if taken.is_ok() {
            device.relisten = false;
            device.placed = Some(Placement { group, slot, current: true });
        } else if device.placed.is_none() {
            serving.slots.free(slot);
        }
        taken
    }

    /// Takes a device out of its worker; `drain` lets its connections finish there.
    pub(super) async fn take(&mut self, name: &DeviceName, group: Group, drain: bool) {
        let Some(device) = self.devices.get_mut(name) else { return };
        let Some(placed) = &device.placed else { return };
        let slot = placed.slot;
        let Some(serving) = self.workers.get_mut(&group) else {
            device.displace(None);
            return;
        };
        let result = serving.worker.take(slot, drain).await;
        // Read for the last time: the next device in this place begins at zero.
        device.displace(Some(serving.worker.counters(slot)));
        serving.slots.free(slot);
        if let Err(failure) = result {
            let text = with_sources(&failure);
            warn!(instance = %self.key, device = %name, error = text, "device not given back");
            self.lose_worker(group, &text);
        }
    }

    /// Lets a worker finish by itself.
    async fn stop_worker(&mut self, group: Group) {
        let Some(serving) = self.workers.remove(&group) else { return };
        for (_, name) in serving.slots.devices() {
            if let Some(device) = self.devices.get_mut(name) {
                let line = device.placed.as_ref().map(|placed| serving.worker.counters(placed.slot));
                device.displace(line);
            }
        }
        serving.worker.drain(DRAIN_LIMIT).await;
        self.leaving.push(Leaving { serving, deadline: None });
    }

    /// Moves every worker of a run that has ended to those that leave. They hand back the clients
    /// nobody has dialled for and end by themselves; one that has no init to watch is told.
    pub(super) async fn dismiss_workers(&mut self, watches_init: bool) {
        for (_, serving) in std::mem::take(&mut self.workers) {
            for (_, name) in serving.slots.devices() {
                if let Some(device) = self.devices.get_mut(name) {
                    let line = device.placed.as_ref().map(|placed| serving.worker.counters(placed.slot));
                    device.displace(line);
                }
            }
            if !watches_init {
                serving.worker.drain(Duration::from_millis(200)).await;
            }
            self.leaving.push(Leaving { serving, deadline: Some(Instant::now() + ENDING_LIMIT) });
        }
    }

    /// Takes note of the end of a worker that should serve; the plan starts the next one.
    pub(super) fn lose_worker(&mut self, group: Group, why: &str) {
        let Some(serving) = self.workers.remove(&group) else { return };
        for (_, name) in serving.slots.devices() {
            if let Some(device) = self.devices.get_mut(name) {
                let line = device.placed.as_ref().map(|placed| serving.worker.counters(placed.slot));
                device.displace(line);
                device.unplaced = None;
            }
        }
        self.hub.access.lose(serving.unrecorded());
        warn!(instance = %self.key, pid = serving.worker.pid(), why, "worker lost");
        self.hub.tell("worker-ended", &self.key, None, format!("pid {}: {why}", serving.worker.pid()));
        serving.worker.kill();
        // An instance that ends takes its workers along; that is no crash.
        if self.run.as_ref().is_some_and(Run::alive) {
            tally::count(Done::WorkerLost);
            self.count_crash(group, why.to_owned());
        }
    }
}

/// Opens listeners on a thread that may block, and waits only so long.
pub(super) async fn open_elsewhere(spec: DeviceSpec, run: Option<Run>) -> Result<Listeners, OpenError> {
    let address = spec.listen.to_string();
    let late = |address| OpenError::Io { address, source: std::io::ErrorKind::TimedOut.into() };
    let Ok(pass) = pass(&spec, run.as_ref()) else { return Err(late(address)) };
    let opening = tokio::task::spawn_blocking(move || {
        let _pass = pass;
        listeners::open(&spec, run.as_ref())
    });
    match tokio::time::timeout(OPEN_TIMEOUT, opening).await {
        Ok(Ok(result)) => result,
        Ok(Err(failure)) => Err(OpenError::Io { address, source: std::io::Error::other(failure) }),
        Err(_) => Err(late(address)),
    }
}

/// Takes over listeners that another process held, on a thread that may block: see
/// [`Listeners::recover`]. `None` also when it takes too long.
pub(super) async fn recover_elsewhere(
    descriptors: Vec<OwnedFd>,
    note: String,
    spec: DeviceSpec,
    run: Option<Run>,
) -> Option<Listeners> {
    let pass = pass(&spec, run.as_ref()).ok()?;
    let recovering = tokio::task::spawn_blocking(move || {
        let _pass = pass;
        Listeners::recover(descriptors, &note, &spec, run.as_ref())
    });
    tokio::time::timeout(OPEN_TIMEOUT, recovering).await.ok()?.ok()?
}

/// Closes listeners on a thread that may block: a socket file inside the instance is removed.
pub(super) async fn close_elsewhere(listeners: Listeners, spec: DeviceSpec, run: Option<Run>) {
    let Ok(pass) = pass(&spec, run.as_ref()) else {
        // Closed all the same; its file stays, a dead one that the next bind removes.
        return warn!("a file system does not answer, socket file not removed");
    };
    let closing = tokio::task::spawn_blocking(move || {
        let _pass = pass;
        listeners.close(&spec, run.as_ref());
    });
    if tokio::time::timeout(OPEN_TIMEOUT, closing).await.is_err() {
        warn!("closing a listener takes long");
    }
}

/// Leave for a thread to work in the instance's file system; `None` when it does not go there.
fn pass(spec: &DeviceSpec, run: Option<&Run>) -> Result<Option<OwnedSemaphorePermit>, TryAcquireError> {
    let inside = run.filter(|_| listeners::is_inside(spec));
    inside.map(|run| Arc::clone(&run.threads.work).try_acquire_owned()).transpose()
}

#[cfg(test)]
mod tests;
