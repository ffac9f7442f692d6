//! The thread that keeps the table: it alone changes it, looks at it and asks what it has counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_model::DeviceKey;
use portway_nat::{
    Affected, Conntrack, ConntrackError, Family, InterfaceName, Led, Nat, Publication, TableName,
    allow_hairpin, bridged_packets_pass, forget_neighbour,
};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, info, warn};

use super::file::{self, Kept};
use super::grace::Grace;
use super::leader::{Failures, Status};
use super::ways::Ways;
use super::{Way, watch};
use crate::state::with_sources;
use crate::tally::{self, Done};

/// Pause before what went wrong is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// When connections are looked at again after datagrams were given a way: an answer of the relay that was on its
/// way then has its client stay with the relay for as long as it asks.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(12)];

/// How often the table is looked at though nothing was heard of it.
const LOOK: Duration = Duration::from_secs(30);

/// How long counts are given again without asking the kernel.
const COUNTS_AGE: Duration = Duration::from_millis(500);

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
    Led(Arc<Way>),
    /// It has none at present.
    Relayed,
    /// The device has another name; its way and what it has counted are that one's.
    Renamed(DeviceKey),
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
    /// Rules of somebody else are no more; who waits until their connections are forgotten.
    Forget(Vec<Led>, oneshot::Sender<()>),
    /// The table goes, and the thread ends; or why it is there still.
    Remove(oneshot::Sender<Result<(), String>>),
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

/// What became of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Made {
    /// Something was added to it, nothing taken away or changed.
    Added,
    /// Anything else.
    Otherwise,
}

/// What is open in the kernel.
struct Open {
    nat: Nat,
    conntrack: Conntrack,
}

pub(super) struct Keeper {
    name: TableName,
    path: PathBuf,
    ways: Ways,
    /// Connections that were counted by ways before these.
    counted: BTreeMap<DeviceKey, u64>,
    inbox: mpsc::Receiver<Order>,
    orders: mpsc::Sender<Order>,
    /// An order that was taken out of the queue before its turn.
    put_back: Option<Order>,
    open: Option<Open>,
    /// When something that went wrong is tried again.
    due: Option<Instant>,
    /// When the table is looked at next though nothing was heard.
    look_at: Instant,
    /// While it lasts a table whose ways are not known is left as it is.
    grace: Grace,
    /// What was changed and not swept yet.
    affected: Affected,
    counts: Option<(Instant, Counts)>,
    /// When everything is swept once more.
    again: VecDeque<Instant>,
    /// The file is older than the ways.
    is_unsaved: bool,
    /// What devices had counted whose ways have changed since the table was made last.
    ended: BTreeMap<DeviceKey, u64>,
    /// Devices whose ways have ended or changed since the table was made last.
    unmade: BTreeSet<DeviceKey>,
    /// Those that had none when the table was made last.
    new: BTreeSet<DeviceKey>,
    /// Ports of bridges that were told to send back.
    let_back: BTreeSet<InterfaceName>,
    status: Arc<Status>,
    runtime: tokio::runtime::Handle,
}

