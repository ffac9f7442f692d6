//! A relay worker as the daemon sees it: started or adopted, told what to serve, watched.
//!
//! One task per worker reads its channel and waits for its end; answers to requests go to whoever
//! waits for them, everything else to the instance's actor. What a worker says is not trusted: its
//! pid comes from our own file, its counters are only ever shown.

mod heart;
mod link;
mod listing;
mod record;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portway_model::InstanceKey;
use portway_relay::wire::{
    BEAT, FromWorker, Init, Known, Lifetime, MAX_FDS, PROTOCOL_VERSION, SLOT_COUNT, Slot, ToWorker,
    WireDevice, field,
};
use portway_sys::process;
use portway_sys::seqpacket::Channel;
use portway_sys::shm::{CountersView, FIELD_COUNT};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;
use tracing::{debug, warn};

use self::link::{ADOPT_TIMEOUT, Link, checked, handshake};
pub(crate) use self::listing::Asker;
use self::listing::{Desk, Part};
use self::record::{Recorded, forget, kill, note_draining, record, recorded};
pub(crate) use self::record::{bury, end, instance_of, names};
use crate::access::AccessLog;
use crate::keeper::{receive_packet, send_packet};
use crate::state::with_sources;
use crate::tally::{self, Hit};
use crate::watched::watched;

/// Clients that one worker may hand back, all told: it does so once, when its instance ends.
const ORPHANED_MAX: usize = 8192;

/// Longest wait for a worker to start or to answer. A worker that does not answer hangs and is replaced.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest failure text taken from a worker. Ours are one line.
const TEXT_MAX_CHARS: usize = 300;

