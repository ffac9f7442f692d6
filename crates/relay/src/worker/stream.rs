//! A relayed connection: two sockets, two directions, and what happens when one of them ends.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use portway_model::{FdPassing, UdpFraming};
use portway_proto::half_close::{Action, Event, HalfClose, Leg};
use portway_proto::{Dir, Side};
use portway_sys::sockopt;
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::access::Trace;
use super::broker::Call;
use super::core::Core;
use super::datagram::{self, Frames};
use super::guard::{Entry, Origin};
use super::lane::{Lane, Patience, Step};
use super::pipes::Pipes;
use super::records;
use super::slab::Key;
use super::socket::{Carrier, Socket};
use super::unix_fds;
use crate::wire::LiveState;

/// Stages of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client is to say who it is.
    Announcing,
    /// The target has been called and has not answered.
    Dialing,
    /// The target is to be called later.
    Waiting,
    /// Both sockets are connected.
    Open,
    /// The client is to be handed to the daemon, and to nobody else.
    SetAside,
}

/// How bytes are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relay {
    /// As a stream.
    Bytes,
    /// As a stream with file descriptors beside it.
    Descriptors,
    /// As records, with file descriptors beside them or without.
    Records(FdPassing),
    /// Between a stream and datagrams.
    Datagrams(UdpFraming),
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Everything has been delivered.
    Clean,
    /// Something was cut: tcp sockets are reset.
    Reset,
}

/// Result of [`Stream::pump`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pumped {
    /// Nothing to do before the next event.
    Waits,
    /// There is more to do, after the others' turn.
    More,
    /// To be tried again then, or at an event of before.
    Later(Instant),
    /// It is over.
    Ends(End),
}

impl Pumped {
    /// What two directions come to, neither of which is over.
    fn or(self, other: Pumped) -> Pumped {
        match (self, other) {
            (Pumped::Later(one), Pumped::Later(two)) => Pumped::Later(one.min(two)),
            (Pumped::More, _) | (Pumped::Later(_), Pumped::Waits) => self,
            (Pumped::Waits | Pumped::Later(_) | Pumped::Ends(_), _) => other,
        }
    }
}

/// What a failure that the event queue reports means for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failed {
    /// Nothing beyond what reads and writes show.
    No,
    /// It is over.
    Ends(End),
    /// It is over once the other side has taken what is on its way.
    Blocked,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    pub(super) state: LiveState,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// When it last carried something; when it began, if it never did.
    pub(super) moved: Instant,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) device: Key,
    /// Listen index it came in by.
    pub(super) index: u32,
    /// When it was accepted.
    pub(super) begun: Instant,
    pub(super) phase: Phase,
    pub(super) relay: Relay,
    pub(super) down: Socket,
    /// What its record wants to know.
    pub(super) trace: Option<Box<Trace>>,
    /// Where the client comes from, where that matters.
    pub(super) origin: Option<Box<Origin>>,
    pub(super) entry: Entry,
    /// By which the daemon knows it.
    pub(super) mark: Option<u64>,
    pub(super) up: Option<Socket>,
    /// Number under which the daemon was asked for its target.
    pub(super) ticket: Option<u64>,
    /// Counter line of its target, where it has one.
    pub(super) line: Option<u32>,
    /// How its target was called, when nobody was asked for it.
    pub(super) direct: Option<Box<Call>>,
    half: HalfClose,
    lane_up: Lane,
    lane_down: Lane,
    /// Frames of the client's stream, where it has any.
    frames: Option<Box<Frames>>,
    /// The side that is dead; what came from it before is still delivered.
    cut: Option<Side>,
    /// The client has been told that nothing more comes.
    told_end: bool,
    /// When its target was called last.
    pub(super) called: Instant,
    /// From when on its patience with a shortage is counted.
    pub(super) patient_since: Instant,
    /// When its timer is set for.
    pub(super) timer: Option<Instant>,
    /// It stands in the queue of those with more to do.
    pub(super) queued: bool,
    /// When it last carried something.
    moved: Instant,
    /// When something last passed that keeps it alive (datagrams).
    pub(super) since: Option<Instant>,
    /// One side is gone, and the other has until then to take what is on its way.
    pub(super) doomed: Option<Instant>,
    /// Its place at the second thread, which carries its bytes meanwhile.
    pub(super) lent: Option<Key>,
    /// It is not lent any more.
    pub(super) stays: bool,
}

