//! Start, signals and end of the daemon.
//!
//! Start: lock → state file → keeper (adopted or started) → actors, each with its workers and kept
//! listeners → control socket → networks (adopted or started) → ready. End by SIGTERM: the control socket goes, everything else
//! stays for the next daemon.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portway_config::{CONTROL_GROUP, Settings};
use portway_control::api::{Failure, FailureKind};
use portway_incus::Client;
use portway_model::{DeviceKey, InstanceKey, Nat, Provider};
use portway_nat::TableName;
use portway_relay::wire::Lifetime;
use portway_sys::unix_path::{self, Owner, Place};
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::health;
use crate::hub::{Hub, Parts, failure};
use crate::instance::orphans::{Orphans, is_client};
use crate::instance::seed::Seed;
use crate::instance::{Command, Ending};
use crate::keeper::{self, Keeper, Kept};
use crate::logging::{self, LogControl};
use crate::nat::{Leader, leases, obstacles};
use crate::networks::{self, Networks};
use crate::provider::Endpoint;
use crate::setup::{self, folder, io_failure};
use crate::state::{self, Loaded, Store, with_sources};
use crate::{DaemonAction, DaemonOptions, control, http, rivals, tally, worker};

/// Permissions of the control socket: its user and group.
const CONTROL_MODE: u32 = 0o660;

/// Pause before the event stream of a server that failed is opened again.
const EVENTS_PAUSE: Duration = Duration::from_secs(1);

/// Longest wait for threads that hang in a file system when the daemon ends.
const END_TIMEOUT: Duration = Duration::from_millis(200);

pub(crate) fn run(options: &DaemonOptions) -> Result<(), Failure> {
    let logs = logging::start(&options.settings.daemon.log);
    options.paths.prepare().map_err(|problem| paths_failure(&problem))?;
    let _lock = options.paths.lock().map_err(|problem| paths_failure(&problem))?;
    setup::confine();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| io_failure("start the runtime", &source))?;
    let result = runtime.block_on(Box::pin(daemon(options, &logs)));
    runtime.shutdown_timeout(END_TIMEOUT);
    result
}

fn paths_failure(problem: &portway_config::PathsError) -> Failure {
    Failure { hint: problem.hint(), ..failure(FailureKind::Refused, with_sources(problem)) }
}

async fn daemon(options: &DaemonOptions, logs: &LogControl) -> Result<(), Failure> {
    let (renewed, led) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (hub, loaded, kept) = assemble(options, Arc::clone(&renewed), Arc::clone(&led)).await?;
    hub.access.follow(&options.settings.access, &options.paths.access_log);
    plant(&hub, &loaded, kept);
    let run_dir = folder(&options.paths.socket);
    if options.action == DaemonAction::Purge {
        networks::purge(&hub, options.networks, run_dir).await;
        if options.companion.is_wanted {
            options.companion.end();
        }
        hub.shut_down(Ending::Drain(Duration::ZERO)).await;
        let removed = match &hub.nat {
            Some(leader) => leader.remove().await,
            None => Ok(()),
        };
        hub.keeper.end().await;
        return removed.map_err(still_led);
    }
    let signals = Signals::catch()?;
    let listener = control_socket(&options.paths.socket)?;
    let networks = Networks::start(
        &hub,
        options.networks,
        run_dir,
        options.paths.dir.as_deref(),
        &options.settings.mesh,
    );
    let router = http::router(Arc::clone(&hub), options.companion.clone(), Arc::clone(&networks));
    let server = tokio::spawn(control::serve(listener, router));
    if options.companion.is_wanted {
        tokio::spawn(options.companion.clone().keep());
    }
    tokio::spawn(rekeep(Arc::clone(&hub), renewed));
    tokio::spawn(show_again(Arc::clone(&hub), led));
    tokio::spawn(obstacles::follow(Arc::clone(&hub)));
    for endpoint in [&hub.providers.incus, &hub.providers.lxd] {
        let told = Arc::new(Notify::new());
        tokio::spawn(follow_events(Arc::clone(&hub), Arc::clone(endpoint), Arc::clone(&told)));
        tokio::spawn(rivals::follow(Arc::clone(&hub), Arc::clone(endpoint), told));
        tokio::spawn(leases::follow(Arc::clone(&hub), Arc::clone(endpoint)));
        tokio::spawn(health::follow(Arc::clone(&hub), Arc::clone(endpoint)));
    }
    info!(devices = loaded.desired.len(), socket = %options.paths.socket.display(), "ready");
    tell_systemd(&[NotifyState::Ready]);
    signals.serve(&hub, &networks, options, logs).await;
    tell_systemd(&[NotifyState::Stopping]);
    server.abort();
    hub.shut_down(Ending::Leave).await;
    hub.access.end();
    if let Err(problem) = std::fs::remove_file(&options.paths.socket) {
        warn!(error = %problem, "control socket not removed");
    }
    info!("ended; workers go on");
    Ok(())
}

/// A table that a purge could not remove.
fn still_led(text: String) -> Failure {
    Failure {
        hint: Some("published ports are led on until it has gone; `portway doctor` looks at it".into()),
        ..failure(FailureKind::Refused, format!("kernel NAT is not removed: {text}"))
    }
}

