//! One TCP connection: smoltcp's on one side, the end of a unix pair on the other.
//!
//! It has an interface and a set of sockets of its own, so that nothing is searched for a packet, and one connection's
//! trouble is not another's. What the two ends mean to each other stands in [`handed`](crate::engine::handed).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant as Clock};

use ::smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet};
use ::smoltcp::phy::Device as _;
use ::smoltcp::socket::tcp::{CongestionControl, RecvError, Socket, SocketBuffer, State};
use ::smoltcp::time::{Duration as Span, Instant};
use ::smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use portway_sys::seqpacket::Channel;
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};

use super::link::{Link, Port};
use super::packet::{ACK, Pair, Segment, bare_tcp};
use super::shares::Source;
use super::window::{Wanted, Window};
use crate::engine::handed::is_reset;

/// How long an answer to a SYN is waited for: Linux' `tcp_syn_retries` of 6 comes to 127 s.
const DIAL_PATIENCE: Span = Span::from_secs(127);

/// How long the last step of a handshake is waited for: Linux' `tcp_synack_retries` of 5 comes to 63 s; who has not
/// answered five of them will not.
const ACCEPT_PATIENCE: Span = Span::from_secs(63);

/// How long a peer may take to acknowledge anything of what was sent: RFC 9293, 3.8.3, R2 of at least 100 s.
const PEER_PATIENCE: Duration = Duration::from_secs(300);

/// How long nothing may be said before the peer is asked whether it is there, and how long it may be silent then: what
/// the relay asks of the kernel for proxy devices, 30 s and twelve times 10 s.
const KEEPALIVE: Span = Span::from_secs(30);
const SILENCE: Span = Span::from_secs(150);

/// Packets, each up to 64 KiB, that one connection sends before another one has its turn.
const BURST: usize = 8;

/// Where a connection is.
#[derive(Debug)]
pub(super) enum Phase {
    /// We call; who asked is told how it ends.
    Calling(Channel),
    /// We are called; the listener.
    Called(u64),
    /// It is up, and its other end is to be handed to this listener.
    Handing(u64, OwnedFd),
    /// Both ends are in use.
    Open,
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing more can be done for the moment.
    Rests,
    /// There is more to do.
    GoesOn,
    /// It has been set up.
    Up,
    /// It is over. With a number: it never was up, and this is why.
    Over(Option<Errno>),
    /// It is over, and its last packets may still come.
    Late,
}

/// See the module.
pub(super) struct Connection {
    pub(super) pair: Pair,
    pub(super) phase: Phase,
    /// When it wants its next turn.
    pub(super) due: Option<Clock>,
    /// When it was called, as long as its handshake is not over.
    pub(super) called_at: Option<Clock>,
    /// Who called.
    pub(super) source: Source,
    /// It stands in the queue.
    pub(super) queued: bool,
    /// Most payload of a packet.
    pub(super) mss: usize,
    /// Bytes of each of its buffers.
    pub(super) ring_bytes: usize,
    pub(super) fd: Option<OwnedFd>,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    readable: bool,
    writable: bool,
    hung_up: bool,
    /// The end of what the descriptor has to say was read; that of what the peer has to say was passed on.
    read_out: bool,
    told_end: bool,
    /// When the peer last acknowledged something, or had nothing to.
    moved: Clock,
    queued_bytes: usize,
    window: Window,
    heard: Option<Heard>,
    /// Since when smoltcp's time stands still, see [`Connection::lingers`].
    frozen: Option<Instant>,
}

/// What the peer has said last, however late some of it comes.
#[derive(Debug, Clone, Copy)]
struct Heard {
    acknowledged: u32,
    /// Of its window, as it stands in the header.
    window: u16,
    /// The number behind its last byte.
    next: u32,
}

