//! Which port is served by which rules, and which connection belongs to which rule.

mod promises;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portway_model::{Cidr, Direction, Host, MeshRule, ProxyProtocol, RuleListen, Transport};
use portway_proto::Dir;
use portway_relay::wire::{Direct, SLOT_COUNT, Slot, field};
use portway_sys::shm::FIELD_COUNT;
use tokio::task::AbortHandle;

use super::balance::{Balancer, Policy};
use super::room::PortRoom;
use super::shares::Shares;
use crate::spec::{PublicKey, RuleEntry, RuleId, Rules};
use promises::Promises;
pub(super) use promises::{Gate, Upstream};

/// Where the numbers of connections begin that no worker has asked for. A worker counts from 1.
const OWN_TICKETS: u64 = 1 << 62;

/// How long a listener that was told to refuse is kept, at least.
const REFUSES: Duration = Duration::from_millis(500);

/// A port that is listened on.
pub(super) struct Served {
    pub(super) listen: RuleListen,
    pub(super) rules: Vec<RuleEntry>,
    pub(super) balancer: Balancer,
    /// Kept here too, so that nobody is refused while a worker is replaced. None where clients come as descriptors.
    pub(super) listeners: Arc<Vec<OwnedFd>>,
    /// What takes those.
    pub(super) tasks: Vec<AbortHandle>,
    pub(super) slot: Slot,
    /// It has no rules: its clients say where they want to go.
    pub(super) gate: Option<Gate>,
    /// What workers before the present one have counted.
    pub(super) before: [u64; FIELD_COUNT],
    /// What its clients may have going on.
    pub(super) room: PortRoom,
}

impl Served {
    /// Its port is closed, as far as it is for this process to close it. What it returns is to be kept for a moment: see
    /// [`Table::expire_closed`].
    fn close(&mut self) -> Option<(Instant, Arc<Vec<OwnedFd>>)> {
        self.tasks.drain(..).for_each(|task| task.abort());
        let listeners = std::mem::take(&mut self.listeners);
        if self.listen.transport != Transport::Tcp {
            // It would keep its port from who comes next.
            return None;
        }
        for listener in listeners.iter() {
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Read) {
                tracing::debug!(%error, "listener not shut");
            }
        }
        Some((Instant::now(), listeners))
    }
}

/// What became of the connections of a rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) last_error: Option<String>,
    /// Counter line of the worker for its bytes, as long as there are enough.
    line: Option<u32>,
    /// What stood in the line when it became this rule's, and what other workers have counted: in, out.
    offset: [u64; 2],
    before: [u64; 2],
    /// What stood in the line is known.
    has_begun: bool,
    /// What was carried here.
    here: Arc<Carried>,
}

/// Bytes of a rule whose flows are carried by this process.
#[derive(Debug, Default)]
pub(super) struct Carried([AtomicU64; 2]);

impl Carried {
    pub(super) fn count(&self, dir: Dir, bytes: usize) {
        let [up, down] = &self.0;
        let total = if dir == Dir::Up { up } else { down };
        total.fetch_add(u64::try_from(bytes).unwrap_or(0), Ordering::Relaxed);
    }
}

impl Account {
    /// Bytes of the rule: in, out. `lines` are those of the present worker.
    pub(super) fn bytes(&self, lines: &dyn Fn(u32) -> [u64; FIELD_COUNT]) -> [u64; 2] {
        let present = self.line.map_or([0; 2], |line| traffic(&lines(line)));
        let [up, down] = &self.here.0;
        let here = [up.load(Ordering::Relaxed), down.load(Ordering::Relaxed)];
        std::array::from_fn(|at| {
            let of = |from: &[u64; 2]| from.get(at).copied().unwrap_or(0);
            of(&present).saturating_sub(of(&self.offset)) + of(&self.before) + of(&here)
        })
    }
}

fn traffic(line: &[u64; FIELD_COUNT]) -> [u64; 2] {
    [field::BYTES_IN, field::BYTES_OUT].map(|at| line.get(at).copied().unwrap_or(0))
}

