//! The daemon's end of the keeper: starts it, keeps it supplied, asks it at the start.
//!
//! States: connected → (it dies) → started anew, and every instance is asked to supply its
//! listeners again.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use crate::tally::{self, Done};
use crate::watched::watched;
use crate::worker;
use portway_relay::wire::{FromKeeper, Ids, MAX_FDS, ToKeeper};
use portway_sys::pidfd;
use portway_sys::process::{self, Child};
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::{info, warn};

/// Listeners that wait to be sent.
const QUEUE_LENGTH: usize = 4096;

/// Longest wait for the keeper to take a message. It does nothing but store.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for one message of the list.
const LIST_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for its end once it was told.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Pause between two starts of a keeper that dies at once.
const RESTART_PAUSE: Duration = Duration::from_millis(200);

/// File name of its socket in the folder of worker sockets.
const SOCKET_NAME: &str = "keeper.sock";

/// File name of its pid and start time beside it.
const RECORD_NAME: &str = "keeper.pid";

/// Listeners by device key: the daemon's note and the descriptors by listen index.
pub(crate) type Kept = BTreeMap<String, (String, Vec<OwnedFd>)>;

/// How a keeper is started.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// Folder of worker sockets.
    pub(crate) workers_dir: PathBuf,
    /// The daemon's uid.
    pub(crate) owner_uid: u32,
    /// What the keeper becomes.
    pub(crate) ids: Option<Ids>,
}

/// Handle of the keeper. Without one (foreground) everything is a no-op.
#[derive(Clone, Default)]
pub(crate) struct Keeper {
    queue: Option<mpsc::Sender<Order>>,
    pid: Arc<AtomicI32>,
}

enum Order {
    Keep { key: String, note: String, descriptors: Vec<OwnedFd> },
    Drop { key: String },
    Settle(oneshot::Sender<()>),
    End(oneshot::Sender<()>),
}

struct Link {
    channel: AsyncFd<Channel>,
    pidfd: Option<AsyncFd<OwnedFd>>,
    pid: i32,
}

impl Keeper {
    /// Connects to the keeper that runs, or starts one, and returns what it holds. `restarted` is
    /// called whenever a new one had to be started later.
    ///
    /// # Errors
    /// When none can be started.
    pub(crate) async fn start(
        setup: Setup,
        restarted: impl Fn() + Send + 'static,
    ) -> std::io::Result<(Keeper, Kept)> {
        let (link, kept) = connect_or_start(&setup).await?;
        let (queue, orders) = mpsc::channel(QUEUE_LENGTH);
        let keeper = Keeper { queue: Some(queue), pid: Arc::new(AtomicI32::new(link.pid)) };
        let pid = Arc::clone(&keeper.pid);
        tokio::spawn(serve(setup, link, orders, pid, restarted));
        Ok((keeper, kept))
    }

    /// Its pid, when one runs.
    pub(crate) fn pid(&self) -> Option<i32> {
        Some(self.pid.load(Ordering::Relaxed)).filter(|pid| *pid > 0)
    }

    /// Has these listeners held under `key` instead of those before.
    pub(crate) async fn keep(&self, key: String, note: String, listeners: &[BorrowedFd<'_>]) {
        let Some(queue) = &self.queue else { return };
        let copies: std::io::Result<Vec<OwnedFd>> =
            listeners.iter().map(|fd| fd.try_clone_to_owned()).collect();
        match copies {
            // A closed queue means the daemon is ending.
            Ok(descriptors) => drop(queue.send(Order::Keep { key, note, descriptors }).await),
            Err(failure) => warn!(key, error = %failure, "listener not kept twice"),
        }
    }

    /// Has the listeners under `key` closed.
    pub(crate) async fn drop_key(&self, key: String) {
        if let Some(queue) = &self.queue {
            drop(queue.send(Order::Drop { key }).await);
        }
    }
}

impl Keeper {
    /// Waits until the keeper has done all it was told: what was dropped is closed there.
    pub(crate) async fn settle(&self) {
        let Some(queue) = &self.queue else { return };
        let (reply, done) = oneshot::channel();
        if queue.send(Order::Settle(reply)).await.is_ok() {
            // A keeper that died meanwhile has closed everything.
            let _ = timeout(SEND_TIMEOUT, done).await;
        }
    }

