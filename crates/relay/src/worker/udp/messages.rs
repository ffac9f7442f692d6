//! Unix datagrams: from a listener of theirs, to a target of theirs, or both.
//!
//! A flow is the client's name and a listener. Its socket towards a unix target has a name of its own (an abstract one
//! that the kernel chooses), by which the target answers; an answer leaves by the listener, to the client's name.
//! Clients without a name share a flow and get no answers.
//! A flow whose target is gone moves to the one in its place, or ends when there is none.
//!
//! Between unix sockets nothing is lost for want of room: while the target's queue is full the listener is left
//! alone, and its clients wait as they would at the target itself. One message per listener waits here, or none: past the
//! limits of what all may keep a message is taken only when there is room for it at its target.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use portway_model::{FdPassing, UnixPath};
use portway_proto::Dir;
use portway_sys::unix_path::{self, Base};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketAddrAny, SocketAddrUnix, getpeername, recv};

use super::names::PeerName;
use super::{Client, Flow, FlowKey, NoFlow};
use crate::wire::{UnixBase, field};
use crate::worker::core::Core;
use crate::worker::datagram::send_bytes;
use crate::worker::device::{Attention, Plan};
use crate::worker::dial::connect_named;
use crate::worker::engine::Engine;
use crate::worker::failures::{Failure, Operation};
use crate::worker::message::{Held, Received, Taken, look, put, put_to, receive};
use crate::worker::poller::{Token, Watch};
use crate::worker::slab::Key;
use crate::worker::socket::{Carrier, has_room};
use crate::worker::timers::Timer;

/// Messages taken in one turn.
const TURN_MESSAGES: usize = 64;

/// What a listener waits for: room at the target of a flow.
#[derive(Debug)]
pub(in crate::worker) struct Blocked {
    flow: Key,
    /// A message that has been taken already.
    held: Option<Held>,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Gone,
    Lost,
    /// There is no room for it at present.
    Full,
}

impl Engine {
    /// A listener of unix datagrams has something.
    pub(in crate::worker) fn on_messages(&mut self, key: Key) {
        let mut buffer = self.core.take_messages();
        self.udp.newcomers = u32::MAX;
        self.count_spare_fds();
        for _ in 0..TURN_MESSAGES {
            let Some(listener) = self.listeners.get(key) else { break };
            // That there is room is an event of the flow, which has the listener watched again.
            if listener.blocked.is_some() {
                break;
            }
            if !self.may_take_message(key) {
                break;
            }
            let Some(listener) = self.listeners.get_mut(key) else { break };
            match receive(&listener.fd, &mut buffer, RecvFlags::empty()) {
                Ok(message) => {
                    listener.took();
                    self.forward_message(key, message, &buffer);
                }
                Err(Errno::AGAIN) => break,
                // An error of an earlier answer has been taken away.
                Err(_) => {}
            }
        }
        self.core.give_messages(buffer);
    }

    /// Whether the next message may be taken: there is room for it at its target, or else here. If not, the listener is left
    /// alone, and the message stays with its sender.
    fn may_take_message(&mut self, key: Key) -> bool {
        let (may_keep, may_stall) = (self.core.pipes.may_keep(), self.core.pipes.may_stall_fds());
        if may_keep && may_stall {
            return true;
        }
        let Some(listener) = self.listeners.get(key) else { return false };
        // That there is none is what the one who takes it is told.
        let Ok(next) = look(&listener.fd) else { return true };
        if next.descriptors && !self.core.pipes.may_hold_fds() {
            self.pause(key, Errno::MFILE);
            return false;
        }
        (may_keep && !next.descriptors) || self.has_room_for(key, next.sender)
    }

    /// Whether the target of the one who sent a message has room for it. If not, the listener waits for that.
    fn has_room_for(&mut self, key: Key, sender: Option<SocketAddrAny>) -> bool {
        let device = self.listeners.get(key).and_then(|listener| self.devices.get(listener.device));
        if device.is_none_or(|device| !is_between_messages(&device.plan)) {
            return true;
        }
        // Who gets no flow does not wait.
        let Ok(flow) = self.flow_of(key, sender) else { return true };
        if self.udp.flows.get(flow).is_none_or(|flow| has_room(&flow.socket)) {
            return true;
        }
        self.block(key, flow, None);
        false
    }

