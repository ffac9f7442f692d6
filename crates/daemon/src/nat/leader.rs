//! The way to the thread that keeps the table, and what it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portway_model::{DeviceKey, DeviceSpec};
use portway_nat::{Led, TableName};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use super::grace::Grace;
use super::obstacles::Obstacles;
use super::table::{Change, Counts, Keeper, Order};
use super::{Way, file};

/// Orders that may wait for the thread.
const QUEUE: usize = 1024;

/// Why the kernel does not carry what it should.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Failures {
    /// The table is not what it should be at this moment; one line.
    pub(super) table: Option<String>,
    /// No table can hold the ways of these, one line each; the others are led.
    pub(super) devices: BTreeMap<DeviceKey, String>,
    /// The kernel may lead clients of these the way they had before.
    pub(super) standing: BTreeSet<DeviceKey>,
}

impl Failures {
    /// Of the table.
    pub(crate) fn of_table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// Why a device may be led the way it had before, and not as it was told.
    pub(crate) fn standing(&self, key: &DeviceKey) -> Option<&str> {
        self.of_table().filter(|_| self.standing.contains(key))
    }

    /// Of one device, be it its own or the table's. `key` is asked for when it matters.
    pub(crate) fn of(&self, key: impl FnOnce() -> DeviceKey) -> Option<&str> {
        let own = || self.devices.get(&key()).map(String::as_str);
        self.of_table().or_else(|| if self.devices.is_empty() { None } else { own() })
    }
}

/// Shown to everybody.
#[derive(Debug, Default)]
pub(super) struct Status {
    failures: Mutex<Arc<Failures>>,
    /// What stops packets on their way to an instance.
    obstacles: Mutex<Arc<Obstacles>>,
    repairs: AtomicU64,
    /// A device has a way, or had one.
    counts: AtomicBool,
    /// Told when the failures are others.
    changed: Arc<Notify>,
}

impl Status {
    /// Shows why the kernel does not carry what it should; who waits for a change of that is told.
    pub(super) fn show(&self, failures: Failures) {
        let mut shown = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if **shown == failures {
            return;
        }
        match (&shown.table, &failures.table) {
            (None, None) => {}
            (_, Some(text)) => warn!(error = text, "kernel NAT does not work; its devices are relayed"),
            (Some(_), None) => info!("kernel NAT works again"),
        }
        for (key, text) in failures.devices.iter().filter(|(key, _)| !shown.devices.contains_key(key)) {
            warn!(device = %key, error = text, "no table can hold this device; it is relayed");
        }
        *shown = Arc::new(failures);
        self.changed.notify_one();
    }

    /// Shows whether there is anything to ask for.
    pub(super) fn show_counts(&self, is_there: bool) {
        self.counts.store(is_there, Ordering::Relaxed);
    }

    /// Counts a change of somebody else's that was put right.
    pub(super) fn count_repair(&self) {
        self.repairs.fetch_add(1, Ordering::Relaxed);
    }
}

/// The way to the thread.
#[derive(Debug)]
pub(crate) struct Leader {
    orders: mpsc::Sender<Order>,
    status: Arc<Status>,
    /// Ways that an earlier daemon has left, until the instance's actor takes them.
    kept: Mutex<BTreeMap<DeviceKey, Way>>,
}

impl Leader {
    /// Starts the thread, with the ways an earlier daemon has left of these devices, which are all that may have one.
    /// One that was made for other options is none. `changed` is told when the table begins to fail, or works again.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        name: TableName,
        path: PathBuf,
        devices: &BTreeMap<DeviceKey, &DeviceSpec>,
        changed: Arc<Notify>,
    ) -> std::io::Result<Leader> {
        let (mut kept, problem) = file::load(&path);
        if let Some(problem) = problem {
            warn!(error = problem, "ways through the kernel not known, made anew");
        }
        // Where there are some, they are all.
        let may_lack = if kept.ways.is_empty() { devices.keys().cloned().collect() } else { BTreeSet::new() };
        kept.ways.retain(|key, way| devices.get(key).is_some_and(|spec| way.fits(spec)));
        kept.counted.retain(|key, _| devices.contains_key(key));
        let ways = kept.ways.clone();
        let (orders, inbox) = mpsc::channel(QUEUE);
        let obstacles = if devices.is_empty() { Obstacles::default() } else { Obstacles::read() };
        let status = Arc::new(Status { changed, ..Status::default() });
        let grace = Grace::new(may_lack);
        let keeper = Keeper::new(name, path, (kept, grace), (orders.clone(), inbox), Arc::clone(&status));
        std::thread::Builder::new().name("nat".into()).spawn(move || keeper.run())?;
        let leader = Leader { orders, status, kept: Mutex::new(ways) };
        leader.show_obstacles(obstacles);
        Ok(leader)
    }

    /// The way of a device that an earlier daemon has left; once.
    pub(crate) fn take_kept(&self, key: &DeviceKey) -> Option<Arc<Way>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(key).map(Arc::new)
    }

    /// Makes changes; returns when they are made, or could not be: then [`failures`](Self::failures) say why,
    /// and they are tried again.
    ///
    /// Cancel safe: the changes are made all the same.
    pub(crate) async fn lead(&self, changes: Vec<(DeviceKey, Change)>) {
        self.ask(|reply| Order::Lead(changes, reply)).await;
    }

    /// Whether anything was ever counted for a device that is there.
    pub(crate) fn has_counts(&self) -> bool {
        self.status.counts.load(Ordering::Relaxed)
    }

    /// What devices have counted.
    pub(crate) async fn counts(&self) -> Counts {
        self.ask(Order::Count).await.unwrap_or_default()
    }

    /// Has the connections forgotten that somebody else's rules have led, which are no more.
    pub(crate) async fn forget(&self, led: Vec<Led>) {
        if !led.is_empty() {
            self.ask(|reply| Order::Forget(led, reply)).await;
        }
    }

    /// Removes the table. Nothing can be led afterwards.
    ///
    /// # Errors
    /// Why it is there still, and leads; one line.
    pub(crate) async fn remove(&self) -> Result<(), String> {
        self.ask(Order::Remove).await.unwrap_or(Ok(()))
    }

    /// Why the kernel does not carry what it should.
    pub(crate) fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.status.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What stops packets on their way to an instance.
    pub(crate) fn obstacles(&self) -> Arc<Obstacles> {
        Arc::clone(&self.status.obstacles.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Has it shown.
    pub(super) fn show_obstacles(&self, obstacles: Obstacles) {
        *self.status.obstacles.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(obstacles);
    }

    /// How often somebody else's change of the table was put right.
    pub(crate) fn repairs(&self) -> u64 {
        self.status.repairs.load(Ordering::Relaxed)
    }

    async fn ask<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        // The thread has ended after the removal.
        self.orders.send(order(reply)).await.ok()?;
        answer.await.ok()
    }
}
