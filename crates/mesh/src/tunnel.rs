//! A tunnel that runs: sessions, the socket, and the stack's packets, on two threads.
//!
//! One thread receives, opens and delivers; it has the [`Sessions`] and with them all decisions. The other takes packets
//! from the stack, cuts, seals and sends them, with what the first has told it. Neither locks, and neither allocates for a
//! packet. A packet that has been taken from the stack is sent, or counted where it was dropped: when the socket has no
//! room the sending thread waits, and what waits then is the stack.

mod load;
mod pass;
mod path;
mod receive;
mod rows;
mod send;
mod trace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use portway_model::Cidr;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::SendFlags;
use thiserror::Error;

use crate::engine::Frames;
pub use crate::spec::Rows;
use crate::spec::{Mtu, PrivateKey, PublicKey};
use crate::stun::{Mapped, Transaction};
use crate::udp::Udp;
use crate::wg::{
    Counters, Newcomer, PeerChange, PeerId, PeerSpec, PeerState, Routes, Sessions, SessionsError,
};
use receive::Receiver;
use send::Sender;
use trace::Trace;

/// Orders and updates that may wait.
const QUEUE: usize = 1024;

/// How long an answer of the receiving thread is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers of STUN that may wait.
const ANSWERS: usize = 8;

/// How long an answer of STUN is waited for, and how often it is asked.
const ASK: Duration = Duration::from_millis(700);
const ASKED: usize = 3;

/// What a tunnel is made of.
#[derive(Debug, Clone)]
pub struct TunnelSpec {
    /// The key of this node.
    pub private_key: PrivateKey,
    /// Its peers at first.
    pub peers: Vec<PeerSpec>,
    /// Greatest packet.
    pub mtu: Mtu,
    /// Whether messages are sent in rows.
    pub rows: Rows,
    /// Where what happens is written, if anywhere.
    pub trace: Option<Arc<File>>,
}

