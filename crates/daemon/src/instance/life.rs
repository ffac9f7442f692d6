//! Life of an instance: looked at, found running, its init dies, it comes back, it moves to
//! another name.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_incus::Client;
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey, Provider};
use portway_sys::pidfd;
use tracing::{info, warn};

use super::device::Device;
use super::plan::Kind;
use super::{Command, Instance, Reply, answer};
use crate::listeners;
use crate::provider::{Observation, Question, Run, Status};
use crate::state::Change;
use crate::tally::{self, Done};
use crate::watched::watched;

/// Looks while an instance has just gone down: events of a restart come only after the new init runs.
/// The server's answer is never earlier than its event, so this is for events that are lost.
const LOOK_SOON: Duration = Duration::from_millis(50);

/// Looks while it is down and its coming back is told: only for an event that is lost. A server asked
/// for the state of an instance that is ending writes errors into its log, and answers no sooner than
/// its event comes.
const LOOK_TOLD: Duration = Duration::from_secs(5);

/// Looks while it is down for up to a minute.
const LOOK_LATER: Duration = Duration::from_millis(250);

/// Looks at an instance that stays down; events make it sooner. And at a virtual machine, whose
/// addresses may change without one.
const LOOK_SELDOM: Duration = Duration::from_secs(5);

/// Looks at an instance that runs; its init is watched besides.
const LOOK_RUNNING: Duration = Duration::from_secs(30);

/// Looks at an instance that lacks something which comes without an event, as a lease.
pub(super) const LOOK_UNREADY: Duration = Duration::from_secs(1);

/// Looks at a namespace without a process: nothing tells of its end.
const LOOK_NAMESPACE: Duration = Duration::from_millis(250);

/// How long an instance counts as just gone down.
const SOON: Duration = Duration::from_secs(5);

/// How long [`LOOK_LATER`] applies.
const LATER: Duration = Duration::from_secs(60);

/// Pause between two rounds of discarding datagrams for an instance that is down.
const DISCARD_PAUSE: Duration = Duration::from_millis(100);

/// Pause between two looks for socket files, which may be deleted or mounted over.
const CHECK_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for a look while nobody else may edit devices, too. Usually there is none: a look was
/// asked for before.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// How long what a look has found is good enough for a change that asked for it.
const LOOK_FRESH: Duration = Duration::from_secs(2);

/// What a look has found.
#[derive(Debug)]
pub(super) struct Seen {
    at: Instant,
    uuid: Option<String>,
}

/// Somebody who waits for a look.
pub(super) struct Looker {
    reply: Reply<()>,
    /// Looks that began before it asked.
    old_looks: u32,
}

/// Pause before a retry that is due, but not possible yet, is considered again.
const OVERDUE_PAUSE: Duration = Duration::from_secs(1);

impl Instance {
    /// When the clock next has to be looked at.
    pub(super) fn next_deadline(&self) -> Instant {
        let now = Instant::now();
        let mut next = now + LOOK_RUNNING;
        let mut at = |when: Option<Instant>| {
            if let Some(when) = when {
                next = next.min(when);
            }
        };
        at((!self.looking && self.has_devices()).then_some(self.next_look));
        at(self.addresses.due().filter(|_| !self.looking));
        for device in self.devices.values() {
            for setback in device.broken.iter().chain(&device.unplaced) {
                // One that is due and still there waits for something else; a look now and then is enough.
                at(Some(if setback.retry_at > now { setback.retry_at } else { now + OVERDUE_PAUSE }));
            }
            at(device.held_until);
            at(needs_discard(device).then_some(self.last_discard + DISCARD_PAUSE));
        }
        let files = self
            .devices
            .values()
            .any(|device| device.spec.listen.address().unix().is_some_and(|name| name.path().is_some()));
        at((self.run.is_some() && files).then_some(self.last_check + CHECK_PAUSE));
        // One that is over waits for a command that is under way.
        at(self.idle_since.map(|since| (since + super::IDLE_LIMIT).max(now + OVERDUE_PAUSE)));
        for crashes in self.crashes.values() {
            at(crashes.setback.as_ref().map(|setback| setback.retry_at).filter(|due| *due > now));
        }
        for leaving in &self.leaving {
            at(leaving.deadline);
        }
        next
    }

