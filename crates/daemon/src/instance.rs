//! One actor per instance: it alone touches the instance's devices, listeners and workers.
//!
//! Commands, news of workers, the death of init and the clock only make it look again; what to do
//! follows from [`plan::plan`]. A hung instance (a file system that never answers) delays its own
//! devices and nobody else's.

pub(crate) mod add;
mod addresses;
pub(crate) mod apply;
pub(crate) mod batch;
mod connections;
pub(crate) mod device;
pub(crate) mod edit;
pub(crate) mod lead;
pub(crate) mod life;
pub(crate) mod orphans;
pub(crate) mod placing;
pub(crate) mod plan;
pub(crate) mod seed;
mod slots;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{self, Failure};
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey};
use portway_relay::wire::{FromWorker, Slot};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use self::batch::{Batch, Staged, Undo};
pub(crate) use self::connections::Asked;
use self::device::{Device, Setback, Surroundings};
use self::plan::Group;
use self::slots::Slots;
use crate::hub::Hub;
use crate::nat::Leader;
use crate::provider::{Observation, Run};
use crate::state::Origin;
use crate::worker::{Happened, News, Sink, Worker};

/// Commands that may wait for an actor.
const COMMAND_QUEUE: usize = 256;

/// News of workers that may wait for an actor.
const NEWS_QUEUE: usize = 4096;

/// Longest a worker whose instance has ended may take to flush before it is killed: five times
/// what it is allowed.
const ENDING_LIMIT: Duration = Duration::from_secs(1);

/// How long an actor without devices and workers stays. A device that is removed is often added again.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// Answer to a command.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Failure>>;

/// What an actor can be asked.
pub(crate) enum Command {
    /// Add a device.
    Add(DeviceName, Box<DeviceSpec>, Reply<api::Device>),
    /// Add a device that comes from elsewhere.
    Import(DeviceName, Box<DeviceSpec>, Origin, Reply<api::Device>),
    /// Change keys of a device.
    Change(DeviceName, api::ChangeDevice, Reply<api::Changed>),
    /// Remove a device.
    Remove(DeviceName, Reply<()>),
    /// Give a device another name.
    Rename(DeviceName, DeviceName, Reply<api::Device>),
    /// Carry several changes out, as a whole or not at all; they are not stored.
    Stage(Box<Batch>, Reply<Staged>),
    /// Take them back.
    Unstage(Undo, oneshot::Sender<()>),
    /// Take devices down that are stored no more.
    Forget(Vec<DeviceName>, Reply<()>),
    /// Bind every device to the instance that has the name now.
    Adopt(Reply<Vec<api::Device>>),
    /// Look at the instance; answered by what is found. It delays no other command.
    Look(Reply<()>),
    /// All devices.
    List(oneshot::Sender<Vec<api::Device>>),
    /// Whom to ask for the connections of a device.
    Connections(DeviceName, oneshot::Sender<Option<Asked>>),
    /// All workers.
    Workers(oneshot::Sender<Vec<api::WorkerStatus>>),
    /// Something may have changed: look.
    Poke,
    /// An address has changed inside.
    Readdressed,
    /// A look at a device's socket file: whether it is where clients look for it.
    Visible(DeviceName, bool),
    /// Whether records of what is over are wanted has changed.
    Access,
    /// The keeper is new: supply it.
    Rekeep,
    /// What a look has found.
    Observed(Observation),
    /// The instance of these UUIDs has another name now.
    Moved(InstanceKey, String),
    /// Devices that come from an instance of another name.
    Receive(Vec<Device>),
    /// The daemon ends.
    Shutdown(Ending, oneshot::Sender<()>),
}

/// How the daemon ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ending {
    /// Workers and listeners go on without it.
    Leave,
    /// Connections may finish within this time, then everything is gone.
    Drain(Duration),
}

/// Where commands for an instance go.
pub(crate) type Handle = mpsc::Sender<Command>;

/// A worker with the devices it was given.
struct Serving {
    worker: Worker,
    run: plan::RunId,
    slots: Slots,
}

impl Serving {
    /// Connections of a worker that has ended, of which there will be no record.
    fn unrecorded(&self) -> u64 {
        self.slots.devices().map(|(slot, _)| self.worker.unrecorded(slot)).fold(0, u64::saturating_add)
    }
}

/// A worker that finishes by itself.
struct Leaving {
    serving: Serving,
    /// When it is killed. `None` while it drains connections.
    deadline: Option<Instant>,
}

/// Starts of a group's worker that went wrong.
struct Crashes {
    count: u32,
    last: Instant,
    setback: Option<Setback>,
}

