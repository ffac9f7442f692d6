//! One end of a relayed connection: its descriptor and what the event queue said of it.
//!
//! The queue reports changes once, so what it said is remembered here until a call says otherwise: `read` is
//! true until a read would block, `write` until a write would.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use portway_model::{DeviceSpec, Protocol};
use portway_sys::sockopt;
use rustix::event::epoll::EventFlags;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketType;

/// What a socket speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carrier {
    /// TCP: ends with FIN or reset.
    Tcp,
    /// Unix stream.
    Unix,
    /// Unix seqpacket: keeps record boundaries, ends as a stream does.
    Packet,
    /// Connected UDP: keeps message boundaries, never ends.
    Udp,
    /// Unix datagrams: as UDP, but nothing is lost on the way.
    Gram,
}

impl Carrier {
    /// Whether it knows no connection.
    pub(super) const fn is_datagram(self) -> bool {
        matches!(self, Carrier::Udp | Carrier::Gram)
    }

    /// The type of its sockets.
    pub(super) const fn socket_type(self) -> SocketType {
        match self {
            Carrier::Tcp | Carrier::Unix => SocketType::STREAM,
            Carrier::Packet => SocketType::SEQPACKET,
            Carrier::Udp | Carrier::Gram => SocketType::DGRAM,
        }
    }
}

impl From<Protocol> for Carrier {
    fn from(protocol: Protocol) -> Carrier {
        match protocol {
            Protocol::Tcp => Carrier::Tcp,
            Protocol::Unix => Carrier::Unix,
            Protocol::Udp => Carrier::Udp,
            Protocol::Unixgram => Carrier::Gram,
            Protocol::Unixpacket => Carrier::Packet,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    pub(super) carrier: Carrier,
    /// There may be something to read.
    pub(super) read: bool,
    /// There may be room to write.
    pub(super) write: bool,
    /// The peer has ended its side, or all is over: the end of the stream is still to be read.
    hung: bool,
    /// Urgent data was there: a read may stop short of what has arrived (tcp(7)).
    pub(super) urgent: bool,
    /// Keepalive and time limits are set. A listener's connections inherit them.
    tuned: bool,
    /// The kernel's limit for unacknowledged bytes is off, because the peer's window is closed.
    pub(super) relaxed: bool,
    /// A unix pair whose other end is a TCP connection of a stack that is not the kernel's. It is closed there without
    /// an end before when that connection was reset, and reset there when it is closed here without one.
    of_stack: bool,
}

impl Socket {
    /// A socket of which nothing is known yet but that a fresh one takes bytes.
    pub(super) fn new(fd: OwnedFd, carrier: Carrier) -> Socket {
        let tuned = carrier != Carrier::Tcp;
        let (relaxed, of_stack) = (false, false);
        Socket { fd, carrier, read: false, write: true, hung: false, urgent: false, tuned, relaxed, of_stack }
    }

    /// It was given where a TCP connection was wanted: if it is none, it is one of a stack.
    pub(super) fn for_tcp(mut self) -> Socket {
        self.of_stack = self.carrier == Carrier::Unix;
        self
    }

    /// Nothing is left to be set: it came from a listener that has it.
    pub(super) fn inherited(mut self) -> Socket {
        self.tuned = true;
        self
    }

    /// The same socket by another descriptor, which is ready to be used by another thread. What is to be set once is
    /// set by whoever has this one.
    pub(super) fn duplicate(&self) -> io::Result<Socket> {
        let Socket { carrier, read, write, hung, urgent, relaxed, of_stack, .. } = *self;
        let fd = self.fd.try_clone()?;
        Ok(Socket { fd, carrier, read, write, hung, urgent, tuned: true, relaxed, of_stack })
    }

    /// Takes over what is known by another descriptor of it.
    pub(super) fn learn(&mut self, other: &Socket) {
        self.read = other.read;
        self.write = other.write;
        self.hung = other.hung;
        self.urgent = other.urgent;
    }

    /// Remembers what the event queue said.
    pub(super) fn note(&mut self, flags: EventFlags) {
        let over = EventFlags::HUP | EventFlags::ERR;
        self.read |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | over);
        self.write |= flags.intersects(EventFlags::OUT | over);
        self.hung |= flags.intersects(EventFlags::RDHUP | over);
        self.urgent |= flags.contains(EventFlags::PRI);
    }

    /// A read gave less than was asked for, and no descriptors that it would have stopped at. Nothing is left, and the
    /// next arrival is a new event (epoll(7)); unless the stream's end is near, which comes only once.
    pub(super) fn note_short_read(&mut self) {
        if !self.hung && !self.urgent {
            self.read = false;
        }
    }

    /// The peer has ended its side, or all is over: what is there now is all there will be.
    pub(super) const fn has_ended(&self) -> bool {
        self.hung
    }

    /// Whether it tells a reset from an end, and can be reset.
    pub(super) fn knows_resets(&self) -> bool {
        self.carrier == Carrier::Tcp || self.of_stack
    }

    /// Whether the end that was read from it was a reset. Only of one that has not been shut for writing: both ends
    /// together look the same.
    pub(super) fn was_reset(&self) -> bool {
        let mut fds = [PollFd::new(self, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let polled = self.of_stack && poll(&mut fds, Some(&now)).is_ok();
        polled && fds.iter().any(|fd| fd.revents().contains(PollFlags::HUP))
    }

    /// Sets what a relayed tcp connection needs from its first byte on.
    pub(super) fn hurry(&self) {
        if self.carrier == Carrier::Tcp
            && let Err(error) = sockopt::nodelay(self.fd.as_fd())
        {
            tracing::debug!(%error, "small segments may wait");
        }
    }

    /// Sets what a connection needs that lasts; once.
    pub(super) fn tune(&mut self, spec: &DeviceSpec) {
        if !self.tuned {
            self.tuned = true;
            tune_tcp(self.fd.as_fd(), spec);
        }
    }

    /// Whether a record of any size fits; into a stream, whether there is more than a little room.
    pub(super) fn has_room(&self) -> bool {
        has_room(self)
    }

    /// Closing sends a reset where the socket can carry one.
    pub(super) fn reset_on_close(&self) {
        if self.carrier == Carrier::Tcp
            && let Err(error) = sockopt::linger_reset(self.fd.as_fd())
        {
            tracing::debug!(%error, "no reset on close");
        }
    }
}

/// See [`Socket::has_room`]. A connected datagram socket has none while its peer's queue is full.
pub(super) fn has_room(socket: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(socket, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) == Ok(1)
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Options of both legs. A listener hands them to every connection it accepts (tcp(7)), so there they are set
/// once instead of once per connection.
pub(super) fn tune_tcp(fd: BorrowedFd<'_>, spec: &DeviceSpec) {
    // A third of the idle time between probes; the user timeout decides when the peer is dead, the count
    // is what bounds it where that is longer (defaults: 30 s + 12 x 10 s against 120 s).
    let interval = spec.tcp_keepalive / 3;
    let seconds = interval.as_secs().max(1);
    let count = u32::try_from(spec.tcp_timeout.as_secs().div_ceil(seconds)).unwrap_or(u32::MAX);
    let results = [
        sockopt::nodelay(fd),
        sockopt::keepalive(fd, spec.tcp_keepalive, interval, count),
        sockopt::user_timeout(fd, spec.tcp_timeout),
    ];
    for error in results.into_iter().filter_map(Result::err) {
        tracing::debug!(%error, "tcp option not set");
    }
}