    /// Does what is due.
    pub(super) async fn on_time(&mut self) {
        let now = Instant::now();
        let over = |device: &&mut Device| device.held_until.is_some_and(|until| until <= now);
        let over: Vec<DeviceName> = self
            .devices
            .values_mut()
            .filter(over)
            .map(|device| {
                device.held_until = None;
                device.name.clone()
            })
            .collect();
        for name in &over {
            self.reset_orphans(name).await;
        }
        if now >= self.last_discard + DISCARD_PAUSE {
            self.last_discard = now;
            for device in self.devices.values_mut().filter(|device| needs_discard(device)) {
                let discarded = device.listeners.as_ref().map_or(0, listeners::Listeners::discard);
                device.count_discarded(discarded);
            }
        }
        if now >= self.last_check + CHECK_PAUSE && self.run.is_some() {
            self.last_check = now;
            self.check_files();
        }
        let overdue = |leaving: &mut super::Leaving| leaving.deadline.is_some_and(|deadline| deadline <= now);
        for leaving in self.leaving.extract_if(.., overdue) {
            warn!(instance = %self.key, worker = leaving.serving.worker.name(), "worker outlived its instance, killed");
            self.hub.access.lose(leaving.serving.unrecorded());
            leaving.serving.worker.kill();
        }
        self.look_at_addresses(now).await;
        if self.next_look <= now && !self.looking && self.has_devices() {
            self.look();
        }
    }

    /// Looks for the devices' socket files, each on a thread that may block.
    fn check_files(&mut self) {
        let run = self.run.clone();
        for device in self.devices.values_mut().filter(|device| device.placed.is_some() && !device.checking) {
            let check =
                device.listeners.as_ref().and_then(|open| open.visibility(&device.spec, run.as_ref()));
            let (Some(check), Some(own)) = (check, self.own.upgrade()) else { continue };
            device.checking = true;
            let (name, look) = (device.name.clone(), run.as_ref().map(|run| Arc::clone(&run.threads.look)));
            let look = look.filter(|_| listeners::is_inside(&device.spec));
            tokio::spawn(async move {
                // One after the other: waiting costs no thread.
                let _pass = match look {
                    Some(look) => look.acquire_owned().await.ok(),
                    None => None,
                };
                let visible = tokio::task::spawn_blocking(check).await.unwrap_or(true);
                // The actor is gone when the daemon ends.
                let _ = own.send(Command::Visible(name, visible)).await;
            });
        }
    }

    /// A socket file that was deleted or mounted over is made anew.
    pub(super) async fn seen(&mut self, name: &DeviceName, visible: bool) {
        let Some(device) = self.devices.get_mut(name) else { return };
        device.checking = false;
        let Some(group) = device.placed.as_ref().filter(|_| !visible).map(|placed| placed.group) else {
            return;
        };
        tally::count(Done::ListenerMended);
        info!(instance = %self.key, device = %name, "socket file gone, made anew");
        self.hub.tell("device-changed", &self.key, Some(name), "socket file gone, made anew".into());
        self.take(name, group, true).await;
        self.close(name).await;
    }

    /// Looks at the instance in a task of its own: a server that hangs delays nothing.
    pub(super) fn look(&mut self) {
        let Some(own) = self.own.upgrade() else { return };
        self.looking = true;
        let (hub, key, run) = (Arc::clone(&self.hub), self.key.clone(), self.run.clone());
        let (uuid, nics) = (self.runs_uuid().map(str::to_owned), self.wants_nics());
        let assigned = self.leading.assigned();
        tokio::spawn(async move {
            let question = Question { run: run.as_ref(), uuid: uuid.as_deref(), nics, assigned: &assigned };
            let observation = hub.providers.observe(&key, question).await;
            // The actor is gone when the daemon ends.
            let _ = own.send(Command::Observed(observation)).await;
        });
    }

    /// Has somebody told when a look that begins from here on is over, or at once when the instance is
    /// known to run.
    pub(super) fn look_for(&mut self, reply: Reply<()>) {
        if self.run.as_ref().is_some_and(Run::alive) {
            answer(reply, Ok(()));
            return;
        }
        self.lookers.push(Looker { reply, old_looks: u32::from(self.looking) });
        if !self.looking {
            self.look();
        }
    }