/// Counter lines for rules: from the last one downwards, as ports have theirs from the first one upwards. One that was a
/// rule's is used again as late as may be, since what is left of the rule still counts there.
#[derive(Debug)]
struct Lines {
    next: u32,
    free: VecDeque<u32>,
}

impl Default for Lines {
    fn default() -> Lines {
        Lines { next: SLOT_COUNT, free: VecDeque::new() }
    }
}

impl Lines {
    /// `ports` have theirs.
    fn take(&mut self, ports: u32) -> Option<u32> {
        if self.next > ports.saturating_add(1) {
            self.next -= 1;
            return Some(self.next);
        }
        self.free.pop_front()
    }
}

/// A connection or flow, from its first question to its end.
struct Ticket {
    slot: Slot,
    /// Whose it is, once there is one.
    rule: Option<RuleId>,
    /// Who is at its end in the network, as soon as that is known.
    member: Option<IpAddr>,
    /// What makes it.
    task: Option<AbortHandle>,
    /// Whose place it has.
    peer: Option<PublicKey>,
}

/// Whether a ticket is of a flow that is carried here.
pub(super) const fn is_own(ticket: u64) -> bool {
    ticket >= OWN_TICKETS
}

/// See the module.
pub(super) struct Table {
    pub(super) shares: Shares,
    served: BTreeMap<u32, Served>,
    accounts: BTreeMap<RuleId, Account>,
    tickets: BTreeMap<u64, Ticket>,
    /// The last slot's; no two slots have the same.
    generation: u64,
    own: u64,
    lines: Lines,
    promises: Promises,
    /// Listeners that were told to refuse, and when.
    closed: Vec<(Instant, Arc<Vec<OwnedFd>>)>,
}

impl Table {
    /// Of nothing yet; peers may share so many places.
    pub(super) fn new(places: usize) -> Table {
        Table {
            shares: Shares::new(places),
            served: BTreeMap::new(),
            accounts: BTreeMap::new(),
            tickets: BTreeMap::new(),
            generation: 0,
            own: 0,
            lines: Lines::default(),
            promises: Promises::default(),
            closed: Default::default(),
        }
    }

    /// Adds a port with its rules.
    pub(super) fn serve(
        &mut self,
        listen: RuleListen,
        rules: Vec<RuleEntry>,
        listeners: Vec<OwnedFd>,
        policy: Policy,
    ) -> Slot {
        let index = (0..).find(|index| !self.served.contains_key(index)).unwrap_or(u32::MAX);
        self.generation += 1;
        let mut balancer = Balancer::new(policy);
        for entry in &rules {
            balancer.add(entry.id);
        }
        let slot = Slot::new(index, self.generation);
        let (listeners, tasks) = (Arc::new(listeners), Vec::new());
        let (before, room) = ([0; FIELD_COUNT], PortRoom::default());
        let ids: Vec<RuleId> = rules.iter().map(|entry| entry.id).collect();
        let served = Served { listen, rules, balancer, listeners, tasks, slot, gate: None, before, room };
        self.served.insert(index, served);
        ids.into_iter().for_each(|rule| self.open_account(rule));
        slot
    }

    fn open_account(&mut self, rule: RuleId) {
        if !self.accounts.contains_key(&rule) {
            let ports = self.served.last_key_value().map_or(0, |(index, _)| *index);
            let line = self.lines.take(ports);
            self.accounts.insert(rule, Account { line, ..Account::default() });
        }
    }

    fn close_account(&mut self, rule: RuleId) {
        if let Some(line) = self.accounts.remove(&rule).and_then(|account| account.line) {
            self.lines.free.push_back(line);
        }
    }

    /// What has been counted so far in the lines of rules that have just come is not theirs. To be called before the
    /// worker hears of those.
    pub(super) fn begin_accounts(&mut self, lines: impl Fn(u32) -> [u64; FIELD_COUNT]) {
        for account in self.accounts.values_mut().filter(|account| !account.has_begun) {
            account.has_begun = true;
            if let Some(line) = account.line {
                account.offset = traffic(&lines(line));
            }
        }
    }

    /// Counter line of a rule.
    pub(super) fn line(&self, rule: RuleId) -> Option<u32> {
        self.accounts.get(&rule)?.line
    }

