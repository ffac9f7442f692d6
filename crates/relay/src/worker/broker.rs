//! Targets that the daemon calls: of a brokered device the worker asks for each upstream and is given a connected
//! socket. So a target may be a name, one of several, or in a network that the worker has no way into.
//!
//! A request has a ticket, a number used once. It is answered once, or the worker says that it is over before; a
//! ticket that was answered with a socket is over when its connection or flow ends. What is over is told in batches, so
//! that the end of many is no flood.
//!
//! Where there is one target and nothing to choose the worker calls it without asking (`direct`), and asks when it does
//! not answer.

mod direct;

pub(super) use direct::Call;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use portway_proto::Dir;
use portway_sys::mmsg::Batch;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with, sockopt};

use super::control::set_nonblocking;
use super::engine::Engine;
use super::frames::FrameMemory;
use super::header;
use super::poller::{Token, Watch};
use super::slab::Key;
use super::socket::{Carrier, Socket};
use super::stream::{End, Phase, Stream};
use super::udp::{Flow, Way};
use crate::wire::FromWorker;

/// What a flow may send before it has a target: as much as comes at once, and no more.
const EARLY_COUNT: usize = 16;
const EARLY_BYTES: usize = 128 * 1024;

/// What a datagram that is kept costs beside its bytes.
const EARLY_COST_BYTES: usize = 64;

/// Tickets in one message that they are over: a packet has room for them.
const OVER_COUNT: usize = 2000;

/// Who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    Stream(Key),
    Flow(Key),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Broker {
    last: u64,
    /// Those that have no answer yet.
    callers: BTreeMap<u64, Caller>,
    /// What is still to be told.
    over: Vec<u64>,
    refused: Vec<u64>,
    direct: direct::Calls,
    /// What flows without a target hold; each port has its share.
    early: FrameMemory,
}

/// Datagrams of a flow that has no target yet.
#[derive(Debug, Default)]
pub(super) struct Early {
    datagrams: Vec<Vec<u8>>,
    bytes: usize,
}

impl Broker {
    /// So many ports share the memory for what comes early.
    pub(super) fn divide(&mut self, port_count: usize) {
        self.early.divide(port_count);
    }

    /// What a flow of `port` has kept is gone.
    pub(super) fn unkeep(&mut self, port: Key, early: &Early) {
        self.early.unkeep(port, early.bytes);
    }
}

/// A datagram socket that leads nowhere: the flow's, until it has one.
pub(super) fn nowhere() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None)
}

/// Where the client of a stream is, if it is anywhere in a network.
fn client_of(stream: &Stream) -> Option<SocketAddr> {
    match &stream.origin {
        Some(origin) => Some(origin.client),
        None if stream.down.carrier == Carrier::Tcp => header::client(stream.down.as_fd()),
        None => None,
    }
}

/// How a socket that was given for `wanted` carries: a broker may give the end of a pair.
pub(super) fn carrier_of(fd: &OwnedFd, wanted: Carrier) -> Result<Carrier, Errno> {
    let is_unix = sockopt::socket_domain(fd)? == AddressFamily::UNIX;
    if sockopt::socket_type(fd)? != wanted.socket_type() {
        return Err(Errno::PROTOTYPE);
    }
    Ok(match wanted {
        Carrier::Tcp if is_unix => Carrier::Unix,
        other => other,
    })
}

impl Engine {
    /// Asks for the target of a stream; false: it was refused.
    pub(super) fn ask_for_stream(&mut self, key: Key) -> bool {
        let Some(stream) = self.streams.get(key) else { return false };
        let (device, mark) = (stream.device, stream.mark);
        let client = client_of(stream);
        let Some(ticket) = self.ask(device, Caller::Stream(key), mark, client) else {
            self.give_up(key, Errno::AGAIN);
            return false;
        };
        let patience = self.devices.get(device).map(|device| device.plan.spec().connect_timeout);
        if let Some(stream) = self.streams.get_mut(key) {
            stream.ticket = Some(ticket);
            stream.phase = Phase::Dialing;
        }
        self.set_stream_timer(key, self.core.now + patience.unwrap_or_default());
        true
    }

