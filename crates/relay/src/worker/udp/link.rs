//! A flow whose target speaks a stream: one connection per flow, datagrams in it as `udp.framing` says.
//!
//! Stages: called; connected; over. What a client sends meanwhile waits in a bounded buffer, and so does the rest of
//! a frame that the stream has taken in part. Anything more that finds the stream full is dropped, as a full queue on
//! the way drops a datagram. When the stream ends the flow does, and the client's next datagram calls anew. So it
//! is when the target leaves a frame unfinished, or takes nothing of what waits, for too long.

use std::io::IoSlice;
use std::os::fd::AsFd;
use std::time::Instant;

use portway_model::{DeviceSpec, UdpFraming};
use portway_proto::len16::{self, Decoder};
use portway_proto::{Dir, proxy_protocol};
use portway_sys::mmsg::{BATCH, Batch};
use portway_sys::sockopt;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};

use super::{Client, Flow, Way};
use crate::wire::field;
use crate::worker::core::Core;
use crate::worker::datagram::FrameTurn;
use crate::worker::device::Plan;
use crate::worker::engine::Engine;
use crate::worker::failures::{Failure, Operation};
use crate::worker::frames::{FrameMemory, UNFINISHED_TIME};
use crate::worker::lane::TURN_BYTES;
use crate::worker::poller::{Token, Watch};
use crate::worker::slab::Key;
use crate::worker::socket::{Carrier, tune_tcp};
use crate::worker::timers::Timer;

/// What may wait in a flow beside the first datagram, bytes.
const WAITING_BYTES: usize = 16 * 1024;

/// What a raw read costs of a turn at least, bytes: there is little more after one.
const RAW_READ_COST: usize = TURN_BYTES / 8;

/// Longest datagram that a raw read becomes, bytes: what IPv4 carries.
const RAW_MAX_BYTES: usize = 65_507;

/// The stream of a flow.
#[derive(Debug)]
pub(in crate::worker) struct Link {
    carrier: Carrier,
    framing: UdpFraming,
    connected: bool,
    /// When its timer is set for: until it is connected, when the call is given up.
    pub(super) timer: Option<Instant>,
    /// Whose memory it takes.
    device: Key,
    /// When the target last sent a byte.
    came: Instant,
    /// When it last took one, or something began to wait.
    went: Instant,
    /// What the stream has not taken yet.
    waiting: Vec<u8>,
    /// How much of that has gone.
    sent: usize,
    /// How much of it is the header of the connection.
    header_bytes: usize,
    decoder: Decoder,
}

impl Link {
    pub(super) fn new(device: Key, plan: &Plan, connected: bool, header: &[u8], now: Instant) -> Link {
        Link {
            carrier: plan.connect_carrier(),
            framing: plan.spec().udp_framing.unwrap_or(UdpFraming::Raw),
            connected,
            timer: None,
            device,
            came: now,
            went: now,
            waiting: header.to_vec(),
            sent: 0,
            header_bytes: header.len(),
            decoder: Decoder::default(),
        }
    }

    /// How its socket is watched: for room only while something waits for it.
    pub(super) fn watch(&self) -> Watch {
        if self.connected && self.waiting.is_empty() { Watch::Level } else { Watch::LevelBoth }
    }

    /// When it ends if its target neither goes on with what it has begun, nor takes more of what waits.
    fn ends(&self) -> Option<Instant> {
        let amid = self.decoder.is_amid().then_some(self.came);
        let full = (!self.waiting.is_empty()).then_some(self.went);
        amid.into_iter().chain(full).min().map(|since| since + UNFINISHED_TIME)
    }

    /// Memory that it holds, bytes.
    pub(super) fn kept_bytes(&self) -> usize {
        self.waiting.capacity() + self.decoder.kept_bytes()
    }