/// The actor.
pub(crate) struct Instance {
    hub: Arc<Hub>,
    key: InstanceKey,
    devices: BTreeMap<DeviceName, Device>,
    run: Option<Run>,
    watch: Option<AsyncFd<OwnedFd>>,
    uuid: Option<String>,
    /// Why it cannot be served, in words; `None` while it runs.
    absence: Option<String>,
    unsupported: bool,
    /// It runs, and lacks something that comes without an event.
    unready: bool,
    /// It is a virtual machine.
    is_machine: bool,
    /// What decides who is carried by the kernel.
    leading: lead::Leading,
    /// Whether its addresses have changed inside.
    addresses: addresses::Addresses,
    /// The server did not answer the last look.
    unreachable: Option<String>,
    down_since: Instant,
    looking: bool,
    /// Something has happened while a look was under way: what it finds may be old.
    look_again: bool,
    /// What the last look has found.
    seen: Option<life::Seen>,
    /// Who waits for a look.
    lookers: Vec<life::Looker>,
    next_look: Instant,
    workers: BTreeMap<Group, Serving>,
    leaving: Vec<Leaving>,
    crashes: BTreeMap<Group, Crashes>,
    commands: mpsc::Receiver<Command>,
    /// A command that was taken out of the queue before its time.
    next: Option<Command>,
    own: mpsc::WeakSender<Command>,
    news: mpsc::Receiver<News>,
    news_sink: Sink,
    last_discard: Instant,
    last_check: Instant,
    /// Since when it has had nothing to do.
    idle_since: Option<Instant>,
    /// Number of the next client that is kept, for its name at the keeper.
    next_orphan: u64,
}

impl Instance {
    /// Starts the actor of `key` with what an earlier daemon left.
    pub(crate) fn start(hub: Arc<Hub>, key: InstanceKey, seed: seed::Seed) -> Handle {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        let (news_sink, news) = mpsc::channel(NEWS_QUEUE);
        let news_sink = Sink { news: news_sink, access: Arc::clone(&hub.access), instance: key.clone() };
        let now = Instant::now();
        let mut instance = Instance {
            hub,
            key,
            devices: BTreeMap::new(),
            run: None,
            watch: None,
            uuid: None,
            absence: Some("the instance was not looked at yet".into()),
            unsupported: false,
            unready: false,
            is_machine: false,
            leading: lead::Leading::default(),
            addresses: addresses::Addresses::default(),
            unreachable: None,
            down_since: now,
            looking: false,
            look_again: false,
            seen: None,
            lookers: Vec::new(),
            next_look: now,
            workers: BTreeMap::new(),
            leaving: Vec::new(),
            crashes: BTreeMap::new(),
            commands,
            next: None,
            own: sender.downgrade(),
            news,
            news_sink,
            last_discard: now,
            last_check: now,
            idle_since: None,
            next_orphan: 0,
        };
        tokio::spawn(async move {
            instance.plant(seed).await;
            instance.serve().await;
        });
        sender
    }

    async fn serve(&mut self) {
        loop {
            self.reconcile().await;
            self.publish();
            if self.retires() {
                return;
            }
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                Some(news) = self.news.recv() => self.on_news(news).await,
                () = readable(self.watch.as_ref()) => self.on_death().await,
                command = next_command(&mut self.next, &mut self.commands) => match command {
                    Some(Command::Shutdown(ending, reply)) => {
                        self.shut_down(ending).await;
                        // Nobody waits when the daemon was told twice.
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.on_command(command).await,
                    None => return,
                },
                () = tokio::time::sleep_until(deadline.into()) => self.on_time().await,
            }
        }
    }

    /// Whether there is a device of the instance, and be it one whose keys are refused.
    fn has_devices(&self) -> bool {
        !self.devices.is_empty() || self.hub.has_refused(&self.key)
    }

    /// Whether it ends because it has had nothing to do for long. Names of instances come and go, and an
    /// actor for each that ever was would be memory without a bound.
    fn retires(&mut self) -> bool {
        let idle = !self.has_devices()
            && self.workers.is_empty()
            && self.leaving.is_empty()
            && self.lookers.is_empty()
            && self.next.is_none();
        let since = idle.then(|| self.idle_since.unwrap_or_else(Instant::now));
        self.idle_since = since;
        since.is_some_and(|since| since.elapsed() >= IDLE_LIMIT)
            && self.hub.retire(&self.key, &self.own, &self.commands)
    }

