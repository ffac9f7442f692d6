//! From a specification to a network that runs, and until it ends.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portway_model::Cidr;
use portway_relay::wire::{FromWorker, Known, Slot, ToWorker};
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use super::balance::Policy;
use super::control::{self, Ask};
use super::endpoints::Whereabouts;
use super::events::Events;
use super::flows::Flows;
use super::home::{Door, Home};
use super::link::{Link, watched};
use super::names::Names;
use super::org::{self, Organization};
use super::room::Room;
use super::start::{self, Started};
use super::table::Table;
use super::{Notice, Options, ProxyError, Ready, dial, endpoints, events, flows, gates};
use crate::engine::Engine;
use crate::org::follow::follow;
use crate::spec::{Network, RuleId, Rules};
use crate::tunnel::Tunnel;

/// Connections that may wait for the worker to be told of them.
const CALLS: usize = 64;

/// A worker that lasts less than this ends everything: the next would not last either.
const WORKER_LASTS: Duration = Duration::from_secs(1);

/// What an organization may have to say while rules are being changed.
const ORDERS: usize = 16;

/// How long the worker has to take a port.
const CONFIRM: Duration = Duration::from_secs(10);

/// What every part knows.
pub(super) struct Shared {
    pub(super) about: About,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) tunnel: Tunnel,
    pub(super) names: Names,
    pub(super) link: Mutex<Option<Arc<Link>>>,
    pub(super) table: Mutex<Table>,
    pub(super) whereabouts: Whereabouts,
    pub(super) room: Room,
    pub(super) flows: Flows,
    pub(super) events: Events,
    pub(super) organization: Option<Organization>,
    /// Addresses whose members are members no more, for those who look after flows of their own.
    pub(super) cuts: broadcast::Sender<Arc<[Cidr]>>,
}

/// What stays as it is.
pub(super) struct About {
    pub(super) name: String,
    pub(super) network: Network,
    pub(super) why: Option<String>,
    pub(super) since: Instant,
}

impl Shared {
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The worker that serves.
    pub(super) fn link(&self) -> Option<Arc<Link>> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rules that have just come have their bytes counted from nothing.
    pub(super) fn begin_accounts(&self) {
        if let Some(link) = self.link() {
            self.table().begin_accounts(|line| link.line(line));
        }
    }

    fn has(&self, link: &Arc<Link>) {
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(link));
    }
}

pub(super) fn system(step: &'static str) -> impl Fn(io::Error) -> ProxyError {
    move |source| ProxyError::System { step, source }
}

/// Serves until the end.
pub(super) async fn serve(
    mut options: Options,
    door: Option<Door>,
    files: u64,
    report: impl FnMut(Notice),
) -> Result<(), ProxyError> {
    let catch = |kind| signal(kind).map_err(system("catch signals"));
    let signals = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::quit()];
    let [term, int, quit] = signals.map(catch);
    let signals = [term?, int?, quit?];
    let joined = options.joined.as_ref();
    let followed = joined.map(|joined| follow(&joined.dir, &joined.org)).transpose()?;
    if let Some(followed) = &followed {
        // It may have got another one since the network was read.
        options.spec.network.private_key = followed.member.key().clone();
    }
    let organization = followed.as_ref().map(|followed| Organization::new(&followed.member));
    let Started { shared, rules, ready, inlets, gates } = start::start(&options, organization, files)?;
    let link = Arc::new(Link::start(&options.home.name).await.map_err(ProxyError::Worker)?);
    shared.has(&link);
    let gone = shared.engine.pidfd().try_clone_to_owned().and_then(watched);
    let gone = gone.map_err(system("watch the tunnel's stack"))?;
    let tending = tokio::spawn(endpoints::tend(Arc::clone(&shared)));
    let sweeping = tokio::spawn(flows::sweep(Arc::clone(&shared)));
    let watching = tokio::spawn(events::watch_peers(Arc::clone(&shared)));
    let (orders, ordered) = mpsc::channel(ORDERS);
    let attending = followed.map(|followed| org::begin(&shared, followed, &orders));
    let (calls, called) = mpsc::channel(CALLS);
    for (slot, inlet) in inlets {
        flows::attend(&shared, slot, inlet, &calls);
    }
    gates::attend(&shared, gates, &calls).map_err(system("listen"))?;
    let (asks, asked) = mpsc::channel(1);
    let (cuts, to_cut) = mpsc::channel(CALLS);
    let (policy, drain, home) = (options.policy, options.drain, options.home);
    let door = door.map(|door| Opening::new(door, &shared, asks.clone())).transpose();
    let door = door.map_err(system("serve the control socket"))?;
    let begun = Instant::now();
    let waits = Waits { seq: 0, open: BTreeSet::new(), broken: None, closed: None };
    let server = Server {
        shared,
        calls,
        link,
        begun,
        waits,
        report,
        rules,
        home,
        policy,
        drain,
        cuts,
        orders,
        gone: BTreeMap::new(),
        stocks: BTreeMap::new(),
    };
    let inputs = Inputs { signals, gone, called, asked, to_cut, ordered, _asks: asks };
    let result = server.run(inputs, ready).await;
    tending.abort();
    sweeping.abort();
    watching.abort();
    drop(attending);
    drop(door);
    result
}

