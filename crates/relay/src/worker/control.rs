//! What the daemon says and what it is told: its channel, the outbox, adoption by a later daemon.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portway_sys::seqpacket::Channel;
use rustix::net::accept_with;

use super::engine::Engine;
use super::poller::{Poller, Token, Watch};
use super::slab::{Key, Slab};
use super::timers::Timer;
use crate::wire::{BEAT, FromWorker, Lifetime, MAX_FDS, PROTOCOL_VERSION, Slot, ToWorker};

/// Messages taken in one turn.
const TURN_MESSAGES: usize = 64;

/// Messages that wait for a daemon that does not read. Past this it counts as gone.
const OUTBOX_LIMIT: usize = 8192;

/// Past this, what can be told later or not at all is not queued.
const OUTBOX_SOFT_LIMIT: usize = 1024;

/// Channels that have not said hello.
const NEWCOMER_LIMIT: usize = 4;

/// How long they have for it.
const HELLO_TIME: Duration = Duration::from_secs(5);

/// How long connections may go on when the daemon is of another version.
const UNDERSTOOD_BY_NOBODY: Duration = Duration::from_secs(24 * 3600);

/// Room for a received packet that is kept between packets, bytes.
const PACKET_BYTES: usize = 8 * 1024;

/// What waits to be sent.
enum Packet {
    /// A message with its descriptors.
    Message(Vec<u8>, Vec<OwnedFd>),
    /// The table entry of the device in this slot, listeners from this index on: made when its turn comes, so
    /// that no listener is duplicated before.
    Entry(Slot, u32),
}

struct Newcomer {
    channel: Channel,
    until: std::time::Instant,
}

/// See the module.
pub(super) struct Control {
    channel: Option<Channel>,
    outbox: VecDeque<Packet>,
    /// The channel is watched for room, too.
    watches_room: bool,
    adoption: Option<OwnedFd>,
    newcomers: Slab<Newcomer>,
    /// The counters.
    memory: OwnedFd,
    packet: Vec<u8>,
}

impl Control {
    pub(super) fn new(channel: Channel, adoption: Option<OwnedFd>, memory: OwnedFd) -> io::Result<Control> {
        set_nonblocking(channel.as_fd())?;
        if let Some(listener) = &adoption {
            set_nonblocking(listener.as_fd())?;
        }
        Ok(Control {
            channel: Some(channel),
            outbox: VecDeque::new(),
            watches_room: false,
            adoption,
            newcomers: Slab::new(),
            memory,
            packet: Vec::new(),
        })
    }

    pub(super) fn watch(&self, poller: &Poller) -> io::Result<()> {
        if let Some(channel) = &self.channel {
            poller.add(channel.as_fd(), Token::Control, Watch::Level)?;
        }
        if let Some(listener) = &self.adoption {
            poller.add(listener.as_fd(), Token::Adoption, Watch::Level)?;
        }
        Ok(())
    }

    /// Whether a daemon is there.
    pub(super) const fn is_connected(&self) -> bool {
        self.channel.is_some()
    }

    /// Whether the daemon is there and keeps up: what it is to answer may be asked.
    pub(super) fn keeps_up(&self) -> bool {
        self.is_connected() && self.outbox.len() < OUTBOX_SOFT_LIMIT
    }

    /// Whether everything has been sent.
    pub(super) fn is_quiet(&self) -> bool {
        self.outbox.is_empty()
    }
}

/// Makes a descriptor that came from elsewhere non-blocking. For all its duplicates.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    if !flags.contains(rustix::fs::OFlags::NONBLOCK) {
        rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    }
    Ok(())
}

fn encode(message: &FromWorker) -> Option<Vec<u8>> {
    match serde_json::to_vec(message) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            tracing::error!(%error, "message not encoded");
            None
        }
    }
}