    /// Asks for the target of a flow, which keeps its datagrams meanwhile.
    pub(super) fn ask_for_flow(&mut self, device: Key, place: Key) {
        let client = self.udp.flows.get(place).and_then(Flow::client);
        let ticket = self.ask(device, Caller::Flow(place), None, client);
        if let Some(flow) = self.udp.flows.get_mut(place) {
            flow.ticket = ticket;
        }
        if ticket.is_none() {
            self.end_flow(place);
        }
    }

    fn ask(
        &mut self,
        device: Key,
        caller: Caller,
        mark: Option<u64>,
        client: Option<SocketAddr>,
    ) -> Option<u64> {
        let slot = self.devices.get(device)?.slot?;
        if !self.control.keeps_up() {
            return None;
        }
        self.broker.last += 1;
        let ticket = self.broker.last;
        self.broker.callers.insert(ticket, caller);
        self.send(&FromWorker::Dial { slot, ticket, mark, client }, Vec::new());
        Some(ticket)
    }

    /// What had this ticket needs its target no more.
    pub(super) fn ticket_over(&mut self, ticket: Option<u64>, refused: bool) {
        let Some(ticket) = ticket else { return };
        self.broker.callers.remove(&ticket);
        if refused {
            self.broker.refused.push(ticket);
        }
        self.broker.over.push(ticket);
    }

    /// Tells what has begun and what is over.
    pub(super) fn tell_over(&mut self) {
        if self.broker.direct.has_begun() {
            self.tell_began();
        }
        while !self.broker.over.is_empty() && (self.control.keeps_up() || !self.control.is_connected()) {
            let at = self.broker.over.len().saturating_sub(OVER_COUNT);
            let tickets = self.broker.over.split_off(at);
            let at = self.broker.refused.len().saturating_sub(OVER_COUNT);
            let refused = self.broker.refused.split_off(at);
            self.send(&FromWorker::Over { tickets, refused }, Vec::new());
        }
    }

    /// The daemon has an answer.
    pub(super) fn on_dialed(
        &mut self,
        ticket: u64,
        error: Option<i32>,
        line: Option<u32>,
        fds: Vec<OwnedFd>,
    ) {
        let found = match (error, fds.into_iter().next()) {
            (None, Some(fd)) => Ok(fd),
            (error, _) => Err(error.map_or(Errno::IO, Errno::from_raw_os_error)),
        };
        let Some(caller) = self.broker.callers.remove(&ticket) else { return given_up(found) };
        match caller {
            Caller::Stream(key) => {
                if let Some(stream) = self.streams.get_mut(key) {
                    stream.line = line;
                }
                self.stream_dialed(key, found);
            }
            Caller::Flow(place) => {
                if let Some(flow) = self.udp.flows.get_mut(place) {
                    flow.line = line;
                }
                self.flow_dialed(place, found);
            }
        }
    }

    fn stream_dialed(&mut self, key: Key, found: Result<OwnedFd, Errno>) {
        let waits = |stream: &&mut Stream| stream.phase == Phase::Dialing;
        let Some(stream) = self.streams.get_mut(key).filter(waits) else { return given_up(found) };
        let wanted =
            self.devices.get(stream.device).map_or(Carrier::Tcp, |device| device.plan.connect_carrier());
        let ready = found.and_then(|fd| {
            let carrier = carrier_of(&fd, wanted)?;
            set_nonblocking(fd.as_fd()).map_err(|_| Errno::IO)?;
            let mut up = Socket::new(fd, carrier);
            if wanted == Carrier::Tcp {
                up = up.for_tcp();
            }
            up.write = true;
            self.core
                .poller
                .add(up.as_fd(), Token::Upstream(key), Watch::Stream)
                .map_err(|_| Errno::NOMEM)?;
            Ok(up)
        });
        match ready {
            Ok(up) => {
                stream.up = Some(up);
                self.open(key);
            }
            Err(errno) => self.dial_failed(key, errno),
        }
    }

