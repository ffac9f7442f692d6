//! Rules that come and go while a network runs: all that was asked for, or nothing.
//!
//! New ports are opened and given to the worker first, then the rules are kept, then what is not wanted goes. Whatever
//! fails before that is taken back, and who asked is told why.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_control::api::{ChangeMeshRules, Failure, FailureKind};
use portway_model::{Direction, RuleListen};
use portway_relay::wire::{Slot, ToWorker};
use tracing::{info, warn};

use super::control::failure;
use super::cut::Stuck;
use super::given::Ports;
use super::ports::{self, Opened};
use super::serve::{Gone, Server};
use super::{Notice, enter, flows};
use crate::spec::{Place, PortRights, RuleEntry, RuleId, Rules, SpecError};
use crate::with_causes;

/// How long a port that was closed may still be taken.
const CLOSING: Duration = Duration::from_secs(1);

/// A port that is new, before anybody is told of it.
struct Fresh {
    listen: RuleListen,
    rules: Vec<RuleEntry>,
    opened: Opened,
}

/// A port that is served, and is taken back if the change is not made. What comes as descriptors is taken in after it.
type Begun = (Slot, Option<Opened>);

impl<R: FnMut(Notice)> Server<R> {
    /// Makes a change. Connections of rules that go have their time to finish; nobody new is taken in for them.
    pub(super) async fn change(&mut self, change: &ChangeMeshRules) -> Result<(), Failure> {
        let (rules, gone) = self.judge(change)?;
        let fresh = self.open(&rules).await?;
        let (begun, served) = self.begin(fresh).await;
        let done = match served {
            Ok(()) => self.keep(&rules).await,
            Err(why) => Err(why),
        };
        if let Err(why) = done {
            self.take_back(begun).await;
            return Err(failure(FailureKind::Refused, why));
        }
        let before = std::mem::replace(&mut self.rules, rules);
        self.apply(begun).await;
        self.tell(&before);
        self.mark(gone);
        Ok(())
    }

    /// Rules that go have their time from now on; those that have come again have nothing to fear from an earlier end.
    fn mark(&mut self, gone: Vec<RuleId>) {
        let is_there = |id: &RuleId| self.rules.iter().any(|entry| entry.id == *id);
        let at = Instant::now();
        self.gone.extend(gone.iter().map(|id| (*id, at)));
        self.gone.retain(|id, _| !is_there(id));
        if !gone.is_empty() {
            let (cuts, drain) = (self.cuts.clone(), self.drain);
            tokio::spawn(async move {
                tokio::time::sleep(drain).await;
                // Nobody is left to be cut when it ends.
                cuts.send((at, gone)).await.ok();
            });
        }
    }