/// Why a tunnel does not run.
#[derive(Debug, Error)]
pub enum TunnelError {
    /// Its peers do not go together.
    #[error(transparent)]
    Peers(#[from] SessionsError),
    /// A thread, or a descriptor to wake it, could not be had.
    #[error("cannot start the threads of the tunnel")]
    Threads(#[source] io::Error),
    /// The receiving thread has not answered.
    #[error("the tunnel does not answer")]
    Silent,
}

/// A change of the peers, as it is asked for.
#[derive(Debug, Clone)]
pub enum Change {
    /// See [`PeerChange::Put`].
    Put(PeerSpec),
    /// See [`PeerChange::Remove`].
    Remove(PublicKey),
    /// See [`PeerChange::Endpoint`].
    Endpoint(PublicKey, SocketAddr),
    /// See [`PeerChange::AllowedIps`].
    AllowedIps(PublicKey, Vec<Cidr>),
    /// See [`PeerChange::Through`].
    Through(PublicKey, PublicKey),
    /// See [`PeerChange::Own`].
    Own(PrivateKey),
    /// See [`PeerChange::Probe`].
    Probe(PublicKey, Vec<SocketAddr>),
    /// See [`PeerChange::Hubs`].
    Hubs {
        /// As there.
        hubs: Vec<PublicKey>,
        /// As there.
        relays: bool,
    },
}

/// What is asked of the receiving thread.
enum Order {
    Change(Vec<PeerChange>, SyncSender<Result<(), SessionsError>>),
    Rekey(PublicKey),
    State(SyncSender<Vec<PeerState>>),
}

/// What both threads know.
struct Shared {
    frames: Frames,
    udp: Udp,
    counters: Arc<Counters>,
    epoch: Instant,
    /// Wakes the receiving thread; and the sending one.
    receiver: OwnedFd,
    sender: OwnedFd,
    stop: AtomicBool,
    totals: Totals,
    /// Answers of STUN, for whoever has asked.
    answers: SyncSender<(SocketAddr, Vec<u8>)>,
    owners: Mutex<Owners>,
}

/// Whose addresses are, for those who are not in the way of packets.
#[derive(Debug, Default)]
struct Owners {
    routes: Arc<Routes>,
    keys: BTreeMap<PeerId, PublicKey>,
}

/// How packets went, for those who look after speed.
#[derive(Debug, Default)]
pub struct Totals {
    /// Frames taken from the stack, and messages made of them.
    pub frames_out: AtomicU64,
    /// Messages sent.
    pub messages_out: AtomicU64,
    /// Rows of messages that were one datagram to the kernel.
    pub rows_out: AtomicU64,
    /// Datagrams received, as the kernel joined them.
    pub rows_in: AtomicU64,
    /// Messages in them.
    pub messages_in: AtomicU64,
    /// Frames given to the stack.
    pub frames_in: AtomicU64,
    /// Rows that the kernel would not take as such.
    pub rows_refused: AtomicU64,
    /// Messages of members to others, passed on.
    pub passed_on: AtomicU64,
}

/// A running tunnel; it ends when this is dropped.
pub struct Tunnel {
    shared: Arc<Shared>,
    /// Of this node, to agree with those who come.
    private_key: Mutex<PrivateKey>,
    orders: SyncSender<Order>,
    threads: Vec<JoinHandle<()>>,
    answered: Mutex<mpsc::Receiver<(SocketAddr, Vec<u8>)>>,
}

impl Tunnel {
    /// Starts one between `frames` and `udp`.
    ///
    /// # Errors
    /// [`TunnelError`].
    pub fn start(spec: TunnelSpec, frames: Frames, udp: Udp) -> Result<Tunnel, TunnelError> {
        let epoch = Instant::now();
        let mtu = usize::from(spec.mtu.bytes());
        let sessions = Sessions::new(spec.private_key.clone(), &spec.peers, epoch)?;
        let wake = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let (answers, answered) = mpsc::sync_channel(ANSWERS);
        let shared = Arc::new(Shared {
            frames,
            udp,
            counters: Arc::clone(sessions.counters()),
            epoch,
            receiver: wake().map_err(|error| TunnelError::Threads(error.into()))?,
            sender: wake().map_err(|error| TunnelError::Threads(error.into()))?,
            stop: AtomicBool::new(false),
            totals: Totals::default(),
            answers,
            owners: Mutex::default(),
        });
        let (orders, to_receiver) = mpsc::sync_channel(QUEUE);
        let (updates, to_sender) = mpsc::sync_channel(QUEUE);
        let private_key = Mutex::new(spec.private_key);
        let (threads, answered) = (Vec::new(), Mutex::new(answered));
        let mut tunnel = Tunnel { shared: Arc::clone(&shared), private_key, orders, threads, answered };
        let sender = Sender::new(Arc::clone(&shared), to_sender, mtu, spec.rows);
        let trace = spec.trace.map(|file| Trace::new(file, epoch));
        let receiver = Receiver::new(shared, sessions, to_receiver, updates, spec.rows, trace);
        tunnel.thread("mesh-send", move || sender.run())?;
        tunnel.thread("mesh-receive", move || receiver.run())?;
        Ok(tunnel)
    }

    fn thread(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), TunnelError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(TunnelError::Threads)?);
        Ok(())
    }

    fn order(&self, order: Order) -> bool {
        let sent = self.orders.try_send(order).is_ok();
        wake(&self.shared.receiver);
        sent
    }

    /// Changes the peers while packets flow; returns when it is done. What a peer's keys are made of is computed by the
    /// thread that calls. Takes as long as the receiving thread's present batch.
    ///
    /// # Errors
    /// [`TunnelError::Peers`], with the changes before that one made; [`TunnelError::Silent`].
    pub fn change(&self, changes: Vec<Change>) -> Result<(), TunnelError> {
        let mut own = self.private_key.lock().unwrap_or_else(PoisonError::into_inner);
        let prepare = |change| {
            Ok(match change {
                Change::Put(spec) => PeerChange::Put(Newcomer::new(&own, &spec)?),
                Change::Own(key) => {
                    own.clone_from(&key);
                    PeerChange::Own(key)
                }
                Change::Remove(key) => PeerChange::Remove(key),
                Change::Endpoint(key, endpoint) => PeerChange::Endpoint(key, endpoint),
                Change::AllowedIps(key, prefixes) => PeerChange::AllowedIps(key, prefixes),
                Change::Through(key, hub) => PeerChange::Through(key, hub),
                Change::Probe(key, places) => PeerChange::Probe(key, places),
                Change::Hubs { hubs, relays } => PeerChange::Hubs { hubs, relays },
            })
        };
        let changes: Result<Vec<PeerChange>, SessionsError> = changes.into_iter().map(prepare).collect();
        let (answer, done) = mpsc::sync_channel(1);
        // Held until it is on its way: what is made with one key is not to come after another one.
        self.order(Order::Change(changes?, answer));
        drop(own);
        Ok(done.recv_timeout(PATIENCE).map_err(|_| TunnelError::Silent)??)
    }

