//! The loop: frames in, frames out, and what happens to programs meanwhile.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use portway_proto::guest::{DATA_MAX_BYTES, Frame, FrameError, Hello, Inbox, Start, Step, Stream, VERSION};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::channel::{Channel, Fault, Wait};
use crate::limits::Limits;
use crate::outbox::Outbox;
use crate::sockets::{self, Farewell, Permits, Refused, Sockets};
use crate::way;

/// Most channels: with four descriptors each they stay below the usual limit of 1,024, which programs inherit.
const CHANNELS_MAX_COUNT: usize = 240;

/// Descriptors of one channel.
const CHANNEL_DESCRIPTORS: usize = 4;

/// How long leaving takes at most: what is killed is dead by then.
const LEAVE: Duration = Duration::from_secs(10);

/// Why the gateway is served no longer, beside the end of its stream.
#[derive(Debug)]
pub(crate) enum ServeError {
    /// A system call on our own pipes failed.
    Pipes(std::io::Error),
    /// It said what is no frame.
    Frame(FrameError),
    /// It speaks another version.
    Version(u16),
    /// It said something that it may not say at that time or on that channel.
    Order(&'static str),
    /// The user of the limits could not be become.
    User(std::io::Error),
}

impl std::fmt::Display for ServeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pipes(error) => write!(f, "cannot reach the gateway: {error}"),
            Self::Frame(error) => write!(f, "the gateway sent {error}"),
            Self::Version(version) => {
                write!(f, "the gateway speaks version {version}, and this is {VERSION}")
            }
            Self::Order(what) => write!(f, "the gateway sent {what}"),
            Self::User(error) => write!(f, "cannot become the user: {error}"),
        }
    }
}

impl From<Errno> for ServeError {
    fn from(error: Errno) -> Self {
        Self::Pipes(error.into())
    }
}

/// Serves the gateway on standard input and output until it closes them, and ends what it has started then; `build` is
/// the hash of our own file.
pub(crate) fn serve(build: [u8; 32], limits: Option<Limits>) -> Result<(), ServeError> {
    let stdin = std::io::stdin();
    for fd in [stdin.as_fd(), std::io::stdout().as_fd()] {
        let flags = rustix::fs::fcntl_getfl(fd)?;
        rustix::fs::fcntl_setfl(fd, flags | OFlags::NONBLOCK)?;
    }
    let own = File::open("/proc/self/exe").map_err(ServeError::Pipes)?;
    if let Some(limits) = &limits {
        limits.take_effect().map_err(ServeError::User)?;
    }
    let (channels, outbox) = (BTreeMap::new(), Outbox::default());
    let permits = limits.as_ref().map_or(Permits::ALL, |limits| limits.permits().clone());
    let sockets = Sockets::new(permits);
    let mut server =
        Server { own, limits, channels, sockets, greeted: false, settled: false, socket: None, outbox };
    server.outbox.push(&Frame::Hello(Hello { version: VERSION, build }));
    let ended = server.run();
    server.take_leave();
    ended
}

struct Server {
    /// Our own file, for SFTP servers.
    own: File,
    limits: Option<Limits>,
    channels: BTreeMap<u32, Channel>,
    sockets: Sockets,
    /// The gateway has said hello.
    greeted: bool,
    /// The streams stay what they are.
    settled: bool,
    /// What took their place: the streams of the exec carry nothing any more.
    socket: Option<Rc<OwnedFd>>,
    outbox: Outbox,
}

/// What a polled descriptor is.
#[derive(Debug, Clone, Copy)]
enum Source {
    Gateway,
    Outbox,
    Channel(u32, Wait),
    Socket(u32),
}

impl Server {
    fn run(&mut self) -> Result<(), ServeError> {
        let (stdin, stdout) = (std::io::stdin(), std::io::stdout());
        let mut inbox = Inbox::default();
        let mut scratch = vec![0; DATA_MAX_BYTES];
        loop {
            let socket = self.socket.clone();
            let (from, to) = match socket.as_deref() {
                Some(socket) => (socket.as_fd(), socket.as_fd()),
                None => (stdin.as_fd(), stdout.as_fd()),
            };
            for (source, flags) in self.wait(from, to)? {
                match source {
                    Source::Gateway => {
                        if self.read(from, &mut inbox)? == Input::Ended {
                            return Ok(());
                        }
                    }
                    Source::Outbox => {}
                    Source::Channel(number, wait) => self.turn(number, wait, flags, &mut scratch),
                    Source::Socket(number) => {
                        self.sockets.turn(number, flags, &mut scratch, &mut self.outbox);
                    }
                }
            }
            self.press(Instant::now());
            self.sockets.tick(Instant::now(), &mut self.outbox);
            self.close_what_is_over();
            // At once, without waiting to be told that there is room: mostly there is.
            self.outbox.flush(to).map_err(ServeError::Pipes)?;
        }
    }

