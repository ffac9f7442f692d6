//! The thread that keeps the table: it alone changes it, looks at it and asks what it has counted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portway_model::{Cidr, DeviceKey};
use portway_nat::{
    Affected, Conntrack, Family, InterfaceName, Nat, TableName, Want, allow_hairpin, bridged_packets_pass,
    forward_obstacles,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tracing::{debug, info, warn};

use super::file::{self, Kept};
use super::{Way, watch};
use crate::state::with_sources;

/// Pause before what went wrong is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// How long counts are given again without asking the kernel.
const COUNTS_AGE: Duration = Duration::from_millis(500);

/// Orders that may wait for the thread.
const QUEUE: usize = 1024;

/// Changes that are made together, at most.
const TOGETHER_MAX: usize = 4096;

/// What the kernel has counted for a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    /// Connections and flows since the table was made.
    pub(crate) total: u64,
    /// Those that live.
    pub(crate) now: u64,
}

/// What devices have counted, by their full names.
pub(crate) type Counts = Arc<BTreeMap<String, Counted>>;

/// What becomes of a device's way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has this one.
    Led(Way),
    /// It has none at present.
    Relayed,
    /// There is no such device any more.
    Gone,
}

pub(super) enum Order {
    /// Changes, and who waits until they are made.
    Lead(Vec<(DeviceKey, Change)>, oneshot::Sender<()>),
    /// Somebody else has touched the table.
    Look,
    /// What was counted.
    Count(oneshot::Sender<Counts>),
    /// The table goes, and the thread ends.
    Remove(oneshot::Sender<()>),
}

