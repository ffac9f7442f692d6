//! What all instances share: settings, state, keeper, providers, events, and the actors by name.

mod claims;
mod events;
mod kernel;
mod refused;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use portway_control::api::{self, Failure, FailureKind};
use portway_model::{Bind, DeviceKey, DeviceName, DeviceSpec, InstanceKey, Provider, UnixName};
use portway_relay::wire::{Ids, Lifetime, Sandbox};
use portway_sys::netns::NetnsId;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, WeakSender};
use tokio::sync::{Mutex as AsyncMutex, RwLock, broadcast, oneshot};

use crate::access::AccessLog;
use crate::health::Health;
use crate::instance::device::Device;
use crate::instance::seed::Seed;
use crate::instance::{Command, Ending, Handle, Instance};
use crate::keeper::Keeper;
use crate::metrics::{Watched, labels, of_devices};
use crate::nat::Leader;
use crate::owner;
use crate::provider::Providers;
use crate::state::{Change, Desired, Refused, Store, StoredDevice, apply, keep_up};
use crate::tally::{self, Hit};

/// Longest wait for an actor's answer; for one that is busy the store answers.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// What the daemon decided at its start.
#[derive(Debug)]
pub(crate) struct HubSettings {
    /// Folder of worker sockets.
    pub(crate) workers_dir: PathBuf,
    /// Key of the seal on notes about devices that move.
    pub(crate) seal_key: PathBuf,
    /// What tcp and udp workers run as; `None` when no other id is mapped.
    pub(crate) worker_ids: Option<Ids>,
    /// What of the sandbox must hold.
    pub(crate) sandbox: Sandbox,
    /// Whether workers outlive the daemon.
    pub(crate) lifetime: Lifetime,
    /// The daemon's uid.
    pub(crate) owner_uid: u32,
    /// Build of the program, to tell older workers.
    pub(crate) build: String,
    /// Descriptors a process may have.
    pub(crate) nofile: u64,
    /// Network namespace of the daemon.
    pub(crate) own_netns: NetnsId,
    /// Environment of networks. Workers have none.
    pub(crate) network_environment: Vec<(String, String)>,
}

impl HubSettings {
    /// The control socket, which lies beside the folder of workers.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.workers_dir.with_file_name("portway.sock")
    }
}

/// Shared by all actors and the control server.
pub(crate) struct Hub {
    /// Settings.
    pub(crate) settings: HubSettings,
    /// Keeper.
    pub(crate) keeper: Keeper,
    /// Providers.
    pub(crate) providers: Providers,
    /// Keeper of the kernel's NAT table; `None` without a daemon.
    pub(crate) nat: Option<Leader>,
    /// Health of Compose services.
    pub(crate) health: Health,
    /// Log of connections that are over.
    pub(crate) access: Arc<AccessLog>,
    /// Networks whose leases decide where devices of an instance lead.
    networks: Mutex<BTreeMap<InstanceKey, BTreeSet<String>>>,
    store: Store,
    desired: Mutex<Desired>,
    claims: Mutex<claims::Claims>,
    refused: Mutex<Refused>,
    generation: AtomicU64,
    actors: Mutex<BTreeMap<InstanceKey, Handle>>,
    reachable: Mutex<BTreeMap<String, Result<(), String>>>,
    events: events::Events,
    started: Instant,
    warnings: Vec<String>,
    /// Why nothing may be changed.
    frozen: Option<String>,
    /// Held by whoever edits devices: shared for one device, alone for several.
    pub(crate) edits: RwLock<()>,
    /// Held while a list is applied.
    pub(crate) applying: AsyncMutex<()>,
}