    /// Waits until something can be done, and says what.
    fn wait(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<Vec<(Source, PollFlags)>, ServeError> {
        let (mut sources, mut polled) = (Vec::new(), Vec::new());
        let mut add = |source, fd, flags| {
            sources.push(source);
            polled.push(PollFd::from_borrowed_fd(fd, flags));
        };
        let input = if self.outbox.is_stuck() { PollFlags::empty() } else { PollFlags::IN };
        add(Source::Gateway, from, input);
        if !self.outbox.is_empty() {
            add(Source::Outbox, to, PollFlags::OUT);
        }
        for (number, channel) in &self.channels {
            for (wait, fd) in channel.waits(self.outbox.is_full()) {
                let flags = match wait {
                    Wait::Input if channel.has_input() => PollFlags::OUT,
                    Wait::Input => PollFlags::empty(),
                    Wait::End | Wait::Output(_) => PollFlags::IN,
                };
                add(Source::Channel(*number, wait), fd, flags);
            }
        }
        for (number, fd, flags) in
            self.sockets.waits(self.outbox.is_full(), CHANNEL_DESCRIPTORS * self.channels.len())
        {
            add(Source::Socket(number), fd, flags);
        }
        let next = self.channels.values().filter_map(Channel::next_signal).chain(self.sockets.next()).min();
        match rustix::event::poll(&mut polled, next.map(until).as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        Ok(ready.filter(|(_, flags)| !flags.is_empty()).collect())
    }

    /// Reads once from the gateway and does what it says.
    fn read(&mut self, from: BorrowedFd<'_>, inbox: &mut Inbox) -> Result<Input, ServeError> {
        match rustix::io::read(from, inbox.room()) {
            Ok(0) => return Ok(Input::Ended),
            Ok(count) => inbox.filled(count),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Input::Open),
            Err(error) => return Err(error.into()),
        }
        while let Some(frame) = inbox.next().map_err(ServeError::Frame)? {
            self.obey(Frame::read(frame).map_err(ServeError::Frame)?)?;
        }
        Ok(Input::Open)
    }

    fn obey(&mut self, frame: Frame<'_>) -> Result<(), ServeError> {
        if let Frame::Hello(hello) = frame {
            if hello.version != VERSION {
                return Err(ServeError::Version(hello.version));
            }
            return if std::mem::replace(&mut self.greeted, true) {
                Err(ServeError::Order("a second hello"))
            } else {
                Ok(())
            };
        }
        if !self.greeted {
            return Err(ServeError::Order("something before its hello"));
        }
        let Some(frame) = self.obey_of_socket(frame)? else { return Ok(()) };
        match frame {
            Frame::Start(start) => {
                self.settled = true;
                self.start(*start)
            }
            Frame::Move(_) if std::mem::replace(&mut self.settled, true) => {
                Err(ServeError::Order("another way when one was taken"))
            }
            Frame::Move(way) => {
                let old = std::io::stdout();
                let socket = way::take(&way, &mut self.outbox, old.as_fd()).map_err(ServeError::Pipes)?;
                self.socket = socket.map(Rc::new);
                Ok(())
            }
            // A channel that is gone: the gateway did not know when it sent this.
            Frame::Data { channel, stream: Stream::In, bytes } => {
                let Some(channel) = self.channels.get_mut(&channel) else { return Ok(()) };
                channel.receive(bytes, &mut self.outbox).map_err(fault)
            }
            Frame::Eof { channel, stream: Stream::In } => {
                self.on(channel, Channel::end_input);
                Ok(())
            }
            Frame::Credit { channel, stream, bytes } => {
                let Some(channel) = self.channels.get_mut(&channel) else { return Ok(()) };
                channel.add_credit(stream, bytes).map_err(fault)
            }
            Frame::Resize { channel, size } => {
                self.on(channel, |channel| channel.resize(&size));
                Ok(())
            }
            Frame::Signal { channel, signal } => {
                self.on(channel, |channel| channel.signal(signal));
                Ok(())
            }
            Frame::Close { channel } => {
                self.on(channel, Channel::hang_up);
                Ok(())
            }
            Frame::Data { .. }
            | Frame::Eof { .. }
            | Frame::Hello(_)
            | Frame::Started(_)
            | Frame::Refused { .. }
            | Frame::Exited { .. }
            | Frame::Closed { .. }
            | Frame::Socket(_)
            | Frame::Moved { .. } => Err(ServeError::Order("a frame that is the guest's to send")),
        }
    }

    /// Does what a frame says about a socket; it is given back when it is about something else.
    fn obey_of_socket<'a>(&mut self, frame: Frame<'a>) -> Result<Option<Frame<'a>>, ServeError> {
        let outbox = &mut self.outbox;
        match frame {
            Frame::Socket(socket) => {
                self.settled = true;
                let others = CHANNEL_DESCRIPTORS * self.channels.len();
                self.sockets.obey(socket, others, outbox).map_err(|refused| {
                    ServeError::Order(match refused {
                        Refused::InUse => "a socket by a number in use",
                        Refused::Ours => "a frame that is the guest's to send",
                    })
                })?;
            }
            Frame::Data { channel, stream: Stream::In, bytes } if sockets::is_one(channel) => {
                self.sockets.receive(channel, bytes, outbox).map_err(fault)?;
            }
            Frame::Eof { channel, stream: Stream::In } if sockets::is_one(channel) => {
                self.sockets.end_input(channel);
            }
            Frame::Credit { channel, stream: Stream::Out, bytes } if sockets::is_one(channel) => {
                self.sockets.add_credit(channel, bytes).map_err(fault)?;
            }
            Frame::Close { channel } if sockets::is_one(channel) => {
                self.sockets.leave(channel, Farewell::Close, outbox);
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }

    fn on(&mut self, channel: u32, act: impl FnOnce(&mut Channel)) {
        if let Some(channel) = self.channels.get_mut(&channel) {
            act(channel);
        }
    }

    fn start(&mut self, mut start: Start) -> Result<(), ServeError> {
        let number = start.channel;
        if sockets::is_one(number) {
            return Err(ServeError::Order("a start by the number of a socket"));
        }
        if self.channels.contains_key(&number) {
            return Err(ServeError::Order("a start on a channel in use"));
        }
        let refused = |(step, errno): (Step, Errno)| (step, errno.raw_os_error().unsigned_abs());
        let admitted =
            self.limits.as_ref().map_or(Ok(()), |limits| limits.admit(&mut start).map_err(refused));
        let started = match admitted {
            Err(refusal) => Err(refusal),
            Ok(()) if self.channels.len() < CHANNELS_MAX_COUNT => {
                start.env.extend(self.sockets.variables(number));
                let mux = self.limits.as_ref().and_then(Limits::mux);
                Channel::start(start, self.own.as_fd(), mux)
            }
            Ok(()) => Err(refused((Step::Prepare, Errno::MFILE))),
        };
        match started {
            Ok((channel, started)) => {
                self.channels.insert(number, channel);
                self.outbox.push(&Frame::Started(started));
            }
            Err((step, errno)) => {
                self.outbox.push(&Frame::Refused { channel: number, step, errno });
                self.sockets.take_back(number, &mut self.outbox);
            }
        }
        Ok(())
    }

    fn turn(&mut self, number: u32, wait: Wait, flags: PollFlags, scratch: &mut [u8]) {
        let Some(channel) = self.channels.get_mut(&number) else { return };
        match wait {
            Wait::End => channel.look_at_end(&mut self.outbox),
            Wait::Input if flags.intersects(PollFlags::ERR | PollFlags::HUP) => {
                channel.lose_input(&mut self.outbox);
            }
            Wait::Input => channel.feed(&mut self.outbox),
            Wait::Output(stream) => channel.drain(stream, scratch, &mut self.outbox),
        }
    }

    /// Ends, by and by, what was hung up and stays.
    fn press(&mut self, now: Instant) {
        for channel in self.channels.values_mut() {
            channel.press(now);
        }
    }

    /// Hangs everything up and waits until it has ended, which it has after some seconds.
    fn take_leave(&mut self) {
        for channel in self.channels.values_mut() {
            channel.hang_up();
        }
        let begin = Instant::now();
        while begin.elapsed() < LEAVE {
            let sockets_stay = self.sockets.take_leave(Instant::now());
            if self.channels.is_empty() && !sockets_stay {
                return;
            }
            let ends = self.channels.values().flat_map(|channel| channel.waits(true));
            let mut polled: Vec<_> =
                ends.map(|(_, fd)| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            let sockets: Vec<u32> = self
                .sockets
                .waits(true, 0)
                .map(|(number, fd, flags)| {
                    polled.push(PollFd::from_borrowed_fd(fd, flags));
                    number
                })
                .collect();
            let next =
                self.channels.values().filter_map(Channel::next_signal).chain(self.sockets.next()).min();
            let patience = until(next.unwrap_or(begin + LEAVE));
            if !matches!(rustix::event::poll(&mut polled, Some(&patience)), Ok(_) | Err(Errno::INTR)) {
                return;
            }
            drop(polled);
            for number in sockets {
                self.sockets.turn(number, PollFlags::OUT, &mut [], &mut self.outbox);
            }
            self.sockets.tick(Instant::now(), &mut self.outbox);
            for channel in self.channels.values_mut() {
                channel.look_at_end(&mut self.outbox);
            }
            self.press(Instant::now());
            self.close_what_is_over();
        }
    }

    fn close_what_is_over(&mut self) {
        let over: Vec<u32> = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.is_over())
            .map(|(number, _)| *number)
            .collect();
        for number in over {
            if let Some(channel) = self.channels.remove(&number) {
                channel.reap();
                self.outbox.push(&Frame::Closed { channel: number });
                self.sockets.take_back(number, &mut self.outbox);
            }
        }
    }
}

fn fault(fault: Fault) -> ServeError {
    ServeError::Order(match fault {
        Fault::Credit => "more than it was granted",
        Fault::AfterEof => "bytes after the end of a stream",
        Fault::Stream => "something about a stream that does not go that way",
    })
}

/// From here to then, for poll(2); a little more, so that it is over then.
pub(crate) fn until(then: Instant) -> Timespec {
    let left = then.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
    Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    }
}

/// Whether the gateway may still say something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Open,
    Ended,
}
