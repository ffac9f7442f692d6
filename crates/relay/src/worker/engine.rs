//! The loop of the worker: one thread, one event queue. A second thread (`haul`) carries bytes where that helps.
//!
//! A turn: wait; handle what happened; give streams that could go on their turn; run what is due; send what the
//! daemon is to know. Nothing in a turn blocks, and every part of it is bounded, so no client delays another by
//! more than the others' turns.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portway_proto::Side;
use portway_sys::seqpacket::Channel;
use rustix::event::epoll::EventFlags;

use super::access::Access;
use super::broker::Broker;
use super::control::Control;
use super::core::Core;
use super::device::{Device, Listener};
use super::haul::Haul;
use super::life::{Life, Verdict};
use super::poller::Token;
use super::slab::{Key, Slab};
use super::slots::Slots;
use super::stream::{End, Failed, Phase, Pumped, Relay, Stream};
use super::table::PendingPut;
use super::timers::Timer;
use super::udp::Udp;
use crate::wire::{Init, field};

/// Pause before something that failed for a shortage is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// Streams with more to do that get their turn between two looks at the event queue.
const READY_COUNT: usize = 16;

/// Descriptors the worker needs beside clients: a message with up to 253 of them is looked at, and taken.
const RESERVED_FDS: u64 = 600;

/// See the module.
pub(super) struct Engine {
    pub(super) core: Core,
    pub(super) devices: Slab<Device>,
    /// The device in each slot.
    pub(super) slots: Slots,
    /// Devices whose listeners are still coming, by index of their slot.
    pub(super) pending: BTreeMap<u32, PendingPut>,
    pub(super) listeners: Slab<Listener>,
    pub(super) streams: Slab<Stream>,
    pub(super) udp: Udp,
    /// Who has asked the daemon for a target.
    pub(super) broker: Broker,
    pub(super) control: Control,
    pub(super) life: Life,
    pub(super) init: Init,
    /// Descriptors that may be open at once.
    pub(super) fd_limit: usize,
    pub(super) sweep: super::sweep::Sweep,
    /// The second thread.
    pub(super) haul: Option<Haul>,
    /// Records of what is over.
    pub(super) access: Access,
}

/// What the engine is built from.
pub(super) struct Parts {
    pub(super) channel: Channel,
    pub(super) adoption: Option<OwnedFd>,
    pub(super) pidfd: Option<OwnedFd>,
    pub(super) init: Init,
    /// Limit of open descriptors (`RLIMIT_NOFILE`).
    pub(super) nofile: u64,
}

impl Engine {
    /// Builds the engine; nothing is watched but the daemon and the instance.
    ///
    /// # Errors
    /// No memory or no descriptors.
    pub(super) fn new(parts: Parts) -> io::Result<Engine> {
        let fd_limit =
            usize::try_from(parts.nofile - RESERVED_FDS.min(parts.nofile / 4)).unwrap_or(usize::MAX);
        let (core, memory) = Core::new(fd_limit)?;
        let life = Life::new(parts.pidfd, parts.init.init_pid);
        let control = Control::new(parts.channel, parts.adoption, memory)?;
        let engine = Engine {
            core,
            devices: Slab::new(),
            slots: Slots::default(),
            pending: BTreeMap::new(),
            listeners: Slab::new(),
            streams: Slab::new(),
            udp: Udp::new(),
            broker: Broker::default(),
            control,
            life,
            init: parts.init,
            fd_limit,
            sweep: super::sweep::Sweep::default(),
            haul: None,
            access: Access::default(),
        };
        engine.control.watch(&engine.core.poller)?;
        engine.life.watch(&engine.core.poller)?;
        Ok(engine)
    }

    /// Runs until the daemon says exit, the instance dies or everything is drained.
    ///
    /// # Errors
    /// The event queue itself fails.
    pub(super) fn run(&mut self) -> io::Result<()> {
        // What was said at the start has nothing to wait for.
        self.flush_outbox();
        loop {
            let wait = if self.core.ready.is_empty() {
                self.core.timers.wait(self.core.now)
            } else {
                Some(Duration::ZERO)
            };
            self.core.poller.wait(wait)?;
            self.core.now = Instant::now();
            for at in 0..self.core.poller.event_count() {
                if let Some((token, flags)) = self.core.poller.event(at) {
                    self.dispatch(token, flags);
                }
            }
            self.flush_replies();
            for _ in 0..self.core.ready.len().min(READY_COUNT) {
                if let Some(key) = self.core.ready.pop_front() {
                    self.take_turn(key);
                }
            }
            self.run_timers();
            self.tell_over();
            self.flush_outbox();
            self.tell_access();
            self.hand_over_orphans();
            if self.verdict() == Verdict::Exit {
                self.end_all();
                self.tell_over();
                self.flush_outbox();
                self.tell_access();
                return Ok(());
            }
        }
    }