impl Stream {
    pub(super) fn new(device: Key, index: u32, relay: Relay, down: Socket, now: Instant) -> Stream {
        Stream {
            device,
            index,
            begun: now,
            phase: Phase::Waiting,
            relay,
            down,
            trace: None,
            origin: None,
            entry: Entry::Fresh,
            mark: None,
            up: None,
            ticket: None,
            line: None,
            direct: None,
            half: HalfClose::new(),
            lane_up: Lane::default(),
            lane_down: Lane::default(),
            frames: None,
            cut: None,
            told_end: false,
            called: now,
            patient_since: now,
            timer: None,
            queued: false,
            moved: now,
            since: None,
            doomed: None,
            lent: None,
            stays: false,
        }
    }

    /// Moves what can be moved.
    pub(super) fn pump(&mut self, core: &mut Core) -> Pumped {
        let mut result = Pumped::Waits;
        for dir in Dir::ALL {
            if !self.half.writes(dir) || self.cut == Some(dir.to()) {
                continue;
            }
            match self.turn(dir, core) {
                Pumped::Ends(end) => return Pumped::Ends(end),
                other => result = result.or(other),
            }
        }
        result
    }

    /// One direction's part of [`Stream::pump`].
    fn turn(&mut self, dir: Dir, core: &mut Core) -> Pumped {
        if let Patience::Rests(until) = self.lane_mut(dir).patience(core.now) {
            return Pumped::Later(until);
        }
        let step = self.step(dir, core);
        self.report(dir, core);
        let lane = self.lane_mut(dir);
        lane.note(step, core.now);
        match lane.patience(core.now) {
            Patience::Rests(until) => Pumped::Later(until),
            Patience::Over => Pumped::Ends(End::Reset),
            Patience::Free => self.settle(dir, step, core),
        }
    }

    fn step(&mut self, dir: Dir, core: &mut Core) -> Step {
        let Some(up) = &mut self.up else { return Step::Waits };
        let (from, to, lane) = match dir {
            Dir::Up => (&mut self.down, up, &mut self.lane_up),
            Dir::Down => (up, &mut self.down, &mut self.lane_down),
        };
        match (self.relay, dir) {
            (Relay::Bytes, _) => lane.carry(from, to, &mut core.buffer, &mut core.pipes),
            (Relay::Descriptors, _) => {
                unix_fds::carry(lane, from, to, &mut core.buffer, &mut core.pipes, &mut core.refused)
            }
            (Relay::Records(fds), _) => records::carry(lane, from, to, core, fds),
            (Relay::Datagrams(UdpFraming::Raw), Dir::Up) => datagram::carry_up(lane, from, to, core),
            (Relay::Datagrams(UdpFraming::Len16), Dir::Up) => {
                let frames = self.frames.get_or_insert_with(|| Box::new(Frames::new(core.now)));
                datagram::carry_frames_up(lane, frames, from, to, core, self.device)
            }
            (Relay::Datagrams(framing), Dir::Down) => {
                datagram::carry_down(lane, from, to, core, (framing, &mut self.since))
            }
        }
    }

    fn report(&mut self, dir: Dir, core: &mut Core) {
        let lane = self.lane_mut(dir);
        let bytes = std::mem::take(&mut lane.uncounted);
        let heavy = lane.weigh(bytes);
        if bytes > 0 {
            self.moved = core.now;
        }
        if heavy {
            core.mix.heavy();
        } else if bytes > 0 && !self.is_heavy() {
            core.mix.light();
        }
        core.count_traffic(self.device, dir, bytes);
        core.count_share(self.line, dir, bytes);
    }

    fn settle(&mut self, dir: Dir, step: Step, core: &mut Core) -> Pumped {
        match step {
            // For what is short [`Lane::patience`] has an answer.
            Step::Waits | Step::Later => Pumped::Waits,
            Step::More => Pumped::More,
            Step::Ended => self.ended(dir),
            Step::SourceFailed(errno) => self.source_failed(dir, errno),
            Step::SinkFailed(errno) => self.sink_failed(dir, errno, core),
        }
    }

    /// The direction is over: its source has ended and all is written.
    fn ended(&mut self, dir: Dir) -> Pumped {
        if self.cut == Some(dir.from()) {
            return Pumped::Ends(self.cut_end());
        }
        let may_tell = self.half.leg(dir.other()) != Leg::Done;
        if may_tell && self.socket(dir.from()).is_some_and(Socket::was_reset) {
            return self.source_failed(dir, Errno::CONNRESET);
        }
        let begun = self.half.on(Event::Eof(dir));
        debug_assert_eq!(begun, Action::Nothing, "an end by itself asks for nothing");
        match self.half.on(Event::Drained(dir)) {
            Action::ShutdownWrite(side) => {
                self.shut_write(side);
                Pumped::Waits
            }
            Action::CloseBoth => Pumped::Ends(End::Clean),
            Action::ResetOther(_) | Action::ResetBoth => Pumped::Ends(End::Reset),
            Action::Nothing => Pumped::Waits,
        }
    }