    /// Takes a port back whose rules are not to be after all.
    pub(super) fn withdraw(&mut self, slot: Slot) {
        if self.at(slot).is_none() {
            return;
        }
        let Some(mut served) = self.served.remove(&slot.index) else { return };
        self.closed.extend(served.close());
        served.rules.iter().for_each(|entry| self.close_account(entry.id));
    }

    /// What the clients of a port may have going on.
    pub(super) fn room(&self, slot: Slot) -> Option<PortRoom> {
        let served = self.served.get(&slot.index).filter(|served| served.slot == slot)?;
        Some(served.room.clone())
    }

    /// A task takes the clients of a port.
    pub(super) fn attend(&mut self, slot: Slot, task: AbortHandle) {
        if let Some(served) = self.served.get_mut(&slot.index) {
            served.tasks.push(task);
        }
    }

    /// Nobody new is taken in.
    pub(super) fn close(&mut self) {
        self.closed.extend(self.served.values_mut().filter_map(Served::close));
    }

    /// Lets go of listeners that were told to refuse a while ago.
    ///
    /// One that is closed at once may leave a client behind that is neither served nor refused: the kernel that is about
    /// to make a connection of its last packet finds the port let go of, and drops that packet (`__inet_inherit_port`).
    /// One that only refuses has its port until then, and resets such a client.
    pub(super) fn expire_closed(&mut self, now: Instant) {
        self.closed.retain(|(at, _)| now.saturating_duration_since(*at) < REFUSES);
    }

    /// A flow begins that no worker has asked for; its number.
    pub(super) fn begin_own(&mut self, slot: Slot, client: SocketAddr) -> u64 {
        self.own += 1;
        let ticket = OWN_TICKETS + self.own;
        let member = Some(client.ip().to_canonical());
        self.tickets.insert(ticket, Ticket { slot, rule: None, member, task: None, peer: None });
        ticket
    }

    /// It has found its rule, where its bytes are counted. `None`: nobody wants it any more.
    pub(super) fn opened_own(&mut self, ticket: u64, rule: RuleId) -> Option<Arc<Carried>> {
        self.opened(ticket, rule, None).then(|| self.account(rule).here)
    }

    /// All ports.
    pub(super) fn served(&self) -> impl Iterator<Item = &Served> {
        self.served.values()
    }

    /// The rule that a connection of `slot` is to try next.
    pub(super) fn choose(&mut self, slot: Slot, tried: &[RuleId]) -> Option<MeshRule> {
        let served = self.at(slot)?;
        let id = served.balancer.choose(Instant::now(), tried)?;
        served.rules.iter().find(|entry| entry.id == id).map(|entry| entry.rule.clone())
    }

    fn at(&mut self, slot: Slot) -> Option<&mut Served> {
        self.served.get_mut(&slot.index).filter(|served| served.slot == slot)
    }

    /// The port of a slot.
    pub(super) fn port(&self, slot: Slot) -> Option<(RuleListen, Arc<Vec<OwnedFd>>)> {
        let served = self.served.get(&slot.index).filter(|served| served.slot == slot)?;
        Some((served.listen, Arc::clone(&served.listeners)))
    }

    /// The header that is sent to the destinations of a port.
    pub(super) fn header(&self, listen: &RuleListen) -> ProxyProtocol {
        let rules = self.served().find(|served| served.listen == *listen).map(|served| &served.rules);
        let first = rules.and_then(|rules| rules.first());
        first.map_or(ProxyProtocol::Off, |entry| entry.rule.proxy_protocol())
    }

    /// Where a port is served.
    pub(super) fn slot_of(&self, listen: &RuleListen) -> Option<Slot> {
        self.served().find(|served| served.listen == *listen).map(|served| served.slot)
    }

    /// What became of the connections of a rule.
    pub(super) fn account(&self, rule: RuleId) -> Account {
        self.accounts.get(&rule).cloned().unwrap_or_default()
    }