/// What a hub is made of.
pub(crate) struct Parts {
    /// Settings.
    pub(crate) settings: HubSettings,
    /// Keeper.
    pub(crate) keeper: Keeper,
    /// Providers.
    pub(crate) providers: Providers,
    /// Keeper of the kernel's NAT table.
    pub(crate) nat: Option<Leader>,
    /// Store.
    pub(crate) store: Store,
    /// Devices in the store.
    pub(crate) desired: Desired,
    /// Devices in the store whose keys are refused.
    pub(crate) refused: Refused,
    /// Their generation.
    pub(crate) generation: u64,
    /// What went wrong at the start.
    pub(crate) warnings: Vec<String>,
    /// Why nothing may be changed: what is wanted is not known.
    pub(crate) frozen: Option<String>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hub {
    /// Puts the parts together.
    pub(crate) fn new(parts: Parts) -> Arc<Hub> {
        Arc::new(Hub {
            settings: parts.settings,
            keeper: parts.keeper,
            providers: parts.providers,
            nat: parts.nat,
            health: Health::default(),
            access: Arc::default(),
            networks: Mutex::default(),
            store: parts.store,
            desired: Mutex::new(parts.desired),
            claims: Mutex::default(),
            refused: Mutex::new(parts.refused),
            generation: AtomicU64::new(parts.generation),
            actors: Mutex::default(),
            reachable: Mutex::default(),
            events: events::Events::default(),
            started: Instant::now(),
            warnings: parts.warnings,
            frozen: parts.frozen,
            edits: RwLock::default(),
            applying: AsyncMutex::default(),
        })
    }

    /// Commits changes to disk, then shows them.
    ///
    /// # Errors
    /// One line; nothing is changed then.
    pub(crate) async fn commit(&self, changes: Vec<Change>) -> Result<u64, String> {
        let generation = self.store.commit(changes.clone()).await?;
        let (mut desired, mut refused) = (locked(&self.desired), locked(&self.refused));
        for change in &changes {
            apply(&mut desired, change);
            keep_up(&mut refused, change);
        }
        self.generation.fetch_max(generation, Ordering::Relaxed);
        Ok(generation)
    }

    /// The devices in the store.
    pub(crate) fn desired(&self) -> Desired {
        locked(&self.desired).clone()
    }

    /// The options of a device in the store.
    pub(crate) fn stored_keys(&self, key: &DeviceKey) -> Option<DeviceSpec> {
        locked(&self.desired).get(key).map(|device| device.keys.clone())
    }

    /// Those of `keys` that are in the store and bound to no instance.
    pub(crate) fn unbound(&self, keys: impl Iterator<Item = DeviceKey>) -> Vec<DeviceKey> {
        let desired = locked(&self.desired);
        keys.filter(|key| desired.get(key).is_some_and(|device| device.uuid.is_none())).collect()
    }

    /// Generation of the devices in the store.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Whether devices may be changed at all.
    ///
    /// # Errors
    /// When what is wanted is not known, so that a change would lose it.
    pub(crate) fn check_changeable(&self) -> Result<(), Failure> {
        let Some(why) = &self.frozen else { return Ok(()) };
        Err(Failure {
            hint: Some(
                "put a good state.json back, or move it and state.json.prev away; then restart the daemon"
                    .into(),
            ),
            ..failure(FailureKind::Refused, format!("devices cannot be changed: {why}"))
        })
    }

    /// Whether the devices are those of `expected`, where somebody expects something.
    ///
    /// # Errors
    /// When they have changed since.
    pub(crate) fn check_generation(&self, expected: Option<u64>) -> Result<(), Failure> {
        let present = self.generation();
        if expected.is_none_or(|expected| expected == present) {
            return Ok(());
        }
        let text = format!("the devices have changed meanwhile (generation {present})");
        Err(Failure {
            hint: Some("look at them and try again".into()),
            ..failure(FailureKind::Refused, text)
        })
    }

    /// The actor of an instance, started if there is none.
    pub(crate) fn handle(self: &Arc<Self>, key: &InstanceKey) -> Handle {
        let mut actors = locked(&self.actors);
        if let Some(handle) = actors.get(key).filter(|handle| !handle.is_closed()) {
            return handle.clone();
        }
        let handle = Instance::start(Arc::clone(self), key.clone(), Seed::default());
        actors.insert(key.clone(), handle.clone());
        handle
    }

    /// The actor of an instance, if there is one.
    pub(crate) fn known(&self, key: &InstanceKey) -> Option<Handle> {
        locked(&self.actors).get(key).filter(|handle| !handle.is_closed()).cloned()
    }

    /// Forgets an actor that wants to end; false when somebody has a handle of it or has sent it something.
    pub(crate) fn retire(
        &self,
        key: &InstanceKey,
        own: &WeakSender<Command>,
        commands: &Receiver<Command>,
    ) -> bool {
        let mut actors = locked(&self.actors);
        // Handles are only ever taken from the map, so none can come up while it is locked.
        let unused = own.strong_count() <= 1 && commands.is_empty();
        if unused {
            actors.remove(key);
        }
        unused
    }

    /// Starts the actor of an instance with what an earlier daemon left.
    pub(crate) fn plant(self: &Arc<Self>, key: InstanceKey, seed: Seed) {
        let handle = Instance::start(Arc::clone(self), key.clone(), seed);
        locked(&self.actors).insert(key, handle);
    }

    fn handles(&self) -> Vec<Handle> {
        locked(&self.actors).values().cloned().collect()
    }

    /// Has every instance look again.
    pub(crate) async fn poke_all(&self) {
        for handle in self.handles() {
            // An actor that ends needs no poke.
            let _ = handle.send(Command::Poke).await;
        }
    }

    /// Has every worker told whether records of what is over are wanted.
    pub(crate) async fn tell_access(&self) {
        for handle in self.handles() {
            // As above.
            let _ = handle.send(Command::Access).await;
        }
    }

    /// Has every instance supply the new keeper.
    pub(crate) async fn rekeep_all(&self) {
        for handle in self.handles() {
            let _ = handle.send(Command::Rekeep).await;
        }
    }

    /// All devices, or those of one instance, sorted by instance and name. Those of an instance that
    /// does not answer come from the store, and say so.
    pub(crate) async fn devices(&self, of: Option<&InstanceKey>) -> Vec<api::Device> {
        let mut devices = self.listed(of).await;
        if self.lacks(of, &devices) {
            // One that goes from actor to actor, as its instance is renamed, was asked of neither.
            devices = self.listed(of).await;
        }
        devices.sort_by(|one, other| (&one.instance, &one.name).cmp(&(&other.instance, &other.name)));
        devices
    }

    async fn listed(&self, of: Option<&InstanceKey>) -> Vec<api::Device> {
        let (mut devices, silent) = self.ask(of, Command::List).await;
        devices.extend(silent.iter().map(|key| self.stored(key)));
        let mut devices: Vec<api::Device> = devices.into_iter().flatten().collect();
        {
            let refused = locked(&self.refused);
            let refused = refused.iter().filter(|(key, _)| of.is_none_or(|of| *of == key.instance));
            devices.extend(refused.map(|(_, device)| device.show()));
        }
        self.with_kernel_counts(devices).await
    }

    /// Whether a device of the store is not in a list.
    fn lacks(&self, of: Option<&InstanceKey>, listed: &[api::Device]) -> bool {
        let listed: BTreeSet<_> = listed.iter().map(|device| (&device.instance, &device.name)).collect();
        let desired = locked(&self.desired);
        let mut asked = desired.values().filter(|device| of.is_none_or(|of| *of == device.instance));
        asked.any(|device| !listed.contains(&(&device.instance, &device.name)))
    }

    /// The devices whose counters are known at this moment.
    pub(crate) async fn counted_devices(&self) -> Vec<api::Device> {
        let devices = self.ask(None, Command::List).await.0.into_iter().flatten().collect();
        self.with_kernel_counts(devices).await
    }

    /// A device with what the kernel has counted of it.
    pub(crate) async fn counted(&self, device: api::Device) -> api::Device {
        let bare = device.clone();
        self.with_kernel_counts(vec![device]).await.pop().unwrap_or(bare)
    }

    /// Devices of an instance as the store has them, for an actor that does not answer.
    fn stored(&self, key: &InstanceKey) -> Vec<api::Device> {
        let desired = locked(&self.desired);
        let stored = desired.values().filter(|device| device.instance == *key);
        stored
            .cloned()
            .map(|device| Device::new(device.name, device.keys, device.uuid).unknown(key))
            .collect()
    }

    /// Asks every actor, or one. Also returns who did not answer in time.
    pub(crate) async fn ask<T>(
        &self,
        of: Option<&InstanceKey>,
        question: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> (Vec<T>, Vec<InstanceKey>) {
        let actors = locked(&self.actors).clone();
        let (mut waiting, mut answers, mut silent) = (Vec::new(), Vec::new(), Vec::new());
        for (key, handle) in actors.into_iter().filter(|(key, _)| of.is_none_or(|of| of == key)) {
            let (reply, answer) = oneshot::channel();
            match handle.try_send(question(reply)) {
                Ok(()) => waiting.push((key, answer)),
                Err(TrySendError::Full(_)) => {
                    tally::hit(Hit::Commands);
                    silent.push(key);
                }
                Err(TrySendError::Closed(_)) => {}
            }
        }
        let deadline = tokio::time::Instant::now() + LIST_TIMEOUT;
        for (key, answer) in waiting {
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(found)) => answers.push(found),
                // It has ended meanwhile.
                Ok(Err(_)) => {}
                Err(_) => silent.push(key),
            }
        }
        (answers, silent)
    }

