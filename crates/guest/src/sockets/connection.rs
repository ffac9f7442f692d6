//! A connected socket and its bytes.
//!
//! Each direction ends for itself. A connection that ends before the side that sends into it has said so is reset, and
//! tells the service so: also when this program is killed. What the other side of the socket resets is told as that.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_proto::guest::{Allowance, Frame, Grant, Socket, Stream};
use portway_sys::{sockopt, tcp_info};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use crate::backlog::{Backlog, Given};
use crate::channel::Fault;
use crate::outbox::Outbox;

/// How long what a client has left behind may stay without anybody taking a byte of it.
const LEFT_BEHIND: Duration = Duration::from_secs(60);

/// Between two looks at whether the peer has everything that was sent before a reset.
const LOOK: Duration = Duration::from_millis(20);

/// How long the peer may take for that.
const RESET_PATIENCE: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u32,
    fd: OwnedFd,
    is_tcp: bool,
    /// What the socket has not taken yet; at most what was granted.
    pending: Backlog,
    input: Input,
    grant: Grant,
    /// Whether bytes may still come from the socket.
    is_read: bool,
    allowance: Allowance,
    leaving: Option<Leaving>,
}

/// The way into the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    /// No more will come; what is pending goes first.
    Ending,
    /// It has ended.
    Ended,
    /// The socket takes nothing any more.
    Lost,
}

/// The gateway has left.
#[derive(Debug, Clone, Copy)]
struct Leaving {
    with: Farewell,
    /// Until when somebody has to take something.
    until: Instant,
    /// When it is looked at again.
    look: Option<Instant>,
}

/// How the gateway has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Farewell {
    /// In order.
    Close,
    /// Before its time.
    Reset,
}

impl Connection {
    /// Of a connected socket that never blocks. The gateway may send `window` bytes, and takes what `allowance` says.
    pub(crate) fn new(number: u32, fd: OwnedFd, window: u32, allowance: u32) -> Self {
        // A unix socket knows neither.
        let is_tcp = sockopt::nodelay(fd.as_fd()).is_ok();
        let _as_usual = sockopt::linger_reset(fd.as_fd());
        Self {
            number,
            fd,
            is_tcp,
            pending: Backlog::default(),
            input: Input::Open,
            grant: Grant::new(window),
            is_read: true,
            allowance: Allowance::new(allowance),
            leaving: None,
        }
    }