    /// The flow of the one who sent a message, begun if there is none.
    fn flow_of(&mut self, key: Key, sender: Option<SocketAddrAny>) -> Result<Key, NoFlow> {
        let listener = self.listeners.get(key).ok_or(NoFlow::Failed)?;
        let (device, index) = (listener.device, listener.index);
        let client = match PeerName::of(sender) {
            Some(name) => Client::Unix(self.udp.names.hold_name(name.as_bytes())),
            None => Client::Unnamed,
        };
        let flow = self.flow(device, key, FlowKey { client, local: None, index }, None);
        // Held until here: a flow that made room for this one may have been the last with this name.
        if let Client::Unix(name) = client {
            self.udp.names.release(name);
        }
        flow
    }

    fn forward_message(&mut self, key: Key, mut message: Received, buffer: &[u8]) {
        let Some(listener) = self.listeners.get(key) else { return };
        let device = listener.device;
        let Some(owner) = self.devices.get(device) else { return };
        let Some(descriptors) = self.core.take_beside(device, passes(&owner.plan), &mut message) else {
            return;
        };
        let flow = match self.flow_of(key, message.sender) {
            Ok(flow) => flow,
            Err(why) => return self.no_flow(device, why, 1),
        };
        let bytes = buffer.get(..message.length).unwrap_or_default();
        let held = Held { bytes: Vec::new(), descriptors };
        match self.send_message(flow, bytes, &held) {
            Sent::Gone => {}
            Sent::Lost => self.drop_datagrams(device, 1),
            Sent::Full => self.block(key, flow, Some(Held { bytes: bytes.to_vec(), ..held })),
        }
    }

    /// Sends a message to the target of a flow; if that is gone, to the one in its place.
    fn send_message(&mut self, place: Key, bytes: &[u8], with: &Held) -> Sent {
        let Some(flow) = self.udp.flows.get(place) else { return Sent::Lost };
        let device_key = flow.device;
        let Some(device) = self.devices.get(device_key) else { return Sent::Lost };
        let sent = if device.plan.connect_carrier() == Carrier::Gram {
            match put(&flow.socket, bytes, &with.descriptors) {
                Err(errno) if is_orphaned(errno) => {
                    self.recall(place).and_then(|()| put(self.udp.socket(place)?, bytes, &with.descriptors))
                }
                other => other,
            }
            .map(drop)
        } else {
            send_bytes(flow.socket.as_fd(), bytes)
        };
        match sent {
            Ok(()) => {
                self.core.count_traffic(device_key, Dir::Up, u64::try_from(bytes.len()).unwrap_or(0));
                if let Some(flow) = self.udp.flows.get_mut(place) {
                    flow.count(Dir::Up, bytes.len());
                }
                Sent::Gone
            }
            Err(Errno::AGAIN) if self.listens_for_messages(place) => Sent::Full,
            Err(errno @ (Errno::AGAIN | Errno::MSGSIZE | Errno::TOOMANYREFS)) => {
                tracing::trace!(%errno, "message dropped");
                Sent::Lost
            }
            Err(errno) => {
                self.flow_failed(place, errno);
                self.end_adrift(place);
                Sent::Lost
            }
        }
    }

    /// Whether the target of a flow can make its client wait.
    fn listens_for_messages(&self, place: Key) -> bool {
        let device = self.udp.flows.get(place).and_then(|flow| self.devices.get(flow.device));
        device.is_some_and(|device| is_between_messages(&device.plan))
    }

    /// Connects the socket of a flow to the target that is there now; its name stays. What has come to it since it lost
    /// the one before is nobody's answer.
    pub(super) fn recall(&self, place: Key) -> Result<(), Errno> {
        let flow = self.udp.flows.get(place).ok_or(Errno::CONNREFUSED)?;
        let device = self.devices.get(flow.device).ok_or(Errno::CONNREFUSED)?;
        let index = device.flows.get(flow.id).map(|(key, _)| key.index).ok_or(Errno::CONNREFUSED)?;
        let adrift = is_adrift(flow.socket.as_fd());
        connect_named(flow.socket.as_fd(), &device.plan.place(index).ok_or(Errno::CONNREFUSED)?)?;
        if adrift {
            // From here on only the target can send to it.
            let purged = purge(flow.socket.as_fd());
            self.drop_datagrams(flow.device, purged);
        }
        Ok(())
    }

