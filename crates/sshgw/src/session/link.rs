//! Questions to the broker and their answers, over a socket of packets.
//!
//! A question outlives the broker it was put to. Once somebody has logged in, the session has a listener: the next
//! broker connects to it, is told what runs, and gets the questions that have no answer yet.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portway_sys::seqpacket::Channel;
use serde::Serialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::teller::Teller;
use crate::recording::Terms;
use crate::watched::{receive, send, watched, watched_channel};
use crate::wire::{
    self, Answered, Asked, ForwardWay, Forwarded, Forwarding, PROGRAMS, Reply, Request, ShellReply,
    UNANSWERED,
};

/// How long a question waits for an answer, and with it for another broker.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is kept for a broker to come.
const UNTOLD: usize = 2 * PROGRAMS;

/// Lines about what is being done that wait for their client; each is newer than the one before.
const TOLD: usize = 8;

/// What everybody is told, as many, waits for each.
const NOTICES: usize = 4;

/// An answer and what came with it.
pub(super) type Answer = (Reply, Vec<OwnedFd>);

/// The broker has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway does not answer")]
pub(super) struct Lost;

/// The way to the broker.
#[derive(Debug)]
pub(super) struct Link {
    state: Mutex<State>,
    /// Uid of the first broker, and of every other.
    owner: u32,
    /// What its client is told when the connection has to end.
    ending: watch::Sender<Option<String>>,
    /// What everybody at a terminal is told.
    notices: broadcast::Sender<String>,
}

#[derive(Debug, Default)]
struct State {
    /// `None`: there is no broker.
    channel: Option<Arc<AsyncFd<Channel>>>,
    /// Where the next one comes in.
    listener: Option<Arc<AsyncFd<OwnedFd>>>,
    next: u64,
    waiting: BTreeMap<u64, Question>,
    /// Channels whose programs run, as far as a broker was told.
    running: BTreeSet<u32>,
    /// Those that are to be recorded, until somebody does it.
    recordings: BTreeMap<u32, (Terms, OwnedFd)>,
    /// What was to be told while there was no broker.
    untold: Vec<Request>,
    /// What had no room there.
    lost: u64,
    /// Forwards that have begun and not ended.
    forwarding: BTreeMap<u64, Forwarding>,
    /// There will be no other.
    is_lost: bool,
}

#[derive(Debug)]
struct Question {
    packet: Arc<[u8]>,
    answer: oneshot::Sender<Answer>,
    /// What is being done meanwhile.
    progress: mpsc::Sender<String>,
    /// Channel of a program that is asked for.
    opens: Option<u32>,
    /// It may run: nobody else is to be asked for it.
    is_starting: bool,
}

impl State {
    /// Keeps something for the next broker, if that leaves room for the ends of all programs; else it is told how much was
    /// not kept.
    fn keep(&mut self, request: Request) {
        match request {
            // Those that are open are told of anyhow.
            Request::Forwarding(_) => {}
            request if self.untold.len() < UNTOLD - PROGRAMS => self.untold.push(request),
            _ => self.lost += 1,
        }
    }

    /// What the next broker is told next, of what it does not know; `None`: it knows everything.
    fn untold(&mut self, known: &mut BTreeSet<u64>) -> Option<Request> {
        if let Some(forwarding) = self.forwarding.values().find(|one| !known.contains(&one.number)) {
            known.insert(forwarding.number);
            return Some(Request::Forwarding(forwarding.clone()));
        }
        if !self.untold.is_empty() {
            return Some(self.untold.remove(0));
        }
        let lines = std::mem::take(&mut self.lost);
        (lines > 0).then_some(Request::Lost { lines })
    }

    /// It has not been told that.
    fn not_told(&mut self, request: Request) {
        match request {
            Request::Forwarding(_) => {}
            Request::Lost { lines } => self.lost += lines,
            request => self.untold.insert(0, request),
        }
    }
}

impl Link {
    /// Needs a runtime.
    pub(super) fn new(channel: Channel) -> io::Result<Self> {
        let owner = channel.peer_uid()?;
        let state = State { channel: Some(Arc::new(watched_channel(channel)?)), ..State::default() };
        let (ending, notices) = (watch::Sender::new(None), broadcast::Sender::new(NOTICES));
        Ok(Self { state: Mutex::new(state), owner, ending, notices })
    }

    /// What everybody at a terminal is told from here on.
    pub(super) fn notices(&self) -> broadcast::Receiver<String> {
        self.notices.subscribe()
    }

    /// Waits until the connection has to end; what its client is told.
    pub(super) async fn ending(&self) -> String {
        let mut ending = self.ending.subscribe();
        // The sender is in here.
        let told = ending.wait_for(Option::is_some).await;
        told.ok().and_then(|told| told.clone()).unwrap_or_default()
    }

