//! From a question for a program or the helper to its answer.

use std::os::fd::OwnedFd;

use portway_incus::Client;
use portway_sys::random;

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::account::Account;
use crate::broker::count::bump;
use crate::broker::helper::{self, Kind, May};
use crate::broker::open::{self, Opened, Order, Refusal};
use crate::broker::recordings::Made;
use crate::broker::{Grant, lock};
use crate::wire::{Lends, Reply};

impl Child {
    /// Starts a program.
    pub(super) async fn open(&self, id: u64, channel: u32, grant: &Grant, order: Order) {
        if let Some(errand) = &grant.errand {
            return self.run_errand(id, channel, grant, errand, &order).await;
        }
        let (what, terminal) = (order.what, order.terminal.is_some());
        let permitted = open::permitted(grant, order, |action| self.broker.judge.decide(grant, action));
        let mut recording = None;
        let permitted = permitted.and_then(|order| {
            let client = self.client(grant)?;
            recording = self.record(grant, &order)?;
            Ok((order, client))
        });
        let opened = match permitted {
            Ok((order, client)) => match self.there(id, &client, grant).await {
                Ok(()) => {
                    // Whoever is asked after this broker is not to run it once more.
                    self.say(id, Reply::Starting, Vec::new()).await;
                    self.opened(&client, grant, &order).await.map(|opened| (opened, client))
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match opened {
            Ok((opened, client)) => {
                self.have_mux(id, &client, grant, &opened).await;
                lock(&self.running).insert(channel);
                bump(&self.broker.count.started);
                let (keep, lends) = match &opened {
                    Opened::Inside { keep, lends, .. } => (keep.as_ref(), *lends),
                    Opened::Exec(_) | Opened::Stored { .. } => (None, Lends::default()),
                };
                let what = keep.map_or(what.name(), |keep| keep.wish.name());
                let keep = keep.map(|keep| keep.name.as_str());
                let name = recording.as_ref().map(Made::name);
                let recorded = name.as_deref();
                let (agent, x11) = (lends.agent, lends.x11);
                self.note(&Event::Started {
                    grant,
                    channel,
                    what,
                    terminal,
                    keep,
                    recording: recorded,
                    agent,
                    x11,
                });
                let (reply, fds) = told(opened);
                self.say_recorded(id, reply, recording, fds).await;
            }
            Err(refusal) => {
                recording.into_iter().for_each(Made::discard);
                lock(&self.ledger).refused(channel);
                bump(&self.broker.count.not_started);
                let reason = bounded(&refusal.message);
                self.note(&Event::NotStarted { grant, channel, reason: reason.clone() });
                let reply = Reply::Refused { status: refusal.status, message: reason };
                self.say(id, reply, Vec::new()).await;
            }
        }
    }

    /// Has the instance be there, and be the one that it was.
    async fn there(&self, id: u64, client: &Client, grant: &Grant) -> Result<(), Refusal> {
        if let Some(why) = grant.misread() {
            return Err(Refusal::new(open::ABSENT, why));
        }
        if grant.errand.is_some() {
            return Err(Refusal::new(open::ABSENT, "a command of the gateway is nothing else"));
        }
        self.made(id, client, grant).await?;
        self.identity.check(client, grant).await
    }

    /// Starts the helper inside.
    pub(super) async fn help(&self, id: u64, grant: &Grant, place: usize, beside: bool, jail: bool) {
        let environment = |account: &Account| open::own_environment(account, &self.connection, &self.session);
        let may = May::of(grant, |action| self.broker.judge.decide(grant, action).allowed);
        let may = May { mux: self.mux(), ..may };
        let is_far = self.broker.servers.is_far(&grant.remote);
        // A pid of another machine's is nobody's here.
        let beside = beside && !is_far;
        let jails = self.broker.options.options.chroot_sftp;
        let kind = if jail { Kind::Jailed } else { Kind::General { jails } };
        let started = match self.client(grant) {
            Ok(client) => match self.there(id, &client, grant).await {
                Ok(()) => {
                    helper::start(&client, is_far, beside, grant, (may, kind), environment, place).await
                }
                Err(refusal) => Err(refusal),
            },
            Err(refusal) => Err(refusal),
        };
        match started {
            Ok(helper::Started { build, streams, listener }) => {
                let way = listener
                    .as_ref()
                    .map(|listener| (listener.way.name, listener.way.token, listener.way.answer));
                let listener = listener.map(|listener| listener.fd);
                let fds = streams.into_fds().into_iter().chain(listener).collect();
                self.say(id, Reply::Helped { build, way }, fds).await;
            }
            Err(refusal) => {
                let reply = Reply::Refused { status: refusal.status, message: bounded(&refusal.message) };
                self.say(id, reply, Vec::new()).await;
            }
        }
    }
}

/// How a program comes to run, as its connection's process is told.
fn told(opened: Opened) -> (Reply, Vec<OwnedFd>) {
    match opened {
        Opened::Exec(sockets) => (Reply::Opened, sockets.into_fds()),
        Opened::Inside { shell, home, terminal, files, jail, keep, lends } => {
            // A machine that gives no random numbers has no display.
            let cookie = lends.x11.then(random::bytes).and_then(Result::ok);
            let agent = lends.agent;
            (Reply::Inside { shell, home, terminal, files, jail, keep, agent, cookie }, Vec::new())
        }
        Opened::Stored { files, home } => (Reply::Stored { home }, vec![files]),
    }
}