/// The control socket while it is served.
struct Opening {
    task: tokio::task::AbortHandle,
    _door: Door,
}

impl Opening {
    fn new(door: Door, shared: &Arc<Shared>, asks: mpsc::Sender<Ask>) -> io::Result<Opening> {
        let listener = tokio::net::UnixListener::from_std(door.listener.try_clone()?)?;
        let task = tokio::spawn(control::serve(listener, Arc::clone(shared), asks));
        Ok(Opening { task: task.abort_handle(), _door: door })
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What comes in.
struct Inputs {
    signals: [Signal; 3],
    gone: AsyncFd<OwnedFd>,
    called: mpsc::Receiver<Call>,
    asked: mpsc::Receiver<Ask>,
    to_cut: mpsc::Receiver<Gone>,
    ordered: mpsc::Receiver<org::Order>,
    /// So that there is always one: without a socket nobody asks.
    _asks: mpsc::Sender<Ask>,
}

/// A client that comes as a descriptor.
pub(super) struct Call {
    pub(super) slot: Slot,
    pub(super) fd: OwnedFd,
    pub(super) known: Known,
}

/// Rules that were removed at a time.
pub(super) type Gone = (Instant, Vec<RuleId>);

/// What drives the worker.
pub(super) struct Server<R> {
    pub(super) shared: Arc<Shared>,
    /// For connections that come as descriptors.
    pub(super) calls: mpsc::Sender<Call>,
    pub(super) link: Arc<Link>,
    /// When this worker was started.
    begun: Instant,
    pub(super) waits: Waits,
    report: R,
    pub(super) rules: Rules,
    pub(super) home: Home,
    pub(super) policy: Policy,
    pub(super) drain: Duration,
    /// For rules whose last connections have had their time.
    pub(super) cuts: mpsc::Sender<Gone>,
    /// For a worker that is to be replaced.
    orders: mpsc::Sender<org::Order>,
    /// When those were removed that have not come again since.
    pub(super) gone: BTreeMap<RuleId, Instant>,
    /// What gives the worker sockets that it has ordered: of IPv4, and of IPv6.
    stocks: BTreeMap<bool, JoinHandle<()>>,
}

/// What the worker was asked for and has not answered.
pub(super) struct Waits {
    seq: u64,
    open: BTreeSet<u64>,
    /// Its channel has failed while an answer was waited for.
    pub(super) broken: Option<Option<io::Error>>,
    /// When ports were last closed.
    pub(super) closed: Option<Instant>,
}

impl Waits {
    /// The number of the next request.
    pub(super) fn next(&mut self) -> u64 {
        self.seq += 1;
        self.open.insert(self.seq);
        self.seq
    }
}

/// What came first.
enum Came {
    Message(io::Result<Option<FromWorker>>),
    Call(Option<Call>),
    Asked(Option<Ask>),
    ToCut(Option<Gone>),
    Ordered(Option<org::Order>),
    Signal,
    StackGone,
    DrainOver,
}

impl<R: FnMut(Notice)> Server<R> {
    async fn run(mut self, inputs: Inputs, ready: Ready) -> Result<(), ProxyError> {
        let Inputs { signals, gone, mut called, mut asked, mut to_cut, mut ordered, _asks } = inputs;
        let [mut term, mut int, mut quit] = signals;
        self.put_all().await.map_err(ProxyError::Worker)?;
        let mut is_told = self.waits.open.is_empty();
        if is_told {
            (self.report)(Notice::Ready(ready.clone()));
        }
        let mut deadline: Option<tokio::time::Instant> = None;
        loop {
            match self.waits.broken.take() {
                // It was to end what it has: that it does now.
                Some(_) if deadline.is_some() => return Ok(()),
                Some(why) => self.replace_worker(why).await?,
                None => {}
            }
            let end = deadline.unwrap_or_else(tokio::time::Instant::now);
            let came = tokio::select! {
                message = self.link.hear() => Came::Message(message),
                call = called.recv() => Came::Call(call),
                ask = asked.recv(), if deadline.is_none() => Came::Asked(ask),
                gone = to_cut.recv() => Came::ToCut(gone),
                order = ordered.recv() => Came::Ordered(order),
                _ = term.recv() => Came::Signal,
                _ = int.recv() => Came::Signal,
                _ = quit.recv() => Came::Signal,
                _ = gone.readable() => Came::StackGone,
                () = tokio::time::sleep_until(end), if deadline.is_some() => Came::DrainOver,
            };
            match came {
                Came::Message(Ok(Some(message))) => {
                    let failed = self.heed(message);
                    if !is_told {
                        failed.map_err(|why| ProxyError::Worker(io::Error::other(why)))?;
                        is_told = self.waits.open.is_empty();
                        if is_told {
                            (self.report)(Notice::Ready(ready.clone()));
                        }
                    } else if let Err(why) = failed {
                        self.tell_refused(&why);
                    }
                }
                // It ends, and closes it: nobody else would.
                Came::Call(Some(_)) if deadline.is_some() => {}
                Came::Call(Some(Call { slot, fd, known })) => {
                    // A worker that is gone is seen as such; so is this client.
                    self.link.say(&ToWorker::Client { slot, index: 0, known }, &[fd.as_fd()]).await.ok();
                }
                Came::Asked(Some(Ask { change, reply })) => {
                    let done = self.change(&change).await;
                    // Whoever asked may have gone.
                    reply.send(done).ok();
                }
                Came::ToCut(gone) => self.cut(gone).await,
                Came::Ordered(order) => self.obey(order)?,
                Came::Call(None) | Came::Asked(None) => {
                    return Err(ProxyError::Gone("what takes connections in"));
                }
                // It drains, and has finished.
                Came::Message(_) if deadline.is_some() => return Ok(()),
                Came::Message(ended) => self.replace_worker(ended.err()).await?,
                Came::StackGone => return Err(ProxyError::Gone("the process of the tunnel's stack")),
                Came::DrainOver => return Ok(()),
                Came::Signal if deadline.is_some() => return Ok(()),
                Came::Signal => {
                    info!("ending");
                    self.shared.events.tell("ending", None, None, "takes nobody new in");
                    self.shared.table().close();
                    let message = ToWorker::Drain { grace: self.drain };
                    self.link.say(&message, &[]).await.map_err(ProxyError::Worker)?;
                    // The worker ends connections a moment before.
                    deadline = Some(tokio::time::Instant::now() + self.drain + Duration::from_millis(500));
                }
            }
        }
    }

    /// A worker that was started again does not take what the one before it took.
    fn tell_refused(&mut self, why: &str) {
        let text = format!("the relay worker does not serve a port: {why}");
        self.shared.events.tell("port-refused", None, None, &text);
        (self.report)(Notice::Trouble(text));
    }

    /// Does what follows from a change of the organization.
    fn obey(&mut self, order: Option<org::Order>) -> Result<(), ProxyError> {
        match order {
            Some(org::Order::Replace(stuck)) => self.is_stuck(stuck),
            Some(org::Order::Say(text)) => (self.report)(Notice::Trouble(text)),
            Some(org::Order::End(org)) => return Err(ProxyError::Revoked(org)),
            None => {}
        }
        Ok(())
    }

    /// Does what the worker asks for.
    ///
    /// # Errors
    /// Why it does not serve a port it was given.
    pub(super) fn heed(&mut self, message: FromWorker) -> Result<(), String> {
        match message {
            FromWorker::Dial { slot, ticket, mark, client } => {
                let Ok(peer) = self.shared.admit(slot, client) else {
                    tokio::spawn(dial::refuse(Arc::clone(&self.link), ticket));
                    return Ok(());
                };
                let task = dial::answer(Arc::clone(&self.shared), Arc::clone(&self.link), slot, ticket, mark);
                let task = tokio::spawn(task);
                self.shared.table().begin(slot, ticket, client, task.abort_handle(), peer);
            }
            FromWorker::Began { slot, target, tickets } => {
                self.note_began(slot, RuleId::of_number(target), tickets);
            }
            FromWorker::Wants { v4, count } => {
                // One at a time of each: what was ordered is to be taken first.
                if self.stocks.get(&v4).is_none_or(JoinHandle::is_finished) {
                    let stock = dial::stock(Arc::clone(&self.shared), Arc::clone(&self.link), v4, count);
                    self.stocks.insert(v4, tokio::spawn(stock));
                }
            }
            FromWorker::Over { tickets, refused } => {
                let mut table = self.shared.table();
                for ticket in tickets {
                    debug!(ticket, "connection over");
                    table.over(ticket, refused.contains(&ticket));
                }
            }
            FromWorker::Done { seq, error } => {
                if self.waits.open.remove(&seq)
                    && let Some(why) = error
                {
                    warn!(why, "port not served");
                    return Err(why);
                }
            }
            FromWorker::Failure { count, text, .. } => debug!(count, text, "worker"),
            other => debug!(?other, "unexpected message of the worker"),
        }
        Ok(())
    }

    /// The worker has made connections without asking. Those end that it would not have been given.
    fn note_began(&self, slot: Slot, rule: RuleId, tickets: Vec<(u64, Option<SocketAddr>)>) {
        let mut unwanted = Vec::new();
        // One that was removed goes on until its time is over.
        let is_unknown = !self.shared.table().has(rule) && !self.gone.contains_key(&rule);
        for (ticket, end) in tickets {
            let member = end.map(|end| end.ip().to_canonical());
            let is_unwanted = is_unknown || self.shared.is_gone(member);
            let admitted = if is_unwanted { Err(()) } else { self.shared.admit(slot, end) };
            if let Ok(peer) = admitted {
                debug!(ticket, %rule, "connection open");
                self.shared.table().began(slot, rule, ticket, member, peer);
            } else {
                debug!(ticket, %rule, "connection refused");
                unwanted.push(ticket);
            }
        }
        if !unwanted.is_empty() {
            let (shared, orders) = (Arc::clone(&self.shared), self.orders.clone());
            drop(tokio::spawn(async move {
                if let Err(stuck) = shared.cut(unwanted).await {
                    // They are in no table: what has not been told of them now is never told. They end with it.
                    orders.send(org::Order::Replace(stuck)).await.ok();
                }
            }));
        }
    }

    /// Waits until the worker has answered the requests in `wanted`; others are heeded meanwhile.
    ///
    /// # Errors
    /// Why it does not serve one of them.
    pub(super) async fn confirmed(&mut self, mut wanted: BTreeSet<u64>) -> Result<(), String> {
        let until = tokio::time::Instant::now() + CONFIRM;
        wanted.retain(|seq| self.waits.open.contains(seq));
        while !wanted.is_empty() {
            match tokio::time::timeout_at(until, self.link.hear()).await {
                Ok(Ok(Some(message))) => {
                    let (before, failed) = (wanted.len(), self.heed(message));
                    wanted.retain(|seq| self.waits.open.contains(seq));
                    if wanted.len() < before {
                        failed?;
                    }
                }
                Ok(ended) => {
                    self.waits.broken = Some(ended.err());
                    return Err("the relay worker has ended".to_owned());
                }
                Err(_) => return Err("the relay worker does not answer".to_owned()),
            }
        }
        Ok(())
    }

    /// The worker has ended, and its connections with it: another one takes the listeners.
    async fn replace_worker(&mut self, why: Option<io::Error>) -> Result<(), ProxyError> {
        let link = Arc::clone(&self.link);
        self.shared.table().all_over(|line| link.line(line));
        if self.begun.elapsed() < WORKER_LASTS {
            return Err(ProxyError::Gone("the relay worker"));
        }
        info!(pid = link.pid(), error = why.as_ref().map(tracing::field::display), "relay worker has ended");
        self.shared.events.tell("worker-replaced", None, None, "its connections are lost");
        (self.report)(Notice::Trouble("the relay worker has ended, and another one was started".to_owned()));
        self.link = Arc::new(Link::start(&self.home.name).await.map_err(ProxyError::Worker)?);
        self.shared.has(&self.link);
        self.begun = Instant::now();
        self.waits.open.clear();
        std::mem::take(&mut self.stocks).into_values().for_each(|task| task.abort());
        self.put_all().await.map_err(ProxyError::Worker)
    }
}
