//! Which port is served by which rules, and which connection belongs to which rule.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use portway_model::{MeshRule, RuleListen};
use portway_relay::wire::Slot;
use portway_sys::shm::FIELD_COUNT;
use tokio::task::AbortHandle;

use super::balance::{Balancer, Policy};
use crate::spec::{RuleEntry, RuleId, Rules};

/// Where the numbers of connections begin that no worker has asked for. A worker counts from 1.
const OWN_TICKETS: u64 = 1 << 62;

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
    /// What workers before the present one have counted.
    pub(super) before: [u64; FIELD_COUNT],
}

impl Served {
    /// Its port is closed, as far as it is for this process to close it.
    pub(super) fn close(&mut self) {
        self.listeners = Arc::default();
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

/// What became of the connections of a rule.
#[derive(Debug, Clone, Default)]
pub(super) struct Account {
    pub(super) opened: u64,
    pub(super) failed: u64,
    pub(super) last_error: Option<String>,
}

/// A connection or flow, from its first question to its end.
struct Ticket {
    slot: Slot,
    /// Whose it is, once there is one.
    rule: Option<RuleId>,
    task: Option<AbortHandle>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Table {
    served: BTreeMap<u32, Served>,
    accounts: BTreeMap<RuleId, Account>,
    tickets: BTreeMap<u64, Ticket>,
    /// The last slot's; no two slots have the same.
    generation: u64,
    own: u64,
}

impl Table {
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
            self.accounts.entry(entry.id).or_default();
        }
        let slot = Slot::new(index, self.generation);
        let (listeners, tasks) = (Arc::new(listeners), Vec::new());
        let served = Served { listen, rules, balancer, listeners, tasks, slot, before: [0; FIELD_COUNT] };
        self.served.insert(index, served);
        slot
    }

    /// A task takes the clients of a port.
    pub(super) fn attend(&mut self, slot: Slot, task: AbortHandle) {
        if let Some(served) = self.served.get_mut(&slot.index) {
            served.tasks.push(task);
        }
    }

    /// Nobody new is taken in.
    pub(super) fn close(&mut self) {
        for served in self.served.values_mut() {
            served.close();
        }
    }

    /// A number for a connection that no worker has asked for.
    pub(super) fn own_ticket(&mut self) -> u64 {
        self.own += 1;
        OWN_TICKETS + self.own
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

    /// Where a port is served.
    pub(super) fn slot_of(&self, listen: &RuleListen) -> Option<Slot> {
        self.served().find(|served| served.listen == *listen).map(|served| served.slot)
    }

    /// What became of the connections of a rule.
    pub(super) fn account(&self, rule: RuleId) -> Account {
        self.accounts.get(&rule).cloned().unwrap_or_default()
    }

    /// Gives the ports that there are their present rules; closes and returns those that have none any more.
    pub(super) fn follow(&mut self, rules: &Rules) -> Vec<Slot> {
        let mut closed = Vec::new();
        for served in self.served.values_mut() {
            let found = rules.listeners().iter().find(|listener| listener.listen == served.listen);
            let wanted = found.map(|listener| listener.rules.clone()).unwrap_or_default();
            let is_wanted = |id: RuleId| wanted.iter().any(|entry| entry.id == id);
            for entry in served.rules.iter().filter(|entry| !is_wanted(entry.id)) {
                served.balancer.remove(entry.id);
                self.accounts.remove(&entry.id);
            }
            for entry in &wanted {
                served.balancer.add(entry.id);
                self.accounts.entry(entry.id).or_default();
            }
            served.rules = wanted;
            if served.rules.is_empty() {
                served.close();
                closed.push(served.slot);
            }
        }
        self.served.retain(|_, served| !served.rules.is_empty());
        closed
    }

    /// Connections of these rules that are live.
    pub(super) fn tickets_of(&self, rules: &[RuleId]) -> Vec<u64> {
        let of = |ticket: &Ticket| ticket.rule.is_some_and(|rule| rules.contains(&rule));
        self.tickets.iter().filter(|(_, ticket)| of(ticket)).map(|(number, _)| *number).collect()
    }

    /// How many rules the port of `slot` has.
    pub(super) fn rule_count(&self, slot: Slot) -> usize {
        self.served.get(&slot.index).map_or(0, |served| served.rules.len())
    }

    /// A connection is being made by `task`.
    pub(super) fn begin(&mut self, slot: Slot, ticket: u64, task: AbortHandle) {
        self.tickets.insert(ticket, Ticket { slot, rule: None, task: Some(task) });
    }

    /// It has found its rule. False: nobody wants it any more.
    pub(super) fn opened(&mut self, ticket: u64, rule: RuleId) -> bool {
        let Some(found) = self.tickets.get_mut(&ticket) else { return false };
        (found.rule, found.task) = (Some(rule), None);
        if let Some(account) = self.accounts.get_mut(&rule) {
            account.opened += 1;
        }
        let slot = found.slot;
        if let Some(served) = self.at(slot) {
            served.balancer.opened(rule);
        }
        true
    }

    /// A rule could not serve a connection.
    pub(super) fn failed(&mut self, slot: Slot, rule: RuleId, why: String) {
        if let Some(account) = self.accounts.get_mut(&rule) {
            account.failed += 1;
            account.last_error = Some(why);
        }
        if let Some(served) = self.at(slot) {
            served.balancer.failed(rule, Instant::now());
        }
    }

    /// A connection is over; with `refused` because its destination is not there.
    pub(super) fn over(&mut self, ticket: u64, refused: bool) {
        let Some(Ticket { slot, rule, task }) = self.tickets.remove(&ticket) else { return };
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

    /// The worker is gone, and all connections with it.
    pub(super) fn all_over(&mut self, counted: impl Fn(Slot) -> [u64; FIELD_COUNT]) {
        for served in self.served.values_mut() {
            let last = counted(served.slot);
            served.before.iter_mut().zip(last).for_each(|(total, more)| *total = total.saturating_add(more));
        }
        let tickets: Vec<u64> = self.tickets.keys().copied().collect();
        tickets.into_iter().for_each(|ticket| self.over(ticket, false));
    }
}