    /// The source is dead. A reset goes on at once where the other side can carry one; a unix socket
    /// first gets what is on its way, and then its end.
    fn source_failed(&mut self, dir: Dir, errno: Errno) -> Pumped {
        tracing::trace!(?dir, %errno, "source failed");
        if self.carries_resets() {
            let action = self.half.on(Event::Reset(dir.from()));
            debug_assert_eq!(action, Action::ResetOther(dir.to()), "the connection was open");
            return Pumped::Ends(End::Reset);
        }
        if self.cut == Some(dir.to()) {
            return Pumped::Ends(End::Reset);
        }
        self.cut = Some(dir.from());
        self.lane_mut(dir).eof = true;
        Pumped::More
    }

    /// The destination takes nothing any more. What it sent before is still delivered: a server may answer
    /// and close without reading the rest of the request.
    fn sink_failed(&mut self, dir: Dir, errno: Errno, core: &mut Core) -> Pumped {
        tracing::trace!(?dir, %errno, "destination failed");
        let unread = self.cut.is_some() || self.half.leg(dir.other()) == Leg::Done;
        self.cut = Some(dir.to());
        if unread || matches!(self.relay, Relay::Datagrams(_)) {
            return Pumped::Ends(self.cut_end());
        }
        let lane = self.lane_mut(dir);
        lane.discard(&mut core.pipes);
        if let Some(dead) = self.socket_mut(dir.to()) {
            dead.read = true;
        }
        if let Some(source) = self.socket(dir.from())
            && matches!(source.carrier, Carrier::Unix | Carrier::Packet)
            && !source.knows_resets()
            && let Err(error) = shutdown(source, Shutdown::Read)
        {
            tracing::trace!(%error, "source not told");
        }
        Pumped::More
    }

    /// The event queue says that `side` is done for (`error`), or that both directions of it are over. Most often
    /// a read or write has shown it already, or will.
    pub(super) fn on_failure(&mut self, side: Side, error: bool) -> Failed {
        let from = match side {
            Side::Downstream => Dir::Up,
            Side::Upstream => Dir::Down,
        };
        let (Some(socket), Some(other)) = (self.socket(side), self.socket(side.other())) else {
            return Failed::No;
        };
        if socket.carrier.is_datagram() || self.cut == Some(side) {
            return Failed::No;
        }
        if self.half.reads(from) {
            // What it sent before is still delivered, but not for ever: its other end may never take it.
            return if error && !other.write { Failed::Blocked } else { Failed::No };
        }
        // Its stream has been read to the end, so no read will show it.
        let gone = match socket.carrier {
            Carrier::Unix | Carrier::Packet => true,
            Carrier::Tcp | Carrier::Udp | Carrier::Gram => {
                error && matches!(sockopt::take_error(socket.as_fd()), Ok(Some(_)))
            }
        };
        if !gone {
            return Failed::No;
        }
        self.cut = Some(side);
        Failed::Ends(self.cut_end())
    }

    fn shut_write(&mut self, side: Side) {
        self.told_end |= side == Side::Downstream;
        match self.socket(side) {
            Some(socket) if !socket.carrier.is_datagram() => {
                // The peer may be gone meanwhile; the other direction finds out.
                if let Err(error) = shutdown(socket, Shutdown::Write) {
                    tracing::trace!(%error, "write side not shut");
                }
            }
            Some(_) | None => {}
        }
    }

    /// Whether a reset of one side is a reset of the other.
    fn carries_resets(&self) -> bool {
        self.down.knows_resets() && self.up.as_ref().is_some_and(Socket::knows_resets)
    }

    fn cut_end(&self) -> End {
        if self.carries_resets() { End::Reset } else { End::Clean }
    }

    /// Whether one side was lost rather than ended.
    pub(super) fn was_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// Whether the client has neither lost nor got anything: another target could still serve it.
    pub(super) fn is_untouched(&self) -> bool {
        let header_taken = self.origin.as_ref().is_some_and(|origin| origin.header_taken);
        !header_taken && self.lane_up.total == 0 && self.lane_down.total == 0 && !self.told_end
    }

    /// Whether the client has ended its side.
    pub(super) fn client_has_ended(&self) -> bool {
        self.half.leg(Dir::Up) == Leg::Done
    }

    /// When the frame that the client has begun is overdue, if it has begun one.
    pub(super) fn frame_ends(&self) -> Option<Instant> {
        self.frames.as_ref()?.ends()
    }

    /// The way from the client to the target.
    pub(super) fn upward(&mut self) -> (Option<&mut Socket>, &mut Lane) {
        (self.up.as_mut(), &mut self.lane_up)
    }