impl Keeper {
    /// A keeper that has opened nothing yet, within a runtime.
    pub(super) fn new(
        name: TableName,
        path: PathBuf,
        (kept, grace): (Kept, Grace),
        (orders, inbox): (mpsc::Sender<Order>, mpsc::Receiver<Order>),
        status: Arc<Status>,
    ) -> Keeper {
        Keeper {
            name,
            path,
            ways: kept.ways.into_iter().collect(),
            counted: kept.counted,
            inbox,
            orders,
            put_back: None,
            open: None,
            due: None,
            look_at: Instant::now() + LOOK,
            grace,
            affected: Affected::Nothing,
            counts: None,
            again: VecDeque::new(),
            is_unsaved: false,
            ended: BTreeMap::new(),
            unmade: BTreeSet::new(),
            new: BTreeSet::new(),
            let_back: BTreeSet::new(),
            status,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// Serves orders until there can be none.
    pub(super) fn run(mut self) {
        if self.ways.is_empty() && self.grace.is_of_use() && self.is_left() {
            info!(table = self.name.as_str(), "ways not known, the table is left until the instances are");
            self.grace.begin(Instant::now());
        } else if !self.ways.is_empty() || self.is_left() {
            self.make_all();
        }
        self.show_counts();
        loop {
            match self.next() {
                Next::Order(Order::Remove(reply)) => {
                    // Nobody waits when the daemon was told twice.
                    let _ = reply.send(self.remove());
                    return;
                }
                Next::Order(order) => self.serve(order),
                Next::Due => self.on_time(),
                Next::End => return,
            }
        }
    }

    /// Makes the table what it should be, and has every connection looked at: what was done to the table before is not
    /// known.
    fn make_all(&mut self) {
        self.affected = Affected::Everything;
        self.make(false);
    }

    /// Does what is due.
    fn on_time(&mut self) {
        let now = Instant::now();
        if self.grace.until().is_some() {
            return self.end_grace();
        }
        if self.look_at <= now {
            self.look_at = now + LOOK;
            if !self.ways.is_empty() {
                self.make(true);
            } else if self.is_left() {
                self.make_all();
            }
        }
        let again = self.again.pop_front_if(|due| *due <= now).is_some();
        if again {
            self.make_all();
        } else if self.due.is_some_and(|due| due <= now) {
            self.make(false);
        }
    }

    /// Makes the table when something was said of each device, or it takes too long.
    fn end_grace(&mut self) {
        if self.grace.ends(Instant::now()) {
            self.make_all();
        }
    }

    /// Whether a table of ours is there though no device has a way: an earlier daemon was killed over a change.
    fn is_left(&self) -> bool {
        // Where it cannot be asked for, none can have been made.
        Nat::open(self.name.clone()).and_then(|mut nat| nat.exists()).unwrap_or(false)
    }

    /// Waits for the next order, or for the time of another try.
    fn next(&mut self) -> Next {
        if let Some(order) = self.put_back.take() {
            return Next::Order(order);
        }
        let due = match self.grace.until() {
            Some(until) => until,
            None => self.due.into_iter().chain(self.again.front().copied()).fold(self.look_at, Instant::min),
        };
        let (runtime, inbox) = (&self.runtime, &mut self.inbox);
        let order = runtime.block_on(async { tokio::time::timeout_at(due.into(), inbox.recv()).await });
        order.map_or(Next::Due, |order| order.map_or(Next::End, Next::Order))
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
                Order::Forget(led, reply) => {
                    self.forget(&led);
                    // Who asked may have given up.
                    let _ = reply.send(());
                }
                Order::Remove(_) => {
                    self.put_back = Some(order);
                    break;
                }
            }
            next = if replies.len() < TOGETHER_MAX { self.inbox.try_recv().ok() } else { None };
        }
        self.grace.note(&orders);
        let turned = self.turn(orders);
        if self.grace.until().is_some() {
            self.end_grace();
        } else if look || turned {
            let made = self.commit(!turned);
            let is_well = self.due.is_none() && self.ways.left_out().is_empty();
            if matches!(made, Ok(Made::Added)) && is_well {
                // Who is led besides from here on need not wait until connections of before are forgotten.
                self.show_counts();
                answer(replies.drain(..));
            }
            self.finish(made);
        }
        self.show_counts();
        self.is_unsaved |= turned;
        answer(replies.into_iter());
        if !askers.is_empty() {
            let counts = self.count();
            for reply in askers {
                let _ = reply.send(Arc::clone(&counts));
            }
        }
        // It is long, and a daemon that is killed before finds out by looking: nobody waits for it.
        if self.is_unsaved && self.inbox.is_empty() && self.grace.until().is_none() {
            self.is_unsaved = false;
            if let Err(problem) = file::save(&self.path, &self.ways, &self.counted) {
                warn!(error = %problem, "ways through the kernel not kept for the next daemon");
            }
        }
    }

    /// Takes changes in, and what the ways that end with them have counted. Whether anything is other now.
    fn turn(&mut self, changes: Vec<(DeviceKey, Change)>) -> bool {
        let ends = |key: &DeviceKey, change: &Change| {
            let present = self.ways.get(key);
            let counts_on = match change {
                Change::Led(way) => Some(way) == present,
                // Of one that is gone nobody asks.
                Change::Renamed(_) | Change::Gone => true,
                Change::Relayed => false,
            };
            present.is_some() && !counts_on
        };
        let ending: Vec<&DeviceKey> =
            changes.iter().filter(|(key, change)| ends(key, change)).map(|(key, _)| key).collect();
        let counts = if ending.is_empty() { BTreeMap::new() } else { self.totals_of(ending) };
        let (mut turned, mut neighbours) = (false, BTreeSet::new());
        for (key, change) in changes {
            self.note(&key, &change);
            let total = counts.get(&key.to_string()).copied().unwrap_or(0);
            turned |= match change {
                Change::Led(way) if self.ways.get(&key) == Some(&way) => continue,
                Change::Led(way) => {
                    if way.is_udp() {
                        self.again = AGAIN.map(|pause| Instant::now() + pause).into();
                    }
                    for (bridge, target, hwaddr) in way.neighbours() {
                        neighbours.insert((bridge, target, hwaddr.to_owned()));
                    }
                    self.ways.insert(key.clone(), way);
                    true
                }
                Change::Relayed => self.ways.remove(&key).is_some(),
                Change::Renamed(to) => {
                    turned |= self.rename(&key, to);
                    continue;
                }
                Change::Gone => {
                    self.ended.remove(&key);
                    let counted = self.counted.remove(&key).is_some();
                    turned |= self.ways.remove(&key).is_some() || counted;
                    continue;
                }
            };
            if total > 0 {
                self.ended.entry(key).or_insert(total);
            }
        }
        if turned {
            self.counts = None;
        }
        forget_neighbours(&neighbours);
        turned
    }