    /// From here on another broker may follow the first.
    fn await_next(&self, listener: OwnedFd) {
        match watched(listener) {
            Ok(listener) => self.state().listener = Some(Arc::new(listener)),
            Err(error) => tracing::warn!(%error, "the session will not outlive the gateway"),
        }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn ask(&self, request: Request, raw: &[u8]) -> Result<Answer, Lost> {
        self.ask_telling(request, raw, None).await
    }

    /// The same, with what is being done until there is one.
    pub(super) async fn ask_telling(
        &self,
        request: Request,
        raw: &[u8],
        mut teller: Option<&mut Teller<'_>>,
    ) -> Result<Answer, Lost> {
        let opens = match request {
            Request::Open { channel, .. } => Some(channel),
            _ => None,
        };
        let (answer, mut answered) = oneshot::channel();
        let (progress, mut told) = mpsc::channel(TOLD);
        let (id, packet, channel) = {
            let mut state = self.state();
            if state.is_lost {
                return Err(Lost);
            }
            let id = state.next;
            state.next += 1;
            let packet: Arc<[u8]> = packet(&Asked { id, request }, raw).map_err(|_| Lost)?.into();
            let question =
                Question { packet: Arc::clone(&packet), answer, progress, opens, is_starting: false };
            state.waiting.insert(id, question);
            (id, packet, state.channel.clone())
        };
        if let Some(channel) = channel {
            match send(&channel, &packet, &[]).await {
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.state().waiting.remove(&id);
                    return Err(Lost);
                }
                // One that takes nothing has gone: the next one is asked.
                Ok(()) | Err(_) => {}
            }
        }
        let mut until = Instant::now() + PATIENCE;
        let answered = loop {
            tokio::select! {
                biased;
                Some(text) = told.recv() => {
                    until = Instant::now() + PATIENCE;
                    if let Some(teller) = &mut teller {
                        teller.tell(&text).await;
                    }
                }
                answer = &mut answered => break answer.ok(),
                () = tokio::time::sleep_until(until) => break None,
            }
        };
        self.state().waiting.remove(&id);
        answered.ok_or(Lost)
    }

    /// What a program that was opened on this channel is to be recorded with, if it is.
    pub(super) fn recording(&self, channel: u32) -> Option<(Terms, OwnedFd)> {
        self.state().recordings.remove(&channel)
    }

    /// A program has ended. The next broker is told, when there is none.
    pub(super) async fn closed(&self, channel: u32, request: Request) {
        let broker = {
            let mut state = self.state();
            if state.channel.is_none() && state.untold.len() < UNTOLD {
                state.untold.push(request);
                return;
            }
            state.running.remove(&channel);
            state.channel.clone()
        };
        let packet = packet(&Asked { id: UNANSWERED, request: request.clone() }, &[]);
        if let (Some(broker), Ok(packet)) = (broker, packet)
            && let Err(error) = send(&broker, &packet, &[]).await
        {
            tracing::debug!(%error, "the gateway was not told, the next one will be");
            let mut state = self.state();
            if state.untold.len() < UNTOLD {
                state.running.insert(channel);
                state.untold.push(request);
            }
        }
    }

    /// Tells that a forward has begun; its number, for its end.
    pub(super) async fn begin_forward(&self, way: ForwardWay, target: &str, peer: &str) -> u64 {
        let forwarding = {
            let mut state = self.state();
            let number = state.next;
            state.next += 1;
            let forwarding = Forwarding { number, way, target: target.to_owned(), peer: peer.to_owned() };
            state.forwarding.insert(number, forwarding.clone());
            // The next broker is told with all others.
            if state.channel.is_none() {
                return number;
            }
            forwarding
        };
        let number = forwarding.number;
        self.tell(Request::Forwarding(forwarding)).await;
        number
    }

    /// Tells of something beside the life of a program. Of what does not fit while there is no broker the next one is told how
    /// much it was.
    pub(super) async fn tell(&self, request: Request) {
        let broker = {
            let mut state = self.state();
            if let Request::Forwarded(Forwarded { number: Some(number), .. }) = &request {
                state.forwarding.remove(number);
            }
            match state.channel.clone() {
                Some(broker) => broker,
                None => return state.keep(request),
            }
        };
        let Ok(packet) = packet(&Asked { id: UNANSWERED, request: request.clone() }, &[]) else { return };
        if send(&broker, &packet, &[]).await.is_err() {
            self.state().keep(request);
        }
    }