    fn dispatch(&mut self, token: Token, flags: EventFlags) {
        if !matches!(token, Token::Flow(_)) {
            self.flush_replies();
        }
        match token {
            Token::Downstream(key) => self.on_stream(key, Side::Downstream, flags),
            Token::Upstream(key) => self.on_stream(key, Side::Upstream, flags),
            Token::Flow(key) => self.on_flow(key, flags),
            Token::Listener(key) => self.on_listener(key),
            Token::Control => self.on_control(),
            Token::Adoption => self.on_adoption(),
            Token::Newcomer(key) => self.on_newcomer(key),
            Token::Init => self.on_instance_gone(),
            Token::Haul => self.on_back(),
        }
    }

    fn run_timers(&mut self) {
        while let Some(timer) = self.core.timers.pop_due(self.core.now) {
            match timer {
                Timer::Stream(key) => self.on_stream_timer(key),
                Timer::Listener(key) => self.resume_listener(key),
                Timer::Probe(device, target) => self.on_probe(device, target),
                Timer::Hold(device) => self.on_hold_over(device),
                Timer::Failures(device) => self.report_failures(device),
                Timer::Flows(device) => self.expire_flows(device),
                Timer::Link(flow) => self.on_link_timer(flow),
                Timer::Newcomer(key) => self.dismiss_newcomer(key),
                Timer::Sweep => self.on_sweep(),
                Timer::End => {}
            }
        }
    }