    /// Tells who has waited for the look that is over, and looks again for those who came meanwhile.
    pub(super) fn tell_lookers(&mut self) {
        for looker in std::mem::take(&mut self.lookers) {
            match looker.old_looks.checked_sub(1) {
                Some(old_looks) => self.lookers.push(Looker { old_looks, ..looker }),
                None => answer(looker.reply, Ok(())),
            }
        }
        if !self.lookers.is_empty() {
            self.look();
        }
    }

    /// Looks and waits for the answer, unless the instance is known to run, or was looked at just before.
    pub(super) async fn look_now(&mut self) {
        if self.run.as_ref().is_some_and(Run::alive) || (self.run.is_none() && self.seen_uuid().is_some()) {
            return;
        }
        self.look_here(self.wants_nics()).await;
    }

    /// Looks and waits for the answer, but not for ever; at the assigned addresses too with `nics`.
    pub(super) async fn look_here(&mut self, nics: bool) {
        let assigned = self.leading.assigned();
        let question = Question { run: self.run.as_ref(), uuid: self.runs_uuid(), nics, assigned: &assigned };
        let observed = self.hub.providers.observe(&self.key, question);
        let observation = tokio::time::timeout(LOOK_LIMIT, observed).await.unwrap_or_else(|_| {
            Observation::of(Status::Unreachable(format!("it took more than {} s", LOOK_LIMIT.as_secs())))
        });
        self.absorb(observation).await;
    }

    /// The UUID that a look just before has found, or that it has found none; `None` when there was no look.
    pub(super) fn seen_uuid(&self) -> Option<Option<&str>> {
        let seen = self.seen.as_ref().filter(|seen| seen.at.elapsed() < LOOK_FRESH);
        seen.map(|seen| seen.uuid.as_deref())
    }

    /// UUID of the instance whose run is known: what the last look has found, or what its devices say that an earlier
    /// daemon has bound.
    fn runs_uuid(&self) -> Option<&str> {
        let bound = || self.devices.values().find_map(|device| device.uuid.as_deref());
        self.uuid.as_deref().or_else(bound)
    }

    /// Takes in what a look has found.
    pub(super) async fn absorb(&mut self, observation: Observation) {
        if self.uuid.as_ref().zip(observation.uuid.as_ref()).is_some_and(|(known, found)| known != found) {
            // What runs is another instance's: the name's new owner must not be led to it.
            self.on_death().await;
        }
        self.seen = Some(Seen { at: Instant::now(), uuid: observation.uuid.clone() });
        self.unreachable = None;
        self.unsupported = false;
        self.unready = false;
        if observation.uuid.is_some() {
            self.uuid = observation.uuid;
            self.is_machine = observation.is_machine;
        }
        self.leading.found(observation.nics);
        self.leading.looked |= !matches!(observation.status, Status::Unreachable(_));
        match observation.status {
            Status::Unreachable(text) => {
                // Nothing is known: whatever runs goes on.
                self.hub.set_reachable(self.key.provider(), Err(text.clone()));
                if self.run.is_none() {
                    self.absence = Some(format!("the server does not answer: {text}"));
                }
                self.unreachable = Some(text);
            }
            Status::Up(run) => self.found_running(run).await,
            Status::Absent => self.found_down(self.absent(), true).await,
            Status::Down(word) => self.found_down(format!("the instance is {word}"), false).await,
            Status::Elsewhere(member) => self.found_down(format!("runs on {member}"), false).await,
            Status::Unready(reason) => {
                self.found_down(reason, false).await;
                self.unready = true;
            }
            Status::Unsupported(reason) => {
                self.found_down(reason, false).await;
                self.unsupported = true;
            }
        }
        if self.unreachable.is_none() {
            self.hub.set_reachable(self.key.provider(), Ok(()));
        }
        self.bind_uuids().await;
        let pause = if std::mem::take(&mut self.look_again) { Duration::ZERO } else { self.look_pause() };
        self.next_look = Instant::now() + pause;
    }