impl Heard {
    /// With what a packet says that has come now. Nothing goes back, and nothing goes on by more than buffers of so many
    /// bytes hold.
    fn and(self, said: Heard, ring_bytes: usize) -> Heard {
        let goes_on =
            |from: u32, to: u32| usize::try_from(to.wrapping_sub(from)).is_ok_and(|by| by <= ring_bytes + 1);
        let acknowledges = goes_on(self.acknowledged, said.acknowledged);
        let (acknowledged, window) =
            if acknowledges { (said.acknowledged, said.window) } else { (self.acknowledged, self.window) };
        let next = if goes_on(self.next, said.next) { said.next } else { self.next };
        Heard { acknowledged, window, next }
    }
}

impl Connection {
    pub(super) fn new(
        link: &mut Link,
        pair: Pair,
        phase: Phase,
        mss: usize,
        ring_bytes: usize,
        seed: u64,
    ) -> Connection {
        let mut port = Port { link, packet: None, mss };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut port, Instant::ZERO);
        let local = pair.local.ip().into();
        interface.update_ip_addrs(|addresses| {
            // There is room for one.
            addresses.push(IpCidr::new(local, if pair.local.is_ipv4() { 32 } else { 128 })).ok();
        });
        let buffer = || SocketBuffer::new(vec![0; ring_bytes]);
        let mut socket = Socket::new(buffer(), buffer());
        // What comes is joined: one acknowledgement for many packets must not wait.
        socket.set_ack_delay(None);
        socket.set_nagle_enabled(false);
        // Said before it is open, it asks for nothing at once.
        socket.set_keep_alive(Some(KEEPALIVE));
        // The window is ours.
        socket.set_congestion_control(CongestionControl::None);
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Connection {
            pair,
            phase,
            due: None,
            called_at: None,
            source: Source::OWN,
            queued: false,
            mss,
            ring_bytes,
            fd: None,
            interface,
            sockets,
            handle,
            readable: true,
            writable: true,
            hung_up: false,
            read_out: false,
            told_end: false,
            moved: Clock::now(),
            queued_bytes: 0,
            window: Window::new(),
            heard: None,
            frozen: None,
        }
    }

    fn socket(&mut self) -> &mut Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Sends the SYN at its first turn.
    pub(super) fn call(&mut self) -> io::Result<()> {
        let (local, remote) = (self.pair.local, IpEndpoint::from(self.pair.remote));
        let context = self.interface.context();
        let socket: &mut Socket<'_> = self.sockets.get_mut(self.handle);
        socket.set_timeout(Some(DIAL_PATIENCE));
        socket.connect(context, remote, local).map_err(|_| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Takes the SYN that comes next.
    pub(super) fn listen(&mut self) -> io::Result<()> {
        let local = self.pair.local;
        self.socket().set_timeout(Some(ACCEPT_PATIENCE));
        self.socket().listen(local).map_err(|_| io::ErrorKind::AddrNotAvailable.into())
    }

    /// A packet of this connection, sound, and what its header says.
    pub(super) fn take(
        &mut self,
        clock: Clock,
        now: Instant,
        link: &mut Link,
        packet: &[u8],
        segment: &Segment,
    ) {
        self.pass(now, link, packet);
        if segment.flags & ACK == 0 || self.is_new() {
            return;
        }
        let heard = Heard {
            acknowledged: segment.acknowledged,
            window: segment.window,
            next: segment.sequence.wrapping_add(segment.takes),
        };
        let before = self.heard;
        self.heard = Some(before.map_or(heard, |before| before.and(heard, self.ring_bytes)));
        if self.fd.is_none() {
            return;
        }
        let (queued, mss) = (self.socket().send_queue(), self.mss);
        let same = |before: Heard| before.acknowledged == heard.acknowledged && before.window == heard.window;
        if segment.takes == 0 && queued > 0 && before.is_some_and(same) {
            self.window.hear_again(mss);
        } else if self.window.hear(clock, queued, mss) == Wanted::Again {
            self.send_again(now, link);
        }
    }

    fn pass(&mut self, now: Instant, link: &mut Link, packet: &[u8]) {
        let mut port = Port { link, packet: Some(packet), mss: self.mss };
        let taken = self.interface.poll_ingress_single(now, &mut port, &mut self.sockets);
        debug_assert!(taken != PollIngressSingleResult::None, "there was a packet");
    }

    /// Whether its handshake is not over.
    fn is_new(&mut self) -> bool {
        matches!(self.socket().state(), State::Listen | State::SynSent | State::SynReceived)
    }

    /// Has smoltcp send what was not acknowledged first: it does so when it hears for the third time that nothing more has
    /// been. Another window makes it begin to count, however far it had, and so does the right one behind that.
    fn send_again(&mut self, now: Instant, link: &mut Link) {
        let Some(Heard { acknowledged, window: window @ 1.., next }) = self.heard else { return };
        let back = Pair { local: self.pair.remote, remote: self.pair.local };
        let other = if window == u16::MAX { window - 1 } else { window + 1 };
        for window in [other, window, window, window, window] {
            self.pass(now, link, &bare_tcp(back, next, acknowledged, ACK, window));
        }
    }

    /// Something has changed on the descriptor.
    pub(super) fn wake(&mut self, readable: bool, writable: bool, hung_up: bool) {
        self.readable |= readable;
        self.writable |= writable;
        self.hung_up |= hung_up;
    }

    /// The descriptor is there.
    pub(super) fn open(&mut self, fd: OwnedFd) {
        self.fd = Some(fd);
        self.socket().set_timeout(Some(SILENCE));
    }

    /// Ends it with a reset.
    pub(super) fn abort(&mut self) {
        self.socket().abort();
        self.fd = None;
        (self.read_out, self.told_end) = (true, true);
    }

    /// Moves what can be moved.
    pub(super) fn turn(&mut self, clock: Clock, now: Instant, link: &mut Link) -> Turn {
        match self.socket().state() {
            State::Established | State::CloseWait if self.fd.is_none() && !self.read_out => return Turn::Up,
            State::Listen => return Turn::Over(None),
            _ => {}
        }
        if let Some(over) = self.over(clock) {
            return over;
        }
        if self.is_open() && self.window.look(clock, self.mss) == Wanted::Again {
            self.send_again(now, link);
        }
        // smoltcp forgets all 10 s after the end, read or not.
        let at = if self.lingers() { *self.frozen.get_or_insert(now) } else { now };
        self.serve(clock);
        let more = self.send(at, link);
        if let Some(over) = self.over(clock) {
            return over;
        }
        if self.is_stuck(clock) {
            self.abort();
            self.send(now, link);
            return Turn::Over(None);
        }
        if more { Turn::GoesOn } else { Turn::Rests }
    }

    /// Whether both sides have said all, and some of it has not been read here.
    fn lingers(&mut self) -> bool {
        self.fd.is_some() && self.socket().state() == State::TimeWait && self.socket().can_recv()
    }

    /// Whether nothing of smoltcp's is left.
    fn over(&mut self, clock: Clock) -> Option<Turn> {
        let socket: &mut Socket<'_> = self.sockets.get_mut(self.handle);
        match socket.state() {
            // A reset that is still to be sent has both its ends.
            State::Closed if socket.remote_endpoint().is_some() => None,
            State::Closed if self.fd.is_some() && socket.can_recv() && self.writable && !self.hung_up => {
                self.serve(clock);
                // What cannot be taken now is waited for.
                let left = self.socket().can_recv() && self.fd.is_some() && !self.hung_up;
                if left { Some(Turn::Rests) } else { Some(Turn::Over(None)) }
            }
            State::Closed if self.fd.is_some() && socket.can_recv() && !self.hung_up => Some(Turn::Rests),
            State::Closed => Some(Turn::Over(match self.phase {
                Phase::Calling(_) => Some(Errno::CONNREFUSED),
                _ => None,
            })),
            // The end has been passed on, or there is nobody to pass it on to.
            State::TimeWait if self.told_end || self.fd.is_none() => Some(Turn::Late),
            _ => None,
        }
    }

    /// Between the descriptor and the buffers.
    fn serve(&mut self, clock: Clock) {
        let socket: &mut Socket<'_> = self.sockets.get_mut(self.handle);
        let Some(fd) = &self.fd else { return };
        let mut reset = false;
        while self.writable && socket.can_recv() {
            let taken = socket.recv(|bytes| {
                match rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                    Ok(count) => (count, Ok(())),
                    Err(error) => (0, Err(error)),
                }
            });
            match taken {
                Ok(Ok(())) | Ok(Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) => self.writable = false,
                // Nobody reads any more.
                _ => {
                    reset = true;
                    break;
                }
            }
        }
        let ended = !socket.can_recv() && socket.recv(|_| (0, ())) == Err(RecvError::Finished);
        if ended && !self.told_end && !reset {
            self.told_end = rustix::net::shutdown(fd, Shutdown::Write).is_ok();
        }
        reset |= self.hung_up && !self.told_end;
        while self.readable && !self.read_out && !reset && socket.can_send() {
            let most = self.window.room(self.mss);
            if most == 0 {
                break;
            }
            let given = socket.send(|room| {
                let count = room.len().min(most);
                match rustix::io::read(fd, room.get_mut(..count).unwrap_or_default()) {
                    Ok(count) => (count, Ok(count)),
                    Err(error) => (0, Err(error)),
                }
            });
            if let Ok(Ok(count)) = given {
                self.window.fill(clock, count);
            }
            match given {
                // Who has closed it has not asked for an end, and may be here before that is told.
                Ok(Ok(0)) if !self.told_end && is_reset(fd.as_fd()) => reset = true,
                Ok(Ok(0)) => {
                    self.read_out = true;
                    socket.close();
                }
                Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
                Ok(Err(Errno::AGAIN)) => self.readable = false,
                _ => reset = true,
            }
        }
        if reset {
            self.abort();
        } else if self.read_out && self.told_end {
            self.fd = None;
        }
    }

    /// Sends what may be sent; true: there is more.
    fn send(&mut self, now: Instant, link: &mut Link) -> bool {
        for _ in 0..BURST {
            let mut port = Port { link, packet: None, mss: self.mss };
            if port.transmit(now).is_none() {
                return true;
            }
            if self.interface.poll_egress(now, &mut port, &mut self.sockets) == PollResult::None {
                return false;
            }
        }
        true
    }

    /// Whether the peer has acknowledged nothing for too long. With its window closed it may take as long as it likes
    /// (RFC 9293, 3.8.6.1); whether it is there is known by its answers.
    fn is_stuck(&mut self, clock: Clock) -> bool {
        let socket: &mut Socket<'_> = self.sockets.get_mut(self.handle);
        let queued = socket.send_queue();
        let leaving = matches!(socket.state(), State::FinWait1 | State::Closing | State::LastAck);
        let waits = (queued == 0 && !leaving) || (self.fd.is_some() && !self.is_open());
        if queued != self.queued_bytes || waits {
            (self.queued_bytes, self.moved) = (queued, clock);
        }
        clock.saturating_duration_since(self.moved) > PEER_PATIENCE
    }

    /// When it wants its next turn by itself.
    pub(super) fn next(&mut self, clock: Clock, now: Instant) -> Option<Duration> {
        if self.lingers() {
            return None;
        }
        let delay = self.interface.poll_delay(now, &self.sockets);
        let delay = delay.map(|delay| Duration::from_micros(delay.total_micros()));
        let due =
            self.window.due().filter(|_| self.is_open()).map(|due| due.saturating_duration_since(clock));
        [delay, due].into_iter().flatten().min()
    }

    /// Whether the peer takes more. While it does not smoltcp asks by itself.
    fn is_open(&self) -> bool {
        self.heard.is_some_and(|heard| heard.window > 0)
    }

    /// Who it is with, for who is told.
    pub(super) fn remote(&self) -> SocketAddr {
        self.pair.remote
    }
}