    /// What `GET /1.0` says.
    pub(crate) async fn server(&self) -> api::Server {
        let (mut totals, mut refusals) = (api::DeviceTotals::default(), api::Refusals::default());
        let devices = self.devices(None).await;
        let mut limits = tally::all_hits();
        for (limit, hits) in of_devices(&devices).into_iter().filter(|(_, hits)| *hits > 0) {
            limits.push(api::LimitHits { limit: limit.to_owned(), hits });
        }
        for device in devices {
            refusals.count(&device);
            match device.state {
                api::DeviceState::Active => totals.active += 1,
                api::DeviceState::Waiting => totals.waiting += 1,
                api::DeviceState::Degraded => totals.degraded += 1,
                api::DeviceState::Failed => totals.failed += 1,
            }
        }
        let reachable = locked(&self.reachable).clone();
        let providers = reachable.into_iter().map(|(name, state)| api::ProviderStatus {
            endpoint: self.endpoint(&name),
            name,
            reachable: state.is_ok(),
            error: state.err(),
        });
        let mut warnings = self.warnings.clone();
        warnings.extend(self.access.failure().map(|text| format!("access log is not written: {text}")));
        let nat = self.nat.as_ref().map(Leader::failures);
        let nat = nat.as_ref().and_then(|failures| failures.of_table());
        warnings.extend(nat.map(|text| format!("kernel NAT does not work: {text}")));
        api::Server {
            api: "1.0".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            generation: self.generation(),
            devices: totals,
            refusals,
            providers: providers.collect(),
            workers: self.ask(None, Command::Workers).await.0.into_iter().flatten().collect(),
            keeper_pid: self.keeper.pid(),
            networks: Vec::new(),
            limits,
            warnings,
        }
    }

