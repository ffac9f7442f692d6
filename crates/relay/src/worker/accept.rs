//! Taking in clients.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tracing::Level;

use super::device::{Attention, Listener};
use super::engine::Engine;
use super::failures::{Failure, Operation};
use super::guard::{Entrance, Entry, HEADER_TIME, Origin};
use super::poller::{Token, Watch};
use super::records;
use super::slab::Key;
use super::socket::{Carrier, Socket, tune_tcp};
use super::stream::{End, Phase, Stream};
use super::timers::Timer;
use crate::wire::{FailureKind, Known, field};

/// Clients taken in by one listener in one turn.
const BATCH_LIMIT: u32 = 64;

/// First and longest pause after a shortage, milliseconds. Clients wait in the kernel's backlog meanwhile.
const FIRST_PAUSE_MS: u32 = 20;
const LONGEST_PAUSE_MS: u32 = 1000;

/// What became of one try.
enum Accepted {
    Client(OwnedFd),
    /// Somebody came and went.
    Nobody,
    /// The backlog is empty.
    Dry,
    /// The listener was told to refuse.
    Refuses,
    /// Descriptors or memory are short.
    Short(Errno),
}

impl Listener {
    pub(super) fn new(fd: OwnedFd, device: Key, index: u32, carrier: Carrier) -> Listener {
        Listener {
            fd,
            device,
            index,
            carrier,
            attention: Attention::None,
            batch: 1,
            full_turns: 0,
            pause_ms: FIRST_PAUSE_MS,
            timer: None,
            blocked: None,
        }
    }

    /// Something has been taken in: the next shortage is another one.
    pub(super) fn took(&mut self) {
        self.pause_ms = FIRST_PAUSE_MS;
    }

    /// How long to leave it alone for a shortage.
    fn rest(&mut self) -> Duration {
        let rest = Duration::from_millis(self.pause_ms.into());
        self.pause_ms = (self.pause_ms * 2).min(LONGEST_PAUSE_MS);
        rest
    }

    fn accept(&self) -> Accepted {
        accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC).into()
    }
}

impl From<Result<OwnedFd, Errno>> for Accepted {
    fn from(result: Result<OwnedFd, Errno>) -> Accepted {
        match result {
            Ok(client) => Accepted::Client(client),
            Err(Errno::AGAIN) => Accepted::Dry,
            Err(Errno::INVAL) => Accepted::Refuses,
            Err(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                Accepted::Short(errno)
            }
            // accept(2): an error of the new connection is not one of the listener.
            Err(_) => Accepted::Nobody,
        }
    }
}

impl Engine {
    /// A listener has something.
    pub(super) fn on_listener(&mut self, key: Key) {
        match self.listeners.get(key).map(|listener| listener.carrier) {
            Some(Carrier::Udp) => self.on_datagrams(key),
            Some(Carrier::Gram) => self.on_messages(key),
            Some(Carrier::Tcp | Carrier::Unix | Carrier::Packet) => self.on_clients(key),
            None => {}
        }
    }

    /// Takes in clients: one at first, twice as many each time all of them came, so that a lone client
    /// costs no second call and a crowd is served in batches.
    fn on_clients(&mut self, key: Key) {
        let Some(listener) = self.listeners.get(key) else { return };
        let batch = listener.batch;
        let (device, index, carrier) = (listener.device, listener.index, listener.carrier);
        for count in 0..batch {
            if !self.has_room(2) {
                return self.pause(key, Errno::MFILE);
            }
            let Some(listener) = self.listeners.get_mut(key) else { return };
            match listener.accept() {
                Accepted::Client(client) => {
                    listener.took();
                    self.admit(device, index, carrier, client, Entry::Fresh, Known::default());
                }
                Accepted::Nobody => {}
                Accepted::Dry => {
                    listener.batch = count.max(1);
                    return;
                }
                Accepted::Refuses => return self.await_reopening(key),
                Accepted::Short(errno) => return self.pause(key, errno),
            }
        }
        if let Some(listener) = self.listeners.get_mut(key) {
            listener.batch = (batch * 2).min(BATCH_LIMIT);
            if listener.attention == Attention::Reopening {
                self.watch_listener(key, Attention::Clients);
            }
        }
    }