impl Engine {
    /// Tells the daemon. Without one, nothing happens.
    pub(super) fn send(&mut self, message: &FromWorker, fds: Vec<OwnedFd>) {
        let minor = matches!(message, FromWorker::Failure { .. });
        let count = self.control.outbox.len();
        if !self.control.is_connected() || (minor && count >= OUTBOX_SOFT_LIMIT) {
            return;
        }
        if count >= OUTBOX_LIMIT {
            tracing::warn!("daemon does not read");
            return self.lose_daemon();
        }
        if let Some(bytes) = encode(message) {
            self.control.outbox.push_back(Packet::Message(bytes, fds));
        }
    }

    /// Answers request `seq`.
    pub(super) fn answer(&mut self, seq: u64, error: Option<String>) {
        self.send(&FromWorker::Done { seq, error }, Vec::new());
    }

    /// The worker serves.
    pub(super) fn say_ready(&mut self) {
        let memory = match self.control.memory.try_clone() {
            Ok(memory) => vec![memory],
            Err(error) => {
                tracing::warn!(%error, "counters not handed over");
                Vec::new()
            }
        };
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let identity = self.init.identity.clone();
        self.send(&FromWorker::Ready { version: PROTOCOL_VERSION, pid, identity }, memory);
    }

    /// Sends what waits, as far as the daemon takes it.
    pub(super) fn flush_outbox(&mut self) {
        while let Some(packet) = self.control.outbox.pop_front() {
            let result = match &packet {
                Packet::Message(bytes, fds) => {
                    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
                    self.send_packet(bytes, &fds).map(|()| None)
                }
                Packet::Entry(slot, first) => self.send_entry(*slot, *first),
            };
            match result {
                Ok(None) => {}
                Ok(Some(next)) => self.control.outbox.push_front(next),
                Err(error) if is_pressure(&error) => {
                    self.control.outbox.push_front(packet);
                    return self.watch_room(true);
                }
                Err(error) => {
                    tracing::debug!(%error, "daemon gone");
                    return self.lose_daemon();
                }
            }
        }
        self.watch_room(false);
    }

    /// Sends a message that has nothing to wait behind. [`Engine::is_taken`] says what the result means.
    pub(super) fn send_now(&self, message: &FromWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_packet(&encode(message).ok_or(io::ErrorKind::InvalidInput)?, fds)
    }

    /// Whether the daemon has taken a message. If not, it will be seen when it takes more, or it is gone.
    pub(super) fn is_taken(&mut self, sent: io::Result<()>) -> bool {
        match sent {
            Ok(()) => true,
            Err(error) if is_pressure(&error) => {
                self.watch_room(true);
                false
            }
            Err(error) => {
                tracing::debug!(%error, "daemon gone");
                self.lose_daemon();
                false
            }
        }
    }

    fn send_packet(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.control.channel.as_ref().ok_or(io::ErrorKind::NotConnected)?.send(bytes, fds)
    }

    /// Sends a part of a table entry; returns the next part.
    fn send_entry(&self, slot: Slot, first: u32) -> io::Result<Option<Packet>> {
        let Some(device) = self.slots.device(slot).and_then(|key| self.devices.get(key)) else {
            return Ok(None);
        };
        let from = usize::try_from(first).unwrap_or(usize::MAX);
        let listeners = device.listeners.get(from..).unwrap_or_default();
        let fds: Vec<BorrowedFd<'_>> = listeners
            .iter()
            .take(MAX_FDS)
            .filter_map(|key| self.listeners.get(*key).map(|listener| listener.fd.as_fd()))
            .collect();
        let message = FromWorker::Entry {
            slot,
            device: Box::new(device.plan.wire.clone()),
            listen_count: u32::try_from(device.listeners.len()).unwrap_or(u32::MAX),
            first,
        };
        let Some(bytes) = encode(&message) else { return Ok(None) };
        self.send_packet(&bytes, &fds)?;
        let next = first.saturating_add(u32::try_from(fds.len()).unwrap_or(0));
        Ok((listeners.len() > fds.len() && !fds.is_empty()).then_some(Packet::Entry(slot, next)))
    }