    /// Takes note of whose ways the table has until it is made anew.
    fn note(&mut self, key: &DeviceKey, change: &Change) {
        let present = self.ways.get(key);
        match (change, present) {
            (Change::Led(_), None) if !self.unmade.contains(key) => drop(self.new.insert(key.clone())),
            (Change::Led(way), Some(present)) if way != present && !self.new.contains(key) => {
                self.unmade.insert(key.clone());
            }
            (Change::Relayed | Change::Gone, Some(_)) if !self.new.remove(key) => {
                self.unmade.insert(key.clone());
            }
            // One with another name is led all the same.
            (Change::Led(_) | Change::Relayed | Change::Gone | Change::Renamed(_), _) => {}
        }
    }

    /// Gives a way and a count another name. A way that the name has already is a newer one.
    fn rename(&mut self, from: &DeviceKey, to: DeviceKey) -> bool {
        let (way, counted) = (self.ways.remove(from), self.counted.remove(from));
        let turned = way.is_some() || counted.is_some();
        if let Some(total) = self.ended.remove(from) {
            self.ended.insert(to.clone(), total);
        }
        if let Some(counted) = counted {
            *self.counted.entry(to.clone()).or_default() += counted;
        }
        if let Some(way) = way.filter(|_| self.ways.get(&to).is_none()) {
            self.ways.insert(to, way);
        }
        turned
    }

    /// Makes the table what it should be, and takes note of how it went.
    fn make(&mut self, is_repair: bool) {
        let made = self.commit(is_repair);
        self.finish(made);
    }

    /// Has the connections forgotten that a change of the table concerns, and takes note of how all of it went.
    fn finish(&mut self, made: Result<Made, String>) {
        let result = made.and_then(|_| self.sweep());
        if result.is_ok() {
            self.count_ended();
        }
        if result.is_ok() || self.take_away() {
            self.unmade.clear();
            self.new.clear();
        }
        self.due = result.is_err().then(|| Instant::now() + RETRY);
        let (devices, standing) = (self.ways.left_out().clone(), self.unmade.clone());
        self.status.show(Failures { table: result.err(), devices, standing });
    }

    /// Takes out of the table what is to go, when not all of a change can be made. Whether it says nothing that it
    /// should not.
    fn take_away(&mut self) -> bool {
        let Some(open) = &mut self.open else { return false };
        match open.nat.take_away(self.ways.checked()) {
            Ok(affected) => {
                let before = std::mem::replace(&mut self.affected, Affected::Nothing);
                self.affected = before.and(affected);
                // What is not forgotten stays affected, and is tried again with the rest.
                if open.conntrack.sweep(self.ways.checked(), &self.affected).is_ok() {
                    self.affected = Affected::Nothing;
                }
                true
            }
            Err(problem) => {
                debug!(error = with_sources(&problem), "what is to go is not taken out of the table either");
                false
            }
        }
    }

    fn show_counts(&self) {
        self.status.show_counts(!self.ways.is_empty() || !self.counted.is_empty());
    }

    /// Keeps what was counted by elements that are gone. Where a way has changed and an element stayed, its
    /// counter goes on.
    fn count_ended(&mut self) {
        if self.ended.is_empty() {
            return;
        }
        let ended = std::mem::take(&mut self.ended);
        let after = self.totals_of(ended.keys().collect());
        for (key, before) in ended {
            let gone = before.saturating_sub(after.get(&key.to_string()).copied().unwrap_or(0));
            if gone > 0 {
                *self.counted.entry(key).or_default() += gone;
            }
        }
    }

    /// Makes the table what it should be.
    fn commit(&mut self, is_repair: bool) -> Result<Made, String> {
        if self.open.is_none() {
            if self.ways.is_empty() && self.affected == Affected::Nothing {
                return Ok(Made::Otherwise);
            }
            self.open = Some(self.open()?);
        }
        let Some(open) = &mut self.open else { return Ok(Made::Otherwise) };
        let applied = open.nat.apply_kept(self.ways.checked()).map_err(|problem| with_sources(&problem))?;
        if is_repair && !applied.plan.is_empty() {
            self.status.count_repair();
            info!(table = self.name.as_str(), "the table was changed by somebody else, put right");
        }
        let is_alone = self.affected == Affected::Nothing;
        let before = std::mem::replace(&mut self.affected, Affected::Nothing);
        self.affected = before.and(applied.affected);
        let only_adds = !applied.plan.is_whole() && applied.plan.leaving() == 0;
        Ok(if is_alone && only_adds { Made::Added } else { Made::Otherwise })
    }

