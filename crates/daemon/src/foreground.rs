//! One device in the foreground: the daemon's actor without state, keeper and control socket.
//! Workers end with this process, however it ends.

use std::sync::Arc;
use std::time::Duration;

use portway_config::LogFilter;
use portway_control::api::{self, Failure, FailureKind};
use portway_model::{DeviceName, InstanceKey, Provider};
use portway_relay::wire::Lifetime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{broadcast, oneshot};

use crate::hub::{Hub, Parts, failure};
use crate::instance::{Command, Ending};
use crate::keeper::Keeper;
use crate::setup::{self, io_failure};
use crate::state::{Desired, Refused, Store};
use crate::{ForegroundOptions, Notice, logging};

/// Longest time connections may go on after SIGTERM. A second signal ends it.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// Shortest time between two lines about failed dials.
const FAILURES_EVERY: Duration = Duration::from_secs(10);

/// Name of the one device.
const DEVICE: &str = "proxy";

pub(crate) fn run(options: ForegroundOptions, report: impl FnMut(Notice<'_>)) -> Result<(), Failure> {
    let _logs = logging::start(&log_filter(&options.settings.daemon.log));
    setup::confine();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|source| io_failure("start the runtime", &source))?;
    let result = runtime.block_on(Box::pin(serve(options, report)));
    runtime.shutdown_timeout(Duration::from_millis(200));
    result
}

/// A command in the foreground is read by a person: without a wish it says what went wrong only.
fn log_filter(configured: &LogFilter) -> LogFilter {
    match LogFilter::new("warn") {
        Ok(quiet) if *configured == LogFilter::default() => quiet,
        _ => configured.clone(),
    }
}

async fn serve(options: ForegroundOptions, mut report: impl FnMut(Notice<'_>)) -> Result<(), Failure> {
    let catch = |kind| signal(kind).map_err(|source| io_failure("catch signals", &source));
    let (mut end, mut stop) = (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    // Nothing moves to a device in the foreground.
    let (workers_dir, seal_key) = (std::env::temp_dir(), std::path::PathBuf::new());
    let settings = setup::hub_settings(&options.settings, workers_dir, seal_key, Lifetime::WithDaemon)?;
    let hub = Hub::new(Parts {
        settings,
        keeper: Keeper::default(),
        providers: setup::providers(&options.settings),
        nat: None,
        store: Store::ephemeral(),
        desired: Desired::new(),
        refused: Refused::new(),
        generation: 0,
        warnings: Vec::new(),
        frozen: None,
    });
    let (_, mut events) = hub.subscribe(&api::EventFilter::default());
    let key = match options.instance {
        Some(key) => key,
        None => own_namespace()?,
    };
    let device = add(&hub, &key, options.spec).await?;
    report(Notice::State(&device));
    let mut reported = device.state;
    let mut failures = Failures { told: 0, are_new: false, next: tokio::time::Instant::now() };
    loop {
        tokio::select! {
            _ = end.recv() => break,
            _ = stop.recv() => break,
            () = tokio::time::sleep_until(failures.next), if failures.are_new => {
                failures.pause();
                for device in hub.counted_devices().await {
                    report(failures.tell(&device));
                }
            }
            event = events.recv() => match event {
                Ok(event) if event.kind == "device-state" => {
                    let devices = hub.counted_devices().await;
                    for device in &devices {
                        if std::mem::replace(&mut reported, device.state) != device.state {
                            report(Notice::State(device));
                        }
                    }
                    if let Some(ended) = devices.iter().find(|device| has_ended(&key, device)) {
                        return Err(failure(FailureKind::Refused, ended.reason.clone().unwrap_or_default()));
                    }
                }
                Ok(event) if event.kind == "device-error" => failures.are_new = true,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => break,
            },
        }
    }
    tokio::select! {
        () = hub.shut_down(Ending::Drain(DRAIN_LIMIT)) => {}
        _ = end.recv() => {}
        _ = stop.recv() => {}
    }
    Ok(())
}

/// What became of clients without a service: the first is told at once, those after it together.
struct Failures {
    /// Dials that have been told.
    told: u64,
    /// There is something to tell.
    are_new: bool,
    /// When there may be another line.
    next: tokio::time::Instant,
}

impl Failures {
    /// What is new is being told; what comes after it has to wait.
    fn pause(&mut self) {
        self.are_new = false;
        self.next = tokio::time::Instant::now() + FAILURES_EVERY;
    }

    /// The line that is due.
    fn tell<'a>(&mut self, device: &'a api::Device) -> Notice<'a> {
        let dials =
            device.dials_failed.saturating_sub(std::mem::replace(&mut self.told, device.dials_failed));
        Notice::Failures { dials, last: device.last_error.as_deref().unwrap_or_default() }
    }
}

/// Whether the process that the device belongs to is gone: there is nothing left to wait for.
fn has_ended(key: &InstanceKey, device: &api::Device) -> bool {
    key.provider() == Provider::Pid && device.state == api::DeviceState::Failed
}

/// Both sides are this process' own namespaces.
fn own_namespace() -> Result<InstanceKey, Failure> {
    let path = format!("/proc/{}/ns/net", std::process::id());
    InstanceKey::new(Provider::Netns, None, &path)
        .map_err(|problem| failure(FailureKind::Internal, problem.to_string()))
}

async fn add(
    hub: &Arc<Hub>,
    key: &InstanceKey,
    spec: portway_model::DeviceSpec,
) -> Result<api::Device, Failure> {
    let name: DeviceName = DEVICE.parse().map_err(|_| failure(FailureKind::Internal, "device name"))?;
    let ended = || failure(FailureKind::Internal, "the instance's actor has ended");
    let (reply, answer) = oneshot::channel();
    hub.handle(key).send(Command::Add(name, Box::new(spec), reply)).await.map_err(|_| ended())?;
    let result = answer.await.map_err(|_| ended())?;
    // There is one device, and whoever asked for it knows its name.
    let prefix = format!("{key}/{DEVICE}: ");
    result.map_err(|failed| Failure { error: failed.error.replacen(&prefix, "", 1), ..failed })
}