    /// What it means that there is none of that name.
    fn absent(&self) -> String {
        match self.key.provider() {
            Provider::Pid => format!("there is no process {}", self.key.name()),
            Provider::Incus | Provider::Lxd | Provider::Netns => "the instance does not exist".into(),
        }
    }

    fn look_pause(&self) -> Duration {
        match &self.run {
            Some(run) if run.is_machine() => LOOK_SELDOM,
            Some(run) if run.init.is_some() => LOOK_RUNNING,
            Some(_) => LOOK_NAMESPACE,
            None if self.unready => LOOK_UNREADY,
            None if self.unreachable.is_some() => LOOK_LATER,
            None if self.hub.providers.tells(self.key.provider()) => LOOK_TOLD,
            None => match self.down_since.elapsed() {
                down if down < SOON => LOOK_SOON,
                down if down < LATER => LOOK_LATER,
                _ => LOOK_SELDOM,
            },
        }
    }

    pub(super) async fn found_running(&mut self, run: Run) {
        if self.run.as_ref().is_some_and(|present| present.id == run.id) {
            return;
        }
        if self.run.is_some() {
            self.on_death().await;
        }
        let watch = match &run.init {
            Some(init) if pidfd::exited(init.pidfd.as_fd()) => return,
            Some(init) => init.pidfd.try_clone().and_then(watched).map(Some),
            None => Ok(None),
        };
        match watch {
            Ok(watch) => self.watch = watch,
            Err(failure) => {
                warn!(instance = %self.key, error = %failure, "init cannot be watched");
                return;
            }
        }
        info!(instance = %self.key, run = run.id.0, "instance runs");
        self.hub.tell("instance-started", &self.key, None, format!("run {}", run.id.0));
        self.absence = None;
        let now = Instant::now();
        for device in self.devices.values_mut() {
            device.forget_setbacks();
            if !device.matches(self.key.provider(), self.uuid.as_deref()) {
                continue;
            }
            // A service needs time to start: until it answers once, clients wait.
            device.await_service(false);
            let age = run.age().unwrap_or(device.spec.hold);
            device.hold(now, device.spec.hold.saturating_sub(age));
        }
        self.run = Some(run);
    }

    async fn found_down(&mut self, absence: String, absent: bool) {
        if let Some(run) = &self.run {
            // The server's word comes before init's death, or after it; the process decides. But a virtual
            // machine that has lost its address must not be looked for there any more.
            if run.alive() && run.init.is_some() && !run.is_machine() {
                return;
            }
            self.on_death().await;
        }
        self.absence = Some(absence);
        self.leading.nics = None;
        self.addresses.give_up();
        if absent {
            self.search_moved();
        }
    }

    /// Init is dead, or the namespace gone: nothing of the run may outlive it here.
    pub(super) async fn on_death(&mut self) {
        let Some(run) = self.run.take() else { return };
        self.watch = None;
        self.leading.nics = None;
        self.addresses.give_up();
        info!(instance = %self.key, run = run.id.0, "instance ended");
        self.hub.tell("instance-stopped", &self.key, None, format!("run {}", run.id.0));
        let now = Instant::now();
        for device in self.devices.values_mut() {
            device.forget_setbacks();
            device.held_until = None;
            device.await_service(true);
            let provider = self.key.provider();
            if device.matches(provider, self.uuid.as_deref()) && !device.ends_with_instance(provider) {
                device.hold(now, device.spec.hold);
            }
        }
        self.crashes.clear();
        for leaving in &mut self.leaving {
            leaving.deadline.get_or_insert(now + super::ENDING_LIMIT);
        }
        // They watch init themselves. The one of a virtual machine whose address has changed is alive.
        self.dismiss_workers(run.init.is_some() && !run.alive()).await;
        self.down_since = now;
        self.absence = Some("the instance is down".into());
        self.next_look = now + self.look_pause();
    }