/// Shown to everybody.
#[derive(Debug, Default)]
struct Status {
    failure: Mutex<Option<String>>,
    /// What may stop packets on their way to an instance.
    obstacle: Mutex<Option<String>>,
    repairs: AtomicU64,
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
        let status = Arc::new(Status::default());
        let keeper = Keeper {
            name,
            path,
            kept,
            inbox,
            orders: orders.clone(),
            put_back: None,
            open: None,
            due: None,
            affected: Affected::Nothing,
            counts: None,
            let_back: BTreeSet::new(),
            status: Arc::clone(&status),
            changed,
            runtime: tokio::runtime::Handle::current(),
        };
        std::thread::Builder::new().name("nat".into()).spawn(move || keeper.run())?;
        Ok(Leader { orders, status })
    }

    /// Makes changes; returns when they are made, or could not be: then [`failure`](Self::failure) says why,
    /// and they are tried again.
    ///
    /// Cancel safe: the changes are made all the same.
    pub(crate) async fn lead(&self, changes: Vec<(DeviceKey, Change)>) {
        self.ask(|reply| Order::Lead(changes, reply)).await;
    }

    /// What devices have counted.
    pub(crate) async fn counts(&self) -> Counts {
        self.ask(Order::Count).await.unwrap_or_default()
    }

    /// Removes the table. Nothing can be led afterwards.
    pub(crate) async fn remove(&self) {
        self.ask(Order::Remove).await;
    }

    /// Why the table is not what it should be at this moment.
    pub(crate) fn failure(&self) -> Option<String> {
        self.status.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
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

/// What the thread does next.
enum Next {
    /// An order.
    Order(Order),
    /// Another try of what went wrong.
    Due,
    /// Nothing: nobody can ask any more.
    End,
}

/// What is open in the kernel.
struct Open {
    nat: Nat,
    conntrack: Conntrack,
}

struct Keeper {
    name: TableName,
    path: PathBuf,
    kept: Kept,
    inbox: mpsc::Receiver<Order>,
    orders: mpsc::Sender<Order>,
    /// An order that was taken out of the queue before its turn.
    put_back: Option<Order>,
    open: Option<Open>,
    /// When something that went wrong is tried again.
    due: Option<Instant>,
    /// What was changed and not swept yet.
    affected: Affected,
    counts: Option<(Instant, Counts)>,
    /// Ports of bridges that were told to send back.
    let_back: BTreeSet<InterfaceName>,
    status: Arc<Status>,
    changed: Arc<Notify>,
    runtime: tokio::runtime::Handle,
}

impl Keeper {
    fn run(mut self) {
        if !self.kept.ways.is_empty() {
            // What was done to the table while no daemon ran is not known.
            self.affected = Affected::Everything;
            self.make(false);
        }
        loop {
            match self.next() {
                Next::Order(Order::Remove(reply)) => {
                    self.remove();
                    // Nobody waits when the daemon was told twice.
                    let _ = reply.send(());
                    return;
                }
                Next::Order(order) => self.serve(order),
                Next::Due => self.make(false),
                Next::End => return,
            }
        }
    }

    /// Waits for the next order, or for the time of another try.
    fn next(&mut self) -> Next {
        if let Some(order) = self.put_back.take() {
            return Next::Order(order);
        }
        let order = match self.due {
            None => self.inbox.blocking_recv(),
            Some(due) => {
                let (runtime, inbox) = (&self.runtime, &mut self.inbox);
                let order =
                    runtime.block_on(async { tokio::time::timeout_at(due.into(), inbox.recv()).await });
                match order {
                    Ok(order) => order,
                    Err(_) => return Next::Due,
                }
            }
        };
        order.map_or(Next::End, Next::Order)
    }

    /// Carries out an order, and those that wait behind it: changes together, by one transaction.
    fn serve(&mut self, first: Order) {
        let (mut orders, mut replies, mut askers, mut look) = (Vec::new(), Vec::new(), Vec::new(), false);
        let mut next = Some(first);
        while let Some(order) = next {
            match order {
                Order::Lead(changes, reply) => {
                    orders.extend(changes);
                    replies.push(reply);
                }
                Order::Look => look = true,
                Order::Count(reply) => askers.push(reply),
                Order::Remove(_) => {
                    self.put_back = Some(order);
                    break;
                }
            }
            next = if replies.len() < TOGETHER_MAX { self.inbox.try_recv().ok() } else { None };
        }
        self.turn(orders);
        if look || !replies.is_empty() {
            self.make(replies.is_empty());
        }
        if !replies.is_empty()
            && let Err(problem) = file::save(&self.path, &self.kept)
        {
            warn!(error = %problem, "ways through the kernel not kept for the next daemon");
        }
        for reply in replies {
            // Who asked may have given up; the change stands.
            let _ = reply.send(());
        }
        if !askers.is_empty() {
            let counts = self.count();
            for reply in askers {
                let _ = reply.send(Arc::clone(&counts));
            }
        }
    }

    /// Takes changes in, and what the ways that end with them have counted.
    fn turn(&mut self, changes: Vec<(DeviceKey, Change)>) {
        let ends = |key: &DeviceKey, change: &Change| {
            let present = self.kept.ways.get(key);
            present.is_some_and(|present| !matches!(change, Change::Led(way) if way == present))
        };
        let counts = if changes.iter().any(|(key, change)| ends(key, change)) {
            self.want().and_then(|want| self.try_totals(&want)).unwrap_or_default()
        } else {
            BTreeMap::new()
        };
        for (key, change) in changes {
            let total = counts.get(&key.to_string()).copied().unwrap_or(0);
            match change {
                Change::Led(way) if self.kept.ways.get(&key) == Some(&way) => continue,
                Change::Led(way) => drop(self.kept.ways.insert(key.clone(), way)),
                Change::Relayed => drop(self.kept.ways.remove(&key)),
                Change::Gone => {
                    self.kept.ways.remove(&key);
                    self.kept.counted.remove(&key);
                    continue;
                }
            }
            if total > 0 {
                *self.kept.counted.entry(key).or_default() += total;
            }
        }
        self.counts = None;
    }

    /// Makes the table what it should be, and takes note of how it went.
    fn make(&mut self, is_repair: bool) {
        let result = self.try_make(is_repair);
        self.due = result.is_err().then(|| Instant::now() + RETRY);
        let failure = result.err();
        let mut shown = self.status.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != failure {
            match &failure {
                Some(text) => warn!(error = text, "kernel NAT does not work; its devices are relayed"),
                None => info!("kernel NAT works again"),
            }
            *shown = failure;
            self.changed.notify_one();
        }
    }

    fn try_make(&mut self, is_repair: bool) -> Result<(), String> {
        let want = self.want()?;
        if self.open.is_none() {
            if self.kept.ways.is_empty() && self.affected == Affected::Nothing {
                return Ok(());
            }
            self.open = Some(self.open()?);
        }
        let Some(open) = &mut self.open else { return Ok(()) };
        let applied = open.nat.apply(&want).map_err(|problem| with_sources(&problem))?;
        if is_repair && !applied.plan.is_empty() {
            self.status.repairs.fetch_add(1, Ordering::Relaxed);
            info!(table = self.name.as_str(), "the table was changed by somebody else, put right");
        }
        self.affected = joined(std::mem::replace(&mut self.affected, Affected::Nothing), applied.affected);
        let checked = want.check().map_err(|problem| with_sources(&problem))?;
        let swept =
            open.conntrack.sweep(&checked, &self.affected).map_err(|problem| with_sources(&problem))?;
        if swept.deleted > 0 {
            info!(deleted = swept.deleted, "tracked connections forgotten");
        }
        self.affected = Affected::Nothing;
        if self.kept.ways.is_empty() {
            open.nat.remove().map_err(|problem| with_sources(&problem))?;
        }
        self.let_back();
        Ok(())
    }

    /// Where bridged packets pass the rules, an instance reaches itself only by a port that sends back.
    fn let_back(&mut self) {
        if !bridged_packets_pass(Family::V4) && !bridged_packets_pass(Family::V6) {
            return;
        }
        let ports: BTreeSet<InterfaceName> = self.kept.ways.values().flat_map(Way::ports).collect();
        for port in ports.difference(&self.let_back) {
            if let Err(problem) = allow_hairpin(port) {
                debug!(port = %port, error = with_sources(&problem), "an instance may not reach itself");
            }
        }
        self.let_back = ports;
    }

    /// Opens the kernel's sockets, and listens for changes of others.
    fn open(&self) -> Result<Open, String> {
        let nat = Nat::open(self.name.clone()).map_err(|problem| with_sources(&problem))?;
        let conntrack = Conntrack::open(&self.name).map_err(|problem| with_sources(&problem))?;
        watch::start(&self.runtime, self.name.clone(), nat.port_id(), self.orders.clone())
            .map_err(|problem| with_sources(&problem))?;
        Ok(Open { nat, conntrack })
    }

    /// The table that is wanted.
    ///
    /// # Errors
    /// Of which device no table can be made, one line.
    fn want(&self) -> Result<Want, String> {
        let mut want = Want::default();
        for (key, way) in &self.kept.ways {
            want.publications.extend(way.publications(&key.to_string())?);
            want.bridges.extend(way.bridges());
            let subnets = way.networks.iter().flat_map(|network| &network.subnets);
            want.subnets.extend(subnets.filter_map(|(ip, prefix)| Cidr::around(*ip, *prefix)));
        }
        Ok(want)
    }

    fn count(&mut self) -> Counts {
        if let Some((at, counts)) = &self.counts
            && at.elapsed() < COUNTS_AGE
        {
            return Arc::clone(counts);
        }
        let counts = self.try_count().unwrap_or_else(|text| {
            warn!(error = text, "connections through the kernel not counted");
            BTreeMap::new()
        });
        // With the counts, because it is shown with them; not to know it changes nothing.
        let obstacles = forward_obstacles().unwrap_or_default();
        *self.status.obstacle.lock().unwrap_or_else(PoisonError::into_inner) =
            obstacles.first().map(ToString::to_string);
        let counts = Arc::new(counts);
        self.counts = Some((Instant::now(), Arc::clone(&counts)));
        counts
    }

    fn try_count(&mut self) -> Result<BTreeMap<String, Counted>, String> {
        let mut counts: BTreeMap<String, Counted> = BTreeMap::new();
        for (key, total) in &self.kept.counted {
            counts.entry(key.to_string()).or_default().total = *total;
        }
        let want = self.want()?;
        for (device, total) in self.try_totals(&want)? {
            counts.entry(device).or_default().total += total;
        }
        let Some(open) = &mut self.open else { return Ok(counts) };
        let checked = want.check().map_err(|problem| with_sources(&problem))?;
        for (device, now) in open.conntrack.live(&checked).map_err(|problem| with_sources(&problem))? {
            counts.entry(device).or_default().now = now;
        }
        Ok(counts)
    }

    /// What the present ways have counted.
    fn try_totals(&mut self, want: &Want) -> Result<BTreeMap<String, u64>, String> {
        let Some(open) = &mut self.open else { return Ok(BTreeMap::new()) };
        let totals = open.nat.counts(want).map_err(|problem| with_sources(&problem))?;
        Ok(totals.into_iter().map(|(device, total)| (device, total.connections)).collect())
    }

    fn remove(&mut self) {
        self.kept = Kept::default();
        self.affected = Affected::Everything;
        if let Err(text) = self.try_make(false) {
            warn!(error = text, "table not removed");
        }
        if let Err(problem) = file::save(&self.path, &self.kept) {
            warn!(error = %problem, "file of ways not removed");
        }
    }
}

/// Both of two changes.
fn joined(one: Affected, other: Affected) -> Affected {
    match (one, other) {
        (Affected::Nothing, other) => other,
        (one, Affected::Nothing) => one,
        (Affected::Scopes(mut one), Affected::Scopes(other)) => {
            one.extend(other);
            Affected::Scopes(one)
        }
        (Affected::Everything, _) | (_, Affected::Everything) => Affected::Everything,
    }
}
