//! UDP to UDP.
//!
//! A flow is a client, the address it sent to, and the listener. Each has a connected socket to its target, so that the
//! kernel sorts the replies and reports the target's errors to the flow they belong to. A reply leaves by the
//! listener, from the address the client sent to. Datagrams move in batches, from where they were received.
//!
//! An error that the network reports of an earlier datagram is taken, counted, and not held against the next one:
//! the flow outlives a restart of its target.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use portway_proto::Dir;
use portway_proto::udp_flow::FlowId;
use portway_sys::mmsg::{BATCH, Batch, LocalAddr};
use rustix::io::Errno;
use rustix::net::{SocketType, connect};

use super::device::{Device, TargetPlace};
use super::dial::inet_socket;
use super::engine::Engine;
use super::failures::{Failure, Operation};
use super::poller::{Token, Watch};
use super::slab::{Key, Slab};
use super::timers::Timer;
use crate::wire::field;

/// Batches taken from one listener in one turn; then it is the others' turn.
const TURN_BATCHES: usize = 8;

/// Flows ended in one turn because they are idle.
const EXPIRE_COUNT: usize = 512;

/// What makes a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FlowKey {
    client: SocketAddr,
    /// The address the client sent to, if the listener tells.
    local: Option<IpAddr>,
    /// Listen index.
    index: u32,
}

/// A flow.
#[derive(Debug)]
pub(super) struct Flow {
    socket: OwnedFd,
    device: Key,
    id: FlowId,
    listener: Key,
    client: SocketAddr,
    /// Where replies come from.
    reply_from: Option<LocalAddr>,
    /// Where its datagrams go: the target may change under it.
    target: SocketAddr,
    /// The target has sent something.
    answered: bool,
}

/// UDP state of the engine.
#[derive(Debug)]
pub(super) struct Udp {
    flows: Slab<Flow>,
    /// Made with the first listener.
    batch: Option<Box<Batch>>,
    /// Listener of the replies that are gathered in the batch.
    replying: Option<Key>,
    /// How many are gathered, in the slots from 0 on.
    gathered: usize,
}

impl Udp {
    pub(super) const fn new() -> Udp {
        Udp { flows: Slab::new(), batch: None, replying: None, gathered: 0 }
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.len()
    }
}

impl Engine {
    /// A listener has datagrams.
    pub(super) fn on_datagrams(&mut self, key: Key) {
        let mut batch = self.udp.batch.take().unwrap_or_default();
        for _ in 0..TURN_BATCHES {
            let Some(listener) = self.listeners.get(key) else { break };
            match batch.receive_named(listener.fd.as_fd()) {
                Ok(count) => {
                    self.forward(key, &mut batch, count);
                    if count < BATCH {
                        break;
                    }
                }
                // Either there is nothing, or an error of an earlier reply has been taken away.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
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
            Some((FlowKey { client: batch.peer(slot)?, local: local.map(|local| local.ip), index }, local))
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
                Some(flow) => self.send_up(flow, batch, slot..end),
                None => self.drop_datagrams(device, end - slot),
            }
            slot = end;
        }
    }

    fn drop_datagrams(&self, device: Key, count: usize) {
        self.core.counters.add(device, field::DROPPED, u64::try_from(count).unwrap_or(0));
    }

    /// The flow of `flow_key`, begun if there is none.
    fn flow(
        &mut self,
        device_key: Key,
        listener: Key,
        flow_key: FlowKey,
        local: Option<LocalAddr>,
    ) -> Option<Key> {
        let device = self.devices.get_mut(device_key)?;
        if let Some(key) = device.flows.touch(&flow_key, Dir::Up, self.core.now).copied() {
            return Some(key);
        }
        self.make_room_for_flow(device_key);
        let device = self.devices.get(device_key)?;
        let TargetPlace::Inet(target) = device.plan.place(flow_key.index)? else { return None };
        match call(&target) {
            Ok(socket) => self.begin_flow(device_key, listener, flow_key, local, target, socket),
            Err(errno) => {
                self.core.count(device_key, field::DIAL_FAILED);
                self.fail(device_key, Failure { operation: Operation::Connect(flow_key.index), errno });
                None
            }
        }
    }