async fn assemble(
    options: &DaemonOptions,
    renewed: Arc<Notify>,
    led: Arc<Notify>,
) -> Result<(Arc<Hub>, Loaded, Kept), Failure> {
    let paths = &options.paths;
    let seal_key = paths.state.with_file_name("moves.key");
    let workers_dir = paths.workers_dir.clone();
    let settings = setup::hub_settings(&options.settings, workers_dir, seal_key, Lifetime::Detached)?;
    let loaded = state::load(&paths.state);
    let store =
        Store::start(paths.state.clone(), &loaded).map_err(|source| io_failure("start a thread", &source))?;
    let keeper_setup = keeper::Setup {
        workers_dir: paths.workers_dir.clone(),
        owner_uid: settings.owner_uid,
        ids: settings.worker_ids,
    };
    let (keeper, kept) = Keeper::start(keeper_setup, move || renewed.notify_one())
        .await
        .map_err(|source| io_failure("start the keeper", &source))?;
    let parts = Parts {
        settings,
        keeper,
        providers: setup::providers(&options.settings),
        nat: Some(leader(options, &loaded, led)?),
        store,
        desired: loaded.desired.clone(),
        refused: loaded.refused.clone(),
        generation: loaded.generation,
        warnings: loaded.warnings.clone(),
        frozen: loaded.lost.then(|| format!("{} cannot be read", paths.state.display())),
    };
    Ok((Hub::new(parts), loaded, kept))
}

/// Starts an actor for every instance that has devices, workers or kept listeners.
fn plant(hub: &Arc<Hub>, loaded: &Loaded, kept: Kept) {
    let mut seeds: BTreeMap<InstanceKey, Seed> = BTreeMap::new();
    for device in loaded.desired.values() {
        seeds.entry(device.instance.clone()).or_default().devices.push(device.clone());
    }
    for key in loaded.refused.keys() {
        seeds.entry(key.instance.clone()).or_default();
    }
    for (text, held) in kept {
        plant_kept(hub, loaded, &mut seeds, text, held);
    }
    for name in worker::names(&hub.settings.workers_dir) {
        match worker::instance_of(&hub.settings.workers_dir, &name) {
            Some(key) => {
                let seed = seeds.entry(key).or_default();
                seed.workers.push(name);
                seed.rebuild = loaded.damaged;
            }
            None => worker::end(&hub.settings.workers_dir, &name),
        }
    }
    for (key, seed) in seeds {
        hub.plant(key, seed);
    }
}

/// Gives what the keeper has under one name to the instance it belongs to.
fn plant_kept(
    hub: &Arc<Hub>,
    loaded: &Loaded,
    seeds: &mut BTreeMap<InstanceKey, Seed>,
    text: String,
    held: (String, Vec<OwnedFd>),
) {
    let wanted = |key: &DeviceKey| loaded.damaged || loaded.desired.contains_key(key);
    if is_client(&text) {
        let (note, descriptors) = held;
        if let Some((key, orphans)) =
            Orphans::recover(&text, &note, descriptors).filter(|(key, _)| wanted(key))
        {
            seeds.entry(key.instance).or_default().clients.push((key.device, orphans));
            return;
        }
    } else if let Some(key) = text.parse::<DeviceKey>().ok().filter(wanted) {
        seeds.entry(key.instance).or_default().kept.insert(key.device, held);
        return;
    }
    let hub = Arc::clone(hub);
    tokio::spawn(async move { hub.keeper.drop_key(text).await });
}

/// The keeper of the kernel's NAT table, with the ways an earlier daemon has left.
fn leader(options: &DaemonOptions, loaded: &Loaded, led: Arc<Notify>) -> Result<Leader, Failure> {
    let paths = &options.paths;
    let name = TableName::new(&paths.nft_table()).unwrap_or_default();
    let wanting = loaded.desired.values().filter(|device| device.keys.nat != Nat::Off);
    let devices = wanting.map(|device| (device.key(), &device.keys)).collect();
    let started = Leader::start(name, paths.socket.with_file_name("nat.json"), &devices, led);
    started.map_err(|source| io_failure("start a thread", &source))
}

/// The kernel's NAT has begun to fail, or works again: that is the state of every device that wants it.
async fn show_again(hub: Arc<Hub>, led: Arc<Notify>) {
    loop {
        led.notified().await;
        hub.poke_all().await;
    }
}

async fn rekeep(hub: Arc<Hub>, renewed: Arc<Notify>) {
    loop {
        renewed.notified().await;
        hub.rekeep_all().await;
    }
}

/// The control socket: passed by systemd, or made here.
fn control_socket(path: &Path) -> Result<UnixListener, Failure> {
    let problem = |source: std::io::Error| io_failure(&format!("listen on {}", path.display()), &source);
    let descriptor = match passed_socket() {
        Some(descriptor) => descriptor,
        None => make_socket(path)?,
    };
    let listener = std::os::unix::net::UnixListener::from(descriptor);
    listener.set_nonblocking(true).map_err(problem)?;
    UnixListener::from_std(listener).map_err(problem)
}