    /// Hands answers to whoever waits for them, from one broker after the other, until there will be no more.
    pub(super) async fn read(&self) {
        loop {
            let channel = self.state().channel.clone();
            if let Some(channel) = channel {
                self.read_from(&channel).await;
            }
            let listener = {
                let mut state = self.state();
                state.channel = None;
                // What a program has done until it lost its streams is done: it is not to be done twice.
                state.waiting.retain(|_, question| !question.is_starting);
                state.listener.clone()
            };
            let next = match listener {
                Some(listener) => self.next(&listener).await,
                None => None,
            };
            let Some(next) = next else { break };
            self.resume(&next).await;
        }
        let mut state = self.state();
        state.is_lost = true;
        state.waiting.clear();
    }

    async fn read_from(&self, channel: &AsyncFd<Channel>) {
        let mut packet = Vec::new();
        while let Ok(mut fds) = receive(channel, &mut packet).await {
            // Only this program writes them; one that cannot be read is of another version.
            let Some((Answered { id, reply, recording }, _)) = wire::decode(&packet) else { break };
            // With the verdict on a proof comes where the next broker will knock. The one that says it may end at once: whoever
            // has asked is not waited for.
            if matches!(reply, Reply::Verdict { accepted: true, .. })
                && let Some(listener) = fds.pop()
            {
                self.await_next(listener);
            }
            let mut state = self.state();
            if reply == Reply::Starting {
                if let Some(question) = state.waiting.get_mut(&id) {
                    question.is_starting = true;
                }
                continue;
            }
            if let Reply::Ending { message } = reply {
                self.ending.send_replace(Some(message));
                continue;
            }
            if let Reply::Progress { text } = reply {
                // Whoever reads slowly misses one.
                if id == UNANSWERED {
                    let _missed = self.notices.send(text);
                } else if let Some(question) = state.waiting.get(&id) {
                    let _missed = question.progress.try_send(text);
                }
                continue;
            }
            let Some(question) = state.waiting.remove(&id) else { continue };
            if let (
                Some(channel),
                Reply::Opened
                | Reply::Inside { .. }
                | Reply::Stored { .. }
                | Reply::Shell(ShellReply::Dialogue { .. }),
            ) = (question.opens, &reply)
            {
                state.running.insert(channel);
                if let (Some(terms), Some(file)) = (recording, recording.and_then(|_| fds.pop())) {
                    state.recordings.insert(channel, (terms, file));
                }
            }
            drop(state);
            let _unwanted = question.answer.send((reply, fds));
        }
    }

    /// The next broker; nobody else is let in.
    async fn next(&self, listener: &AsyncFd<OwnedFd>) -> Option<Arc<AsyncFd<Channel>>> {
        loop {
            let mut guard = listener.readable().await.ok()?;
            let Ok(accepted) = guard.try_io(|listener| Channel::accept(listener.get_ref().as_fd())) else {
                continue;
            };
            match accepted {
                Ok(channel) if channel.peer_uid().ok() == Some(self.owner) => {
                    return watched_channel(channel).ok().map(Arc::new);
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        }
    }

    /// Tells a new broker what runs and what has ended meanwhile, and asks it what has no answer. Nobody else speaks to
    /// it before it has been told: a question that came first would be one out of its phase.
    async fn resume(&self, channel: &Arc<AsyncFd<Channel>>) {
        let running = self.state().running.iter().copied().collect();
        if !tell(channel, Request::Resume { running }).await {
            return;
        }
        let mut known = BTreeSet::new();
        let asked: Vec<_> = loop {
            let request = {
                let mut state = self.state();
                match state.untold(&mut known) {
                    Some(request) => request,
                    None => {
                        state.channel = Some(Arc::clone(channel));
                        break state.waiting.values().map(|question| Arc::clone(&question.packet)).collect();
                    }
                }
            };
            if !tell(channel, request.clone()).await {
                // It has gone again: the next one will be told what this one was not.
                self.state().not_told(request);
                return;
            }
            if let Request::Closed { channel, .. } = request {
                self.state().running.remove(&channel);
            }
        };
        for packet in asked {
            match send(channel, &packet, &[]).await {
                Err(error) if error.kind() != io::ErrorKind::InvalidInput => return,
                Ok(()) | Err(_) => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells a broker something that has no answer. False: it has gone.
async fn tell(broker: &AsyncFd<Channel>, request: Request) -> bool {
    let Ok(packet) = packet(&Asked { id: UNANSWERED, request }, &[]) else { return true };
    match send(broker, &packet, &[]).await {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::InvalidInput,
    }
}

fn packet(asked: &impl Serialize, raw: &[u8]) -> io::Result<Vec<u8>> {
    Ok(wire::encode(asked, raw)?)
}

#[cfg(test)]
mod tests;