    fn begin_flow(
        &mut self,
        device_key: Key,
        listener: Key,
        flow_key: FlowKey,
        local: Option<LocalAddr>,
        target: SocketAddr,
        socket: OwnedFd,
    ) -> Option<Key> {
        let now = self.core.now;
        let client = flow_key.client;
        let device = self.devices.get_mut(device_key)?;
        // The place first: the table and the event queue both name it.
        let place = self.udp.flows.insert(Flow {
            socket,
            device: device_key,
            id: FlowId::from_u64(0),
            listener,
            client,
            reply_from: local.map(|local| reply_source(client, local)),
            target,
            answered: false,
        });
        let inserted = device.flows.insert(flow_key, place, now);
        let flow = self.udp.flows.get_mut(place)?;
        flow.id = inserted.id;
        if let Err(error) = self.core.poller.add(flow.socket.as_fd(), Token::Flow(place), Watch::Level) {
            tracing::debug!(%error, "flow not watched");
        }
        self.core.count(device_key, field::OPENED);
        if let Some((_, ended)) = inserted.ended {
            self.core.count(device_key, field::EVICTED);
            self.close_flow(ended);
        }
        self.arm_flow_timer(device_key);
        Some(place)
    }

    /// All devices share the descriptors: when they run out, the device with the most flows gives one up.
    fn make_room_for_flow(&mut self, newcomer: Key) {
        if self.udp.flow_count() < self.flow_limit() && self.has_room(1) {
            return;
        }
        let mut fullest = (newcomer, 0);
        for key in self.slots.values() {
            let count = self.devices.get(*key).map_or(0, |device| device.flows.len());
            // The newcomer's own flows go first among equals.
            if count > fullest.1 || (count == fullest.1 && *key == newcomer) {
                fullest = (*key, count);
            }
        }
        if let Some((_, place)) = self.devices.get_mut(fullest.0).and_then(|device| device.flows.evict()) {
            self.core.count(fullest.0, field::EVICTED);
            self.close_flow(place);
        }
    }

    /// Closes a flow that is no longer in its table.
    fn close_flow(&mut self, place: Key) {
        if let Some(flow) = self.udp.flows.remove(place) {
            self.core.count(flow.device, field::CLOSED);
        }
    }

    /// Sends the datagrams in `slots` to the target of a flow.
    fn send_up(&mut self, place: Key, batch: &mut Batch, mut slots: std::ops::Range<usize>) {
        let bytes: usize = slots.clone().map(|slot| batch.bytes(slot).len()).sum();
        let Some(flow) = self.udp.flows.get(place) else { return };
        let device = flow.device;
        self.core.count_traffic(device, Dir::Up, u64::try_from(bytes).unwrap_or(0));
        let mut dropped = 0;
        let mut retried = false;
        while !slots.is_empty() {
            match batch.send_connected(flow.socket.as_fd(), slots.clone()) {
                Ok(sent) => {
                    slots.start += sent.max(1);
                    retried = false;
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    dropped += slots.len();
                    break;
                }
                // An error of an earlier datagram; this one has not been tried yet.
                Err(_) if !retried => {
                    retried = true;
                    self.core.count(device, field::DIAL_FAILED);
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
        }
    }

    /// The target of a flow has answered: the answers are gathered, together with those of other flows of
    /// the same listener.
    pub(super) fn on_reply(&mut self, place: Key) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        if self.udp.replying.is_some_and(|listener| listener != flow.listener) || self.udp.gathered >= BATCH {
            self.flush_replies();
        }
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let batch = self.udp.batch.get_or_insert_default();
        let first = self.udp.gathered;
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
            batch.address(slot, flow.client, flow.reply_from);
        }
        self.udp.gathered = first + count;
        self.udp.replying = Some(flow.listener);
        flow.answered = true;
        let (device, id) = (flow.device, flow.id);
        self.core.count_traffic(device, Dir::Down, u64::try_from(bytes).unwrap_or(0));
        if let Some(device) = self.devices.get_mut(device) {
            device.flows.touch_id(id, Dir::Down, self.core.now);
        }
    }