    fn flow_dialed(&mut self, place: Key, found: Result<OwnedFd, Errno>) {
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let device = flow.device;
        let ready = found.and_then(|fd| {
            carrier_of(&fd, Carrier::Udp)?;
            set_nonblocking(fd.as_fd()).map_err(|_| Errno::IO)?;
            if sockopt::socket_domain(&fd)? == AddressFamily::UNIX {
                flow.longest = 0;
            }
            self.core.poller.add(fd.as_fd(), Token::Flow(place), Watch::Level).map_err(|_| Errno::NOMEM)?;
            Ok(fd)
        });
        let Way::Asked(early) = std::mem::replace(&mut flow.way, Way::Batches) else { return };
        self.broker.unkeep(device, &early);
        let mut dropped = early.datagrams.len();
        match ready {
            Ok(fd) => {
                for bytes in &early.datagrams {
                    if send(&fd, bytes, SendFlags::DONTWAIT).is_ok() {
                        dropped -= 1;
                        let count = u64::try_from(bytes.len()).unwrap_or(0);
                        self.core.count_share(flow.line, Dir::Up, count);
                    }
                }
                flow.socket = fd;
            }
            Err(errno) => {
                self.core.count_failed(device, errno);
                self.end_flow(place);
            }
        }
        self.drop_datagrams(device, dropped);
    }

    /// Ends connections and flows by their tickets and targets.
    pub(super) fn cut(&mut self, tickets: &[u64], targets: &[u64]) {
        let [tickets, targets]: [BTreeSet<u64>; 2] =
            [tickets, targets].map(|numbers| numbers.iter().copied().collect());
        let is_meant = |ticket: Option<u64>| ticket.is_some_and(|ticket| tickets.contains(&ticket));
        let is_target = |call: Option<&Call>| call.is_some_and(|call| targets.contains(&call.target));
        for key in self.streams.keys() {
            let Some(stream) = self.streams.get(key) else { continue };
            if is_meant(stream.ticket) || is_target(stream.direct.as_deref()) {
                self.close(key, End::Reset);
            }
        }
        for place in self.udp.flows.keys() {
            if self.udp.flows.get(place).is_some_and(|flow| is_meant(flow.ticket)) {
                self.end_flow(place);
            }
        }
    }

    /// Keeps datagrams of a flow that has no target yet.
    pub(super) fn keep_early(&mut self, place: Key, batch: &Batch, slots: Range<usize>) {
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let device = flow.device;
        let Way::Asked(early) = &mut flow.way else { return };
        let mut dropped = 0;
        for slot in slots {
            let bytes = batch.bytes(slot);
            let cost = bytes.len() + EARLY_COST_BYTES;
            let fits = early.datagrams.len() < EARLY_COUNT && early.bytes + cost <= EARLY_BYTES;
            if fits && self.broker.early.changed(device, 0, cost) {
                early.bytes += cost;
                early.datagrams.push(bytes.to_vec());
            } else {
                if fits {
                    self.broker.early.unkeep(device, cost);
                }
                dropped += 1;
            }
        }
        self.drop_datagrams(device, dropped);
    }

    /// Ends a flow that is in its table.
    pub(super) fn end_flow(&mut self, place: Key) {
        let Some((device, id)) = self.udp.flows.get(place).map(|flow| (flow.device, flow.id)) else { return };
        if let Some(device) = self.devices.get_mut(device) {
            device.flows.remove_id(id);
        }
        self.close_flow(place, "done");
    }
}

/// Whoever has asked is gone, by a reset or because its rule is: whoever has answered is told so, and not that all was said.
fn given_up(found: Result<OwnedFd, Errno>) {
    if let Ok(fd) = found
        && let Err(error) = portway_sys::sockopt::linger_reset(fd.as_fd())
    {
        tracing::debug!(%error, "a connection that nobody wants ends without a reset");
    }
}