    /// Whether it carries much.
    pub(super) const fn is_heavy(&self) -> bool {
        self.lane_up.is_heavy() || self.lane_down.is_heavy()
    }

    /// Whether it has carried little for a while.
    pub(super) const fn is_light(&self) -> bool {
        self.lane_up.is_light() && self.lane_down.is_light()
    }

    /// Whether another thread may carry its bytes: there is nothing else about it.
    pub(super) fn may_be_lent(&self) -> bool {
        let plain = self.phase == Phase::Open && self.relay == Relay::Bytes;
        let calm = self.cut.is_none() && self.timer.is_none() && self.doomed.is_none();
        plain && calm && !self.queued && !self.stays && self.lent.is_none()
    }

    /// What another thread needs to carry its bytes: duplicates of the sockets, and what is on its way.
    ///
    /// # Errors
    /// No descriptors are left.
    pub(super) fn lend(&mut self) -> io::Result<Stream> {
        let down = self.down.duplicate()?;
        let up = self.up.as_ref().map(Socket::duplicate).transpose()?;
        let mut lent = Stream::new(self.device, self.index, self.relay, down, self.begun);
        (lent.phase, lent.line) = (self.phase, self.line);
        lent.up = up;
        lent.take_way(self);
        Ok(lent)
    }

    /// Takes back what was lent.
    pub(super) fn take_back(&mut self, mut lent: Stream) {
        self.lent = None;
        self.down.learn(&lent.down);
        if let (Some(up), Some(theirs)) = (&mut self.up, &lent.up) {
            up.learn(theirs);
        }
        self.take_way(&mut lent);
    }

    /// Takes over how far `other` has come.
    fn take_way(&mut self, other: &mut Stream) {
        self.half = std::mem::replace(&mut other.half, HalfClose::new());
        self.lane_up = std::mem::take(&mut other.lane_up);
        self.lane_down = std::mem::take(&mut other.lane_down);
        self.cut = other.cut;
        self.told_end = other.told_end;
        self.moved = other.moved;
    }

    /// Its sockets: the client's, the target's.
    pub(super) fn sockets(&self) -> impl Iterator<Item = &Socket> {
        std::iter::once(&self.down).chain(&self.up)
    }

    /// What it holds is counted in `pipes` from here on.
    pub(super) fn come_to(&self, pipes: &mut Pipes) {
        self.lane_up.come_to(pipes);
        self.lane_down.come_to(pipes);
    }

    /// What it holds is counted elsewhere.
    pub(super) fn leave(&self, pipes: &mut Pipes) {
        self.lane_up.leave(pipes);
        self.lane_down.leave(pipes);
    }

    /// Throws away what is on its way.
    pub(super) fn discard(&mut self, core: &mut Core) {
        for dir in Dir::ALL {
            self.lane_mut(dir).discard(&mut core.pipes);
        }
        if let Some(frames) = self.frames.take() {
            core.frames.unkeep(self.device, frames.decoder.kept_bytes());
        }
    }

    /// How far it has come.
    pub(super) fn progress(&self) -> Progress {
        let (bytes_in, bytes_out) = self.totals();
        let ended = |dir| self.half.leg(dir) == Leg::Done;
        let state = match (self.phase, ended(Dir::Up), ended(Dir::Down)) {
            (Phase::Announcing, ..) => LiveState::Announcing,
            (Phase::Dialing, ..) => LiveState::Dialling,
            (Phase::Waiting | Phase::SetAside, ..) => LiveState::Held,
            (Phase::Open, true, _) => LiveState::ClientEnded,
            (Phase::Open, false, true) => LiveState::TargetEnded,
            (Phase::Open, false, false) => LiveState::Open,
        };
        Progress { state, bytes_in, bytes_out, moved: self.moved }
    }

    /// Bytes of each direction: up, down.
    pub(super) fn totals(&self) -> (u64, u64) {
        (self.lane_up.total, self.lane_down.total)
    }

    pub(super) fn lane_mut(&mut self, dir: Dir) -> &mut Lane {
        match dir {
            Dir::Up => &mut self.lane_up,
            Dir::Down => &mut self.lane_down,
        }
    }

    pub(super) fn socket(&self, side: Side) -> Option<&Socket> {
        match side {
            Side::Downstream => Some(&self.down),
            Side::Upstream => self.up.as_ref(),
        }
    }

    pub(super) fn socket_mut(&mut self, side: Side) -> Option<&mut Socket> {
        match side {
            Side::Downstream => Some(&mut self.down),
            Side::Upstream => self.up.as_mut(),
        }
    }
}
