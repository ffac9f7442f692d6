//! Sockets of this instance, for the gateway: connections it asks for, and those that come to where it listens.
//!
//! - `permits`: where they may lead; `dial`, `lookup`, `server` and `own`: from a name to a connection;
//! - `listen`: where somebody may come to; `lent`: the same for one program; `connection`: its bytes;
//! - `janitor`: what goes when we cannot take it with us.

mod connection;
mod dial;
mod janitor;
mod lent;
mod listen;
mod lookup;
mod own;
mod permits;
mod server;

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

use portway_proto::guest::{ACCEPTED, Frame, Lent, Place, SOCKETS, Socket, Why};
use rustix::event::PollFlags;
use rustix::io::Errno;

use connection::Connection;
pub(crate) use connection::Farewell;
use dial::{Dial, Outcome};
pub(crate) use janitor::{Kind as TraceKind, sweep};
use listen::Listener;
pub(crate) use permits::Permits;

use crate::channel::Fault;
use crate::outbox::Outbox;

/// Bytes for a socket that may be under way, by how many there are before it. Services that read nothing make all of them
/// the memory of this program: 50 MiB at most.
const WINDOWS: [(usize, u32); 3] = [(16, 1 << 20), (64, 128 << 10), (usize::MAX, 32 << 10)];

/// Descriptors of sockets and programs together, below the usual limit of 1,024, which programs inherit.
const DESCRIPTORS_MAX_COUNT: usize = 960;

/// Places that are listened at.
const LISTENERS_MAX_COUNT: usize = 64;

/// The same for programs: two for each that there can be.
const LENT_MAX_COUNT: usize = 480;

/// Whether a number is one of a socket's.
pub(crate) const fn is_one(channel: u32) -> bool {
    channel >= SOCKETS
}

/// What the gateway may not say about a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A number that is in use.
    InUse,
    /// What is ours to say.
    Ours,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Sockets {
    permits: Permits,
    dials: BTreeMap<u32, Dial>,
    connections: BTreeMap<u32, Connection>,
    listeners: BTreeMap<u32, Listener>,
    /// Of them those for one program, with its channel and variables.
    lent: BTreeMap<u32, (u32, lent::Variables)>,
    /// What the next one who comes is called, above [`ACCEPTED`].
    next_accepted: u32,
}

impl Sockets {
    pub(crate) fn new(permits: Permits) -> Self {
        let (dials, connections, listeners) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { permits, dials, connections, listeners, lent: BTreeMap::new(), next_accepted: 0 }
    }

    /// Descriptors that they have, at most.
    pub(crate) fn count(&self) -> usize {
        let listening: usize = self.listeners.values().map(Listener::count).sum();
        self.dials.len() + self.connections.len() + listening
    }

    /// Does what the gateway says. `others` is how many descriptors everything else has.
    ///
    /// # Errors
    /// When it may not say that.
    pub(crate) fn obey(&mut self, socket: Socket, others: usize, outbox: &mut Outbox) -> Result<(), Refused> {
        match socket {
            Socket::Connect { channel, to, credit } => {
                if self.is_used(channel) {
                    return Err(Refused::InUse);
                }
                self.connect(channel, to, credit, others, outbox);
                Ok(())
            }
            Socket::Reset { channel } => {
                self.leave(channel, Farewell::Reset, outbox);
                Ok(())
            }
            Socket::Listen { listener, at } => {
                if self.is_used(listener) {
                    return Err(Refused::InUse);
                }
                self.listen(listener, at, others, outbox);
                Ok(())
            }
            Socket::Lend { listener, channel, lent } => {
                if self.is_used(listener) {
                    return Err(Refused::InUse);
                }
                self.lend(listener, channel, &lent, others, outbox);
                Ok(())
            }
            Socket::Connected { .. }
            | Socket::Failed { .. }
            | Socket::Listening { .. }
            | Socket::Accepted { .. } => Err(Refused::Ours),
        }
    }

    fn is_used(&self, number: u32) -> bool {
        self.dials.contains_key(&number)
            || self.connections.contains_key(&number)
            || self.listeners.contains_key(&number)
    }