    /// Binds devices to the instance they match for the first time. One that is not in the store, as it
    /// is only staged, gets there unbound or bound by who stages it: a later look stores the binding.
    pub(super) async fn bind_uuids(&mut self) {
        let Some(uuid) = self.uuid.clone() else { return };
        for device in self.devices.values_mut() {
            device.uuid.get_or_insert_with(|| uuid.clone());
        }
        let bound = self.devices.values().filter(|device| device.uuid.as_ref() == Some(&uuid));
        let unbound = self.hub.unbound(bound.map(|device| self.device_key(&device.name)));
        if unbound.is_empty() {
            return;
        }
        let changes = unbound.into_iter().map(|key| Change::Bind { key, uuid: uuid.clone() });
        if let Err(failure) = self.hub.commit(changes.collect()).await {
            warn!(instance = %self.key, error = failure, "instance identity not stored");
        }
    }

    fn client(&self) -> Option<Client> {
        self.hub.providers.endpoint(self.key.provider())?.client()
    }

    /// The name is gone: does the instance live under another one?
    fn search_moved(&mut self) {
        let refused = || {
            let devices = self.hub.refused_of(&self.key).into_iter();
            devices.filter_map(|(_, device)| device.followed_uuid().map(str::to_owned)).next()
        };
        let uuid = self
            .devices
            .values()
            .find(|device| !device.follows_name(self.key.provider()))
            .map_or_else(refused, |device| device.uuid.clone());
        let (Some(uuid), Some(client), Some(own)) = (uuid, self.client(), self.own.upgrade()) else {
            return;
        };
        let provider = self.key.provider();
        tokio::spawn(async move {
            if let Ok(found) = client.with_uuid(&uuid).await
                && let [found] = found.as_slice()
                && let Ok(key) = InstanceKey::new(provider, Some(&found.project), &found.name)
            {
                // The actor is gone when the daemon ends.
                let _ = own.send(Command::Moved(key, uuid)).await;
            }
        });
    }

    /// Gives the devices bound to `uuid` to the actor of `to`, listeners and all.
    pub(super) async fn move_devices(&mut self, to: &InstanceKey, uuid: &str) {
        if *to == self.key || self.run.is_some() {
            return;
        }
        let names: Vec<_> = self
            .devices
            .values()
            .filter(|device| {
                device.uuid.as_deref() == Some(uuid) && !device.follows_name(self.key.provider())
            })
            .map(|device| device.name.clone())
            .collect();
        let refused = self.hub.refused_of(&self.key).into_iter();
        let refused =
            refused.filter(|(_, device)| device.followed_uuid() == Some(uuid)).map(|(name, _)| name);
        let changes = names.iter().cloned().chain(refused).map(|name| Change::Rename {
            from: self.device_key(&name),
            to: DeviceKey { instance: to.clone(), device: name },
        });
        if let Err(failure) = self.hub.commit(changes.collect()).await {
            warn!(instance = %self.key, error = failure, "renamed instance not stored");
            return;
        }
        info!(instance = %self.key, to = %to, "instance renamed");
        for name in &names {
            let from = self.device_key(name);
            self.hub.keeper.drop_key(from.to_string()).await;
            self.lead_as(from, DeviceKey { instance: to.clone(), device: name.clone() }).await;
        }
        let devices: Vec<Device> = names.iter().filter_map(|name| self.devices.remove(name)).collect();
        self.hub.tell("device-changed", &self.key, None, format!("the instance is named {to} now"));
        if self.hub.handle(to).send(Command::Receive(devices)).await.is_err() {
            warn!(instance = %to, "renamed instance not served");
        }
    }

    /// Takes over devices of an instance that had another name.
    pub(super) async fn receive(&mut self, devices: Vec<Device>) {
        for device in devices {
            let name = device.name.clone();
            self.devices.insert(name.clone(), device);
            self.keep(&name).await;
        }
        self.next_look = Instant::now();
    }
}

/// The device as the state file has it.
pub(super) fn stored(key: &InstanceKey, device: &Device) -> crate::state::StoredDevice {
    crate::state::StoredDevice {
        instance: key.clone(),
        uuid: device.uuid.clone(),
        name: device.name.clone(),
        keys: DeviceSpec::clone(&device.spec),
        origin: device.origin.clone(),
    }
}

fn needs_discard(device: &Device) -> bool {
    device.placed.is_none() && device.listeners.is_some() && listeners::kind(&device.spec) == Kind::Datagram
}