    async fn on_command(&mut self, command: Command) {
        match command {
            Command::Add(name, spec, reply) => {
                self.add_waiting(add::Wanted { name, spec: *spec, origin: None }, reply).await;
            }
            Command::Import(name, spec, origin, reply) => {
                self.add_waiting(add::Wanted { name, spec: *spec, origin: Some(origin) }, reply).await;
            }
            Command::Change(name, change, reply) => answer(reply, self.change(&name, &change).await),
            Command::Remove(name, reply) => answer(reply, self.remove(&name).await),
            Command::Rename(from, to, reply) => answer(reply, self.rename(&from, to).await),
            Command::Stage(batch, reply) => answer(reply, self.stage(*batch).await),
            Command::Unstage(undo, reply) => {
                self.unstage(undo).await;
                // Nobody waits when the request was given up.
                let _ = reply.send(());
            }
            Command::Forget(names, reply) => {
                self.forget(&names).await;
                answer(reply, names.iter().try_for_each(|name| self.check_turned(name)));
            }
            Command::Adopt(reply) => answer(reply, self.adopt_present().await),
            Command::Look(reply) => self.look_for(reply),
            Command::List(reply) => drop(reply.send(self.list())),
            Command::Connections(name, reply) => drop(reply.send(self.asked(&name))),
            Command::Workers(reply) => drop(reply.send(self.worker_list())),
            Command::Poke => {
                self.next_look = Instant::now();
                self.look_again = self.looking;
            }
            Command::Readdressed => self.addresses.note(Instant::now()),
            Command::Visible(name, visible) => self.seen(&name, visible).await,
            Command::Access => {
                for serving in self.workers.values_mut() {
                    serving.worker.want_access(self.hub.access.is_on()).await;
                }
            }
            Command::Rekeep => self.supply_keeper().await,
            Command::Observed(observation) => {
                self.looking = false;
                self.absorb(observation).await;
                self.tell_lookers();
            }
            Command::Moved(to, uuid) => self.move_devices(&to, &uuid).await,
            Command::Receive(devices) => self.receive(devices).await,
            Command::Shutdown(_, _) => {}
        }
    }

    /// Every device, for the control API.
    fn list(&self) -> Vec<api::Device> {
        self.devices.values().map(|device| self.show(device)).collect()
    }

    fn show(&self, device: &Device) -> api::Device {
        let serving = device.placed.as_ref().and_then(|placed| self.workers.get(&placed.group));
        let line =
            device.placed.as_ref().zip(serving).map(|(placed, serving)| serving.worker.counters(placed.slot));
        device.show(&self.key, line, serving.map(|serving| serving.worker.pid()))
    }

    fn worker_list(&self) -> Vec<api::WorkerStatus> {
        let all = self.workers.iter().map(|(group, serving)| api::WorkerStatus {
            pid: serving.worker.pid(),
            instance: self.key.clone(),
            uid: group.ids.map(|ids| ids.uid),
            group: group.to_string(),
            devices: u64::try_from(serving.slots.devices().count()).unwrap_or(u64::MAX),
        });
        all.collect()
    }

    fn device_key(&self, name: &DeviceName) -> DeviceKey {
        DeviceKey { instance: self.key.clone(), device: name.clone() }
    }

    /// Recomputes the devices' states and tells who listens about those that changed.
    fn publish(&mut self) {
        let groups = self.group_errors();
        let nat_failures = self.hub.nat.as_ref().map(Leader::failures).unwrap_or_default();
        let rivals = self.hub.rivals();
        let around = Surroundings {
            rivals: &rivals,
            nat_failures: &nat_failures,
            key: &self.key,
            up: self.run.is_some(),
            uuid: self.uuid.as_deref(),
            absence: self.absence.as_deref(),
            unsupported: self.unsupported,
            unreachable: self.unreachable.is_some(),
        };
        for device in self.devices.values_mut() {
            let group_error = groups.get(&device.name).map(String::as_str);
            if device.assess(&around, group_error) {
                let (state, reason) = device.state();
                let text =
                    reason.map_or_else(|| format!("{state:?}").to_lowercase(), |reason| reason.to_owned());
                info!(instance = %self.key, device = %device.name, ?state, reason, "device state");
                self.hub.tell("device-state", &self.key, Some(&device.name), text);
            }
        }
    }

    async fn on_news(&mut self, news: News) {
        let group = self
            .workers
            .iter()
            .find(|(_, serving)| serving.worker.name() == news.worker)
            .map(|(group, _)| *group);
        match news.what {
            Happened::Ended => self.worker_ended(&news.worker).await,
            Happened::Said(message, descriptors) => {
                self.worker_said(group, &news.worker, message, descriptors).await
            }
        }
    }