/// What can fail with a worker.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// The process cannot be started.
    #[error("cannot start a relay worker")]
    Start(#[source] std::io::Error),
    /// It ended before it served, or the channel broke.
    #[error("the relay worker ended while {0}")]
    Ended(&'static str),
    /// It did not answer in time.
    #[error("the relay worker did not answer in time while {0}")]
    Silent(&'static str),
    /// It speaks another protocol version.
    #[error("the relay worker speaks protocol version {0}, not {PROTOCOL_VERSION}")]
    Version(u32),
    /// It refused a request.
    #[error("{0}")]
    Refused(String),
    /// It is full.
    #[error("the relay worker holds {SLOT_COUNT} devices already")]
    Full,
}

/// News of a worker for the instance's actor.
#[derive(Debug)]
pub(crate) struct News {
    /// Worker's name.
    pub(crate) worker: String,
    /// What happened.
    pub(crate) what: Happened,
}

/// What happened to a worker.
#[derive(Debug)]
pub(crate) enum Happened {
    /// It said something that is no answer.
    Said(FromWorker, Vec<OwnedFd>),
    /// Its process is gone, or its channel.
    Ended,
}

/// Where news go.
#[derive(Clone)]
pub(crate) struct Sink {
    /// To the instance's actor.
    pub(crate) news: tokio::sync::mpsc::Sender<News>,
    /// Records of what is over.
    pub(crate) access: Arc<AccessLog>,
    /// Whose worker it is.
    pub(crate) instance: InstanceKey,
}

type Pending = Arc<Mutex<HashMap<u64, oneshot::Sender<Option<String>>>>>;

/// A worker that serves.
pub(crate) struct Worker {
    name: String,
    pid: i32,
    dir: PathBuf,
    channel: Arc<AsyncFd<Channel>>,
    pidfd: Arc<OwnedFd>,
    pending: Pending,
    counters: CountersView,
    desk: Arc<Desk>,
    next_seq: u64,
    /// It makes records of what is over, for this daemon.
    is_recording: bool,
    reader: tokio::task::AbortHandle,
}

/// A device found in an adopted worker.
#[derive(Debug)]
pub(crate) struct Found {
    /// Its slot.
    pub(crate) slot: Slot,
    /// The device as the worker has it.
    pub(crate) device: Box<WireDevice>,
    /// Its listeners, by listen index.
    pub(crate) listeners: Vec<OwnedFd>,
    /// How many there should be.
    pub(crate) listen_count: u32,
}

/// An adopted worker.
pub(crate) struct Adopted {
    /// Handle of it.
    pub(crate) worker: Worker,
    /// What it was started as, by our own record.
    pub(crate) identity: portway_relay::wire::Identity,
    /// Its table.
    pub(crate) devices: Vec<Found>,
    /// It was told to finish: it takes no more clients.
    pub(crate) draining: bool,
}

impl Worker {
    /// Starts a worker and waits until it is sandboxed. `descriptors` go with `init`.
    ///
    /// # Errors
    /// Any [`WorkerError`]; nothing is left behind.
    pub(crate) async fn start(
        dir: &Path,
        init: Init,
        descriptors: Vec<OwnedFd>,
        sink: Sink,
    ) -> Result<Worker, WorkerError> {
        let name = init.identity.name.clone();
        let (ours, theirs) = Channel::pair().map_err(WorkerError::Start)?;
        let adoption = adoption_listener(dir, &name, init.lifetime).map_err(WorkerError::Start)?;
        let started = process::spawn_role(&["worker"], vec![theirs.into(), adoption], Vec::new());
        let child = started.map_err(|failure| {
            forget(dir, &name);
            WorkerError::Start(failure)
        })?;
        let (pid, process) = (child.pid, child.pidfd.try_clone());
        let begun = match init.lifetime {
            // Before it is told anything: from then on it goes on without a daemon, and the next one
            // must know it. Until then it ends with this one.
            Lifetime::Detached => record(dir, pid, &init.identity).map_err(WorkerError::Start),
            Lifetime::WithDaemon => Ok(()),
        };
        let shaken = match begun {
            Ok(()) => handshake(ours, child, &init, &descriptors).await,
            Err(failure) => Err(failure),
        };
        match shaken {
            Ok((link, counters)) => Ok(link.into_worker(dir, name, counters, (init.lifetime, sink))),
            Err(failure) => {
                if let Ok(process) = process {
                    kill(process.as_fd());
                    bury(pid, Some(process));
                }
                forget(dir, &name);
                Err(failure)
            }
        }
    }

    /// Adopts the worker `name` of an earlier daemon. `None` when it is gone; its files are then removed.
    ///
    /// # Errors
    /// [`WorkerError`] when it lives and cannot be adopted.
    pub(crate) async fn adopt(dir: &Path, name: &str, sink: Sink) -> Result<Option<Adopted>, WorkerError> {
        let Some(Recorded { pid, pidfd, identity, draining }) = recorded(dir, name) else {
            forget(dir, name);
            return Ok(None);
        };
        let channel = Channel::connect(&dir.join(format!("{name}.sock"))).map_err(WorkerError::Start)?;
        let link = Link::new(channel, pid, pidfd).map_err(WorkerError::Start)?;
        link.send(&ToWorker::Hello { version: PROTOCOL_VERSION }, &[]).await?;
        let counters = link.ready(ADOPT_TIMEOUT).await?;
        let devices = link.table().await?;
        let worker = link.into_worker(dir, name.to_owned(), counters, (Lifetime::Detached, sink));
        Ok(Some(Adopted { worker, identity, devices, draining }))
    }

    /// Name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Pid, from our own record.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Counter line of a slot, which goes on with that of the next slot in the same place. Numbers of a process that
    /// may lie: for display only.
    pub(crate) fn counters(&self, slot: Slot) -> [u64; FIELD_COUNT] {
        self.counters.read(usize::try_from(slot.index).unwrap_or(usize::MAX))
    }

    /// Has the worker make records of what is over, or no more.
    pub(crate) async fn want_access(&mut self, on: bool) {
        match send(&self.channel, &ToWorker::Access { on }, &[]).await {
            Ok(()) => self.is_recording = on,
            Err(failure) => debug!(worker = self.name, error = %failure, "worker not told of the access log"),
        }
    }

    /// Connections in `slot` of a worker that has ended, of which there will be no record.
    pub(crate) fn unrecorded(&self, slot: Slot) -> u64 {
        let line = self.counters(slot);
        if self.is_recording { line[field::OPENED].saturating_sub(line[field::SETTLED]) } else { 0 }
    }

    /// By which it is asked for its connections.
    pub(crate) fn asker(&self) -> Asker {
        Asker { channel: Arc::clone(&self.channel), desk: Arc::clone(&self.desk) }
    }

    /// Gives the worker a device; returns when it accepts clients.
    ///
    /// # Errors
    /// [`WorkerError`]; after `Silent` or `Ended` the worker has to be replaced.
    pub(crate) async fn put(&mut self, put: Put<'_>) -> Result<(), WorkerError> {
        let (seq, answer) = self.request();
        let message = ToWorker::Put {
            seq,
            slot: put.slot,
            device: Box::new(put.device),
            listen_count: put.listen_count,
            keep_listeners: put.listeners.is_none(),
            hold: put.hold,
        };
        let bases: Vec<BorrowedFd<'_>> = put.bases.iter().map(AsFd::as_fd).collect();
        send(&self.channel, &message, &bases).await?;
        for (chunk, part) in put.listeners.unwrap_or_default().chunks(MAX_FDS).enumerate() {
            let first = u32::try_from(chunk * MAX_FDS).unwrap_or(u32::MAX);
            send(&self.channel, &ToWorker::Listeners { slot: put.slot, first }, part).await?;
        }
        wait(answer, "taking a device").await
    }

    /// Takes a device out; its listeners are closed there when this returns.
    ///
    /// # Errors
    /// As [`Worker::put`].
    pub(crate) async fn take(&mut self, slot: Slot, drain: bool) -> Result<(), WorkerError> {
        let (seq, answer) = self.request();
        send(&self.channel, &ToWorker::Remove { seq, slot, drain }, &[]).await?;
        wait(answer, "giving back a device").await
    }

    /// Hands over clients that are still without an upstream, at most [`MAX_FDS`].
    ///
    /// # Errors
    /// As [`Worker::put`].
    pub(crate) async fn clients(
        &self,
        slot: Slot,
        index: u32,
        clients: &[BorrowedFd<'_>],
    ) -> Result<(), WorkerError> {
        send(&self.channel, &ToWorker::Client { slot, index, known: Known::default() }, clients).await
    }

    /// Tells the worker to stop accepting, to finish its connections and to end within `grace`.
    pub(crate) async fn drain(&self, grace: Duration) {
        // A later daemon must not take it for one that serves.
        note_draining(&self.dir, &self.name);
        if let Err(failure) = send(&self.channel, &ToWorker::Drain { grace }, &[]).await {
            debug!(worker = self.name, error = %failure, "worker not drained");
        }
    }

    /// Resolves when the process is dead.
    pub(crate) async fn ended(&self) {
        // Registered anew: the reader has its own registration of the same descriptor's copy.
        let Ok(copy) = self.pidfd.try_clone() else { return };
        if let Ok(process) = watched(copy) {
            let _ = process.readable().await;
        }
    }

    /// Ends the worker at once and removes its files.
    pub(crate) fn kill(self) {
        self.reader.abort();
        kill(self.pidfd.as_fd());
        bury(self.pid, self.pidfd.try_clone().ok());
        forget(&self.dir, &self.name);
    }

    /// Lets go of a worker that goes on by itself (it drains, or the daemon ends).
    pub(crate) fn release(self) {
        self.reader.abort();
    }

    fn request(&mut self) -> (u64, oneshot::Receiver<Option<String>>) {
        self.next_seq += 1;
        let (reply, answer) = oneshot::channel();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(self.next_seq, reply);
        (self.next_seq, answer)
    }
}

/// A device for a worker.
pub(crate) struct Put<'a> {
    /// Its slot.
    pub(crate) slot: Slot,
    /// The device.
    pub(crate) device: WireDevice,
    /// Upstream base, for a path unix socket; then where clients' paths are resolved, for unix datagrams.
    pub(crate) bases: Vec<OwnedFd>,
    /// How many listeners it has.
    pub(crate) listen_count: u32,
    /// They; `None` keeps those the worker has.
    pub(crate) listeners: Option<&'a [BorrowedFd<'a>]>,
    /// Rest of the hold the device is in.
    pub(crate) hold: Option<Duration>,
}

/// The listener a later daemon connects to. A worker that ends with this process gets one that
/// nobody can find, so that nothing is left behind however this process ends.
fn adoption_listener(dir: &Path, name: &str, lifetime: Lifetime) -> std::io::Result<OwnedFd> {
    if lifetime == Lifetime::Detached {
        return Channel::listen(&dir.join(format!("{name}.sock")));
    }
    let private = dir.join(format!("portway-{name}"));
    std::fs::DirBuilder::new().mode(0o700).create(&private)?;
    let listener = Channel::listen(&private.join("sock"));
    std::fs::remove_dir_all(&private)?;
    listener
}

async fn wait(answer: oneshot::Receiver<Option<String>>, doing: &'static str) -> Result<(), WorkerError> {
    match timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(None)) => Ok(()),
        Ok(Ok(Some(reason))) => Err(WorkerError::Refused(reason)),
        Ok(Err(_)) => Err(WorkerError::Ended(doing)),
        Err(_) => Err(WorkerError::Silent(doing)),
    }
}

