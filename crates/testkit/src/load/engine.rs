//! The load's thread: begins connections on time, moves each along as its socket allows.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use socket2::{SockAddr, Socket};

use super::{Load, Outcome, Pace, Record, Report, Shared};
use crate::Pattern;

/// Longest sleep, so that a stop is seen.
const TURN: Duration = Duration::from_millis(20);

/// Pause before a unix socket whose queue is full is tried again.
const RETRY: Duration = Duration::from_millis(2);

/// A client that is further behind than this begins afresh.
const BEHIND: Duration = Duration::from_secs(1);

pub(super) fn run(load: &Load, started: Instant, shared: &Shared) -> Result<Report> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).context("cannot make an epoll")?;
    let mut engine = Engine {
        load,
        shared,
        address: load.target.to_sock_addr().context("cannot use the target")?,
        epoll,
        started,
        begun: 0,
        slots: Vec::new(),
        free: Vec::new(),
        deadlines: VecDeque::new(),
        waiting: Vec::new(),
        report: Report::default(),
    };
    engine.run()?;
    Ok(engine.report)
}

struct Engine<'a> {
    load: &'a Load,
    shared: &'a Shared,
    address: SockAddr,
    epoll: rustix::fd::OwnedFd,
    started: Instant,
    begun: u64,
    slots: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Slot and number of each, in the order of their beginnings and so of their deadlines.
    deadlines: VecDeque<(usize, u64, Instant)>,
    /// Unix sockets whose queue was full.
    waiting: Vec<(usize, u64)>,
    report: Report,
}

struct Connection {
    number: u64,
    socket: Socket,
    begun: Instant,
    is_connected: bool,
    payload: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Engine<'_> {
    fn run(&mut self) -> Result<()> {
        let mut next = Instant::now();
        let mut events: Vec<Event> = Vec::with_capacity(256);
        loop {
            let now = Instant::now();
            let is_done = self.shared.stopping.load(Ordering::Relaxed)
                || self.load.total.is_some_and(|total| self.begun >= total);
            if !is_done {
                next = self.begin_due(now, next)?;
            } else if self.in_flight() == 0 {
                return Ok(());
            }
            for (slot, number) in std::mem::take(&mut self.waiting) {
                if self.holds(slot, number) {
                    self.connect(slot)?;
                }
            }
            self.expire(now);
            let mut sleep = TURN;
            if !is_done && matches!(self.load.pace, Pace::PerSecond(_)) {
                sleep = sleep.min(next.saturating_duration_since(Instant::now()));
            }
            if !self.waiting.is_empty() {
                sleep = sleep.min(RETRY);
            }
            let sleep = Timespec::try_from(sleep).context("a short time")?;
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&sleep)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait"),
            }
            for event in &events {
                // A slot given up in this turn is empty; one taken again waits for its own events.
                if let Ok(slot) = usize::try_from(event.data.u64()) {
                    self.advance(slot);
                }
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn holds(&self, slot: usize, number: u64) -> bool {
        self.slots[slot].as_ref().is_some_and(|connection| connection.number == number)
    }

    /// Begins what is due and returns when the next one is.
    fn begin_due(&mut self, now: Instant, mut next: Instant) -> Result<Instant> {
        let room = |engine: &Self| engine.load.total.is_none_or(|total| engine.begun < total);
        match self.load.pace {
            Pace::PerSecond(rate) => {
                if now.saturating_duration_since(next) > BEHIND {
                    next = now;
                }
                while next <= now && room(self) {
                    self.begin()?;
                    next += Duration::from_secs(1) / rate.max(1);
                }
            }
            Pace::InFlight(count) => {
                // At most one round: those that fail at once must not keep the others waiting.
                for _ in 0..count {
                    if self.in_flight() >= usize::try_from(count).unwrap_or(usize::MAX) || !room(self) {
                        break;
                    }
                    self.begin()?;
                }
            }
        }
        Ok(next)
    }

    fn begin(&mut self) -> Result<()> {
        let (number, begun) = (self.begun, Instant::now());
        self.begun += 1;
        let opened =
            self.load.target.socket().and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = match opened {
            Ok(socket) => socket,
            Err(error) => {
                self.note(begun, class(&error));
                return Ok(());
            }
        };
        let payload = Pattern::new(number).bytes(self.load.payload_bytes);
        let received = Vec::with_capacity(payload.len());
        let connection =
            Connection { number, socket, begun, is_connected: false, payload, sent: 0, received };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(connection);
        self.deadlines.push_back((slot, number, begun + self.load.limit));
        self.connect(slot)
    }

    fn connect(&mut self, slot: usize) -> Result<()> {
        let Some(connection) = &self.slots[slot] else { return Ok(()) };
        let started = connection.socket.connect(&self.address);
        match started {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(in_progress()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.waiting.push((slot, connection.number));
                return Ok(());
            }
            Err(error) => {
                self.end(slot, class(&error));
                return Ok(());
            }
        }
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let data = EventData::new_u64(slot as u64);
        epoll::add(&self.epoll, &connection.socket, data, flags).context("cannot watch a socket")
    }

    /// Does what the socket allows.
    fn advance(&mut self, slot: usize) {
        let Some(connection) = &mut self.slots[slot] else { return };
        match connection.advance() {
            Ok(false) => {}
            Ok(true) => {
                let same = connection.received == connection.payload;
                self.end(slot, if same { Outcome::Ok } else { Outcome::Wrong });
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.end(slot, Outcome::Short),
            Err(error) => self.end(slot, class(&error)),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((slot, number, deadline)) = self.deadlines.front().copied() {
            let is_alive = self.holds(slot, number);
            if is_alive && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if is_alive {
                self.end(slot, Outcome::TimedOut);
            }
        }
    }

    fn end(&mut self, slot: usize, outcome: Outcome) {
        if let Some(connection) = self.slots[slot].take() {
            self.free.push(slot);
            self.note(connection.begun, outcome);
        }
    }

    fn note(&mut self, begun: Instant, outcome: Outcome) {
        let counter = if outcome == Outcome::Ok { &self.shared.ok } else { &self.shared.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let at = begun.saturating_duration_since(self.started);
        self.report.records.push(Record { at, took: begun.elapsed(), outcome });
    }
}

impl Connection {
    /// Whether everything came back.
    fn advance(&mut self) -> io::Result<bool> {
        if !self.is_connected {
            if let Some(error) = self.socket.take_error()? {
                return Err(error);
            }
            self.is_connected = true;
        }
        while self.sent < self.payload.len() {
            match (&self.socket).write(&self.payload[self.sent..]) {
                Ok(sent) => self.sent += sent,
                Err(error) if is_not_yet(&error) => break,
                Err(error) => return Err(error),
            }
        }
        let mut buffer = [0; 16384];
        while self.received.len() < self.payload.len() {
            match (&self.socket).read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.received.extend_from_slice(&buffer[..length]),
                Err(error) if is_not_yet(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Not connected yet, or nothing to do at the moment.
fn is_not_yet(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::NotConnected | io::ErrorKind::Interrupted
    )
}

fn in_progress() -> i32 {
    rustix::io::Errno::INPROGRESS.raw_os_error()
}

fn class(error: &io::Error) -> Outcome {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Outcome::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Outcome::Reset,
        io::ErrorKind::TimedOut => Outcome::TimedOut,
        _ => Outcome::Failed(error.raw_os_error().unwrap_or_default()),
    }
}