    /// Keeps these rules; on a thread, as a disk may take its time.
    async fn keep(&self, rules: &Rules) -> Result<(), String> {
        let (home, kept) = (self.home.clone(), Vec::from_iter(enter::kept_of(rules)));
        let done = tokio::task::spawn_blocking(move || home.keep(kept)).await;
        done.map_err(|error| with_causes(&error))?.map_err(|error| with_causes(&error))
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
            let place = if rule.configured { Place::configured() } else { Place::kept() };
            add.push((direction, rule.rule.clone(), place));
        }
        let judged = self.rules.changed(&self.shared.about.network, &add, &gone);
        let allowed = judged.and_then(|rules| rules.allowed(PortRights::here()).map(|()| rules));
        let rules = allowed.map_err(|error| match error {
            SpecError::Wrong { message, hint, .. } => Failure { hint, ..usage(message) },
            other => failure(FailureKind::Refused, with_causes(&other)),
        })?;
        Ok((rules, gone))
    }

    /// Opens the ports that are not open.
    async fn open(&self, rules: &Rules) -> Result<Vec<Fresh>, Failure> {
        let mut fresh = Vec::new();
        for listener in rules.listeners() {
            let listen = listener.listen;
            if self.shared.table().slot_of(&listen).is_some() {
                let header = listener.rules.first().map(|entry| entry.rule.proxy_protocol());
                if header.is_some_and(|header| header != self.shared.table().header(&listen)) {
                    let text = format!(
                        "{listen} sends another PROXY header: remove its rules first, then add others"
                    );
                    return Err(failure(FailureKind::Refused, text));
                }
                continue;
            }
            let closed_lately = || self.waits.closed.is_some_and(|at| at.elapsed() < CLOSING);
            let mut opened = self.open_one(listen).await;
            // What was closed a moment ago may still be on its way out of the stack.
            while closed_lately() && matches!(&opened, Err(error) if error.kind() == io::ErrorKind::AddrInUse)
            {
                tokio::time::sleep(CLOSING / 50).await;
                opened = self.open_one(listen).await;
            }
            let opened = opened.map_err(|error| {
                failure(FailureKind::Refused, format!("cannot listen on {listen}: {error}"))
            })?;
            fresh.push(Fresh { listen, rules: listener.rules.clone(), opened });
        }
        Ok(fresh)
    }

    async fn open_one(&self, listen: RuleListen) -> io::Result<Opened> {
        match listen.direction {
            Direction::Egress => ports::on_host(&listen),
            Direction::Ingress => {
                let shared = Arc::clone(&self.shared);
                let work = move || {
                    let own = &shared.about.network.addresses;
                    ports::in_network(shared.engine.as_ref(), &listen, own)
                };
                self.shared.room.ask(work).await
            }
        }
    }

    /// Has new ports served; what was begun, and why not all of it is.
    async fn begin(&mut self, fresh: Vec<Fresh>) -> (Vec<Begun>, Result<(), String>) {
        let (mut begun, mut asked) = (Vec::new(), BTreeSet::new());
        for Fresh { listen, rules, opened } in fresh {
            let (sockets, inlet): (Vec<OwnedFd>, _) = match opened {
                Opened::Sockets(sockets) => (sockets, None),
                other => (Vec::new(), Some(other)),
            };
            let slot = self.shared.table().serve(listen, rules, sockets, self.policy);
            begun.push((slot, inlet));
            self.shared.begin_accounts();
            match self.put(slot, Ports::Fresh).await {
                Ok(seq) => asked.extend(seq),
                Err(error) => return (begun, Err(format!("the relay worker takes nothing: {error}"))),
            }
        }
        let served = self.confirmed(asked).await;
        (begun, served.map_err(|why| format!("the relay worker does not serve it: {why}")))
    }

    /// What was begun for a change that is not made.
    async fn take_back(&mut self, begun: Vec<Begun>) {
        for (slot, _) in begun {
            self.shared.table().withdraw(slot);
            self.remove(slot, false).await;
        }
    }

    /// Makes the ports what the rules say. A worker that is told too late gets all of it when it is replaced.
    async fn apply(&mut self, begun: Vec<Begun>) {
        let (closed, changed) = self.shared.table().follow(&self.rules);
        self.shared.begin_accounts();
        let mut asked = BTreeSet::new();
        for slot in closed {
            asked.insert(self.remove(slot, true).await);
            self.waits.closed = Some(Instant::now());
        }
        for slot in changed {
            match self.put(slot, Ports::Same).await {
                Ok(seq) => asked.extend(seq),
                Err(error) => warn!(%error, "worker not told of a port that is changed"),
            }
        }
        // Who asked may want the same port again at once, and that nobody is led by what was. A worker that is gone has
        // closed it too.
        self.confirmed(asked).await.ok();
        for (slot, inlet) in begun {
            if let Some(inlet) = inlet {
                flows::attend(&self.shared, slot, inlet, &self.calls);
            }
        }
        info!(rules = self.rules.iter().count(), "rules changed");
    }

    fn tell(&self, before: &Rules) {
        let ends = [("rule-added", &self.rules, before), ("rule-removed", before, &self.rules)];
        for (kind, of, other) in ends {
            for entry in of.iter().filter(|entry| !other.iter().any(|it| it.id == entry.id)) {
                let text = format!("{} {}", entry.rule.direction(), entry.rule);
                self.shared.events.tell(kind, None, Some(entry.id.to_string()), text);
            }
        }
    }

    /// Has the worker close a port; the number of the request.
    async fn remove(&mut self, slot: Slot, drain: bool) -> u64 {
        let seq = self.waits.next();
        if let Err(error) = self.link.say(&ToWorker::Remove { seq, slot, drain }, &[]).await {
            warn!(%error, "worker not told of a port that is closed");
        }
        seq
    }

    /// Ends what is left of rules that have gone.
    pub(super) async fn cut(&mut self, gone: Option<Gone>) {
        let Some((at, mut gone)) = gone else { return };
        // One that has come again since keeps its connections, and has its time anew if it has gone again.
        gone.retain(|id| self.gone.get(id) == Some(&at));
        self.gone.retain(|id, _| !gone.contains(id));
        self.cut_all(&gone).await;
    }

    /// Ends all connections of these rules.
    pub(super) async fn cut_all(&mut self, rules: &[RuleId]) {
        if let Err(stuck) = self.shared.cut_rules(rules).await {
            self.is_stuck(stuck);
        }
    }

    /// A worker that takes nothing is replaced, unless it was.
    pub(super) fn is_stuck(&mut self, stuck: Stuck) {
        if Arc::ptr_eq(&stuck.link, &self.link) {
            self.waits.broken = Some(Some(stuck.why));
        }
    }
}