    /// Begins a stream for `client`, which came in by listener `index` of `device`, if the device takes it.
    pub(super) fn admit(
        &mut self,
        device: Key,
        index: u32,
        carrier: Carrier,
        client: OwnedFd,
        entry: Entry,
        known: Known,
    ) {
        let Some(owner) = self.devices.get(device) else { return };
        // The record of a connection says whose it was, where records are kept.
        let is_told = self.access.is_wanted() || tracing::enabled!(Level::DEBUG);
        let Entrance { origin, announces } = if owner.guard.is_some() || is_told {
            let Some(entrance) = self.enter((device, index), carrier, &client, entry) else { return };
            entrance
        } else {
            Entrance::default()
        };
        let Some(owner) = self.devices.get_mut(device) else { return };
        owner.stream_count += 1;
        let relay = owner.plan.relay();
        let from_stack = owner.plan.wire.brokered && owner.plan.listen_carrier() == Carrier::Tcp;
        self.core.count(device, field::OPENED);
        let mut down = Socket::new(client, carrier).inherited();
        if from_stack {
            down = down.for_tcp();
        }
        if carrier == Carrier::Packet {
            records::prepare(&down);
        }
        let mut stream = Stream::new(device, index, relay, down, self.core.now);
        stream.origin = origin.or_else(|| Origin::known(known));
        stream.trace = self.access.trace();
        stream.mark = known.mark;
        stream.entry = entry;
        if announces {
            stream.phase = Phase::Announcing;
        }
        let key = self.streams.insert(stream);
        let Some(stream) = self.streams.get(key) else { return };
        match self.core.poller.add(stream.down.as_fd(), Token::Downstream(key), Watch::Stream) {
            Ok(()) => {
                self.want_sweep();
                if announces {
                    self.set_stream_timer(key, self.core.now + HEADER_TIME);
                } else {
                    self.begin(key);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "client not watched");
                self.close(key, End::Reset);
            }
        }
    }

    /// Watches a listener in another way.
    pub(super) fn watch_listener(&mut self, key: Key, attention: Attention) {
        let Some(listener) = self.listeners.get_mut(key) else { return };
        if listener.attention != Attention::None {
            self.core.poller.delete(listener.fd.as_fd());
        }
        listener.attention = Attention::None;
        let watch = match (attention, listener.carrier) {
            (Attention::None, _) => return,
            (Attention::Clients, Carrier::Udp | Carrier::Gram) => Watch::Level,
            (Attention::Clients, Carrier::Tcp | Carrier::Unix | Carrier::Packet) => Watch::Shared,
            (Attention::Reopening, _) => Watch::Edge,
        };
        match self.core.poller.add(listener.fd.as_fd(), Token::Listener(key), watch) {
            Ok(()) => listener.attention = attention,
            Err(error) => tracing::warn!(%error, "listener not watched"),
        }
    }

    /// The listener refuses clients for the time being; when it listens again the first client is an event.
    fn await_reopening(&mut self, key: Key) {
        if self.listeners.get(key).is_some_and(|listener| listener.attention == Attention::Clients) {
            self.watch_listener(key, Attention::Reopening);
        }
    }

    /// Leaves a listener alone for a while.
    pub(super) fn pause(&mut self, key: Key, errno: Errno) {
        self.watch_listener(key, Attention::None);
        let Some(listener) = self.listeners.get_mut(key) else { return };
        let at = self.core.now + listener.rest();
        listener.batch = 1;
        listener.timer = Some(at);
        self.core.timers.set(at, Timer::Listener(key));
        let (device, index) = (listener.device, listener.index);
        self.core.count(device, FailureKind::NoDescriptors.field());
        let operation =
            if listener.carrier.is_datagram() { Operation::Receive(index) } else { Operation::Accept(index) };
        self.fail(device, Failure { operation, errno });
    }

    /// A pause is over.
    pub(super) fn resume_listener(&mut self, key: Key) {
        if let Some(listener) = self.listeners.get_mut(key) {
            listener.timer = None;
            if listener.blocked.is_none() && self.life.accepts() {
                self.watch_listener(key, Attention::Clients);
            }
        }
    }

    /// Begins to take in clients at a new listener, or at one whose device has new options.
    pub(super) fn start_listener(&mut self, key: Key) {
        let Some(listener) = self.listeners.get(key) else { return };
        if listener.carrier == Carrier::Tcp
            && let Some(device) = self.devices.get(listener.device)
        {
            tune_tcp(listener.fd.as_fd(), device.plan.spec());
        }
        let rests = listener.timer.is_some() || listener.blocked.is_some();
        if listener.attention == Attention::None && !rests && self.life.accepts() {
            self.watch_listener(key, Attention::Clients);
        }
    }

    /// Closes a listener here. Others may hold duplicates of it.
    pub(super) fn close_listener(&mut self, key: Key) {
        self.watch_listener(key, Attention::None);
        if let Some(Listener { timer: Some(at), .. }) = self.listeners.remove(key) {
            self.core.timers.cancel(at, Timer::Listener(key));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a shortage counts as a fault of one client, and the next is tried for at once, for ever.
    #[test]
    fn what_an_error_of_accept_means() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(matches!(Accepted::from(Err(errno)), Accepted::Short(told) if told == errno), "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::NETDOWN, Errno::PERM, Errno::INTR] {
            assert!(matches!(Accepted::from(Err(errno)), Accepted::Nobody), "{errno}");
        }
        assert!(matches!(Accepted::from(Err(Errno::AGAIN)), Accepted::Dry));
        assert!(matches!(Accepted::from(Err(Errno::INVAL)), Accepted::Refuses));
    }
}
