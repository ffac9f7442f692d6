//! Rules that come and go while a network runs: all that was asked for, or nothing.

use std::os::fd::OwnedFd;

use portway_control::api::{ChangeMeshRules, Failure, FailureKind};
use portway_model::{Direction, RuleListen};
use portway_relay::wire::{Slot, ToWorker};
use tracing::{info, warn};

use super::control::failure;
use super::home::Kept;
use super::ports::{self, Opened};
use super::serve::Server;
use super::{Notice, flows};
use crate::spec::{Place, PortRights, RuleEntry, RuleId, Rules, SpecError};

/// Tickets in one message: a packet has room for them.
const CUT_COUNT: usize = 2000;

/// A port that is new, before anybody is told of it.
struct Fresh {
    listen: RuleListen,
    rules: Vec<RuleEntry>,
    opened: Opened,
}

impl<R: FnMut(Notice)> Server<R> {
    /// Makes a change. Connections of rules that go have their time to finish; nobody new is taken in for them.
    pub(super) async fn change(&mut self, change: &ChangeMeshRules) -> Result<(), Failure> {
        let (rules, gone) = self.judge(change)?;
        let fresh = self.open(&rules)?;
        let kept = rules.iter().filter(|entry| entry.place == Place::kept());
        let kept = kept.map(|entry| Kept {
            direction: entry.rule.direction().to_string(),
            rule: entry.rule.to_string(),
        });
        self.home.keep(kept.collect()).map_err(|error| failure(FailureKind::Refused, chain(&error)))?;
        self.rules = rules;
        self.apply(fresh).await;
        if !gone.is_empty() {
            let (cuts, drain) = (self.cuts.clone(), self.drain);
            tokio::spawn(async move {
                tokio::time::sleep(drain).await;
                // Nobody is left to be cut when it ends.
                cuts.send(gone).await.ok();
            });
        }
        Ok(())
    }

    /// What the rules would be, and which ones would go.
    fn judge(&self, change: &ChangeMeshRules) -> Result<(Rules, Vec<RuleId>), Failure> {
        let usage = |text: String| failure(FailureKind::Usage, text);
        let mut gone = Vec::new();
        for id in &change.remove {
            let found = self.rules.iter().find(|entry| entry.id.to_string() == *id).map(|entry| entry.id);
            gone.push(
                found.ok_or_else(|| failure(FailureKind::Missing, format!("no rule has the id {id:?}")))?,
            );
        }
        let mut add = Vec::new();
        for rule in &change.add {
            let direction = match rule.direction.as_str() {
                "ingress" => Direction::Ingress,
                "egress" => Direction::Egress,
                other => return Err(usage(format!("direction {other:?} is neither ingress nor egress"))),
            };
            add.push((direction, rule.rule.clone()));
        }
        let judged = self.rules.changed(&self.shared.about.network, &add, &gone);
        let allowed = judged.and_then(|rules| rules.allowed(PortRights::here()).map(|()| rules));
        let rules = allowed.map_err(|error| match error {
            SpecError::Wrong { message, hint, .. } => Failure { hint, ..usage(message) },
            other => failure(FailureKind::Refused, chain(&other)),
        })?;
        Ok((rules, gone))
    }

    /// Opens the ports that are not open.
    fn open(&self, rules: &Rules) -> Result<Vec<Fresh>, Failure> {
        let mut fresh = Vec::new();
        for listener in rules.listeners() {
            let listen = listener.listen;
            if self.shared.table().slot_of(&listen).is_some() {
                continue;
            }
            let opened = match listen.direction {
                Direction::Egress => ports::on_host(&listen),
                Direction::Ingress => {
                    let own = &self.shared.about.network.addresses;
                    ports::in_network(self.shared.engine.as_ref(), &listen, own)
                }
            };
            let opened = opened.map_err(|error| {
                failure(FailureKind::Refused, format!("cannot listen on {listen}: {error}"))
            })?;
            fresh.push(Fresh { listen, rules: listener.rules.clone(), opened });
        }
        Ok(fresh)
    }

    /// Makes the ports what the rules say. A worker that is told too late gets all of it when it is replaced.
    async fn apply(&mut self, fresh: Vec<Fresh>) {
        let closed: Vec<Slot> = self.shared.table().follow(&self.rules);
        for slot in closed {
            self.seq += 1;
            let message = ToWorker::Remove { seq: self.seq, slot, drain: true };
            if let Err(error) = self.link.say(&message, &[]).await {
                warn!(%error, "worker not told of a port that is closed");
            }
        }
        for Fresh { listen, rules, opened } in fresh {
            let (sockets, inlet): (Vec<OwnedFd>, _) = match opened {
                Opened::Sockets(sockets) => (sockets, None),
                other => (Vec::new(), Some(other)),
            };
            let slot = self.shared.table().serve(listen, rules, sockets, self.policy);
            info!(%listen, "port opened");
            if let Err(error) = self.put(slot).await {
                warn!(%error, "worker not told of a port");
            }
            if let Some(inlet) = inlet {
                flows::attend(&self.shared, slot, inlet, &self.calls);
            }
        }
    }

    /// Ends what is left of rules that have gone.
    pub(super) async fn cut(&self, gone: &[RuleId]) {
        // One that has come again meanwhile keeps its connections.
        let is_gone = |id: &&RuleId| !self.rules.iter().any(|entry| entry.id == **id);
        let gone: Vec<RuleId> = gone.iter().filter(is_gone).copied().collect();
        let tickets = self.shared.table().tickets_of(&gone);
        for tickets in tickets.chunks(CUT_COUNT) {
            self.link.say(&ToWorker::Cut { tickets: tickets.to_vec() }, &[]).await.ok();
        }
    }
}

/// An error and what caused it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