    /// The servers that were asked, and whether they answer.
    pub(crate) fn servers(&self) -> Vec<(String, bool)> {
        locked(&self.reachable).iter().map(|(name, state)| (name.clone(), state.is_ok())).collect()
    }

    /// The daemon, its keeper and its workers.
    pub(crate) async fn processes(&self) -> Vec<Watched> {
        let one = |name: &str, pid: u32| Watched { labels: labels([("process", name)]), pid };
        let mut found = vec![one("daemon", std::process::id())];
        let keeper = self.keeper.pid().and_then(|pid| u32::try_from(pid).ok());
        found.extend(keeper.map(|pid| one("keeper", pid)));
        let workers = self.ask(None, Command::Workers).await.0.into_iter().flatten();
        found.extend(workers.filter_map(|worker| {
            let instance = worker.instance.to_string();
            let of = [("process", "worker"), ("instance", instance.as_str()), ("group", &worker.group)];
            Some(Watched { labels: labels(of), pid: u32::try_from(worker.pid).ok()? })
        }));
        found
    }

    fn endpoint(&self, provider: &str) -> Option<String> {
        let endpoint = self.providers.endpoint(provider.parse().ok()?)?;
        Some(endpoint.client()?.socket().display().to_string())
    }

    /// Takes note of whether a provider answers.
    pub(crate) fn set_reachable(&self, provider: Provider, state: Result<(), String>) {
        locked(&self.reachable).insert(provider.to_string(), state);
    }