    /// Something happened to a socket of a stream.
    fn on_stream(&mut self, key: Key, side: Side, flags: EventFlags) {
        // Of one that is lent an event may still have been queued.
        let here = |stream: &&mut Stream| stream.lent.is_none();
        let Some(stream) = self.streams.get_mut(key).filter(here) else { return };
        if let Some(socket) = stream.socket_mut(side) {
            socket.note(flags);
        }
        match stream.phase {
            Phase::Open => {
                self.pump(key);
                if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
                    self.on_failure(key, side, flags);
                }
            }
            Phase::Dialing if side == Side::Upstream => self.on_answer(key, flags),
            Phase::Announcing => self.on_header(key, flags),
            _ if side == Side::Downstream => self.on_early_event(key, flags),
            // Of a call that has been given up since the event was queued.
            Phase::Dialing | Phase::Waiting | Phase::SetAside => {}
        }
    }

    /// The event queue reports that a socket of a stream is done for, and moving bytes has not shown it.
    fn on_failure(&mut self, key: Key, side: Side, flags: EventFlags) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        match stream.on_failure(side, flags.contains(EventFlags::ERR)) {
            Failed::No => {}
            Failed::Ends(end) => self.close(key, end),
            Failed::Blocked => {
                let limit = self.devices.get(stream.device).map(|device| device.plan.spec().tcp_timeout);
                let at = *stream.doomed.get_or_insert(self.core.now + limit.unwrap_or_default());
                self.set_stream_timer(key, at);
            }
        }
    }

    fn take_turn(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.queued = false;
            self.pump(key);
        }
    }

    /// Moves what a stream can move.
    pub(super) fn pump(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        if stream.phase != Phase::Open || stream.queued || stream.lent.is_some() {
            return;
        }
        if stream.relay != Relay::Bytes {
            self.count_spare_fds();
        }
        let Some(stream) = self.streams.get_mut(key) else { return };
        let result = stream.pump(&mut self.core);
        let (device, relay, heavy) = (stream.device, stream.relay, stream.is_heavy());
        match result {
            Pumped::Waits | Pumped::More if heavy && self.lend(key) => return,
            Pumped::Waits => {}
            Pumped::More => self.queue(key),
            Pumped::Later(at) => self.set_stream_timer(key, at),
            Pumped::Ends(end) => self.ended(key, end),
        }
        if self.core.refused > 0 {
            let refused = std::mem::take(&mut self.core.refused);
            self.core.counters.add(device, field::DROPPED, refused);
        }
        if result == Pumped::Waits && matches!(relay, Relay::Datagrams(_)) {
            self.watch_idle(key);
        }
    }

    fn queue(&mut self, key: Key) {
        if let Some(stream) = self.streams.get_mut(key) {
            stream.queued = true;
            self.core.ready.push_back(key);
        }
    }

    /// A stream has come to its end. One that carried nothing because its instance dies is kept for the next.
    pub(super) fn ended(&mut self, key: Key, end: End) {
        let untouched = self.streams.get(key).is_some_and(Stream::is_untouched);
        if end == End::Reset && untouched && self.is_dying() {
            self.orphan(key);
        } else {
            self.close(key, end);
        }
    }

    /// Sets the timer of a stream, which has one: for `at`, or for its end if that comes before.
    pub(super) fn set_stream_timer(&mut self, key: Key, at: Instant) {
        self.cancel_stream_timer(key);
        if let Some(stream) = self.streams.get_mut(key) {
            let at = stream.doomed.map_or(at, |end| end.min(at));
            stream.timer = Some(at);
            self.core.timers.set(at, Timer::Stream(key));
        }
    }

    pub(super) fn cancel_stream_timer(&mut self, key: Key) {
        if let Some(at) = self.streams.get_mut(key).and_then(|stream| stream.timer.take()) {
            self.core.timers.cancel(at, Timer::Stream(key));
        }
    }

    fn on_stream_timer(&mut self, key: Key) {
        let Some(stream) = self.streams.get_mut(key) else { return };
        stream.timer = None;
        // One side is gone, and the other has not taken the rest in all that time.
        if stream.doomed.is_some_and(|end| self.core.now >= end) {
            return self.close(key, End::Reset);
        }
        match (stream.phase, stream.relay) {
            (Phase::Dialing, _) => self.dial_failed(key, rustix::io::Errno::TIMEDOUT),
            (Phase::Waiting, _) => self.give_up(key, rustix::io::Errno::TIMEDOUT),
            (Phase::Announcing, _) => self.on_header_overdue(key),
            // Its timer was taken back.
            (Phase::SetAside, _) => {}
            (Phase::Open, Relay::Datagrams(_)) => self.on_idle(key),
            (Phase::Open, Relay::Bytes | Relay::Descriptors | Relay::Records(_)) => self.pump(key),
        }
        if let Some(stream) = self.streams.get(key)
            && let (None, Some(end)) = (stream.timer, stream.doomed)
        {
            self.set_stream_timer(key, end);
        }
    }

    /// Ends a stream and counts it.
    pub(super) fn close(&mut self, key: Key, end: End) {
        self.fetch(key);
        self.cancel_stream_timer(key);
        let Some(mut stream) = self.streams.remove(key) else { return };
        if end == End::Reset {
            stream.down.reset_on_close();
            if let Some(up) = &stream.up {
                up.reset_on_close();
            }
        }
        stream.discard(&mut self.core);
        if stream.phase == Phase::Open && (end == End::Reset || stream.was_cut()) {
            self.core.count(stream.device, field::RESET);
        }
        if stream.phase == Phase::Dialing {
            self.probe_lost(key, stream.device, stream.index);
        }
        self.record(&stream, end);
        self.record_stream(&stream, end);
        self.forget_stream(&stream);
    }

    /// One record per connection, also of those that never reached their target.
    fn record(&self, stream: &Stream, end: End) {
        let (bytes_in, bytes_out) = stream.totals();
        let device = self.devices.get(stream.device).map_or("", |device| device.plan.wire.key.as_str());
        let lasted = self.core.now.saturating_duration_since(stream.begun);
        let origin = stream.origin.as_ref();
        tracing::debug!(
            device,
            client = origin.map(|origin| tracing::field::display(origin.client)),
            via = origin.and_then(|origin| origin.via()).map(tracing::field::display),
            listener = stream.index,
            bytes_in,
            bytes_out,
            ?lasted,
            reached = stream.phase == Phase::Open,
            ?end,
            "connection over"
        );
    }

    /// A stream is gone.
    pub(super) fn forget_stream(&mut self, stream: &Stream) {
        let device = stream.device;
        self.core.count(device, field::CLOSED);
        // Of a call that was not asked for the daemon knows once it is open.
        let is_known = stream.direct.is_none() || stream.phase == Phase::Open;
        self.ticket_over(stream.ticket.filter(|_| is_known), false);
        let over = self.devices.get_mut(device).is_some_and(|device| {
            if let Some(origin) = &stream.origin {
                device.forget_source(origin);
            }
            device.stream_count = device.stream_count.saturating_sub(1);
            device.slot.is_none() && device.stream_count == 0
        });
        if over {
            self.forget_device(device);
        }
    }

    /// Whether `count` more descriptors may be opened.
    pub(super) fn has_room(&mut self, count: usize) -> bool {
        let fits = |engine: &Engine| engine.open_fds().saturating_add(count) <= engine.fd_limit;
        if fits(self) {
            return true;
        }
        self.core.pipes.trim();
        if !fits(self) {
            self.sell_off();
        }
        fits(self)
    }

    /// Most UDP flows of all devices together: a quarter of the descriptors is left to streams.
    pub(super) fn flow_limit(&self) -> usize {
        (self.fd_limit / 4 * 3).max(1)
    }

    /// Notes how many descriptors messages may bring. Only who carries messages asks for it, just before.
    pub(super) fn count_spare_fds(&mut self) {
        let taken = self.open_fds().saturating_sub(self.core.pipes.held_fds());
        self.core.pipes.spare_fds = self.fd_limit.saturating_sub(taken);
    }

    /// Upper bound of the descriptors that are open.
    fn open_fds(&self) -> usize {
        /// Standard streams, event queues, channel, adoption listener, memory, pidfd; a device's base.
        const FIXED: usize = 20;
        FIXED
            + self.listeners.len()
            + 2 * self.streams.len()
            + 2 * self.core.pipes.count()
            + self.core.pipes.held_fds()
            + self.udp.flow_count()
            + self.devices.len()
            + self.stock_count()
            + self.haul.as_ref().map_or(0, Haul::open_fds)
    }
}