    /// The target that the connections of a port have without being asked for: it has one rule, which leads to an address.
    /// `host_only`: on the host alone.
    pub(super) fn direct(&self, slot: Slot, host_only: bool) -> Option<(SocketAddr, Direct)> {
        let served = self.served.get(&slot.index).filter(|served| served.slot == slot)?;
        let [RuleEntry { id, rule, .. }] = served.rules.as_slice() else { return None };
        let from_stock = rule.direction() == Direction::Egress;
        let Host::Ip(host) = rule.destination() else { return None };
        if rule.listen().transport != Transport::Tcp || host.zone().is_some() || (from_stock && host_only) {
            return None;
        }
        let address = SocketAddr::new(host.ip(), rule.destination_port().get());
        let most = (!from_stock).then(|| self.shares.unasked());
        Some((address, Direct { target: id.number(), line: self.line(*id), from_stock, most }))
    }

    /// A peer has another key: the places that it has go on being its own.
    pub(super) fn rekey(&mut self, former: PublicKey, peer: PublicKey) {
        self.shares.rename(former, peer);
        let held = self.tickets.values_mut().filter_map(|ticket| ticket.peer.as_mut());
        held.filter(|holder| **holder == former).for_each(|holder| *holder = peer);
    }

    /// Whether a port has this rule.
    pub(super) fn has(&self, rule: RuleId) -> bool {
        self.accounts.contains_key(&rule)
    }

    /// Targets of the worker's own calls that these addresses of the network are.
    pub(super) fn targets_in(&self, blocks: &[Cidr]) -> Vec<u64> {
        let leads_there = |rule: &MeshRule| match rule.destination() {
            Host::Ip(host) => blocks.iter().any(|block| block.contains(host.ip())),
            Host::Name(_) => false,
        };
        let rules = self.served.values().flat_map(|served| &served.rules);
        let egress = rules.filter(|entry| entry.rule.direction() == Direction::Egress);
        egress.filter(|entry| leads_there(&entry.rule)).map(|entry| entry.id.number()).collect()
    }

    /// The worker has connected a client of a port to the target of this rule. Who is at its end in the network, and who
    /// has a place for it, as [`Table::begin`] and [`Table::opened`] have it.
    pub(super) fn began(
        &mut self,
        slot: Slot,
        rule: RuleId,
        ticket: u64,
        member: Option<IpAddr>,
        peer: Option<PublicKey>,
    ) {
        self.tickets.insert(ticket, Ticket { slot, rule: None, member, task: None, peer });
        self.opened(ticket, rule, member);
    }

    /// Gives the ports that there are their present rules; closes and returns those that have none any more, and returns
    /// those that have others than before.
    pub(super) fn follow(&mut self, rules: &Rules) -> (Vec<Slot>, Vec<Slot>) {
        let (mut closed, mut changed) = (Vec::new(), Vec::new());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for served in self.served.values_mut().filter(|served| served.gate.is_none()) {
            let found = rules.listeners().iter().find(|listener| listener.listen == served.listen);
            let wanted = found.map(|listener| listener.rules.clone()).unwrap_or_default();
            let is_wanted = |id: RuleId| wanted.iter().any(|entry| entry.id == id);
            for entry in served.rules.iter().filter(|entry| !is_wanted(entry.id)) {
                served.balancer.remove(entry.id);
                gone.push(entry.id);
            }
            for entry in &wanted {
                served.balancer.add(entry.id);
                come.push(entry.id);
            }
            let ids = |rules: &[RuleEntry]| rules.iter().map(|entry| entry.id).collect::<Vec<_>>();
            let is_changed = ids(&served.rules) != ids(&wanted);
            served.rules = wanted;
            if served.rules.is_empty() {
                self.closed.extend(served.close());
                closed.push(served.slot);
            } else if is_changed {
                changed.push(served.slot);
            }
        }
        self.served.retain(|_, served| served.gate.is_some() || !served.rules.is_empty());
        gone.into_iter().for_each(|rule| self.close_account(rule));
        come.into_iter().for_each(|rule| self.open_account(rule));
        (closed, changed)
    }

    /// Connections of these rules that are live.
    pub(super) fn tickets_of(&self, rules: &[RuleId]) -> Vec<u64> {
        let of = |ticket: &Ticket| ticket.rule.is_some_and(|rule| rules.contains(&rule));
        self.tickets.iter().filter(|(_, ticket)| of(ticket)).map(|(number, _)| *number).collect()
    }