    async fn worker_said(
        &mut self,
        group: Option<Group>,
        worker: &str,
        message: FromWorker,
        descriptors: Vec<OwnedFd>,
    ) {
        match message {
            FromWorker::Failure { slot, count, text } => self.worker_failed(group, slot, count, text),
            FromWorker::HoldEnded { slot, .. } => {
                // One of a run that is over speaks of a hold that is over.
                if group.is_some()
                    && let Some(device) = self.device_in(group, worker, slot)
                {
                    device.held_until = None;
                }
            }
            FromWorker::Orphan { slot, index } => {
                self.take_orphans(group, worker, slot, index, descriptors).await;
            }
            // Init's own end is watched, and is known by now.
            FromWorker::InstanceGone => {}
            FromWorker::Ready { .. }
            | FromWorker::Done { .. }
            | FromWorker::Entry { .. }
            | FromWorker::End
            | FromWorker::Dial { .. }
            | FromWorker::Began { .. }
            | FromWorker::Connections { .. }
            | FromWorker::Wants { .. }
            | FromWorker::Over { .. }
            | FromWorker::Access { .. }
            | FromWorker::Version { .. } => warn!(worker, "unexpected message of a worker"),
        }
    }

    fn worker_failed(&mut self, group: Option<Group>, slot: Slot, count: u64, text: String) {
        let Some(serving) = group.and_then(|group| self.workers.get(&group)) else { return };
        let Some(name) = serving.slots.holder(slot).cloned() else { return };
        let Some(device) = self.devices.get_mut(&name) else { return };
        info!(instance = %self.key, device = %name, count, error = text, "device error");
        self.hub.tell("device-error", &self.key, Some(&name), text.clone());
        device.last_error = Some(text);
        if placing::base_may_be_stale(&device.spec)
            && let Some(placed) = &mut device.placed
        {
            // The folder on the host may have been replaced: hand it over anew.
            placed.current = false;
        }
    }

    fn device_in(&mut self, group: Option<Group>, worker: &str, slot: Slot) -> Option<&mut Device> {
        let serving = match group {
            Some(group) => self.workers.get(&group),
            None => {
                self.leaving.iter().map(|one| &one.serving).find(|serving| serving.worker.name() == worker)
            }
        };
        let name = serving?.slots.holder(slot)?.clone();
        self.devices.get_mut(&name)
    }

    async fn worker_ended(&mut self, worker: &str) {
        if self.run.as_ref().is_some_and(|run| !run.alive()) {
            // The instance took its worker along, and this news came first.
            self.on_death().await;
        }
        match self.group_named(worker) {
            Some(group) => self.lose_worker(group, "the relay worker ended"),
            None => {
                let gone = self.leaving.iter().position(|one| one.serving.worker.name() == worker);
                if let Some(at) = gone {
                    let leaving = self.leaving.swap_remove(at);
                    self.hub.access.lose(leaving.serving.unrecorded());
                    leaving.serving.worker.kill();
                }
            }
        }
    }

    fn group_named(&self, worker: &str) -> Option<Group> {
        self.workers.iter().find(|(_, serving)| serving.worker.name() == worker).map(|(group, _)| *group)
    }

    async fn shut_down(&mut self, ending: Ending) {
        let mut serving: Vec<Serving> = std::mem::take(&mut self.workers).into_values().collect();
        serving.extend(std::mem::take(&mut self.leaving).into_iter().map(|leaving| leaving.serving));
        let Ending::Drain(grace) = ending else {
            for one in serving {
                one.worker.release();
            }
            return;
        };
        // The door first: a client that came in now would wait for a worker that takes nobody any more.
        for (_, device) in std::mem::take(&mut self.devices) {
            if let Some(listeners) = device.listeners {
                apply::close_elsewhere(listeners, DeviceSpec::clone(&device.spec), self.run.clone()).await;
            }
        }
        for one in &serving {
            one.worker.drain(grace).await;
        }
        let all = async {
            for one in &serving {
                one.worker.ended().await;
            }
        };
        if tokio::time::timeout(grace + ENDING_LIMIT, all).await.is_err() {
            warn!(instance = %self.key, "connections cut at the end of the grace time");
        }
        for one in serving {
            one.worker.kill();
        }
    }
}

fn answer<T>(reply: Reply<T>, result: Result<T, Failure>) {
    // Whoever asked may have gone; what was done stays done.
    let _ = reply.send(result);
}

/// The command that was taken out early, or the next of the queue; `None` when none will come.
async fn next_command(early: &mut Option<Command>, queue: &mut mpsc::Receiver<Command>) -> Option<Command> {
    match early.take() {
        Some(command) => Some(command),
        None => queue.recv().await,
    }
}

/// Resolves when a descriptor is readable; never without one.
async fn readable(watch: Option<&AsyncFd<OwnedFd>>) {
    match watch {
        Some(watch) => drop(watch.readable().await),
        None => std::future::pending().await,
    }
}
