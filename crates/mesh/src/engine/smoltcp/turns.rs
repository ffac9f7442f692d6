//! The loop: what is ready is moved, what is due is done, and nothing is taken in while nothing can go out.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use portway_sys::seqpacket::Channel;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{SocketType, sockopt};

use super::connection::{Phase, Turn};
use super::datagrams::unix_pair;
use super::inside::{Inside, Listening, tell_failure};
use super::{most_connections, most_flows};
use crate::engine::FRAME_BYTES;
use crate::engine::handed::Note;
use crate::engine::role::{Request, SetUp, answer};

/// Events taken at once.
const EVENTS: usize = 64;

/// Packets taken before connections have their turns: their acknowledgements go together.
const PACKETS: usize = 32;

/// Tokens of the two that are always there; all others are numbers of connections, listeners, inlets and flows.
const FRAMES: u64 = u64::MAX;
const CHANNEL: u64 = u64::MAX - 1;

/// Room on a channel for connections that nobody has taken, bytes: some dozens.
const UNTAKEN_BYTES: usize = 32 << 10;

/// How long a connection waits whose other end cannot be handed over for want of descriptors.
const MOMENT: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Turns {
    pub(super) inside: Inside,
    epoll: OwnedFd,
    channel: Channel,
    readable: bool,
    frame: Box<[u8]>,
    /// Flows that could not send all they had.
    flows: Vec<u64>,
}

impl Turns {
    pub(super) fn new(channel: Channel, frames: OwnedFd, wanted: &SetUp, files: u64) -> io::Result<Turns> {
        channel.set_nonblocking(true)?;
        let addresses = wanted.addresses.iter().map(|(ip, _)| *ip).collect();
        let (most, flows) = (most_connections(files), most_flows(files));
        let inside = Inside::new(frames, addresses, usize::from(wanted.mtu), most, flows);
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let frame = vec![0; FRAME_BYTES].into_boxed_slice();
        let turns = Turns { inside, epoll, channel, readable: true, frame, flows: Vec::new() };
        turns.watch(turns.inside.link.as_fd(), FRAMES)?;
        turns.watch(turns.channel.as_fd(), CHANNEL)?;
        Ok(turns)
    }