async fn send(
    channel: &AsyncFd<Channel>,
    message: &ToWorker,
    descriptors: &[BorrowedFd<'_>],
) -> Result<(), WorkerError> {
    let packet = serde_json::to_vec(message).map_err(|problem| WorkerError::Refused(problem.to_string()))?;
    send_packet(channel, &packet, descriptors, ANSWER_TIMEOUT).await.map_err(|failure| match failure.kind() {
        std::io::ErrorKind::TimedOut => WorkerError::Silent("taking a message"),
        _ => WorkerError::Ended("taking a message"),
    })
}

/// Attends to a worker until its channel ends or it hangs. One that ends with the daemon is a foreground command's, which
/// is seen to hang by who has started it.
async fn attend(
    worker: String,
    channel: Arc<AsyncFd<Channel>>,
    answers: (Pending, Arc<Desk>),
    (lifetime, sink): (Lifetime, Sink),
) {
    let heard = Notify::new();
    let stops = async {
        match lifetime {
            Lifetime::Detached => heart::stops(&channel, &heard).await,
            Lifetime::WithDaemon => std::future::pending().await,
        }
    };
    tokio::select! {
        () = read(&worker, &channel, &answers, &sink, &heard) => {}
        () = stops => warn!(worker, "worker gives no sign of life, it is replaced"),
    }
    let (pending, desk) = answers;
    pending.lock().unwrap_or_else(PoisonError::into_inner).clear();
    desk.close();
    // The actor is gone when the daemon ends.
    let _ = sink.news.send(News { worker, what: Happened::Ended }).await;
}

/// Reads a worker's channel until it ends. A dead worker's end of the channel is closed by the
/// kernel, so the end of the channel is the end of the worker.
async fn read(
    worker: &str,
    channel: &AsyncFd<Channel>,
    (pending, desk): &(Pending, Arc<Desk>),
    sink: &Sink,
    heard: &Notify,
) {
    let mut packet = Vec::new();
    let mut orphaned = 0;
    loop {
        let received = receive_packet(channel, &mut packet).await.map_err(WorkerError::Start);
        let descriptors = match received.and_then(|some| some.map(checked).transpose()) {
            Ok(Some(descriptors)) => descriptors,
            Ok(None) => break,
            Err(failure) => {
                warn!(worker, error = %with_sources(&failure), "worker channel broken");
                break;
            }
        };
        if packet == BEAT {
            heard.notify_one();
            continue;
        }
        match serde_json::from_slice(&packet).map(bounded) {
            Ok(FromWorker::Done { seq, error }) => {
                let waiting = pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&seq);
                if let Some(reply) = waiting {
                    // Whoever asked may have given up.
                    let _ = reply.send(error);
                }
            }
            Ok(FromWorker::Access { records, lost }) => {
                sink.access.take(&sink.instance, worker, records, lost);
            }
            Ok(FromWorker::Connections { seq, listed, next }) => desk.answered(seq, Part { listed, next }),
            Ok(message) => {
                // Many messages may wait for the actor: only those that need a descriptor keep theirs.
                let descriptors = match &message {
                    FromWorker::Orphan { .. } if orphaned + descriptors.len() <= ORPHANED_MAX => {
                        orphaned += descriptors.len();
                        descriptors
                    }
                    FromWorker::Orphan { .. } => {
                        tally::hit(Hit::OrphanDescriptors);
                        Vec::new()
                    }
                    _ => Vec::new(),
                };
                // Never waits: the actor may be waiting for an answer behind this message.
                let news = News { worker: worker.to_owned(), what: Happened::Said(message, descriptors) };
                if sink.news.try_send(news).is_err() {
                    tally::hit(Hit::WorkerNews);
                    debug!(worker, "news of a worker dropped, its instance is busy");
                }
            }
            // It is not ours any more: the end of its channel is its own end.
            Err(problem) => {
                warn!(worker, error = %problem, "unreadable message of a worker");
                break;
            }
        }
    }
}

/// Cuts what is text for people: many messages may wait for the actor.
fn bounded(message: FromWorker) -> FromWorker {
    match message {
        FromWorker::Failure { slot, count, text } => {
            FromWorker::Failure { slot, count, text: text.chars().take(TEXT_MAX_CHARS).collect() }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests;