    /// Ends a flow whose socket has lost its target and has found no other: anybody could send to it, in the target's
    /// name. The client's next datagram begins a new one.
    pub(super) fn end_adrift(&mut self, place: Key) {
        let Some(flow) = self.udp.flows.get(place).filter(|flow| is_adrift(flow.socket.as_fd())) else {
            return;
        };
        let (device, id) = (flow.device, flow.id);
        if let Some(device) = self.devices.get_mut(device) {
            device.flows.remove_id(id);
        }
        self.close_flow(place, "moved");
    }

    /// A flow's target could not be reached.
    fn flow_failed(&mut self, place: Key, errno: Errno) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        let device_key = flow.device;
        let Some(device) = self.devices.get(device_key) else { return };
        let Some(index) = device.flows.get(flow.id).map(|(key, _)| key.index) else { return };
        self.core.count_failed(device_key, errno);
        self.fail(device_key, Failure { operation: Operation::Connect(index), errno });
    }

    /// Leaves a listener alone until the target of `flow` has room, for the message that was taken if there is one.
    fn block(&mut self, key: Key, flow: Key, held: Option<Held>) {
        self.watch_listener(key, Attention::None);
        if let Some(listener) = self.listeners.get_mut(key) {
            if let Some(held) = &held {
                self.core.pipes.keep_message(held);
            }
            listener.blocked = Some(Box::new(Blocked { flow, held }));
        }
        self.watch_flow(flow, Watch::LevelBoth);
    }

    /// Sends the message that a listener waits with for room in `flow`, if it does; then its clients go on.
    fn unblock(&mut self, key: Key, flow: Key) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        let Some(blocked) = listener.blocked.take_if(|blocked| blocked.flow == flow) else { return };
        let device = listener.device;
        self.watch_flow(flow, Watch::Level);
        if let Some(held) = blocked.held {
            self.core.pipes.unkeep_message(&held);
            match self.send_message(flow, &held.bytes, &held) {
                Sent::Gone => {}
                Sent::Lost => self.drop_datagrams(device, 1),
                Sent::Full => return self.block(key, flow, Some(held)),
            }
        }
        if self.life.accepts() {
            self.watch_listener(key, Attention::Clients);
        }
    }

    /// The flow for which a listener waits is over: what it waits with is lost, the others go on.
    pub(super) fn give_up_blocked(&mut self, listener: Key, flow: Key) {
        let now = self.core.now;
        let Some(listening) = self.listeners.get_mut(listener) else { return };
        if listening.blocked.as_ref().is_none_or(|blocked| blocked.flow != flow) {
            return;
        }
        let device = listening.device;
        let held = listening.blocked.take().and_then(|blocked| blocked.held);
        if listening.timer.is_none() {
            listening.timer = Some(now);
            self.core.timers.set(now, Timer::Listener(listener));
        }
        if let Some(held) = held {
            self.core.pipes.unkeep_message(&held);
            self.drop_datagrams(device, 1);
        }
    }

    fn watch_flow(&self, place: Key, watch: Watch) {
        if let Some(flow) = self.udp.flows.get(place)
            && let Err(error) = self.core.poller.modify(flow.socket.as_fd(), Token::Flow(place), watch)
        {
            tracing::debug!(%error, "flow not watched");
        }
    }

    /// Something happened to the socket of a flow between unix datagrams and anything else.
    pub(super) fn on_message_flow(&mut self, place: Key, flags: EventFlags) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        let listener = flow.listener;
        if flags.intersects(EventFlags::OUT | EventFlags::ERR | EventFlags::HUP) {
            self.unblock(listener, place);
        }
        let mut buffer = self.core.take_messages();
        for _ in 0..TURN_MESSAGES {
            let Some(flow) = self.udp.flows.get(place) else { break };
            match receive(&flow.socket, &mut buffer, RecvFlags::empty()) {
                Ok(message) => self.answer_client(place, message, &buffer),
                Err(Errno::AGAIN) => break,
                Err(errno) => {
                    self.on_flow_error(place, errno);
                    break;
                }
            }
        }
        self.core.give_messages(buffer);
    }

    /// Gives the client of a flow an answer.
    fn answer_client(&mut self, place: Key, mut message: Received, buffer: &[u8]) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        let (device_key, client, listener, id) = (flow.device, flow.client, flow.listener, flow.id);
        let Some(device) = self.devices.get(device_key) else { return };
        let passes = passes(&device.plan);
        let Some(descriptors) = self.core.take_beside(device_key, passes, &mut message) else { return };
        let bytes = buffer.get(..message.length).unwrap_or_default();
        let name = match client {
            Client::Inet(_) => return self.gather(place, bytes),
            Client::Unix(name) => self.udp.names.name(name),
            Client::Unnamed => None,
        };
        let sent = name.ok_or(Errno::DESTADDRREQ).and_then(|name| {
            let listener = self.listeners.get(listener).ok_or(Errno::BADF)?;
            to_client(&device.plan, name, |address| put_to(&listener.fd, address, bytes, &descriptors))
        });
        match sent {
            Ok(_) => {
                let count = u64::try_from(bytes.len()).unwrap_or(0);
                self.core.count_traffic(device_key, Dir::Down, count);
                if let Some(flow) = self.udp.flows.get_mut(place) {
                    flow.answered = true;
                    flow.count(Dir::Down, bytes.len());
                }
                if let Some(device) = self.devices.get_mut(device_key) {
                    device.flows.touch_id(id, Dir::Down, self.core.now);
                }
            }
            Err(errno) => {
                tracing::trace!(%errno, "answer dropped");
                self.drop_datagrams(device_key, 1);
            }
        }
    }
}