    fn watch_room(&mut self, wanted: bool) {
        let Some(channel) = &self.control.channel else { return };
        if self.control.watches_room != wanted {
            let watch = if wanted { Watch::LevelBoth } else { Watch::Level };
            match self.core.poller.modify(channel.as_fd(), Token::Control, watch) {
                Ok(()) => self.control.watches_room = wanted,
                Err(error) => tracing::warn!(%error, "channel not watched"),
            }
        }
    }

    /// The daemon has said something, takes more, or is gone.
    pub(super) fn on_control(&mut self) {
        let mut packet = std::mem::take(&mut self.control.packet);
        for _ in 0..TURN_MESSAGES {
            let Some(channel) = &self.control.channel else { break };
            match channel.recv(&mut packet) {
                Ok(Some(_)) if packet == BEAT => self.beat(),
                Ok(Some(fds)) => match serde_json::from_slice(&packet) {
                    Ok(message) => self.obey(message, fds),
                    Err(error) => tracing::warn!(%error, "unknown message of the daemon"),
                },
                Ok(None) => {
                    self.lose_daemon();
                    break;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    tracing::warn!(%error, "message of the daemon was cut");
                    self.obey_cut(&packet);
                }
                Err(error) => {
                    tracing::debug!(%error, "daemon gone");
                    self.lose_daemon();
                    break;
                }
            }
        }
        packet.clear();
        packet.shrink_to(PACKET_BYTES);
        self.control.packet = packet;
    }

    /// A sign of life, unless others that the daemon has not read are as good.
    fn beat(&mut self) {
        if self.control.keeps_up() {
            self.control.outbox.push_back(Packet::Message(BEAT.to_vec(), Vec::new()));
        }
    }

    /// The descriptors of a message did not fit: whoever waits for them is told.
    fn obey_cut(&mut self, packet: &[u8]) {
        match serde_json::from_slice(packet) {
            Ok(ToWorker::Dialed { ticket, error, line }) => {
                let error = error.unwrap_or(rustix::io::Errno::MFILE.raw_os_error());
                self.on_dialed(ticket, Some(error), line, Vec::new());
            }
            Ok(ToWorker::Stock { v4 }) => self.restock(v4, Vec::new()),
            Ok(ToWorker::Client { .. }) => {}
            Ok(_) | Err(_) => self.fail_pending(),
        }
    }

    fn obey(&mut self, message: ToWorker, fds: Vec<OwnedFd>) {
        match message {
            ToWorker::Put { seq, slot, device, listen_count, keep_listeners, hold } => {
                self.put(
                    super::table::Put { seq, slot, wire: *device, listen_count, keep_listeners, hold },
                    fds,
                );
            }
            ToWorker::Listeners { slot, first } => self.take_listeners(slot, first, fds),
            ToWorker::Remove { seq, slot, drain } => self.remove(seq, slot, drain),
            ToWorker::Client { slot, index, known } => self.take_clients(slot, index, known, fds),
            ToWorker::Dialed { ticket, error, line } => self.on_dialed(ticket, error, line, fds),
            ToWorker::Cut { tickets, targets } => self.cut(&tickets, &targets),
            ToWorker::Stock { v4 } => self.restock(v4, fds),
            ToWorker::Access { on } => self.want_access(on),
            ToWorker::Connections { seq, slot, from } => self.list_connections(seq, slot, from),
            ToWorker::Drain { grace } => self.drain(grace),
            ToWorker::Exit => self.life.exit_now(),
            ToWorker::Init(_) | ToWorker::Hello { .. } => tracing::warn!("message out of place"),
        }
    }

    /// The daemon is gone: the worker goes on by itself, or ends with it.
    fn lose_daemon(&mut self) {
        if let Some(channel) = self.control.channel.take() {
            self.core.poller.delete(channel.as_fd());
        }
        self.control.outbox.clear();
        self.access.forget_daemon();
        self.control.watches_room = false;
        // Listeners that were on their way will be sent again.
        self.pending.clear();
        match self.init.lifetime {
            Lifetime::WithDaemon => self.life.exit_now(),
            Lifetime::Detached => tracing::info!("daemon gone, going on"),
        }
    }