    /// Ends it for good: what it holds is closed, it is gone, and so are its files.
    pub(crate) async fn end(&self) {
        let Some(queue) = &self.queue else { return };
        let (reply, done) = oneshot::channel();
        if queue.send(Order::End(reply)).await.is_ok() {
            // Its task is gone when the runtime ends.
            let _ = done.await;
        }
    }
}

/// Tells the keeper to end, waits until it is gone, and removes its files.
async fn dismiss(setup: &Setup, link: &Link) {
    // One that cannot be told has ended, or is killed below.
    let _ = send(&link.channel, &ToKeeper::Exit, &[]).await;
    let gone = async {
        match &link.pidfd {
            Some(process) => drop(process.readable().await),
            None => ended(link).await,
        }
    };
    if timeout(END_TIMEOUT, gone).await.is_err() {
        end_recorded(&setup.workers_dir);
    }
    worker::bury(link.pid, None);
    for name in [SOCKET_NAME, RECORD_NAME] {
        // Not there is as good.
        let _ = std::fs::remove_file(setup.workers_dir.join(name));
    }
}

async fn connect_or_start(setup: &Setup) -> std::io::Result<(Link, Kept)> {
    if let Ok(link) = connect(setup) {
        match list(&link).await {
            Ok(kept) => return Ok((link, kept)),
            Err(failure) => warn!(error = %failure, "keeper does not answer, a new one is started"),
        }
    }
    Ok((start(setup)?, Kept::new()))
}

fn connect(setup: &Setup) -> std::io::Result<Link> {
    let channel = Channel::connect(&setup.workers_dir.join(SOCKET_NAME))?;
    // Without a record the end of the channel is the end of the keeper all the same.
    let process = recorded(&setup.workers_dir);
    let pid = process.as_ref().map_or(0, |(pid, _)| *pid);
    link(channel, process.map(|(_, pidfd)| pidfd), pid)
}

/// Records the keeper's process: pid and start time.
fn record(dir: &Path, pid: i32) -> std::io::Result<()> {
    let aside = dir.join("keeper.pid.new");
    std::fs::write(&aside, format!("{pid} {}\n", pidfd::start_time(pid)?))?;
    std::fs::rename(&aside, dir.join(RECORD_NAME))
}

/// The recorded keeper, if it lives.
fn recorded(dir: &Path) -> Option<(i32, OwnedFd)> {
    let text = std::fs::read_to_string(dir.join(RECORD_NAME)).ok()?;
    let (pid, start_time) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    let process = pidfd::open(pid).ok()?;
    let same = pidfd::start_time(pid).is_ok_and(|found| start_time.parse() == Ok(found));
    (same && !pidfd::exited(process.as_fd())).then_some((pid, process))
}

/// Ends a keeper that nobody could talk to any more once its socket is replaced.
fn end_recorded(dir: &Path) {
    if let Some((pid, process)) = recorded(dir) {
        warn!(pid, "keeper that does not answer is ended");
        // It may have ended meanwhile.
        let _ = pidfd::send_signal(process.as_fd(), libc::SIGKILL);
    }
}

fn start(setup: &Setup) -> std::io::Result<Link> {
    let path = setup.workers_dir.join(SOCKET_NAME);
    end_recorded(&setup.workers_dir);
    match std::fs::remove_file(&path) {
        Err(failure) if failure.kind() != std::io::ErrorKind::NotFound => return Err(failure),
        _ => {}
    }
    let listener = Channel::listen(&path)?;
    let mut arguments = vec!["keeper".to_owned(), setup.owner_uid.to_string()];
    if let Some(ids) = setup.ids {
        arguments.extend([ids.uid.to_string(), ids.gid.to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let Child { pid, pidfd } = process::spawn_role(&arguments, vec![listener], Vec::new())?;
    if let Err(failure) = record(&setup.workers_dir, pid) {
        // The next daemon would not know it: better none.
        let _ = pidfd::send_signal(pidfd.as_fd(), libc::SIGKILL);
        worker::bury(pid, Some(pidfd));
        return Err(failure);
    }
    info!(pid, "keeper started");
    link(Channel::connect(&path)?, Some(pidfd), pid)
}

fn link(channel: Channel, pidfd: Option<OwnedFd>, pid: i32) -> std::io::Result<Link> {
    channel.set_nonblocking(true)?;
    Ok(Link { channel: watched(channel)?, pidfd: pidfd.map(watched).transpose()?, pid })
}

async fn serve(
    setup: Setup,
    mut link: Link,
    mut orders: mpsc::Receiver<Order>,
    pid: Arc<AtomicI32>,
    restarted: impl Fn(),
) {
    loop {
        let lost = tokio::select! {
            order = orders.recv() => match order {
                Some(Order::End(reply)) => {
                    dismiss(&setup, &link).await;
                    pid.store(0, Ordering::Relaxed);
                    // Whoever waited may have given up.
                    let _ = reply.send(());
                    return;
                }
                Some(order) => send_order(&link.channel, order).await.is_err(),
                None => return,
            },
            () = ended(&link) => true,
        };
        if !lost {
            continue;
        }
        pid.store(0, Ordering::Relaxed);
        // Ours when it was our child; an adopted one is somebody else's to reap.
        worker::bury(link.pid, None);
        tally::count(Done::KeeperLost);
        warn!("keeper lost, a new one is started");
        link = loop {
            match start(&setup) {
                Ok(link) => break link,
                Err(failure) => warn!(error = %failure, "keeper cannot be started"),
            }
            tokio::time::sleep(RESTART_PAUSE).await;
        };
        pid.store(link.pid, Ordering::Relaxed);
        restarted();
    }
}

/// Returns when the keeper is dead or has closed the channel.
async fn ended(link: &Link) {
    let closed = async {
        loop {
            let Ok(mut guard) = link.channel.readable().await else { return };
            let mut packet = Vec::new();
            match guard.get_inner().recv(&mut packet) {
                Ok(Some(_)) => {}
                Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
                Ok(None) | Err(_) => return,
            }
        }
    };
    match &link.pidfd {
        Some(pidfd) => tokio::select! { () = closed => {}, _ = pidfd.readable() => {} },
        None => closed.await,
    }
}

async fn send_order(channel: &AsyncFd<Channel>, order: Order) -> std::io::Result<()> {
    match order {
        Order::Settle(reply) => {
            send(channel, &ToKeeper::Sync, &[]).await?;
            let mut packet = Vec::new();
            let answer = timeout(LIST_TIMEOUT, receive_packet(channel, &mut packet)).await??;
            answer.ok_or(std::io::ErrorKind::UnexpectedEof)?;
            // Whoever waited may have given up.
            let _ = reply.send(());
            Ok(())
        }
        // It ends the task that calls this.
        Order::End(_) => Ok(()),
        Order::Drop { key } => send(channel, &ToKeeper::Drop { key }, &[]).await,
        Order::Keep { key, note, descriptors } => {
            for (chunk, part) in descriptors.chunks(MAX_FDS).enumerate() {
                let first = u32::try_from(chunk * MAX_FDS).unwrap_or(u32::MAX);
                let message = ToKeeper::Keep { key: key.clone(), note: note.clone(), first };
                let part: Vec<BorrowedFd<'_>> = part.iter().map(AsFd::as_fd).collect();
                send(channel, &message, &part).await?;
            }
            Ok(())
        }
    }
}

async fn send(
    channel: &AsyncFd<Channel>,
    message: &ToKeeper,
    part: &[BorrowedFd<'_>],
) -> std::io::Result<()> {
    send_packet(channel, &serde_json::to_vec(message)?, part, SEND_TIMEOUT).await
}

/// Sends one packet, waiting at most `limit` for room.
///
/// # Errors
/// `TimedOut`, or what the kernel says.
pub(crate) async fn send_packet(
    channel: &AsyncFd<Channel>,
    packet: &[u8],
    descriptors: &[BorrowedFd<'_>],
    limit: Duration,
) -> std::io::Result<()> {
    let sending = async {
        loop {
            let mut guard = channel.writable().await?;
            match guard.get_inner().send(packet, descriptors) {
                Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
                done => return done,
            }
        }
    };
    timeout(limit, sending).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Receives one packet with its descriptors; `None` at the end of the channel.
///
/// # Errors
/// What the kernel says, also for a truncated packet.
pub(crate) async fn receive_packet(
    channel: &AsyncFd<Channel>,
    packet: &mut Vec<u8>,
) -> std::io::Result<Option<Vec<OwnedFd>>> {
    loop {
        let mut guard = channel.readable().await?;
        match guard.get_inner().recv(packet) {
            Err(failure) if failure.kind() == std::io::ErrorKind::WouldBlock => guard.clear_ready(),
            done => return done,
        }
    }
}

async fn list(link: &Link) -> std::io::Result<Kept> {
    send(&link.channel, &ToKeeper::List, &[]).await?;
    let mut kept = Kept::new();
    let mut packet = Vec::new();
    loop {
        let received = timeout(LIST_TIMEOUT, receive_packet(&link.channel, &mut packet)).await??;
        let descriptors = received.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        match serde_json::from_slice(&packet)? {
            FromKeeper::Kept { key, note, first } => {
                let entry = kept.entry(key).or_default();
                entry.0 = note;
                entry.1.truncate(usize::try_from(first).unwrap_or(usize::MAX));
                entry.1.extend(descriptors);
            }
            FromKeeper::End => return Ok(kept),
        }
    }
}
