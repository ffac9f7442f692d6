//! From the peers to the stack: what comes together is opened where it lies, joined and delivered together. This thread
//! also does all that is due.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use portway_sys::mmsg::{BATCH, Batch, LocalAddr, Train, Trains};

use super::pass::Pass;
use super::trace::Trace;
use super::{Order, Owners, Rows, Shared, calm, wait_for, wait_for_room, wake};
use crate::segment::{Join, LONGEST_HEADERS_BYTES, MOST_JOINED, Offload};
use crate::stun;
use crate::udp::Udp;
use crate::wg::{Dropped, Now, Outgoing, PeerId, Reach, Received, Sessions, Update};

/// Batches that are taken before it is looked what is due.
const ROUNDS: usize = 4;

/// While packets come, what is due is asked no more often than this: it is asked of every peer.
const MOMENT: Duration = Duration::from_millis(50);

/// How often room in the stack is waited for, a tenth of a second each, before a packet is dropped.
const WAITS: usize = 20;

/// A packet that came: whose, in which slot, from where to where.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    peer: PeerId,
    slot: usize,
    begin: usize,
    end: usize,
}

/// The receiving thread.
pub(super) struct Receiver {
    shared: Arc<Shared>,
    sessions: Sessions,
    orders: mpsc::Receiver<Order>,
    updates: SyncSender<Update>,
    batch: Batch,
    arrived: Vec<Arrived>,
    pass: Pass,
    /// For messages of our own, one at a time.
    system: Trains,
    trace: Option<Trace>,
}

impl Receiver {
    pub(super) fn new(
        shared: Arc<Shared>,
        sessions: Sessions,
        orders: mpsc::Receiver<Order>,
        updates: SyncSender<Update>,
        rows: Rows,
        trace: Option<Trace>,
    ) -> Receiver {
        let arrived = Vec::with_capacity(BATCH * MOST_JOINED);
        let (batch, pass, system) = (Batch::new(), Pass::new(rows), Trains::new());
        Receiver { shared, sessions, orders, updates, batch, arrived, pass, system, trace }
    }

    /// Until the tunnel ends.
    pub(super) fn run(mut self) {
        let (mut next, mut asked, mut told) = (None, None::<Instant>, true);
        while !self.shared.stop.load(Ordering::Acquire) {
            let instant = Instant::now();
            let old = asked.is_none_or(|at| instant.saturating_duration_since(at) >= MOMENT);
            let due = told || old || next.is_some_and(|next| next <= instant);
            if due {
                (next, asked) = (self.sessions.tick(now()), Some(instant));
                self.speak();
                if let Some(trace) = self.trace.as_mut().filter(|trace| trace.is_due(instant)) {
                    trace.look(instant, &self.shared.counters, &self.sessions.states());
                }
            }
            let left = next.map(|next| next.saturating_duration_since(instant));
            // What has come since it was asked may have changed the answer.
            let patience = if due { left } else { Some(left.map_or(MOMENT, |left| left.min(MOMENT))) };
            let came;
            (came, told) = wait_for(&self.shared.udp, &self.shared.receiver, patience);
            if told {
                calm(&self.shared.receiver);
                self.obey();
            }
            let mut rounds = if came { ROUNDS } else { 0 };
            while rounds > 0 && self.receive() {
                rounds -= 1;
            }
        }
    }

    /// Sends what the sessions have to say, and tells the other thread what is new to it.
    fn speak(&mut self) {
        while let Some(out) = self.sessions.outgoing() {
            let sent = match (self.send(&out, out.from), out.from) {
                (false, Some(from)) if !self.shared.udp.is_own(from) => {
                    self.sessions.lose_source(from);
                    self.send(&out, None)
                }
                (sent, _) => sent,
            };
            // As a packet on its way it may be lost; it is repeated.
            if !sent {
                self.shared.counters.count(Dropped::Unsent);
            }
        }
        let mut news = false;
        while let Some(update) = self.sessions.update() {
            news = true;
            if let Update::Routes(routes) = &update {
                let owners = Owners { routes: Arc::clone(routes), keys: self.sessions.keys() };
                *self.shared.owners.lock().unwrap_or_else(PoisonError::into_inner) = owners;
            }
            if let Some(trace) = &mut self.trace {
                trace.update(&update, update.peer().and_then(|id| self.sessions.key_of(id)));
            }
            if let Err(mpsc::TrySendError::Full(update)) = self.updates.try_send(update) {
                wake(&self.shared.sender);
                // That thread waits for nothing that this one has, so there will be room.
                self.updates.send(update).ok();
            }
        }
        if news {
            wake(&self.shared.sender);
        }
    }

    fn send(&mut self, out: &Outgoing, from: Option<LocalAddr>) -> bool {
        let (to, message) = (self.shared.udp.to_wire(out.to), out.message());
        let train = Train { to, from, place: 0..message.len(), size: message.len() };
        self.system.send(self.shared.udp.as_fd(), message, &[train]).is_ok()
    }