impl Core {
    /// The descriptors of a message that go on with it. `None`: it does not, because it is too long, or they could not be
    /// taken.
    fn take_beside(&self, device: Key, passes: bool, message: &mut Received) -> Option<Vec<OwnedFd>> {
        let beside = std::mem::replace(&mut message.beside, Taken::Nothing);
        let lost = message.truncated || (passes && beside == Taken::Short);
        let mut refused = u64::from(lost);
        let mut descriptors = Vec::new();
        if passes && beside != Taken::Short {
            descriptors = beside.passable(&mut refused);
        } else if !passes {
            beside.refuse(&mut refused);
        }
        self.counters.add(device, field::DROPPED, refused);
        (!lost).then_some(descriptors)
    }
}

/// Whether descriptors pass through a device with unix datagrams.
fn passes(plan: &Plan) -> bool {
    plan.spec().fds == FdPassing::On && is_between_messages(plan)
}

/// Whether a device has unix datagrams on both sides.
fn is_between_messages(plan: &Plan) -> bool {
    plan.listen_carrier() == Carrier::Gram && plan.connect_carrier() == Carrier::Gram
}

/// Whether a failure says that the peer of a socket is gone.
fn is_orphaned(errno: Errno) -> bool {
    matches!(errno, Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::DESTADDRREQ)
}

/// Whether the kernel has taken the peer from a connected socket, as it does on a datagram to one that is closed. Anybody
/// can send to it then (unix(7) has a connected socket receive from its peer alone).
fn is_adrift(socket: BorrowedFd<'_>) -> bool {
    matches!(getpeername(socket), Err(Errno::NOTCONN))
}

/// Throws away what a socket has received; how many datagrams that was.
fn purge(socket: BorrowedFd<'_>) -> usize {
    let mut count = 0;
    loop {
        match recv(socket, &mut [0; 1], RecvFlags::DONTWAIT) {
            Ok(_) => count += 1,
            Err(Errno::INTR) => {}
            Err(_) => return count,
        }
    }
}

/// Calls `send` with the address of the client called `name`. A path is never used as such: it means something in the
/// listening side's file system, and there it is looked up, below the descriptor that the daemon gave for it.
fn to_client(
    plan: &Plan,
    name: &[u8],
    send: impl FnOnce(&SocketAddrUnix) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    if let Some((0, text)) = name.split_first() {
        return send(&SocketAddrUnix::new_abstract_name(text)?);
    }
    let path = Path::new(OsStr::from_bytes(name));
    let Some((base, kind)) = &plan.replies else { return Err(Errno::ACCESS) };
    let kind = match kind {
        UnixBase::Root if path.is_absolute() => Base::Root,
        UnixBase::Parent if path.parent() == folder(plan) => Base::Parent,
        UnixBase::Root | UnixBase::Parent => return Err(Errno::ACCESS),
    };
    let errno = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let file = unix_path::find(base.as_fd(), kind, path).map_err(errno)?;
    send(&unix_path::name_of(file.as_fd()).map_err(errno)?)
}

/// The folder of the socket listened on.
fn folder(plan: &Plan) -> Option<&Path> {
    plan.spec().listen.address().unix().and_then(|name| name.path()).map(UnixPath::as_path)?.parent()
}

impl super::Udp {
    fn socket(&self, place: Key) -> Result<BorrowedFd<'_>, Errno> {
        self.flows.get(place).map(|flow: &Flow| flow.socket.as_fd()).ok_or(Errno::CONNREFUSED)
    }
}