    /// Who is at the end of a connection in the network, if that is known.
    pub(super) fn member(&self, ticket: u64) -> Option<IpAddr> {
        self.tickets.get(&ticket)?.member
    }

    /// Connections from and to these addresses of the network that are live.
    pub(super) fn tickets_with(&self, blocks: &[Cidr]) -> Vec<u64> {
        let has = |member: IpAddr| blocks.iter().any(|block| block.contains(member));
        let of = |ticket: &Ticket| ticket.member.is_some_and(has);
        self.tickets.iter().filter(|(_, ticket)| of(ticket)).map(|(number, _)| *number).collect()
    }

    /// How many rules the port of `slot` has.
    pub(super) fn rule_count(&self, slot: Slot) -> usize {
        self.served.get(&slot.index).map_or(0, |served| served.rules.len())
    }

    /// A connection is being made by `task` for `client`, who is in the network if the port is, and has a
    /// place of `peer`.
    pub(super) fn begin(
        &mut self,
        slot: Slot,
        ticket: u64,
        client: Option<SocketAddr>,
        task: AbortHandle,
        peer: Option<PublicKey>,
    ) {
        let is_inside = self.at(slot).is_some_and(|served| served.listen.direction == Direction::Ingress);
        let member = client.filter(|_| is_inside).map(|client| client.ip().to_canonical());
        self.tickets.insert(ticket, Ticket { slot, rule: None, member, task: Some(task), peer });
    }

    /// It has found its rule, and leads to this member unless it comes from one. False: nobody wants it any more.
    pub(super) fn opened(&mut self, ticket: u64, rule: RuleId, member: Option<IpAddr>) -> bool {
        let Some(found) = self.tickets.get_mut(&ticket) else { return false };
        (found.rule, found.task) = (Some(rule), None);
        found.member = member.or(found.member);
        if let Some(account) = self.accounts.get_mut(&rule) {
            account.opened += 1;
        }
        let slot = found.slot;
        if let Some(served) = self.at(slot) {
            served.balancer.opened(rule);
        }
        true
    }

    /// A rule could not serve a connection. For how long it is put aside, unless it is aside already.
    pub(super) fn failed(&mut self, slot: Slot, rule: RuleId, why: String) -> Option<Duration> {
        if let Some(account) = self.accounts.get_mut(&rule) {
            account.failed += 1;
            account.last_error = Some(why);
        }
        self.at(slot)?.balancer.failed(rule, Instant::now())
    }

    /// A connection is over; with `refused` because its destination is not there.
    pub(super) fn over(&mut self, ticket: u64, refused: bool) {
        let Some(Ticket { slot, rule, task, peer, .. }) = self.tickets.remove(&ticket) else { return };
        if let Some(peer) = peer {
            self.shares.leave(peer);
        }
        if let Some(task) = task {
            task.abort();
        }
        let (Some(served), Some(rule)) = (self.at(slot), rule) else { return };
        served.balancer.closed(rule);
        if refused {
            served.balancer.failed(rule, Instant::now());
            if let Some(account) = self.accounts.get_mut(&rule) {
                account.failed += 1;
                account.last_error = Some("connection refused".to_owned());
            }
        }
    }

    /// The worker is gone, and all its connections with it.
    pub(super) fn all_over(&mut self, lines: impl Fn(u32) -> [u64; FIELD_COUNT]) {
        self.promises.clear();
        for served in self.served.values_mut() {
            let last = lines(served.slot.index);
            served.before.iter_mut().zip(last).for_each(|(total, more)| *total = total.saturating_add(more));
        }
        for account in self.accounts.values_mut() {
            let line = account.line.map_or([0; FIELD_COUNT], &lines);
            let last = traffic(&line).into_iter().zip(std::mem::take(&mut account.offset));
            account.before.iter_mut().zip(last).for_each(|(total, (now, offset))| {
                *total = total.saturating_add(now.saturating_sub(offset));
            });
        }
        let tickets: Vec<u64> = self.tickets.keys().copied().filter(|ticket| !is_own(*ticket)).collect();
        tickets.into_iter().for_each(|ticket| self.over(ticket, false));
    }
}