    /// Makes new keys with a peer. False: too much was asked at once.
    pub fn rekey(&self, peer: PublicKey) -> bool {
        self.order(Order::Rekey(peer))
    }

    /// How the peers are; `None` when the receiving thread does not answer.
    #[must_use]
    pub fn peers(&self) -> Option<Vec<PeerState>> {
        let (answer, state) = mpsc::sync_channel(1);
        self.order(Order::State(answer));
        state.recv_timeout(PATIENCE).ok()
    }

    /// Whose an address of the network is.
    #[must_use]
    pub fn owner(&self, ip: IpAddr) -> Option<PublicKey> {
        let owners = self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.keys.get(&owners.routes.owner(ip)?).copied()
    }

    /// Asks `server` where datagrams of this tunnel's socket come from, by STUN. Takes `ASK` times `ASKED` when nobody
    /// answers; one question at a time.
    pub fn mapped(&self, server: SocketAddr) -> Option<Mapped> {
        let answered = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of an earlier question have come too late.
        while answered.try_recv().is_ok() {}
        for _ in 0..ASKED {
            let transaction = Transaction::generate().ok()?;
            let to = self.shared.udp.to_wire(server);
            // As a datagram on its way it may be lost. One that cannot go is not waited for.
            let sent =
                rustix::net::sendto(&self.shared.udp, &transaction.request(), SendFlags::DONTWAIT, &to);
            if matches!(sent, Err(Errno::AFNOSUPPORT | Errno::NETUNREACH | Errno::INVAL)) {
                return None;
            }
            let end = Instant::now() + ASK;
            while let Some(left) = end.checked_duration_since(Instant::now()) {
                let Ok((from, datagram)) = answered.recv_timeout(left) else { break };
                if let Some(found) = transaction.mapped(&datagram).filter(|_| from == server) {
                    return Some(Mapped { address: Udp::from_wire(found.address), ..found });
                }
            }
        }
        None
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// How packets went.
    #[must_use]
    pub fn totals(&self) -> &Totals {
        &self.shared.totals
    }

    /// How many packets of the stack were lost before they could be taken; see [`Frames::packets_lost`].
    ///
    /// # Errors
    /// As there.
    pub fn packets_lost(&self) -> io::Result<u64> {
        self.shared.frames.packets_lost()
    }

    /// Its socket.
    #[must_use]
    pub fn udp(&self) -> &Udp {
        &self.shared.udp
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        wake(&self.shared.receiver);
        wake(&self.shared.sender);
        for thread in self.threads.drain(..) {
            // It has said what there was to say.
            thread.join().ok();
        }
    }
}

fn wake(fd: &OwnedFd) {
    // A counter that is full is readable as well.
    rustix::io::write(fd, &1_u64.to_ne_bytes()).ok();
}

fn calm(fd: &OwnedFd) {
    rustix::io::read(fd, &mut [0; 8]).ok();
}

/// Waits until one of two can be read; says of each whether it can.
fn wait_for(one: &impl AsFd, two: &impl AsFd, patience: Option<Duration>) -> (bool, bool) {
    let mut fds = [PollFd::new(one, PollFlags::IN), PollFd::new(two, PollFlags::IN)];
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    // What interrupts is as good as what was waited for: the caller looks again.
    if rustix::event::poll(&mut fds, patience.as_ref()).is_err() {
        return (false, false);
    }
    let [one, two] = fds.map(|fd| !fd.revents().is_empty());
    (one, two)
}

/// Waits for room to write, for a moment; the caller tries again.
fn wait_for_room(fd: &impl AsFd) {
    let moment = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    rustix::event::poll(&mut [PollFd::new(fd, PollFlags::OUT)], Some(&moment)).ok();
}