    /// Each change is told once.
    fn watch(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)?)
    }

    /// Until the tunnel ends.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut room = [MaybeUninit::<Event>::uninit(); EVENTS];
        loop {
            let patience = self.patience(Instant::now());
            let events = match epoll::wait(&self.epoll, &mut room, patience.as_ref()) {
                Ok((events, _)) => events,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            for event in events.iter() {
                let (token, flags) = (event.data.u64(), event.flags);
                match token {
                    FRAMES if flags.contains(EventFlags::HUP) => return Ok(()),
                    FRAMES => self.on_frames(flags),
                    CHANNEL => {
                        if !self.on_channel(now)? {
                            return Ok(());
                        }
                    }
                    id => self.on_event(id, flags),
                }
            }
            self.once(now);
        }
    }

    /// Everything that can be done now.
    pub(super) fn once(&mut self, now: Instant) {
        self.take_in(now);
        self.due(now);
        self.flows(now);
        self.connections(now);
    }

    /// A packet may have come.
    pub(super) fn arrived(&mut self) {
        self.readable = true;
        self.inside.link.unblock();
    }

    /// How long nothing has to be done; `None`: until something happens.
    fn patience(&mut self, now: Instant) -> Option<Timespec> {
        let can_go_on = self.inside.link.has_room();
        let waits = self.readable || !self.inside.queue.is_empty() || !self.flows.is_empty();
        if (can_go_on && waits) || !self.inside.link.looped.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let flows = self.inside.datagrams.expire(now);
        let timer = self.inside.timers.first().map(|(at, _)| *at);
        let next = [flows, timer].into_iter().flatten().min()?;
        Timespec::try_from(next.saturating_duration_since(now)).ok()
    }

    fn on_frames(&mut self, flags: EventFlags) {
        self.readable |= flags.contains(EventFlags::IN);
        if flags.contains(EventFlags::OUT) {
            self.inside.link.unblock();
        }
    }

    fn on_event(&mut self, id: u64, flags: EventFlags) {
        let gone = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if let Some(connection) = self.inside.connections.get_mut(&id) {
            if matches!(connection.phase, Phase::Calling(_)) {
                if gone {
                    connection.abort();
                }
            } else {
                let readable = flags.intersects(EventFlags::IN | EventFlags::RDHUP) || gone;
                connection.wake(readable, flags.contains(EventFlags::OUT) || gone, gone);
            }
            self.inside.enqueue(id);
        } else if let Some(listening) = self.inside.listeners.get_mut(&id) {
            let untaken = std::mem::take(&mut listening.untaken);
            if gone {
                self.inside.listeners.remove(&id);
            }
            untaken.into_iter().for_each(|id| self.inside.enqueue(id));
        } else if self.inside.datagrams.descriptor(id).is_some() {
            if gone || flags.contains(EventFlags::RDHUP) {
                self.inside.datagrams.hang_up(id);
            }
            if (gone || flags.contains(EventFlags::IN)) && !self.flows.contains(&id) {
                self.flows.push(id);
            }
        } else if self.inside.echoes.descriptor(id).is_some() {
            self.inside.echoes.ask(id, &mut self.inside.link);
            if gone {
                self.inside.echoes.remove(id);
            }
        } else if gone {
            self.inside.datagrams.remove_inlet(id);
        }
    }

    /// Takes some packets, while there is room for what they lead to.
    fn take_in(&mut self, now: Instant) {
        for _ in 0..PACKETS {
            if !self.readable || !self.inside.link.has_room() {
                break;
            }
            match self.inside.link.receive(&mut self.frame) {
                Ok(length) => {
                    let frame = self.frame.get_mut(..length).unwrap_or_default();
                    self.inside.take(now, frame);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.readable = false,
            }
        }
        for _ in 0..self.inside.link.looped.len() {
            if let Some(mut frame) = self.inside.link.looped.pop_front() {
                self.inside.take_own(now, &mut frame);
            }
        }
        for id in std::mem::take(&mut self.inside.new_flows) {
            let watched = self.inside.datagrams.descriptor(id).map(|fd| self.watch(fd.as_fd(), id));
            if watched.is_some_and(|watched| watched.is_err()) {
                self.inside.datagrams.end(id);
            }
        }
    }

    fn due(&mut self, now: Instant) {
        while let Some((at, id)) = self.inside.timers.first().copied()
            && at <= now
        {
            self.inside.timers.remove(&(at, id));
            if let Some(connection) = self.inside.connections.get_mut(&id) {
                connection.due = None;
            }
            self.inside.enqueue(id);
        }
    }

    fn flows(&mut self, now: Instant) {
        let ready = std::mem::take(&mut self.flows);
        for id in ready {
            if self.inside.datagrams.forward(now, id, &mut self.inside.link) {
                self.flows.push(id);
            }
        }
    }

    /// One turn for each that waits for one.
    fn connections(&mut self, now: Instant) {
        let time = self.inside.time(now);
        for _ in 0..self.inside.queue.len() {
            if !self.inside.link.has_room() {
                return;
            }
            let Some(id) = self.inside.queue.pop_front() else { return };
            let Some(connection) = self.inside.connections.get_mut(&id) else { continue };
            connection.queued = false;
            let link = &mut self.inside.link;
            let turn = catch_unwind(AssertUnwindSafe(|| {
                let turn = connection.turn(now, time, link);
                (turn, connection.next(now, time))
            }));
            let Ok((turn, mut next)) = turn else {
                self.inside.fail(id);
                continue;
            };
            match turn {
                Turn::Rests => next = [next, self.hand_over(id)].into_iter().flatten().min(),
                Turn::GoesOn => self.inside.enqueue(id),
                Turn::Up => self.up(id),
                Turn::Late => self.over(id, now),
                Turn::Over(why) => {
                    if let Some(why) = why {
                        self.inside.give_up_call(id, why);
                    }
                    self.inside.forget(id);
                }
            }
            self.schedule(id, now, next);
        }
    }

    fn over(&mut self, id: u64, now: Instant) {
        if let Some(pair) = self.inside.connections.get(&id).map(|connection| connection.pair) {
            self.inside.late.add(now, pair);
        }
        self.inside.forget(id);
    }

    fn schedule(&mut self, id: u64, now: Instant, next: Option<Duration>) {
        let Some(connection) = self.inside.connections.get_mut(&id) else { return };
        if let Some(due) = connection.due.take() {
            self.inside.timers.remove(&(due, id));
        }
        if let Some(next) = next.filter(|_| !connection.queued) {
            let due = now + next.max(Duration::from_micros(100));
            connection.due = Some(due);
            self.inside.timers.insert((due, id));
        }
    }

    /// A connection has been set up: it gets its pair.
    fn up(&mut self, id: u64) {
        let pair = unix_pair(SocketType::STREAM);
        let watched = pair.and_then(|(ours, theirs)| {
            self.watch(ours.as_fd(), id)?;
            Ok((ours, theirs))
        });
        let Some(connection) = self.inside.connections.get_mut(&id) else { return };
        let Ok((ours, theirs)) = watched else {
            if let Phase::Calling(channel) = &connection.phase {
                tell_failure(channel, Errno::MFILE);
            }
            connection.abort();
            return self.inside.enqueue(id);
        };
        connection.open(ours);
        match std::mem::replace(&mut connection.phase, Phase::Open) {
            Phase::Calling(channel) => {
                let note = serde_json::to_vec(&Note::Connected).unwrap_or_default();
                if channel.send(&note, &[theirs.as_fd()]).is_err() {
                    connection.abort();
                }
            }
            Phase::Called(listener) => {
                connection.phase = Phase::Handing(listener, theirs);
                self.inside.settled(id);
                self.hand_over(id);
            }
            Phase::Handing(..) | Phase::Open => {}
        }
        self.inside.enqueue(id);
    }

    /// Gives the other end to whoever listens, if that has not been done. Returns when to try again.
    fn hand_over(&mut self, id: u64) -> Option<Duration> {
        let connection = self.inside.connections.get_mut(&id)?;
        let Phase::Handing(listener, theirs) = &connection.phase else { return None };
        let Some(listening) = self.inside.listeners.get_mut(listener) else {
            connection.abort();
            connection.phase = Phase::Open;
            self.inside.enqueue(id);
            return None;
        };
        let note = Note::From { remote: connection.remote(), local: connection.pair.local };
        let note = serde_json::to_vec(&note).unwrap_or_default();
        match listening.channel.send(&note, &[theirs.as_fd()]) {
            Ok(()) => connection.phase = Phase::Open,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !listening.untaken.contains(&id) {
                    listening.untaken.push_back(id);
                }
            }
            // Too many descriptors on their way (ETOOMANYREFS) are fewer in a moment.
            Err(_) => return Some(MOMENT),
        }
        None
    }

    /// Answers requests; false: the tunnel has ended.
    pub(super) fn on_channel(&mut self, now: Instant) -> io::Result<bool> {
        let mut packet = Vec::new();
        loop {
            match self.channel.recv(&mut packet) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            let request = serde_json::from_slice::<Request>(&packet)?;
            let made = match request {
                Request::ListenTcp(address) => self.listen(address, SocketType::STREAM),
                Request::BindUdp(address) => self.listen(address, SocketType::DGRAM),
                Request::ConnectTcp(to) => self.call(to),
                Request::ConnectUdp(to) => self.connect(now, to),
                Request::Echo(whom) => self.echo(whom),
                Request::Sockets { .. } => Err(io::ErrorKind::Unsupported.into()),
                Request::PacketsLost => {
                    let lost = self.inside.link.lost + self.inside.datagrams.lost;
                    self.channel.send(&serde_json::to_vec(&Some(lost))?, &[])?;
                    continue;
                }
            };
            answer(&self.channel, made)?;
        }
    }

    fn listen(&mut self, address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
        if address.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if !address.ip().is_unspecified() && !self.inside.link.is_own(address.ip()) {
            return Err(Errno::ADDRNOTAVAIL.into());
        }
        let taken = match kind {
            SocketType::STREAM => {
                self.inside.listeners.values().any(|other| super::overlap(other.address, address))
            }
            _ => self.inside.datagrams.is_taken(address),
        };
        if taken {
            return Err(Errno::ADDRINUSE.into());
        }
        let (ours, theirs) = Channel::pair()?;
        ours.set_nonblocking(true)?;
        sockopt::set_socket_send_buffer_size(&ours, UNTAKEN_BYTES)?;
        let id = self.inside.number();
        self.watch(ours.as_fd(), id)?;
        if kind == SocketType::STREAM {
            let listening = Listening { address, channel: ours, untaken: Default::default() };
            self.inside.listeners.insert(id, listening);
        } else {
            self.inside.datagrams.add_inlet(id, address, ours);
        }
        Ok(theirs.into())
    }

    fn call(&mut self, to: SocketAddr) -> io::Result<OwnedFd> {
        let (ours, theirs) = Channel::pair()?;
        ours.set_nonblocking(true)?;
        let fd = ours.as_fd().try_clone_to_owned()?;
        let id = self.inside.call(to, ours)?;
        self.watch(fd.as_fd(), id)?;
        Ok(theirs.into())
    }

    fn echo(&mut self, whom: IpAddr) -> io::Result<OwnedFd> {
        let id = self.inside.number();
        let theirs = self.inside.echoes.add(id, whom)?;
        let watched = self.inside.echoes.descriptor(id).map(|fd| self.watch(fd.as_fd(), id));
        watched.unwrap_or(Ok(())).inspect_err(|_| self.inside.echoes.remove(id))?;
        Ok(theirs)
    }

    fn connect(&mut self, now: Instant, to: SocketAddr) -> io::Result<OwnedFd> {
        let (id, theirs) = self.inside.flow(now, to)?;
        let watched = match self.inside.datagrams.descriptor(id) {
            Some(fd) => self.watch(fd.as_fd(), id),
            None => Ok(()),
        };
        watched.inspect_err(|_| self.inside.datagrams.end(id))?;
        Ok(theirs)
    }
}