    /// The network reports that a datagram did not reach its target. If the device has another target by now,
    /// the flow ends and the client's next datagram begins a new one there.
    fn on_flow_error(&mut self, place: Key, errno: Errno) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        let (device_key, id, target) = (flow.device, flow.id, flow.target);
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let Some(index) = device.flows.get(id).map(|(key, _)| key.index) else { return };
        let moved = !matches!(device.plan.place(index), Some(TargetPlace::Inet(now)) if now == target);
        if moved && device.flows.remove_id(id).is_some() {
            self.close_flow(place);
        }
        self.core.count(device_key, field::DIAL_FAILED);
        self.fail(device_key, Failure { operation: Operation::Connect(index), errno });
    }

    /// Sends the gathered replies.
    pub(super) fn flush_replies(&mut self) {
        let count = std::mem::take(&mut self.udp.gathered);
        let Some(key) = self.udp.replying.take() else { return };
        let (Some(listener), Some(batch)) = (self.listeners.get(key), &mut self.udp.batch) else { return };
        let mut slots = 0..count;
        let mut dropped = 0;
        let mut retried = false;
        while !slots.is_empty() {
            match batch.send_addressed(listener.fd.as_fd(), slots.clone()) {
                Ok(sent) => {
                    slots.start += sent.max(1);
                    retried = false;
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
        if dropped > 0 {
            let device = listener.device;
            self.drop_datagrams(device, dropped);
        }
    }

    fn arm_flow_timer(&mut self, device_key: Key) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        if device.flows_timer.is_none()
            && let Some(at) = device.flows.next_deadline()
        {
            device.flows_timer = Some(at);
            self.core.timers.set(at, Timer::Flows(device_key));
        }
    }

    /// Ends the flows of a device that have been idle for too long.
    pub(super) fn expire_flows(&mut self, device_key: Key) {
        for _ in 0..EXPIRE_COUNT {
            let Some(device) = self.devices.get_mut(device_key) else { return };
            device.flows_timer = None;
            match device.flows.expire_one(self.core.now) {
                Some((_, place)) => self.close_flow(place),
                None => break,
            }
        }
        self.arm_flow_timer(device_key);
    }

    /// Takes over changed limits, and lets go of flows that only ever went one way to a former target: their
    /// next datagram goes to the new one. Two-way flows stay with the target that answers them.
    pub(super) fn adjust_flows(&mut self, device_key: Key) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let spec = device.plan.spec();
        let (limit, idle) = (spec.udp_max_flows, spec.udp_idle);
        let mut ended = device.flows.set_limits(limit, idle);
        for place in self.udp.flows.keys() {
            let Some(flow) = self.udp.flows.get(place).filter(|flow| flow.device == device_key) else {
                continue;
            };
            if is_astray(device, flow)
                && let Some(entry) = device.flows.remove_id(flow.id)
            {
                ended.push(entry);
            }
        }
        if let Some(at) = device.flows_timer.take() {
            self.core.timers.cancel(at, Timer::Flows(device_key));
        }
        for (_, place) in ended {
            self.close_flow(place);
        }
        self.arm_flow_timer(device_key);
    }

    /// The flows of a device that came in by `before` go on with `after`, another descriptor of the same socket.
    pub(super) fn move_flows(&mut self, before: Key, after: Key) {
        for place in self.udp.flows.keys() {
            if let Some(flow) = self.udp.flows.get_mut(place)
                && flow.listener == before
            {
                flow.listener = after;
            }
        }
    }

    /// Ends the flows of a device that came in by one of `listeners`.
    pub(super) fn end_flows(&mut self, device_key: Key, listeners: &[Key]) {
        for place in self.udp.flows.keys() {
            let Some(flow) = self.udp.flows.get(place) else { continue };
            if flow.device == device_key && listeners.contains(&flow.listener) {
                if let Some(device) = self.devices.get_mut(device_key) {
                    device.flows.remove_id(flow.id);
                }
                self.close_flow(place);
            }
        }
    }
}

/// Whether nobody has ever answered on `flow` and its target is no longer the device's.
fn is_astray(device: &Device, flow: &Flow) -> bool {
    let Some((key, _)) = device.flows.get(flow.id) else { return false };
    let moved =
        !matches!(device.plan.place(key.index), Some(TargetPlace::Inet(target)) if target == flow.target);
    moved && !flow.answered
}

/// A connected socket to `target`.
fn call(target: &SocketAddr) -> Result<OwnedFd, Errno> {
    let socket = inet_socket(target, SocketType::DGRAM)?;
    connect(&socket, target)?;
    Ok(socket)
}

/// Where replies to `client` leave from. The interface is left to the routing table, as for any reply, except
/// that a link-local address means nothing without one.
fn reply_source(client: SocketAddr, local: LocalAddr) -> LocalAddr {
    let link_local = matches!(client.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    LocalAddr { interface: if link_local { local.interface } else { 0 }, ..local }
}