    /// What is waited for now, if anything; no bytes while `full`. What is not waited for is not polled at all: an error
    /// that nobody may be told would be there each time.
    pub(crate) fn waits(&self, full: bool) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let mut flags = PollFlags::empty();
        if self.is_read && !full && self.allowance.left() > 0 {
            flags |= PollFlags::IN;
        }
        if !self.pending.is_empty() {
            flags |= PollFlags::OUT;
        }
        (!flags.is_empty()).then(|| (self.fd.as_fd(), flags))
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.leaving.map(|leaving| leaving.look.unwrap_or(leaving.until))
    }

    /// Whether everything has been said.
    pub(crate) fn is_over(&self) -> bool {
        let has_left = self.leaving.is_none_or(|leaving| leaving.look.is_none());
        has_left && !self.is_read && matches!(self.input, Input::Ended | Input::Lost)
    }

    /// Takes bytes for the socket.
    ///
    /// # Errors
    /// When the gateway was not allowed to send them.
    pub(crate) fn receive(&mut self, bytes: &[u8], outbox: &mut Outbox) -> Result<(), Fault> {
        if matches!(self.input, Input::Ending | Input::Ended) {
            return Err(Fault::AfterEof);
        }
        self.grant.receive(bytes.len()).map_err(|_| Fault::Credit)?;
        if self.input == Input::Lost {
            self.give_credit(bytes.len(), outbox);
            return Ok(());
        }
        let fd = &self.fd;
        let given = self.pending.put(bytes, |bytes| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL));
        self.given(given, outbox);
        Ok(())
    }

    /// No more will come.
    pub(crate) fn end_input(&mut self) {
        if self.input == Input::Open {
            self.input = Input::Ending;
            // From here on an end is an end.
            let _as_it_was = rustix::net::sockopt::set_socket_linger(&self.fd, None);
            self.shut();
        }
    }

    /// The gateway takes more.
    ///
    /// # Errors
    /// When that is more than anybody takes.
    pub(crate) fn add_credit(&mut self, bytes: u32) -> Result<(), Fault> {
        self.allowance.add(bytes).map_err(|_| Fault::Credit)
    }

    /// The gateway has left. What it has sent before goes on its way.
    pub(crate) fn leave(&mut self, with: Farewell, now: Instant) {
        if self.leaving.is_some() {
            return;
        }
        self.is_read = false;
        if with == Farewell::Close {
            self.end_input();
        }
        self.leaving = Some(Leaving { with, until: now + LEFT_BEHIND, look: None });
        self.part(now);
    }

    /// Whether it only has to bring its end about, once the gateway is gone.
    pub(crate) fn is_ending(&mut self, now: Instant) -> bool {
        if self.input == Input::Ending {
            self.leave(Farewell::Close, now);
        }
        self.leaving.is_some() && !self.is_over()
    }

    /// Does what it is time for.
    pub(crate) fn tick(&mut self, now: Instant) {
        let Some(leaving) = self.leaving.filter(|_| self.next().is_some_and(|next| next <= now)) else {
            return;
        };
        if now < leaving.until {
            self.part(now);
        } else {
            let _as_it_is = sockopt::linger_reset(self.fd.as_fd());
            self.input = Input::Lost;
            self.pending.lose();
            self.leaving = Some(Leaving { look: None, ..leaving });
        }
    }

    /// Resets the connection once everything that was sent before is there.
    fn part(&mut self, now: Instant) {
        let Some(leaving) = &mut self.leaving else { return };
        if leaving.with == Farewell::Close || !self.pending.is_empty() || self.input == Input::Lost {
            return;
        }
        let is_there = !self.is_tcp
            || tcp_info::send_side(self.fd.as_fd())
                .map_or(true, |side| side.unacked_count == 0 && side.unsent_bytes == 0);
        if is_there {
            self.input = Input::Ended;
            leaving.look = None;
        } else {
            leaving.until = if leaving.look.is_none() { now + RESET_PATIENCE } else { leaving.until };
            leaving.look = Some(now + LOOK);
        }
    }

    /// Does what can be done.
    pub(crate) fn turn(&mut self, flags: PollFlags, scratch: &mut [u8], outbox: &mut Outbox) {
        if !self.pending.is_empty() && flags.intersects(PollFlags::OUT | PollFlags::ERR | PollFlags::HUP) {
            self.feed(outbox);
        }
        if self.is_read && flags.intersects(PollFlags::IN | PollFlags::ERR | PollFlags::HUP) {
            self.drain(scratch, outbox);
        }
    }

    /// Writes what the socket takes.
    fn feed(&mut self, outbox: &mut Outbox) {
        let fd = &self.fd;
        let given = self.pending.feed(|bytes| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL));
        self.given(given, outbox);
    }

    /// The socket has taken something.
    fn given(&mut self, given: Given, outbox: &mut Outbox) {
        self.give_credit(given.count, outbox);
        if given.is_lost {
            return self.lose_input(outbox);
        }
        let now = Instant::now();
        if let Some(leaving) = self.leaving.as_mut().filter(|_| given.count > 0) {
            leaving.until = now + LEFT_BEHIND;
        }
        self.shut();
        self.part(now);
    }

    /// Ends the way in, once it is to end and empty.
    fn shut(&mut self) {
        if self.input == Input::Ending && self.pending.is_empty() {
            // One that is gone has ended.
            let _gone = rustix::net::shutdown(&self.fd, Shutdown::Write);
            self.input = Input::Ended;
        }
    }

    /// The socket takes nothing any more. What it has sent before may still come.
    fn lose_input(&mut self, outbox: &mut Outbox) {
        if self.input == Input::Open && self.leaving.is_none() {
            outbox.push(&Frame::Eof { channel: self.number, stream: Stream::In });
        }
        let lost = self.pending.lose();
        self.give_credit(lost, outbox);
        self.input = Input::Lost;
    }

    fn give_credit(&mut self, bytes: usize, outbox: &mut Outbox) {
        if let Some(bytes) = self.grant.finish(bytes)
            && self.input == Input::Open
            && self.leaving.is_none()
        {
            outbox.push(&Frame::Credit { channel: self.number, stream: Stream::In, bytes });
        }
    }

    /// Reads once and sends what came.
    fn drain(&mut self, scratch: &mut [u8], outbox: &mut Outbox) {
        let channel = self.number;
        let most = self.allowance.left().min(scratch.len());
        let Some(room) = scratch.get_mut(..most).filter(|room| !room.is_empty()) else { return };
        match rustix::io::read(&self.fd, &mut *room) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // Writing has been told of the reset before.
            Ok(0) if self.input != Input::Lost => {
                self.is_read = false;
                outbox.push(&Frame::Eof { channel, stream: Stream::Out });
            }
            Ok(0) | Err(_) => {
                self.is_read = false;
                self.input = Input::Lost;
                self.pending.lose();
                outbox.push(&Frame::Socket(Socket::Reset { channel }));
            }
            Ok(count) => {
                let bytes = room.get(..count).unwrap_or_default();
                let within = self.allowance.spend(bytes.len());
                debug_assert!(within.is_ok(), "no more was read than is allowed");
                outbox.push(&Frame::Data { channel, stream: Stream::Out, bytes });
            }
        }
    }
}
