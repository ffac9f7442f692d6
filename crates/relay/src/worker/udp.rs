//! Datagrams: UDP, unix datagrams, and a stream for each flow (`link`).
//!
//! A flow is a client, the address it sent to, and the listener. Each has a connected socket to its target, so that the
//! kernel sorts the replies and reports the target's errors to the flow they belong to. A reply leaves by the
//! listener, from the address the client sent to. Datagrams move in batches, from where they were received.
//!
//! An error that the network reports of an earlier datagram is taken, counted, and not held against the next one:
//! the flow outlives a restart of its target.

mod flows;
mod link;
mod messages;
mod names;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use portway_proto::Dir;
use portway_proto::udp_flow::FlowId;
use portway_sys::mmsg::{BATCH, Batch, LocalAddr};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::broker::Early;
use super::device::Destination;
use super::engine::Engine;
use super::failures::{Failure, Operation};
use super::guard::Refusal;
use super::slab::{Key, Slab};
use crate::wire::field;
use link::Link;
pub(super) use messages::Blocked;
use names::Names;

/// Batches taken from one listener in one turn; then it is the others' turn.
const TURN_BATCHES: usize = 8;

/// Turns in a row that a listener has been too full for, after which it counts as flooded: about 4,000 datagrams,
/// most of what its queue holds.
const FLOODED_TURNS: u32 = 16;

/// New flows of a flooded listener in one turn. The rest of what would begin one is dropped here, which is quick,
/// rather than in the kernel's queue, where it would be at the cost of everybody's.
const FLOODED_NEWCOMERS: u32 = 32;

/// Who sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Client {
    /// An address and a port.
    Inet(SocketAddr),
    /// A unix socket with a name, by its number.
    Unix(Key),
    /// Any unix socket without one.
    Unnamed,
}

impl Client {
    /// Its address, where it has one.
    const fn address(self) -> Option<SocketAddr> {
        match self {
            Client::Inet(address) => Some(address),
            Client::Unix(_) | Client::Unnamed => None,
        }
    }
}

/// What makes a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    client: Client,
    /// The address the client sent to, if the listener tells.
    local: Option<IpAddr>,
    /// Listen index.
    index: u32,
}

impl FlowKey {
    /// Listen index.
    pub(super) const fn index(&self) -> u32 {
        self.index
    }
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) socket: OwnedFd,
    pub(super) device: Key,
    pub(super) id: FlowId,
    listener: Key,
    client: Client,
    /// Where replies come from.
    reply_from: Option<LocalAddr>,
    /// When it began, and the payload it has carried: to the target, to the client.
    pub(super) begun: Instant,
    pub(super) carried: [u64; 2],
    /// Where its datagrams go: the target may change under it.
    pub(super) destination: Destination,
    pub(super) way: Way,
    /// Longest datagrams that are sent in rows, bytes: to the target, to the client.
    pub(super) longest: usize,
    longest_reply: usize,
    /// The target has sent something.
    answered: bool,
    /// Number under which the daemon was asked for its target.
    pub(super) ticket: Option<u64>,
    /// Counter line of its target, where it has one.
    pub(super) line: Option<u32>,
}

impl Flow {
    /// Counts payload, for its record.
    pub(super) fn count(&mut self, dir: Dir, bytes: usize) {
        let at = match dir {
            Dir::Up => 0,
            Dir::Down => 1,
        };
        self.carried[at] += u64::try_from(bytes).unwrap_or(0);
    }

    /// Where its client is, if it is anywhere in a network.
    pub(super) fn client(&self) -> Option<SocketAddr> {
        self.client.address()
    }
}

/// Why a datagram begins no flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoFlow {
    /// There is no way to the target, or no room.
    Failed,
    /// Its client is not let in.
    Refused(Refusal),
}

/// How the datagrams of a flow are carried.
#[derive(Debug)]
pub(super) enum Way {
    /// UDP to UDP, in batches.
    Batches,
    /// In a stream that is the target's.
    Link(Box<Link>),
    /// One by one: its client or its target is a unix socket.
    Messages,
    /// Not yet: the daemon has been asked for the target. What has come meanwhile.
    Asked(Early),
}

/// UDP state of the engine.
#[derive(Debug)]
pub(super) struct Udp {
    pub(super) flows: Slab<Flow>,
    /// Made with the first listener.
    batch: Option<Box<Batch>>,
    /// Listener of the replies that are gathered in the batch.
    replying: Option<Key>,
    /// The flows of those that are gathered, in the slots from 0 on.
    gathered: Vec<Key>,
    /// New flows that may still begin in this turn of a listener.
    newcomers: u32,
    /// Names of unix clients.
    names: Names,
}