    fn listen(&mut self, number: u32, at: Place, others: usize, outbox: &mut Outbox) {
        if !self.permits.listens(&at) {
            return fail(number, Why::Forbidden, Errno::PERM, outbox);
        }
        // One of two families has two.
        if self.listeners.len() - self.lent.len() >= LISTENERS_MAX_COUNT
            || self.count() + others + 2 > DESCRIPTORS_MAX_COUNT
        {
            return fail(number, Why::Count, Errno::MFILE, outbox);
        }
        match Listener::open(at) {
            Ok(listener) => {
                let port = listener.port;
                self.listeners.insert(number, listener);
                outbox.push(&Frame::Socket(Socket::Listening { listener: number, port }));
            }
            Err((why, error)) => fail(number, why, error, outbox),
        }
    }

    fn lend(&mut self, number: u32, channel: u32, lent: &Lent, others: usize, outbox: &mut Outbox) {
        if !self.permits.lends(lent) {
            return fail(number, Why::Forbidden, Errno::PERM, outbox);
        }
        if self.lent.len() >= LENT_MAX_COUNT || self.count() + others + 5 > DESCRIPTORS_MAX_COUNT {
            return fail(number, Why::Count, Errno::MFILE, outbox);
        }
        match lent::open(lent) {
            Ok((listener, variables)) => {
                let port = listener.port;
                self.listeners.insert(number, listener);
                self.lent.insert(number, (channel, variables));
                outbox.push(&Frame::Socket(Socket::Listening { listener: number, port }));
            }
            Err((why, error)) => fail(number, why, error, outbox),
        }
    }

    /// What tells the program of a channel what it is lent.
    pub(crate) fn variables(&self, channel: u32) -> impl Iterator<Item = Vec<u8>> {
        let of_it = self.lent.values().filter(move |(borrower, _)| *borrower == channel);
        of_it.flat_map(|(_, variables)| variables.iter().cloned())
    }

    /// The program of a channel has ended, or there is none: what it was lent goes. Whoever came by it stays.
    pub(crate) fn take_back(&mut self, channel: u32, outbox: &mut Outbox) {
        let of_it = self.lent.iter().filter(|(_, (borrower, _))| *borrower == channel);
        let of_it: Vec<u32> = of_it.map(|(listener, _)| *listener).collect();
        for listener in of_it {
            self.leave(listener, Farewell::Close, outbox);
        }
    }

    /// Takes who has come to a listener.
    fn accept(&mut self, listener: u32, outbox: &mut Outbox) {
        let Some(come) = self.listeners.get_mut(&listener).map(|listener| listener.take(Instant::now()))
        else {
            return;
        };
        for one in come {
            let channel = loop {
                let number = ACCEPTED | self.next_accepted;
                self.next_accepted = (self.next_accepted + 1) & !ACCEPTED;
                if !self.connections.contains_key(&number) {
                    break number;
                }
            };
            let credit = self.add(channel, one.fd, 0);
            let (source, port) = (one.source.into_bytes(), one.port);
            outbox.push(&Frame::Socket(Socket::Accepted { listener, channel, source, port, credit }));
        }
    }

    fn connect(&mut self, number: u32, to: Place, credit: u32, others: usize, outbox: &mut Outbox) {
        if !self.permits.opens(&to) {
            return fail(number, Why::Forbidden, Errno::PERM, outbox);
        }
        if self.count() + others >= DESCRIPTORS_MAX_COUNT {
            return fail(number, Why::Count, Errno::MFILE, outbox);
        }
        let dial = Dial::begin(number, to, credit, Instant::now());
        self.dials.insert(number, dial);
        self.arrive(outbox);
    }

    /// Tells what dials have come to.
    fn arrive(&mut self, outbox: &mut Outbox) {
        let over: Vec<u32> =
            self.dials.values().filter(|dial| dial.is_over()).map(|dial| dial.number).collect();
        for number in over {
            let Some(dial) = self.dials.remove(&number) else { continue };
            let allowance = dial.allowance;
            match dial.into_outcome() {
                Outcome::Failed(why, error) => fail(number, why, error, outbox),
                Outcome::Connected(fd, peer) => {
                    let credit = self.add(number, fd, allowance);
                    let connected = Socket::Connected { channel: number, peer: peer.into_bytes(), credit };
                    outbox.push(&Frame::Socket(connected));
                }
            }
        }
    }

    /// A connection more. What may be sent to it.
    fn add(&mut self, number: u32, fd: OwnedFd, allowance: u32) -> u32 {
        let window = window(self.connections.len());
        self.connections.insert(number, Connection::new(number, fd, window, allowance));
        window
    }