    /// Whether a provider answers; true when it was never asked.
    pub(crate) fn is_reachable(&self, provider: Provider) -> bool {
        locked(&self.reachable).get(&provider.to_string()).is_none_or(Result::is_ok)
    }

    /// Tells who listens at `/1.0/events`.
    pub(crate) fn tell(&self, kind: &str, instance: &InstanceKey, device: Option<&DeviceName>, text: String) {
        self.events.tell(api::Event {
            at: portway_model::rfc3339(SystemTime::now()),
            kind: kind.to_owned(),
            instance: Some(instance.clone()),
            device: device.cloned(),
            network: None,
            text,
        });
    }

    /// The same of a network.
    pub(crate) fn tell_network(&self, kind: &str, network: &str, text: String) {
        self.events.tell(api::Event {
            at: portway_model::rfc3339(SystemTime::now()),
            kind: kind.to_owned(),
            instance: None,
            device: None,
            network: Some(network.to_owned()),
            text,
        });
    }

    /// The last events that `filter` asks for, and all from here on.
    pub(crate) fn subscribe(
        &self,
        filter: &api::EventFilter,
    ) -> (VecDeque<api::Event>, broadcast::Receiver<api::Event>) {
        self.events.subscribe(filter)
    }

    /// Who has `address` (`tcp:HOST:PORT`, `udp:HOST:PORT` or `unix:@NAME`) on the host: a device of
    /// ours other than `asking`, or a process.
    pub(crate) fn owner_of(&self, address: &str, asking: &DeviceKey) -> Option<String> {
        let device = self.device_at(address, asking).map(|key| format!("device {key}"));
        device.or_else(|| owner::process_at(address))
    }

    /// The device of ours that has `address` on the host, other than `asking`.
    pub(crate) fn device_at(&self, address: &str, asking: &DeviceKey) -> Option<DeviceKey> {
        let desired = locked(&self.desired);
        let mut others =
            desired.values().filter(|device| device.keys.bind == Bind::Host && device.key() != *asking);
        others.find(|device| owner::overlaps(device.keys.listen.address(), address)).map(StoredDevice::key)
    }

    /// The device of ours other than `asking` whose socket is the file at `path` on the host, by whatever name.
    pub(crate) fn device_of_file(&self, path: &str, asking: &DeviceKey) -> Option<DeviceKey> {
        let file = owner::file_at(Path::new(path))?;
        let others = self.desired().into_values().filter(|device| device.keys.bind == Bind::Host);
        let mut others = others.filter(|device| device.key() != *asking);
        let is_there = |device: &StoredDevice| {
            let path = device.keys.listen.address().unix().and_then(UnixName::path);
            path.and_then(|path| owner::file_at(path.as_path())) == Some(file)
        };
        others.find(is_there).as_ref().map(StoredDevice::key)
    }

    /// Ends every actor.
    pub(crate) async fn shut_down(&self, ending: Ending) {
        let mut waiting = Vec::new();
        for handle in self.handles() {
            let (reply, done) = oneshot::channel();
            if handle.send(Command::Shutdown(ending, reply)).await.is_ok() {
                waiting.push(done);
            }
        }
        for done in waiting {
            // An actor that is gone has nothing left.
            let _ = done.await;
        }
    }
}

/// A failure without a hint.
pub(crate) fn failure(kind: FailureKind, error: impl Into<String>) -> Failure {
    Failure { kind, error: error.into(), hint: None }
}

#[cfg(test)]
mod tests;
