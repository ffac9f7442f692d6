//! What a connection's process says, heard to its end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use tokio::sync::Notify;

use super::{Child, END, GRACE_BEYOND, TOO_MANY, Told};
use crate::audit::{Direction, Event};
use crate::broker::house::News;
use crate::broker::open::Order;
use crate::broker::{GRACE, Grant, drain, lends, lock};
use crate::greeting;
use crate::watched::receive;
use crate::wire::{self, Asked, Breach, Reply, Request, UNANSWERED};

impl Child {
    /// Answers until the process closes the link, is not to live any longer, or asks for what it may not.
    pub(super) async fn listen(self: &Arc<Self>, grant: &mut Option<Grant>, end: &Notify) -> Told {
        let late = tokio::time::sleep(GRACE + GRACE_BEYOND);
        tokio::pin!(late);
        let mut packet = Vec::new();
        let (mut news, mut has_to_go) = (self.broker.house.news(), false);
        loop {
            let why = tokio::select! {
                () = self.broker.drain.over(), if !has_to_go => Some(drain::NOTICE.to_owned()),
                Ok(news) = news.recv(), if !has_to_go => match self.learn(news, grant.as_ref()).await {
                    Some(why) => Some(why),
                    None => continue,
                },
                received = receive(&self.link, &mut packet) => match received {
                    Ok(_) => None,
                    // Of a packet, or descriptors, that no session sends.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                        return Told::Breach(Breach::Length);
                    }
                    Err(_) => return Told::Gone,
                },
                () = &mut late, if grant.is_none() || has_to_go => return Told::Ended,
                () = end.notified(), if grant.is_none() => return Told::Ended,
            };
            if let Some(message) = why {
                if grant.is_none() {
                    return Told::Ended;
                }
                has_to_go = true;
                late.as_mut().reset(tokio::time::Instant::now() + END);
                self.say(UNANSWERED, Reply::Ending { message }, Vec::new()).await;
                continue;
            }
            let Some((asked, raw)) = wire::decode::<Asked>(&packet) else {
                return Told::Breach(Breach::Length);
            };
            // It has no answer, so the next gateway is asked.
            let is_start =
                matches!(asked.request, Request::Open { .. } | Request::Helper { .. } | Request::Shell(_));
            // Held until it is begun: whoever waits for the last one sees it.
            let _begun = is_start.then(|| self.broker.starting.token());
            if is_start && self.broker.starting.is_closed() {
                continue;
            }
            match self.passes(&asked, raw.len()).await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(breach) => return Told::Breach(breach),
            }
            if !asked.request.is_proof() {
                self.answer(asked, raw.to_vec(), grant);
                continue;
            }
            let judged =
                self.entrance.answer(&self.broker.judge, asked.request, raw.to_vec(), self.peer.ip());
            // Whoever loses its place loses it now, not when there is an answer.
            let (reply, admitted) = tokio::select! {
                judged = judged => judged,
                () = &mut late => return Told::Ended,
                () = end.notified() => return Told::Ended,
            };
            // Who is in is no longer waited for by a gateway that ends; that the client is told so is.
            let _told = self.broker.starting.token();
            let listener = admitted.as_ref().and_then(|admitted| self.enter(admitted));
            let reply = self.greeted(reply, admitted.as_ref());
            *grant = admitted;
            self.say(asked.id, reply, listener.into_iter().collect()).await;
        }
    }

    /// Whether a question is to be answered.
    async fn passes(&self, asked: &Asked, raw_bytes: usize) -> Result<bool, Breach> {
        let comes_to = lock(&self.ledger).comes_to(&asked.request);
        match comes_to {
            wire::Outcome::Answer => lock(&self.ledger).note(&asked.request, raw_bytes).map(|()| true),
            wire::Outcome::Nothing => Ok(false),
            wire::Outcome::TooMany => {
                let message = "too many programs run on this connection".to_owned();
                self.say(asked.id, Reply::Refused { status: TOO_MANY, message }, Vec::new()).await;
                Ok(false)
            }
        }
    }

    /// Tells those at a terminal what is new where they are; why the connection has to end, if it has to.
    async fn learn(&self, news: News, grant: Option<&Grant>) -> Option<String> {
        if !grant.is_some_and(|grant| news.is_for(grant)) {
            return None;
        }
        if news.is_end {
            return Some(news.text);
        }
        self.say(UNANSWERED, Reply::Progress { text: news.text }, Vec::new()).await;
        None
    }

    /// A verdict, with what is to be told to whoever is in.
    fn greeted(&self, mut reply: Reply, admitted: Option<&Grant>) -> Reply {
        if let (Some(admitted), Reply::Verdict { welcome, lends, .. }) = (admitted, &mut reply) {
            *lends = lends::of(admitted, |action| self.broker.judge.decide(admitted, action).allowed);
            if self.broker.options.options.welcome && admitted.errand.is_none() {
                *welcome = greeting::welcome(&self.broker.options.welcome, &admitted.place());
            }
        }
        reply
    }

    /// Answers what somebody who is in asks.
    fn answer(self: &Arc<Self>, asked: Asked, raw: Vec<u8>, grant: &mut Option<Grant>) {
        let id = asked.id;
        match asked.request {
            Request::Offer { .. }
            | Request::Proven { .. }
            | Request::Certificate { .. }
            | Request::Password { .. }
            | Request::Code { .. }
            | Request::Strange { .. } => {}
            Request::Resume { running } => *lock(&self.running) = running.into_iter().collect(),
            Request::Open { channel, what, terminal, environment, inside, first, can_record, lends } => {
                let Some(grant) = grant.clone() else { return };
                let options = &self.broker.options.options;
                let order = Order {
                    what,
                    command: raw,
                    terminal,
                    environment,
                    inside,
                    first,
                    shell: options.shell,
                    jails: options.chroot_sftp,
                    connection: self.connection.clone(),
                    session: self.session.clone(),
                    original: None,
                    keep: None,
                    can_record,
                    lends,
                };
                let child = Arc::clone(self);
                self.broker.starting.spawn(async move { child.open(id, channel, &grant, order).await });
            }
            Request::Helper { place, beside, jail } => {
                let Some(grant) = grant.clone() else { return };
                let child = Arc::clone(self);
                self.broker.starting.spawn(async move { child.help(id, &grant, place, beside, jail).await });
            }
            Request::Transferred { .. } | Request::Recorded { .. } | Request::Lost { .. } => {
                if let Some(grant) = grant {
                    self.noted(&asked.request, grant);
                }
            }
            Request::Forwarding(forwarding) => lock(&self.sums).begin(forwarding, Instant::now()),
            Request::Shell(asked) => self.shell_asked(id, asked, raw, grant.clone()),
            Request::Forwarded(forwarded) => {
                let Some(grant) = grant else { return };
                self.carried(forwarded.bytes_in, forwarded.bytes_out);
                self.forwarded(grant, forwarded);
            }
            Request::Closed { channel, status, bytes_in, bytes_out } => {
                if let Some(grant) = grant {
                    lock(&self.running).remove(&channel);
                    self.carried(bytes_in, bytes_out);
                    self.note(&Event::Ended { grant, channel, status, bytes_in, bytes_out });
                }
            }
        }
    }

    fn carried(&self, bytes_in: u64, bytes_out: u64) {
        self.broker.count.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.broker.count.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// Notes what it tells of and does not ask.
    fn noted(&self, told: &Request, grant: &Grant) {
        match told {
            Request::Transferred { channel, path, reads, writes, bytes_in, bytes_out, millis, end } => {
                self.note(&Event::File {
                    grant,
                    channel: *channel,
                    path,
                    direction: Direction::of(*reads, *writes),
                    bytes_in: *bytes_in,
                    bytes_out: *bytes_out,
                    millis: *millis,
                    result: *end,
                });
            }
            Request::Recorded { channel, bytes, end } => {
                self.note(&Event::Recorded { grant, channel: *channel, bytes: *bytes, end: *end });
            }
            Request::Lost { lines } => self.note(&Event::Lost { lines: *lines }),
            _ => {}
        }
    }
}