    /// Sends a datagram or keeps it. False: it is dropped.
    ///
    /// # Errors
    /// The stream is dead.
    fn send(
        &mut self,
        socket: impl AsFd,
        datagram: &[u8],
        memory: &mut FrameMemory,
        now: Instant,
    ) -> Result<bool, Errno> {
        let header = match self.framing {
            UdpFraming::Raw if datagram.is_empty() => return Ok(false),
            UdpFraming::Raw => None,
            UdpFraming::Len16 => Some(len16::header(datagram.len()).ok_or(Errno::MSGSIZE)?),
        };
        let header = header.as_ref().map_or(&[][..], |header| &header[..]);
        let length = header.len() + datagram.len();
        let mut sent = 0;
        if self.connected {
            if !self.waiting.is_empty() {
                return Ok(false);
            }
            let parts = [IoSlice::new(header), IoSlice::new(datagram)];
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sent = match sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), flags) {
                Ok(sent) => sent,
                Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
                Err(errno) => return Err(errno),
            };
            if sent == length {
                return Ok(true);
            }
        } else if self.waiting.len() > self.header_bytes && self.waiting.len() + length > WAITING_BYTES {
            return Ok(false);
        }
        let before = self.kept_bytes();
        self.went = now;
        for part in [header.get(sent..), datagram.get(sent.saturating_sub(header.len())..)] {
            self.waiting.extend_from_slice(part.unwrap_or_default());
        }
        if memory.changed(self.device, before, self.kept_bytes()) {
            return Ok(true);
        }
        // What is left of a frame that has begun has to follow; the flow cannot go on without.
        if sent > 0 {
            return Err(Errno::NOBUFS);
        }
        let before = self.kept_bytes();
        self.waiting.truncate(self.waiting.len().saturating_sub(length));
        self.waiting.shrink_to_fit();
        memory.changed(self.device, before, self.kept_bytes());
        Ok(false)
    }

    /// Sends what waits, as far as the stream takes it.
    fn flush(&mut self, socket: impl AsFd, memory: &mut FrameMemory, now: Instant) -> Result<(), Errno> {
        while let Some(rest) = self.waiting.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match send(&socket, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => {
                    self.sent += sent;
                    self.went = now;
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let before = self.kept_bytes();
        (self.waiting, self.sent) = (Vec::new(), 0);
        memory.changed(self.device, before, self.kept_bytes());
        Ok(())
    }

    fn connect(&mut self, socket: impl AsFd, spec: &DeviceSpec, now: Instant) {
        self.connected = true;
        self.went = now;
        if self.carrier == Carrier::Tcp {
            tune_tcp(socket.as_fd(), spec);
        }
    }
}

/// What came of a look at the stream.
enum Looked {
    /// It goes on.
    Open,
    /// It has ended, in the middle of a frame or not.
    Ended,
    /// It is dead, or was never there.
    Dead(Errno),
}

impl Engine {
    /// Sends the datagrams in `slots` into the stream of a flow.
    pub(super) fn send_linked(&mut self, place: Key, batch: &Batch, slots: std::ops::Range<usize>) {
        let Some(Flow { socket, way: Way::Link(link), device, .. }) = self.udp.flows.get_mut(place) else {
            return;
        };
        let (device, watch) = (*device, link.watch());
        let (mut dropped, mut dead) = (0, None);
        if link.connected
            && let Err(errno) = link.flush(&*socket, &mut self.core.frames, self.core.now)
        {
            dead = Some(errno);
        }
        for slot in slots {
            match link.send(&*socket, batch.bytes(slot), &mut self.core.frames, self.core.now) {
                Ok(true) => {}
                Ok(false) => dropped += 1,
                Err(errno) => {
                    dropped += 1;
                    dead = dead.or(Some(errno));
                }
            }
        }
        if link.watch() != watch {
            self.core.rewatch(socket, place, link);
        }
        if dropped > 0 {
            self.drop_datagrams(device, dropped);
        }
        match dead {
            Some(errno) => self.end_link(place, Some(errno)),
            None => self.watch_link(place),
        }
    }

    /// Something happened to the stream of a flow.
    pub(super) fn on_link(&mut self, place: Key, flags: EventFlags) {
        let looked = self.look_at_link(place, flags);
        match looked {
            Looked::Open => self.watch_link(place),
            Looked::Ended => self.end_link(place, None),
            Looked::Dead(errno) => self.end_link(place, Some(errno)),
        }
    }

    fn look_at_link(&mut self, place: Key, flags: EventFlags) -> Looked {
        let Some(flow) = self.udp.flows.get_mut(place) else { return Looked::Open };
        let Flow { socket, way: Way::Link(link), device, .. } = flow else { return Looked::Open };
        let watch = link.watch();
        if !link.connected {
            if flags.intersects(EventFlags::ERR | EventFlags::HUP)
                && let Some(error) = sockopt::take_error(socket.as_fd()).unwrap_or_else(Some)
            {
                return Looked::Dead(Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
            if !flags.contains(EventFlags::OUT) {
                return Looked::Open;
            }
            if let Some(at) = link.timer.take() {
                self.core.timers.cancel(at, Timer::Link(place));
            }
            if let Some(device) = self.devices.get(*device) {
                link.connect(&*socket, device.plan.spec(), self.core.now);
            }
        }
        if let Err(errno) = link.flush(&*socket, &mut self.core.frames, self.core.now) {
            return Looked::Dead(errno);
        }
        if link.watch() != watch {
            self.core.rewatch(socket, place, link);
        }
        let mut turn = FrameTurn::new();
        while !turn.is_over() {
            match self.read_link(place, &mut turn) {
                Ok(true) => {}
                Ok(false) => return Looked::Open,
                Err(looked) => return looked,
            }
        }
        Looked::Open
    }

    /// Reads once and gathers the replies in it. False: there is nothing to read.
    fn read_link(&mut self, place: Key, turn: &mut FrameTurn) -> Result<bool, Looked> {
        let Some(Flow { socket, way: Way::Link(link), .. }) = self.udp.flows.get_mut(place) else {
            return Ok(false);
        };
        let mut buffer = std::mem::take(&mut self.core.buffer);
        let room = match link.framing {
            UdpFraming::Raw => buffer.get_mut(..RAW_MAX_BYTES).unwrap_or_default(),
            UdpFraming::Len16 => turn.room(&mut buffer),
        };
        let count = match recv(&*socket, room, RecvFlags::DONTWAIT) {
            Ok((count, _)) => count,
            Err(errno) => {
                self.core.buffer = buffer;
                return match errno {
                    Errno::AGAIN | Errno::INTR => Ok(false),
                    errno => Err(Looked::Dead(errno)),
                };
            }
        };
        // Out of the flow while its frames go to the batch, which is part of the same state.
        let mut decoder = std::mem::take(&mut link.decoder);
        let (kept, framing, device) = (decoder.kept_bytes(), link.framing, link.device);
        let mut rest = buffer.get(..count).unwrap_or_default();
        match framing {
            UdpFraming::Raw if count > 0 => {
                self.gather(place, rest);
                turn.took(count.max(RAW_READ_COST), 0);
            }
            UdpFraming::Raw => {}
            UdpFraming::Len16 => {
                let mut frames = 0;
                while let Some(frame) = decoder.next(&mut rest) {
                    self.gather(place, frame);
                    frames += 1;
                }
                turn.took(count, frames);
            }
        }
        let fits = self.core.frames.changed(device, kept, decoder.kept_bytes());
        if let Some(Flow { way: Way::Link(link), .. }) = self.udp.flows.get_mut(place) {
            link.decoder = decoder;
            link.came = self.core.now;
        }
        self.core.buffer = buffer;
        match (count, fits) {
            (0, _) => Err(Looked::Ended),
            (_, false) => Err(Looked::Dead(Errno::NOBUFS)),
            (_, true) => Ok(true),
        }
    }

    /// Puts a reply to those that are gathered.
    pub(super) fn gather(&mut self, place: Key, reply: &[u8]) {
        self.make_place_for_reply(place);
        let Some(flow) = self.udp.flows.get_mut(place) else { return };
        let Client::Inet(client) = flow.client else { return };
        let device = flow.device;
        let slot = self.udp.gathered.len();
        let batch = self.udp.batch.get_or_insert_default();
        if !batch.fill(slot, reply) {
            return self.drop_datagrams(device, 1);
        }
        batch.address(slot, client, flow.reply_from, flow.longest_reply);
        self.udp.gathered.push(place);
        self.udp.replying = Some(flow.listener);
        flow.answered = true;
        let (id, bytes) = (flow.id, u64::try_from(reply.len()).unwrap_or(0));
        flow.bytes_out += bytes;
        self.core.count_traffic(device, Dir::Down, bytes);
        if let Some(device) = self.devices.get_mut(device) {
            device.flows.touch_id(id, Dir::Down, self.core.now);
        }
    }

    /// Sends what is gathered if a reply of this flow cannot be gathered beside it.
    pub(super) fn make_place_for_reply(&mut self, place: Key) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        if self.udp.replying.is_some_and(|listener| listener != flow.listener)
            || self.udp.gathered.len() >= BATCH
        {
            self.flush_replies();
        }
    }

    /// Has the stream of a flow looked at when it may have been unfinished for too long.
    fn watch_link(&mut self, place: Key) {
        if let Some(Flow { way: Way::Link(link), .. }) = self.udp.flows.get_mut(place)
            && link.timer.is_none()
            && let Some(at) = link.ends()
        {
            link.timer = Some(at);
            self.core.timers.set(at, Timer::Link(place));
        }
    }

    /// The call of a flow has taken too long, or its stream has been unfinished for too long; or it had not been when
    /// the timer was set.
    pub(in crate::worker) fn on_link_timer(&mut self, place: Key) {
        let Some(Flow { way: Way::Link(link), .. }) = self.udp.flows.get_mut(place) else { return };
        link.timer = None;
        if !link.connected || link.ends().is_some_and(|at| at <= self.core.now) {
            self.end_link(place, Some(Errno::TIMEDOUT));
        } else {
            self.watch_link(place);
        }
    }

    /// The stream of a flow is over, and so is the flow.
    fn end_link(&mut self, place: Key, errno: Option<Errno>) {
        let Some(flow) = self.udp.flows.get(place) else { return };
        let (device_key, id) = (flow.device, flow.id);
        let Some(Flow { way: Way::Link(link), .. }) = self.udp.flows.get(place) else { return };
        let called = !link.connected;
        let lost = link.waiting.len() > link.sent.max(link.header_bytes) || link.decoder.is_amid();
        let Some(device) = self.devices.get_mut(device_key) else { return };
        let index = device.flows.get(id).map(|(key, _)| key.index);
        device.flows.remove_id(id);
        self.close_flow(place);
        if lost {
            self.drop_datagrams(device_key, 1);
        }
        match (errno, index) {
            (Some(errno), Some(index)) if called => {
                self.core.count(device_key, field::DIAL_FAILED);
                self.fail(device_key, Failure { operation: Operation::Connect(index), errno });
            }
            (Some(_), _) => self.core.count(device_key, field::RESET),
            (None, _) => {}
        }
    }
}

impl Core {
    fn rewatch(&self, socket: &impl AsFd, place: Key, link: &Link) {
        if let Err(error) = self.poller.modify(socket.as_fd(), Token::Flow(place), link.watch()) {
            tracing::debug!(%error, "flow not watched");
        }
    }
}

/// The header for a client of udp that sent to `local`.
pub(super) fn header(
    spec: &DeviceSpec,
    client: std::net::SocketAddr,
    local: Option<std::net::SocketAddr>,
    out: &mut [u8; proxy_protocol::MAX_BYTES],
) -> usize {
    let endpoints = match local {
        Some(local) => proxy_protocol::Endpoints::Udp { client, local },
        None => proxy_protocol::Endpoints::Unknown,
    };
    proxy_protocol::encode(spec.proxy_protocol, endpoints, out).len()
}