    /// Takes bytes for a connection. One that is gone: the gateway did not know.
    ///
    /// # Errors
    /// When the gateway was not allowed to send them.
    pub(crate) fn receive(&mut self, channel: u32, bytes: &[u8], outbox: &mut Outbox) -> Result<(), Fault> {
        self.connections.get_mut(&channel).map_or(Ok(()), |connection| connection.receive(bytes, outbox))
    }

    /// No more will come for a connection.
    pub(crate) fn end_input(&mut self, channel: u32) {
        if let Some(connection) = self.connections.get_mut(&channel) {
            connection.end_input();
        }
    }

    /// The gateway takes more of a connection.
    ///
    /// # Errors
    /// When that is more than anybody takes.
    pub(crate) fn add_credit(&mut self, channel: u32, bytes: u32) -> Result<(), Fault> {
        self.connections.get_mut(&channel).map_or(Ok(()), |connection| connection.add_credit(bytes))
    }

    /// The gateway has left.
    pub(crate) fn leave(&mut self, channel: u32, with: Farewell, outbox: &mut Outbox) {
        if self.dials.remove(&channel).is_some() || self.listeners.remove(&channel).is_some() {
            self.lent.remove(&channel);
            outbox.push(&Frame::Closed { channel });
        }
        if let Some(connection) = self.connections.get_mut(&channel) {
            connection.leave(with, Instant::now());
        }
    }

    /// Ends everything that is not on its way out, and says whether anything is: what the gateway has sent, and ended,
    /// goes to its socket first.
    pub(crate) fn take_leave(&mut self, now: Instant) -> bool {
        self.dials.clear();
        // First of all: nobody is to come any more, and what the file system has of them goes.
        self.listeners.clear();
        self.lent.clear();
        self.connections.retain(|_, connection| connection.is_ending(now));
        !self.connections.is_empty()
    }

    /// What is waited for now; no bytes while `full`, and nobody who comes while everything has too many descriptors.
    pub(crate) fn waits(
        &self,
        full: bool,
        others: usize,
    ) -> impl Iterator<Item = (u32, BorrowedFd<'_>, PollFlags)> {
        let takes = !full && self.count() + others + 2 <= DESCRIPTORS_MAX_COUNT;
        let listeners = self.listeners.iter().filter(move |_| takes);
        let listeners = listeners
            .flat_map(|(number, listener)| listener.waits().map(|fd| (*number, (fd, PollFlags::IN))));
        let dials = self.dials.iter().filter_map(|(number, dial)| Some((*number, dial.waits()?)));
        let connections = self.connections.iter();
        let connections = connections.filter_map(move |(number, one)| Some((*number, one.waits(full)?)));
        dials.chain(connections).chain(listeners).map(|(number, (fd, flags))| (number, fd, flags))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        let dials = self.dials.values().map(Dial::next);
        let connections = self.connections.values().filter_map(Connection::next);
        dials.chain(connections).chain(self.listeners.values().filter_map(Listener::next)).min()
    }

    /// Does what can be done for one.
    pub(crate) fn turn(&mut self, number: u32, flags: PollFlags, scratch: &mut [u8], outbox: &mut Outbox) {
        if let Some(dial) = self.dials.get_mut(&number) {
            dial.turn(Instant::now());
        }
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.turn(flags, scratch, outbox);
        }
        self.accept(number, outbox);
    }

    /// Does what it is time for, and says what has come to its end.
    pub(crate) fn tick(&mut self, now: Instant, outbox: &mut Outbox) {
        self.dials.values_mut().for_each(|dial| dial.tick(now));
        self.arrive(outbox);
        self.connections.values_mut().for_each(|connection| connection.tick(now));
        self.listeners.values_mut().for_each(|listener| listener.tick(now));
        self.connections.retain(|number, connection| {
            let is_over = connection.is_over();
            if is_over {
                outbox.push(&Frame::Closed { channel: *number });
            }
            !is_over
        });
    }
}

fn window(before: usize) -> u32 {
    WINDOWS.iter().find(|(count, _)| before < *count).map_or(0, |(_, bytes)| *bytes)
}

fn fail(channel: u32, why: Why, error: Errno, outbox: &mut Outbox) {
    let errno = error.raw_os_error().unsigned_abs();
    outbox.push(&Frame::Socket(Socket::Failed { channel, why, errno }));
}

#[cfg(test)]
mod tests;
