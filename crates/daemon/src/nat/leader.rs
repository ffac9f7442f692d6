//! The way to the thread that keeps the table, and what it shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portway_model::DeviceKey;
use portway_nat::TableName;
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{info, warn};

use super::file;
use super::table::{Change, Counts, Keeper, Order};

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
    /// What may stop packets on their way to an instance.
    obstacle: Mutex<Option<String>>,
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

    /// Shows a firewall of somebody else that may stop what is led.
    pub(super) fn show_obstacle(&self, obstacle: Option<String>) {
        *self.obstacle.lock().unwrap_or_else(PoisonError::into_inner) = obstacle;
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
}

impl Leader {
    /// Starts the thread, with the ways an earlier daemon has left of the devices that `known` says are
    /// there still. `changed` is told when the table begins to fail, or works again.
    ///
    /// # Errors
    /// When there can be no thread.
    pub(crate) fn start(
        name: TableName,
        path: PathBuf,
        known: impl Fn(&DeviceKey) -> bool,
        changed: Arc<Notify>,
    ) -> std::io::Result<Leader> {
        let (mut kept, problem) = file::load(&path);
        if let Some(problem) = problem {
            warn!(error = problem, "ways through the kernel not known, made anew");
        }
        kept.ways.retain(|key, _| known(key));
        kept.counted.retain(|key, _| known(key));
        let (orders, inbox) = mpsc::channel(QUEUE);
        let status = Arc::new(Status { changed, ..Status::default() });
        let keeper = Keeper::new(name, path, kept, (orders.clone(), inbox), Arc::clone(&status));
        std::thread::Builder::new().name("nat".into()).spawn(move || keeper.run())?;
        Ok(Leader { orders, status })
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

    /// Removes the table. Nothing can be led afterwards.
    pub(crate) async fn remove(&self) {
        self.ask(Order::Remove).await;
    }

    /// Why the kernel does not carry what it should.
    pub(crate) fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.status.failures.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A firewall of somebody else that may stop what is led, one line.
    pub(crate) fn obstacle(&self) -> Option<String> {
        self.status.obstacle.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
