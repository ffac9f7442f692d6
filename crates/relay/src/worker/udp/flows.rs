//! The life of flows: begun by a datagram, ended when idle, displaced by others, or with their listener.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Instant;

use portway_proto::Dir;
use portway_proto::proxy_protocol::MAX_BYTES;
use portway_proto::udp_flow::FlowId;
use portway_sys::mmsg::LocalAddr;

use super::link::Link;
use super::{Client, Flow, FlowKey, NoFlow, Way};
use crate::wire::field;
use crate::worker::broker::{Early, nowhere};
use crate::worker::device::{Destination, Device, Plan};
use crate::worker::dial::{Called, call};
use crate::worker::engine::Engine;
use crate::worker::failures::{Failure, Operation};
use crate::worker::poller::{Token, Watch};
use crate::worker::slab::Key;
use crate::worker::socket::Carrier;
use crate::worker::timers::Timer;

/// Flows ended in one turn because they are idle.
const EXPIRE_COUNT: usize = 512;

impl Engine {
    /// The flow of `flow_key`, begun if there is none.
    pub(super) fn flow(
        &mut self,
        device_key: Key,
        listener: Key,
        flow_key: FlowKey,
        local: Option<LocalAddr>,
    ) -> Result<Key, NoFlow> {
        let device = self.devices.get_mut(device_key).ok_or(NoFlow::Failed)?;
        if let Some(key) = device.flows.touch(&flow_key, Dir::Up, self.core.now).copied() {
            return Ok(key);
        }
        // Who is refused takes no place from those who are not.
        let newcomers = self.udp.newcomers.checked_sub(1).ok_or(NoFlow::Failed)?;
        if device.guard.is_some() {
            let (client, live) = (flow_key.client.address().map(|client| client.ip()), device.flows.len());
            device.judge(client, live, self.core.now).map_err(NoFlow::Refused)?;
        }
        self.udp.newcomers = newcomers;
        self.new_flow(device_key, listener, flow_key, local).ok_or(NoFlow::Failed)
    }

    fn new_flow(
        &mut self,
        device_key: Key,
        listener: Key,
        flow_key: FlowKey,
        local: Option<LocalAddr>,
    ) -> Option<Key> {
        self.make_room_for_flow(device_key);
        let device = self.devices.get(device_key)?;
        let destination = device.destination(flow_key.index)?;
        if device.plan.wire.brokered {
            let called = Called { fd: nowhere().ok()?, connected: false };
            return self.begin_flow((device_key, listener), flow_key, local, destination, called);
        }
        match call(&device.plan.place(flow_key.index)?, device.plan.connect_carrier()) {
            Ok(called) => self.begin_flow((device_key, listener), flow_key, local, destination, called),
            Err(errno) => {
                self.core.count(device_key, field::DIAL_FAILED);
                self.fail(device_key, Failure { operation: Operation::Connect(flow_key.index), errno });
                None
            }
        }
    }