    /// Has the connections forgotten that lead elsewhere than the table.
    fn sweep(&mut self) -> Result<(), String> {
        let Some(open) = &mut self.open else { return Ok(()) };
        let swept = open.conntrack.sweep(self.ways.checked(), &self.affected);
        let swept = swept.map_err(|problem| with_sources(&problem))?;
        if swept.deleted > 0 {
            tally::count(Done::ConntrackSwept);
            info!(deleted = swept.deleted, "tracked connections forgotten");
        }
        self.affected = Affected::Nothing;
        if self.ways.is_empty() {
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
        let ports: BTreeSet<InterfaceName> = self.ways.ports().cloned().collect();
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
        let counts = Arc::new(counts);
        self.counts = Some((Instant::now(), Arc::clone(&counts)));
        counts
    }

    fn try_count(&mut self) -> Result<BTreeMap<String, Counted>, String> {
        let mut counts: BTreeMap<String, Counted> = BTreeMap::new();
        for (key, total) in &self.counted {
            counts.entry(key.to_string()).or_default().total = *total;
        }
        let Some(open) = &mut self.open else { return Ok(counts) };
        let want = self.ways.checked();
        for (device, total) in totals(&mut open.nat, &want.publications().collect::<Vec<_>>())? {
            counts.entry(device).or_default().total += total;
        }
        for (device, now) in open.conntrack.live(want).map_err(|problem| with_sources(&problem))? {
            counts.entry(device).or_default().now = now;
        }
        Ok(counts)
    }

    /// What the present ways of devices have counted; nothing of what cannot be read.
    fn totals_of(&mut self, devices: Vec<&DeviceKey>) -> BTreeMap<String, u64> {
        let Some(open) = &mut self.open else { return BTreeMap::new() };
        let publications = devices.into_iter().flat_map(|key| self.ways.publications_of(key));
        totals(&mut open.nat, &publications.map(|one| &**one).collect::<Vec<_>>()).unwrap_or_default()
    }

    fn remove(&mut self) -> Result<(), String> {
        let had_ways = !self.ways.is_empty();
        (self.ways, self.counted) = (Ways::default(), BTreeMap::new());
        self.affected = Affected::Everything;
        match self.commit(false).and_then(|_| self.sweep()) {
            // The file stays too: what is led is known by it.
            Err(text) if had_ways || self.is_left() => return Err(text),
            Err(text) => debug!(error = text, "no table to remove"),
            Ok(()) => {}
        }
        if let Err(problem) = file::save(&self.path, &self.ways, &self.counted) {
            warn!(error = %problem, "file of ways not removed");
        }
        Ok(())
    }

    /// Has connections forgotten that rules of somebody else have led which are no more.
    fn forget(&self, led: &[Led]) {
        let forget = || -> Result<u64, ConntrackError> {
            let mut conntrack = Conntrack::open(&self.name)?;
            led.iter().map(|led| conntrack.forget(led)).sum()
        };
        match forget() {
            Ok(0) => {}
            Ok(deleted) => info!(deleted, "connections forgotten that rules of a server have led"),
            Err(problem) => {
                warn!(error = with_sources(&problem), "connections of a server's rules not forgotten");
            }
        }
    }
}

/// Has the host ask whose the targets of new ways are, where it believes that somebody else has them: an address may
/// have been another instance's a moment ago.
fn forget_neighbours(targets: &BTreeSet<(InterfaceName, IpAddr, String)>) {
    for (bridge, target, hwaddr) in targets {
        match forget_neighbour(bridge, *target, hwaddr) {
            Ok(true) => info!(%bridge, %target, "the address was another instance's, asked for anew"),
            Ok(false) => {}
            Err(problem) => debug!(error = with_sources(&problem), "a neighbour is not known"),
        }
    }
}

fn answer(replies: impl Iterator<Item = oneshot::Sender<()>>) {
    for reply in replies {
        // Who asked may have given up; the change stands.
        let _ = reply.send(());
    }
}

/// What the table has counted of publications, by device.
fn totals(nat: &mut Nat, publications: &[&Publication]) -> Result<BTreeMap<String, u64>, String> {
    let counts = nat.counts_of(publications).map_err(|problem| with_sources(&problem))?;
    Ok(counts.into_iter().map(|(device, counted)| (device, counted.connections)).collect())
}