    fn obey(&mut self) {
        while let Ok(order) = self.orders.try_recv() {
            match order {
                Order::Change(changes, answer) => {
                    let made = self.sessions.change(changes, now());
                    // Whoever is told finds it so: nothing leaves for a peer that is gone.
                    self.speak();
                    answer.try_send(made).ok();
                }
                Order::Rekey(peer) => {
                    if let Some(id) = self.sessions.id_of(&peer) {
                        self.sessions.rekey(id, now());
                    }
                }
                Order::State(answer) => {
                    let states = self.sessions.states();
                    // Who asked may have given up.
                    answer.try_send(states).ok();
                }
            }
        }
    }

    /// Takes one batch; false when there is no more.
    fn receive(&mut self) -> bool {
        let count = match self.batch.receive_named(self.shared.udp.as_fd()) {
            Ok(count) => count,
            // What an earlier datagram met on its way has been taken off the socket.
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        };
        let now = now();
        self.arrived.clear();
        for slot in 0..count {
            if let Some(to) = self.batch.peer(slot).map(Udp::from_wire) {
                let from = self.batch.local(slot).map(LocalAddr::to_answer);
                self.open(now, slot, Reach { to, from });
            }
        }
        let totals = &self.shared.totals;
        totals.rows_in.fetch_add(count as u64, Ordering::Relaxed);
        totals.messages_in.fetch_add(self.arrived.len() as u64, Ordering::Relaxed);
        self.deliver();
        self.speak();
        count == BATCH
    }

    fn open(&mut self, now: Now, slot: usize, from: Reach) {
        let size = self.batch.joined(slot);
        let bytes = self.batch.bytes_mut(slot);
        let size = size.unwrap_or(bytes.len()).max(1);
        if bytes.is_empty() {
            self.sessions.receive(now, from, &mut []);
        }
        for (number, message) in bytes.chunks_mut(size).enumerate() {
            if stun::is_answer(message) {
                // Nobody waits for so many.
                self.shared.answers.try_send((from.to, message.to_vec())).ok();
                continue;
            }
            let at = number * size;
            match self.sessions.receive(now, from, message) {
                Received::Packet { peer, place } => {
                    self.arrived.push(Arrived { peer, slot, begin: at + place.start, end: at + place.end });
                }
                Received::PassOn { to: Reach { to, from } } => {
                    let to = self.shared.udp.to_wire(to);
                    self.pass.add(Reach { to, from }, at, message.len());
                }
                Received::Nothing => {}
            }
        }
        if !self.pass.is_empty() {
            self.pass.send(&self.shared, self.batch.bytes(slot), now.instant);
        }
    }

    /// Gives everything that arrived to the stack, joined as far as it belongs together.
    fn deliver(&self) {
        let packet = |arrived: &Arrived| {
            self.batch.bytes(arrived.slot).get(arrived.begin..arrived.end).unwrap_or_default()
        };
        let mut rest = self.arrived.as_slice();
        while let Some((first, behind)) = rest.split_first() {
            rest = behind;
            let (peer, first) = (first.peer, packet(first));
            let Some(mut run) = Join::begin(first) else {
                self.write(peer, Offload::default(), &[first]);
                continue;
            };
            let mut parts = [&[][..]; MOST_JOINED + 1];
            let begins = run.headers();
            set(&mut parts, 1, first.get(begins..).unwrap_or_default());
            while let Some((next, behind)) = rest.split_first()
                && run.take(packet(next))
            {
                set(&mut parts, run.count(), packet(next).get(begins..).unwrap_or_default());
                rest = behind;
            }
            if run.count() == 1 {
                self.write(peer, Offload::default(), &[first]);
                continue;
            }
            let mut headers = [0; LONGEST_HEADERS_BYTES];
            let offload = run.finish(&mut headers);
            set(&mut parts, 0, headers.get(..begins).unwrap_or_default());
            self.write(peer, offload, parts.get(..=run.count()).unwrap_or_default());
        }
    }

    /// Gives one packet to the stack, which takes it at once but for a moment of a full queue.
    fn write(&self, from: PeerId, offload: Offload, parts: &[&[u8]]) {
        for _ in 0..WAITS {
            match self.shared.frames.write(from, offload, parts) {
                Ok(()) => {
                    self.shared.totals.frames_in.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait_for_room(&self.shared.frames),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
            if self.shared.stop.load(Ordering::Acquire) {
                break;
            }
        }
        self.shared.counters.count(Dropped::Undelivered);
    }
}

fn set<'a>(parts: &mut [&'a [u8]], at: usize, part: &'a [u8]) {
    if let Some(place) = parts.get_mut(at) {
        *place = part;
    }
}

fn now() -> Now {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { instant: Instant::now(), unix }
}