impl Udp {
    pub(super) fn new() -> Udp {
        Udp {
            flows: Slab::new(),
            batch: None,
            replying: None,
            gathered: Vec::with_capacity(BATCH),
            newcomers: 0,
            names: Names::new(),
        }
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// The client of each flow of `device` that has an address.
    pub(super) fn clients_of(&self, device: Key) -> Vec<SocketAddr> {
        let flows = self.flows.keys().into_iter().filter_map(|key| self.flows.get(key));
        flows.filter(|flow| flow.device == device).filter_map(|flow| flow.client.address()).collect()
    }
}

/// Whether the network says that nobody is there.
fn is_absence(error: &std::io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH))
}

impl Engine {
    /// A listener has datagrams.
    pub(super) fn on_datagrams(&mut self, key: Key) {
        self.core.mix.light();
        let Some(listener) = self.listeners.get_mut(key) else { return };
        let mut batch = self.udp.batch.take().unwrap_or_default();
        let flooded = listener.full_turns >= FLOODED_TURNS;
        listener.full_turns = listener.full_turns.saturating_add(1);
        self.udp.newcomers = if flooded { FLOODED_NEWCOMERS } else { u32::MAX };
        for _ in 0..TURN_BATCHES {
            let Some(listener) = self.listeners.get_mut(key) else { break };
            match batch.receive_named(listener.fd.as_fd()) {
                Ok(count) => {
                    if count < BATCH {
                        listener.full_turns = 0;
                    }
                    self.forward(key, &mut batch, count);
                    if count < BATCH {
                        break;
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    listener.full_turns = 0;
                    break;
                }
                // An error of an earlier reply has been taken away.
                Err(_) => {}
            }
        }
        self.udp.batch = Some(batch);
    }

    /// Sends `count` datagrams in the batch to their targets, in runs of one flow.
    fn forward(&mut self, key: Key, batch: &mut Batch, count: usize) {
        let Some(listener) = self.listeners.get(key) else { return };
        let (device, index) = (listener.device, listener.index);
        let flow_key = |batch: &Batch, slot: usize| {
            let local = batch.local(slot);
            Some((
                FlowKey {
                    client: Client::Inet(batch.peer(slot)?),
                    local: local.map(|local| local.ip),
                    index,
                },
                local,
            ))
        };
        let mut slot = 0;
        while slot < count {
            let mut end = slot + 1;
            let Some((this, local)) = flow_key(batch, slot) else {
                slot = end;
                continue;
            };
            while end < count && flow_key(batch, end).is_some_and(|(next, _)| next == this) {
                end += 1;
            }
            match self.flow(device, key, this, local) {
                Ok(flow) => self.send_up(flow, batch, slot..end),
                Err(why) => self.no_flow(device, why, end - slot),
            }
            slot = end;
        }
    }

    /// Counts datagrams that began no flow.
    fn no_flow(&self, device: Key, why: NoFlow, count: usize) {
        self.drop_datagrams(device, count);
        if let NoFlow::Refused(refusal) = why {
            self.core.counters.add(device, refusal.field(), u64::try_from(count).unwrap_or(0));
        }
    }

    pub(super) fn drop_datagrams(&self, device: Key, count: usize) {
        self.core.counters.add(device, field::DROPPED, u64::try_from(count).unwrap_or(0));
    }

    /// Sends the datagrams in `slots` to the target of a flow.
    fn send_up(&mut self, place: Key, batch: &mut Batch, mut slots: std::ops::Range<usize>) {
        let bytes: usize = slots.clone().map(|slot| batch.bytes(slot).len()).sum();
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let device = flow.device;
        flow.count(Dir::Up, bytes);
        self.core.count_traffic(device, Dir::Up, u64::try_from(bytes).unwrap_or(0));
        self.core.count_share(flow.line, Dir::Up, u64::try_from(bytes).unwrap_or(0));
        let named = match flow.way {
            Way::Batches => false,
            Way::Link(_) => return self.send_linked(place, batch, slots),
            Way::Messages => true,
            Way::Asked(_) => return self.keep_early(place, batch, slots),
        };
        let brokered = flow.ticket.is_some();
        let mut dropped = 0;
        let mut retried = false;
        while !slots.is_empty() {
            let Some(flow) = self.udp.flows.get_mut(place) else { return };
            match batch.send_rows(flow.socket.as_fd(), slots.clone(), &mut flow.longest) {
                Ok(sent) => {
                    slots.start += sent.max(1);
                    retried = false;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    dropped += slots.len();
                    break;
                }
                Err(error) if brokered && is_absence(&error) => {
                    dropped += slots.len();
                    self.on_flow_error(place, Errno::from_io_error(&error).unwrap_or(Errno::IO));
                    break;
                }
                // An error of an earlier datagram; this one has not been tried yet.
                Err(error) if !retried => {
                    retried = true;
                    self.core.count_failed(device, Errno::from_io_error(&error).unwrap_or(Errno::IO));
                    if named && let Err(errno) = self.recall(place) {
                        dropped += slots.len();
                        self.on_flow_error(place, errno);
                        break;
                    }
                }
                Err(_) => {
                    dropped += 1;
                    slots.start += 1;
                    retried = false;
                }
            }
        }
        if dropped > 0 {
            self.drop_datagrams(device, dropped);
            if named {
                self.end_adrift(place);
            }
        }
    }

    /// Something happened to the socket of a flow.
    pub(super) fn on_flow(&mut self, place: Key, flags: EventFlags) {
        match self.udp.flows.get(place).map(|flow| &flow.way) {
            Some(Way::Batches) => self.on_reply(place),
            Some(Way::Link(_)) => self.on_link(place, flags),
            Some(Way::Messages) => self.on_message_flow(place, flags),
            Some(Way::Asked(_)) | None => {}
        }
    }

    /// The target of a flow has answered: the answers are gathered, together with those of other flows of
    /// the same listener.
    fn on_reply(&mut self, place: Key) {
        self.make_place_for_reply(place);
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let Client::Inet(client) = flow.client else { return };
        let batch = self.udp.batch.get_or_insert_default();
        let first = self.udp.gathered.len();
        let count = match batch.receive_connected(flow.socket.as_fd(), first) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) => {
                return self.on_flow_error(place, Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
        };
        let mut bytes = 0;
        for slot in first..first + count {
            bytes += batch.bytes(slot).len();
            batch.address(slot, client, flow.reply_from, flow.longest_reply);
        }
        self.udp.gathered.resize(first + count, place);
        self.udp.replying = Some(flow.listener);
        flow.answered = true;
        flow.count(Dir::Down, bytes);
        let (device, id) = (flow.device, flow.id);
        let bytes = u64::try_from(bytes).unwrap_or(0);
        self.core.count_traffic(device, Dir::Down, bytes);
        self.core.count_share(flow.line, Dir::Down, bytes);
        if let Some(device) = self.devices.get_mut(device) {
            device.flows.touch_id(id, Dir::Down, self.core.now);
        }
    }

    /// The network reports that a datagram did not reach its target. If the device has another target by now,
    /// the flow ends and the client's next datagram begins a new one there.
    fn on_flow_error(&mut self, place: Key, errno: Errno) {
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        if let Some(ticket) = flow.ticket.take() {
            // The next datagram of its client is for the daemon to find a target for.
            self.ticket_over(Some(ticket), true);
            return self.end_flow(place);
        }
        let (device_key, id, destination) = (flow.device, flow.id, flow.destination);
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let Some(index) = device.flows.get(id).map(|(key, _)| key.index) else { return };
        let moved = device.destination(index) != Some(destination);
        if moved && device.flows.remove_id(id).is_some() {
            self.close_flow(place, "moved");
        }
        self.core.count_failed(device_key, errno);
        self.fail(device_key, Failure { operation: Operation::Connect(index), errno });
    }

    /// Sends the gathered replies.
    pub(super) fn flush_replies(&mut self) {
        let Some(key) = self.udp.replying.take() else { return };
        let (Some(listener), Some(batch)) = (self.listeners.get(key), &mut self.udp.batch) else {
            return self.udp.gathered.clear();
        };
        let mut slots = 0..self.udp.gathered.len();
        let mut dropped = 0;
        let mut retried = false;
        while !slots.is_empty() {
            match batch.send_addressed(listener.fd.as_fd(), slots.clone()) {
                Ok(sent) => {
                    slots.start += sent.count.max(1);
                    retried = false;
                    if let Some(slot) = sent.refused
                        && let Some(place) = self.udp.gathered.get(slot)
                        && let Some(flow) = self.udp.flows.get_mut(*place)
                    {
                        flow.longest_reply = batch.bytes(slot).len().saturating_sub(1);
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    dropped += slots.len();
                    break;
                }
                Err(_) if !retried => retried = true,
                Err(_) => {
                    dropped += 1;
                    slots.start += 1;
                    retried = false;
                }
            }
        }
        self.udp.gathered.clear();
        if dropped > 0 {
            let device = listener.device;
            self.drop_datagrams(device, dropped);
        }
    }
}