    /// A later daemon, or somebody else, is at the door.
    pub(super) fn on_adoption(&mut self) {
        for _ in 0..NEWCOMER_LIMIT {
            let Some(listener) = &self.control.adoption else { return };
            let flags = rustix::net::SocketFlags::NONBLOCK | rustix::net::SocketFlags::CLOEXEC;
            let Ok(fd) = accept_with(listener, flags) else { return };
            let Ok(channel) = Channel::from_fd(fd) else { continue };
            let welcome = channel.peer_uid().is_ok_and(|uid| uid == self.init.owner_uid);
            if !welcome || self.control.newcomers.len() >= NEWCOMER_LIMIT {
                tracing::warn!(welcome, "newcomer turned away");
                continue;
            }
            let until = self.core.now + HELLO_TIME;
            let key = self.control.newcomers.insert(Newcomer { channel, until });
            self.core.timers.set(until, Timer::Newcomer(key));
            let watched = self.control.newcomers.get(key).map(|newcomer| {
                self.core.poller.add(newcomer.channel.as_fd(), Token::Newcomer(key), Watch::Level)
            });
            if !matches!(watched, Some(Ok(()))) {
                self.dismiss_newcomer(key);
            }
        }
    }

    pub(super) fn dismiss_newcomer(&mut self, key: Key) {
        if let Some(newcomer) = self.control.newcomers.remove(key) {
            self.core.timers.cancel(newcomer.until, Timer::Newcomer(key));
            self.core.poller.delete(newcomer.channel.as_fd());
        }
    }

    /// A newcomer says hello.
    pub(super) fn on_newcomer(&mut self, key: Key) {
        let mut packet = Vec::new();
        let Some(newcomer) = self.control.newcomers.get(key) else { return };
        match newcomer.channel.recv(&mut packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return self.dismiss_newcomer(key),
        }
        match serde_json::from_slice(&packet) {
            Ok(ToWorker::Hello { version: PROTOCOL_VERSION }) => self.be_adopted(key),
            Ok(ToWorker::Hello { version }) => {
                tracing::info!(version, "daemon of another version");
                if let Some(bytes) = encode(&FromWorker::Version { version: PROTOCOL_VERSION })
                    && let Err(error) = newcomer.channel.send(&bytes, &[])
                {
                    tracing::debug!(%error, "version not told");
                }
                self.dismiss_newcomer(key);
                // It has taken the former one's place and cannot talk to this worker: it starts others.
                if !self.control.is_connected() {
                    self.drain(UNDERSTOOD_BY_NOBODY);
                }
            }
            Ok(_) | Err(_) => self.dismiss_newcomer(key),
        }
    }

    /// The newcomer becomes the daemon.
    fn be_adopted(&mut self, key: Key) {
        let Some(newcomer) = self.control.newcomers.remove(key) else { return };
        self.core.timers.cancel(newcomer.until, Timer::Newcomer(key));
        if let Some(before) = self.control.channel.replace(newcomer.channel) {
            self.core.poller.delete(before.as_fd());
        }
        self.control.outbox.clear();
        self.access.forget_daemon();
        self.control.watches_room = false;
        self.pending.clear();
        let Some(channel) = &self.control.channel else { return };
        if let Err(error) = self.core.poller.modify(channel.as_fd(), Token::Control, Watch::Level) {
            tracing::warn!(%error, "channel not watched");
            return self.lose_daemon();
        }
        tracing::info!("adopted");
        self.say_ready();
        self.control.outbox.extend(self.slots.taken().map(|slot| Packet::Entry(slot, 0)));
        self.send(&FromWorker::End, Vec::new());
        self.report_life();
    }
}

/// Whether a packet could not be sent for the moment.
fn is_pressure(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::AGAIN | Errno::TOOMANYREFS | Errno::NOBUFS | Errno::NOMEM)
    )
}