/// A socket that systemd passes is fd 3 (sd_listen_fds(3)).
fn passed_socket() -> Option<OwnedFd> {
    let passed = sd_notify::listen_fds().ok()?.next()?;
    portway_sys::process::inherited(passed).ok()
}

fn make_socket(path: &Path) -> Result<OwnedFd, Failure> {
    let group = nix::unistd::Group::from_name(CONTROL_GROUP).ok().flatten();
    let own = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let bind = |gid: u32| {
        let root = unix_path::host_root().map_err(|source| io_failure("open /", &source))?;
        let place = Place { root, path: path.to_path_buf() };
        unix_path::bind_stream(place, Owner { gid, ..own }, CONTROL_MODE)
            .map(|bound| bound.fd)
            .map_err(|problem| failure(FailureKind::Refused, with_sources(&problem)))
    };
    match group {
        // In a user namespace the group may not be mapped: then the socket stays the caller's own.
        Some(group) if own.uid == 0 => bind(group.gid.as_raw()).or_else(|_| bind(own.gid)),
        _ => bind(own.gid),
    }
    .map_err(|failed| Failure {
        hint: Some(format!("look at {} and its permissions", folder(path).display())),
        ..failed
    })
}

fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(problem) = sd_notify::notify(state) {
        warn!(error = %problem, "systemd not told");
    }
}

/// Follows a server's events: each one makes an actor look sooner. After a gap all look. A server that
/// is not there may be installed or started later.
async fn follow_events(hub: Arc<Hub>, endpoint: Arc<Endpoint>, told: Arc<Notify>) {
    loop {
        if let Some(client) = endpoint.client() {
            follow_client(&hub, &endpoint, &client, &told).await;
        }
        tokio::time::sleep(EVENTS_PAUSE).await;
    }
}

/// The same until the stream ends.
async fn follow_client(hub: &Arc<Hub>, endpoint: &Endpoint, client: &Client, told: &Notify) {
    let provider = endpoint.provider();
    match client.events().await {
        Ok(mut events) => {
            hub.set_reachable(provider, Ok(()));
            endpoint.set_tells(true);
            hub.poke_all().await;
            loop {
                match events.next().await {
                    Ok(event) => {
                        tally::event(provider);
                        endpoint.count_event();
                        told.notify_one();
                        poke(hub, provider, &event).await;
                    }
                    Err(problem) => {
                        warn!(%provider, error = %with_sources(&problem), "event stream ended");
                        tally::events_lost(provider);
                        endpoint.set_tells(false);
                        // What happened since the last event is not known, nor whether it still answers.
                        hub.poke_all().await;
                        break;
                    }
                }
            }
        }
        Err(problem) => {
            let text = with_sources(&problem);
            if hub.is_reachable(provider) {
                warn!(%provider, error = text, "server does not answer");
            }
            hub.set_reachable(provider, Err(text));
        }
    }
}

async fn poke(hub: &Arc<Hub>, provider: Provider, event: &portway_incus::Event) {
    let names = std::iter::once(&event.name).chain(&event.old_name);
    for name in names {
        let key = InstanceKey::new(provider, Some(&event.project), name);
        if let Some(handle) = key.ok().and_then(|key| hub.known(&key)) {
            // An actor that ends needs no poke.
            let _ = handle.send(Command::Poke).await;
        }
    }
}

/// The signals the daemon serves, caught before anybody can know that it runs.
struct Signals {
    end: Signal,
    stop: Signal,
    reload: Signal,
}

impl Signals {
    fn catch() -> Result<Signals, Failure> {
        let catch = |kind| signal(kind).map_err(|source| io_failure("catch signals", &source));
        Ok(Signals {
            end: catch(SignalKind::terminate())?,
            stop: catch(SignalKind::interrupt())?,
            reload: catch(SignalKind::hangup())?,
        })
    }

    /// Serves them until one says to end.
    async fn serve(
        mut self,
        hub: &Arc<Hub>,
        networks: &Networks,
        options: &DaemonOptions,
        logs: &LogControl,
    ) {
        loop {
            tokio::select! {
                _ = self.end.recv() => return,
                _ = self.stop.recv() => return,
                _ = self.reload.recv() => reread(hub, networks, options, logs).await,
            }
        }
    }
}

/// SIGHUP: reads the settings again. Settings that cannot be used change nothing.
async fn reread(hub: &Arc<Hub>, networks: &Networks, options: &DaemonOptions, logs: &LogControl) {
    match Settings::load(&options.paths.config) {
        Ok(settings) => {
            logs.set(&settings.daemon.log);
            if settings.incus != options.settings.incus
                || settings.lxd != options.settings.lxd
                || settings.daemon.user != options.settings.daemon.user
            {
                warn!("a changed user or server socket needs a restart of the daemon");
            }
            networks.follow(&settings.mesh);
            hub.access.follow(&settings.access, &options.paths.access_log);
            hub.tell_access().await;
            info!("settings read again");
        }
        Err(problem) => warn!(error = %with_sources(&problem), "settings not usable, nothing changed"),
    }
    hub.poke_all().await;
}