    fn begin_flow(
        &mut self,
        (device_key, listener): (Key, Key),
        flow_key: FlowKey,
        local: Option<LocalAddr>,
        destination: Destination,
        called: Called,
    ) -> Option<Key> {
        let now = self.core.now;
        let client = flow_key.client;
        let device = self.devices.get_mut(device_key)?;
        let mut way = way(device_key, &device.plan, &flow_key, called.connected, now);
        let is_asked = matches!(way, Way::Asked(_));
        let (mut watch, mut timer) = (Watch::Level, None);
        if let Way::Link(link) = &mut way {
            watch = link.watch();
            self.core.frames.changed(device_key, 0, link.kept_bytes());
            timer = (!called.connected).then(|| now + device.plan.spec().connect_timeout);
            link.timer = timer;
        }
        if let Client::Unix(name) = client {
            self.udp.names.hold(name);
        }
        // The place first: the table and the event queue both name it.
        let place = self.udp.flows.insert(Flow {
            socket: called.fd,
            device: device_key,
            id: FlowId::from_u64(0),
            listener,
            client,
            reply_from: local.zip(client.address()).map(|(local, client)| reply_source(client, local)),
            destination,
            longest: if matches!(way, Way::Batches | Way::Asked(_)) { usize::MAX } else { 0 },
            longest_reply: usize::MAX,
            way,
            answered: false,
            ticket: None,
            line: None,
            begun: now,
            bytes_in: 0,
            bytes_out: 0,
        });
        let inserted = device.flows.insert(flow_key, place, now);
        if let Some(client) = client.address() {
            device.flow_begun(client);
        }
        let flow = self.udp.flows.get_mut(place)?;
        flow.id = inserted.id;
        if is_asked {
            self.ask_for_flow(device_key, place);
        } else if let Err(error) = self.core.poller.add(flow.socket.as_fd(), Token::Flow(place), watch) {
            tracing::debug!(%error, "flow not watched");
        }
        if let Some(at) = timer {
            self.core.timers.set(at, Timer::Link(place));
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
        for key in self.slots.devices() {
            let count = self.devices.get(key).map_or(0, |device| device.flows.len());
            // The newcomer's own flows go first among equals.
            if count > fullest.1 || (count == fullest.1 && key == newcomer) {
                fullest = (key, count);
            }
        }
        if let Some((_, place)) = self.devices.get_mut(fullest.0).and_then(|device| device.flows.evict()) {
            self.core.count(fullest.0, field::EVICTED);
            self.close_flow(place);
        }
    }

    /// Closes a flow that is no longer in its table.
    pub(in crate::worker) fn close_flow(&mut self, place: Key) {
        if let Some(flow) = self.udp.flows.remove(place) {
            self.core.count(flow.device, field::CLOSED);
            match flow.way {
                Way::Link(link) => {
                    self.core.frames.unkeep(flow.device, link.kept_bytes());
                    if let Some(at) = link.timer {
                        self.core.timers.cancel(at, Timer::Link(place));
                    }
                }
                Way::Asked(early) => self.broker.unkeep(flow.device, &early),
                Way::Batches | Way::Messages => {}
            }
            if let Some(device) = self.devices.get_mut(flow.device)
                && let Some(client) = flow.client.address()
            {
                device.flow_ended(client);
            }
            if let Client::Unix(name) = flow.client {
                self.udp.names.release(name);
            }
            self.ticket_over(flow.ticket, false);
            self.give_up_blocked(flow.listener, place);
        }
    }

    fn arm_flow_timer(&mut self, device_key: Key) {
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let Some(at) = device.flows.next_deadline() else { return };
        // A flow that nobody has answered yet may end before the one that the timer is set for; of those that come after
        // it none does, so the timer moves at most once between two times it is due.
        if let Some(before) = device.flows_timer.filter(|before| at < *before) {
            self.core.timers.cancel(before, Timer::Flows(device_key));
            device.flows_timer = None;
        }
        if device.flows_timer.is_none() {
            device.flows_timer = Some(at);
            self.core.timers.set(at, Timer::Flows(device_key));
        }
    }

    /// Ends the flows of a device that have been idle for too long.
    pub(in crate::worker) fn expire_flows(&mut self, device_key: Key) {
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
    pub(in crate::worker) fn adjust_flows(&mut self, device_key: Key) {
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
    pub(in crate::worker) fn move_flows(&mut self, before: Key, after: Key) {
        for place in self.udp.flows.keys() {
            if let Some(flow) = self.udp.flows.get_mut(place)
                && flow.listener == before
            {
                flow.listener = after;
            }
        }
        let blocked = self.listeners.get_mut(before).and_then(|listener| listener.blocked.take());
        if let Some(listener) = self.listeners.get_mut(after) {
            listener.blocked = blocked;
        }
    }

    /// Ends the flows of a device that came in by one of `listeners`.
    pub(in crate::worker) fn end_flows(&mut self, device_key: Key, listeners: &[Key]) {
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
    device.destination(key.index) != Some(flow.destination) && !flow.answered
}

/// How a flow of `plan` is carried.
fn way(device: Key, plan: &Plan, flow_key: &FlowKey, connected: bool, now: Instant) -> Way {
    if plan.wire.brokered {
        return Way::Asked(Early::default());
    }
    let client = match (flow_key.client.address(), plan.connect_carrier()) {
        (Some(_), Carrier::Udp) => return Way::Batches,
        (None, _) | (_, Carrier::Gram) => return Way::Messages,
        (Some(client), Carrier::Tcp | Carrier::Unix | Carrier::Packet) => client,
    };
    let port = plan.spec().listen.address().ports().and_then(|ports| ports.nth(flow_key.index));
    let local = flow_key.local.zip(port).map(|(ip, port)| SocketAddr::new(ip, port.get()));
    let mut header = [0; MAX_BYTES];
    let length = super::link::header(plan.spec(), client, local, &mut header);
    let header = header.get(..length).unwrap_or_default();
    Way::Link(Box::new(Link::new(device, plan, connected, header, now)))
}

/// Where replies to `client` leave from. The interface is left to the routing table, as for any reply, except
/// that a link-local address means nothing without one.
fn reply_source(client: SocketAddr, local: LocalAddr) -> LocalAddr {
    let link_local = matches!(client.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    LocalAddr { interface: if link_local { local.interface } else { 0 }, ..local }
}
