//! Each kind of frame, read and written.

use super::fields::{Reader, Writer};
use super::{DATA_MAX_BYTES, FrameError, Socket, Start, VERSION};

/// First bytes of a hello: what a program that is not the guest's would hardly say.
const MAGIC: [u8; 8] = *b"pw-guest";

/// Length of the name of a [`Way`], bytes.
pub const WAY_NAME_BYTES: usize = 32;

/// Length of the token of a [`Way`], and of its answer, bytes.
pub const WAY_TOKEN_BYTES: usize = 32;

/// Length of what stands before the bytes of a stream in their frame, with the frame's own length.
pub const DATA_HEAD_BYTES: usize = 10;

/// The id that is none: system calls take it for "unchanged".
pub(super) const NO_ID: u32 = u32::MAX;

/// One frame. Which side may send it stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Both: the first frame, and only that.
    Hello(Hello),
    /// Gateway: start a program.
    Start(Box<Start>),
    /// Guest: it runs.
    Started(Started),
    /// Guest: it does not run, and the channel is free again.
    Refused {
        /// Channel of the start.
        channel: u32,
        /// What failed.
        step: Step,
        /// Error number of the system.
        errno: u32,
    },
    /// Both: bytes of a stream, never none.
    Data {
        /// Channel.
        channel: u32,
        /// Stream: the gateway sends standard input, the guest the others.
        stream: Stream,
        /// At most [`DATA_MAX_BYTES`].
        bytes: &'a [u8],
    },
    /// Both: a stream has ended; no more data of it.
    Eof {
        /// Channel.
        channel: u32,
        /// Stream.
        stream: Stream,
    },
    /// Both: the other side may send more of a stream.
    Credit {
        /// Channel.
        channel: u32,
        /// Stream.
        stream: Stream,
        /// How much more.
        bytes: u32,
    },
    /// Guest: the program has ended. Its output may still come.
    Exited {
        /// Channel.
        channel: u32,
        /// How it ended.
        exit: Exit,
    },
    /// Guest: the channel is gone, everything has been said.
    Closed {
        /// Channel.
        channel: u32,
    },
    /// Gateway: the terminal has another size.
    Resize {
        /// Channel.
        channel: u32,
        /// The size.
        size: Size,
    },
    /// Gateway: a signal to the program's process group.
    Signal {
        /// Channel.
        channel: u32,
        /// The signal.
        signal: Signal,
    },
    /// Gateway: hang up, and forget the channel. [`Frame::Closed`] comes when the program has ended.
    Close {
        /// Channel.
        channel: u32,
    },
    /// Gateway, before anything but its hello: go on by another stream.
    Move(Way),
    /// Guest: whether everything from here on goes by the stream it was told of, or by this one as before.
    Moved {
        /// By the other one.
        moved: bool,
    },
    /// About a socket inside the instance.
    Socket(Socket),
}

/// A stream that somebody listens for in the guest's network namespace.
#[derive(Clone, PartialEq, Eq)]
pub struct Way {
    /// Name of the unix socket, an abstract one.
    pub name: [u8; WAY_NAME_BYTES],
    /// What the guest says there first: anybody may come by.
    pub token: [u8; WAY_TOKEN_BYTES],
    /// What it is answered: anybody may listen, once the listener has gone.
    pub answer: [u8; WAY_TOKEN_BYTES],
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").finish_non_exhaustive()
    }
}

/// What each side says first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// Version of the protocol it speaks.
    pub version: u16,
    /// SHA-256 of the guest program as it runs; zeroes from the gateway.
    pub build: [u8; 32],
}

impl Hello {
    /// The gateway's.
    pub const GATEWAY: Self = Self { version: VERSION, build: [0; 32] };
}

/// A program runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// Channel.
    pub channel: u32,
    /// Its pid, as the instance sees it.
    pub pid: u32,
    /// What may be sent to its standard input before more is granted.
    pub stdin_credit: u32,
    /// Path of its terminal; empty without one.
    pub tty: Vec<u8>,
    /// Why its working directory could not be entered, as an error number; 0 when it was.
    pub cwd_error: u32,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this status.
    Code(u8),
    /// By a signal.
    Signal {
        /// Which.
        signal: Signal,
        /// Whether it left a core file.
        core: bool,
    },
}

/// A signal by its number in Linux, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signal(u8);

impl Signal {
    /// The signal of a number; `None` when there is none.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if matches!(number, 1..=64) { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// A stream of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Standard input; what is typed at a terminal.
    In,
    /// Standard output; what a terminal shows.
    Out,
    /// Standard error.
    Error,
}

/// What was being done when a start failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A channel, pipes, or a process.
    Prepare,
    /// A terminal.
    Terminal,
    /// Becoming the user.
    Ids,
    /// Running the file.
    Exec,
}

/// Size of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
    /// Width, pixels; 0 when it is not known.
    pub width: u16,
    /// Height, pixels; 0 when it is not known.
    pub height: u16,
}

impl Size {
    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, FrameError> {
        Ok(Self { columns: from.u16()?, rows: from.u16()?, width: from.u16()?, height: from.u16()? })
    }

    pub(super) fn write(self, to: &mut Writer<'_>) {
        for value in [self.columns, self.rows, self.width, self.height] {
            to.u16(value);
        }
    }
}

const HELLO: u8 = 1;
const START: u8 = 2;
const STARTED: u8 = 3;
const REFUSED: u8 = 4;
const DATA: u8 = 5;
const EOF: u8 = 6;
const CREDIT: u8 = 7;
const EXITED: u8 = 8;
const CLOSED: u8 = 9;
const RESIZE: u8 = 10;
const SIGNAL: u8 = 11;
const CLOSE: u8 = 12;
const MOVE: u8 = 13;
const MOVED: u8 = 14;

impl<'a> Frame<'a> {
    /// Reads a frame, without its length, as [`super::Inbox::next`] finds it.
    ///
    /// # Errors
    /// All but [`FrameError::Length`].
    pub fn read(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, fields) = frame.split_first().ok_or(FrameError::Length(0))?;
        let mut from = Reader::new(*kind, fields);
        let read = Self::read_kind(*kind, &mut from)?;
        from.end()?;
        Ok(read)
    }

    fn read_kind(kind: u8, from: &mut Reader<'a>) -> Result<Self, FrameError> {
        Ok(match kind {
            HELLO => Self::Hello(read_hello(from)?),
            START => Self::Start(Box::new(Start::read(from)?)),
            STARTED => Self::Started(Started {
                channel: from.u32()?,
                pid: from.u32()?,
                stdin_credit: from.u32()?,
                tty: from.text("terminal")?,
                cwd_error: from.u32()?,
            }),
            REFUSED => Self::Refused { channel: from.u32()?, step: read_step(from)?, errno: from.u32()? },
            DATA => {
                let (channel, stream) = (from.u32()?, read_stream(from)?);
                let bytes = from.remainder();
                if bytes.is_empty() || bytes.len() > DATA_MAX_BYTES {
                    return Err(from.wrong("length"));
                }
                Self::Data { channel, stream, bytes }
            }
            EOF => Self::Eof { channel: from.u32()?, stream: read_stream(from)? },
            CREDIT => Self::Credit { channel: from.u32()?, stream: read_stream(from)?, bytes: from.u32()? },
            EXITED => Self::Exited { channel: from.u32()?, exit: read_exit(from)? },
            CLOSED => Self::Closed { channel: from.u32()? },
            RESIZE => Self::Resize { channel: from.u32()?, size: Size::read(from)? },
            SIGNAL => Self::Signal { channel: from.u32()?, signal: read_signal(from)? },
            CLOSE => Self::Close { channel: from.u32()? },
            MOVE => Self::Move(Way { name: from.array()?, token: from.array()?, answer: from.array()? }),
            MOVED => match from.u8()? {
                moved @ (0 | 1) => Self::Moved { moved: moved == 1 },
                _ => return Err(from.wrong("way")),
            },
            32..=47 | 64 => Self::Socket(Socket::read(kind, from)?),
            other => return Err(FrameError::Kind(other)),
        })
    }

    /// Writes it, with its length, to the end of `to`.
    ///
    /// # Errors
    /// [`FrameError::Length`] when it is longer than a frame can be; `to` is as it was then. Everything else that a
    /// reader refuses is the writer's to leave out.
    pub fn write(&self, to: &mut Vec<u8>) -> Result<(), FrameError> {
        let mut to = Writer::new(self.kind(), to);
        match self {
            Self::Hello(hello) => {
                to.raw(&MAGIC);
                to.u16(hello.version);
                to.raw(&hello.build);
            }
            Self::Start(start) => start.write(&mut to),
            Self::Started(started) => {
                to.u32(started.channel);
                to.u32(started.pid);
                to.u32(started.stdin_credit);
                to.bytes(&started.tty);
                to.u32(started.cwd_error);
            }
            Self::Refused { channel, step, errno } => {
                to.u32(*channel);
                to.u8(step_number(*step));
                to.u32(*errno);
            }
            Self::Data { channel, stream, bytes } => {
                to.u32(*channel);
                to.u8(stream_number(*stream));
                to.raw(bytes);
            }
            Self::Eof { channel, stream } => {
                to.u32(*channel);
                to.u8(stream_number(*stream));
            }
            Self::Credit { channel, stream, bytes } => {
                to.u32(*channel);
                to.u8(stream_number(*stream));
                to.u32(*bytes);
            }
            Self::Exited { channel, exit } => {
                to.u32(*channel);
                write_exit(*exit, &mut to);
            }
            Self::Closed { channel } | Self::Close { channel } => to.u32(*channel),
            Self::Resize { channel, size } => {
                to.u32(*channel);
                size.write(&mut to);
            }
            Self::Signal { channel, signal } => {
                to.u32(*channel);
                to.u8(signal.0);
            }
            Self::Move(way) => {
                to.raw(&way.name);
                to.raw(&way.token);
                to.raw(&way.answer);
            }
            Self::Moved { moved } => to.u8(u8::from(*moved)),
            Self::Socket(socket) => socket.write(&mut to),
        }
        to.end()
    }

    /// What stands before so many bytes of a stream: with them behind it, it is the frame that [`Frame::Data`] is. So bytes
    /// that lie somewhere need not be copied into a frame.
    #[must_use]
    pub fn data_head(channel: u32, stream: Stream, bytes: usize) -> [u8; DATA_HEAD_BYTES] {
        let length = u32::try_from(DATA_HEAD_BYTES - 4 + bytes).unwrap_or(u32::MAX);
        let ([a, b, c, d], [e, f, g, h]) = (length.to_be_bytes(), channel.to_be_bytes());
        [a, b, c, d, DATA, e, f, g, h, stream_number(stream)]
    }

    const fn kind(&self) -> u8 {
        match self {
            Self::Hello(_) => HELLO,
            Self::Start(_) => START,
            Self::Started(_) => STARTED,
            Self::Refused { .. } => REFUSED,
            Self::Data { .. } => DATA,
            Self::Eof { .. } => EOF,
            Self::Credit { .. } => CREDIT,
            Self::Exited { .. } => EXITED,
            Self::Closed { .. } => CLOSED,
            Self::Resize { .. } => RESIZE,
            Self::Signal { .. } => SIGNAL,
            Self::Close { .. } => CLOSE,
            Self::Move(_) => MOVE,
            Self::Moved { .. } => MOVED,
            Self::Socket(socket) => socket.kind(),
        }
    }
}

fn read_hello(from: &mut Reader<'_>) -> Result<Hello, FrameError> {
    if from.array()? != MAGIC {
        return Err(from.wrong("greeting"));
    }
    let version = from.u16()?;
    if version != VERSION {
        // What another version says after its number is not known here.
        from.remainder();
        return Ok(Hello { version, build: [0; 32] });
    }
    Ok(Hello { version, build: from.array()? })
}

pub(super) fn read_exit(from: &mut Reader<'_>) -> Result<Exit, FrameError> {
    let (how, value) = (from.u8()?, from.u8()?);
    match (how, Signal::new(value)) {
        (0, _) => Ok(Exit::Code(value)),
        (1, Some(signal)) => Ok(Exit::Signal { signal, core: false }),
        (2, Some(signal)) => Ok(Exit::Signal { signal, core: true }),
        _ => Err(from.wrong("exit")),
    }
}

pub(super) fn write_exit(exit: Exit, to: &mut Writer<'_>) {
    let (how, value) = match exit {
        Exit::Code(code) => (0, code),
        Exit::Signal { signal, core } => (1 + u8::from(core), signal.0),
    };
    to.u8(how);
    to.u8(value);
}

fn read_signal(from: &mut Reader<'_>) -> Result<Signal, FrameError> {
    let number = from.u8()?;
    Signal::new(number).ok_or_else(|| from.wrong("signal"))
}

fn read_stream(from: &mut Reader<'_>) -> Result<Stream, FrameError> {
    match from.u8()? {
        0 => Ok(Stream::In),
        1 => Ok(Stream::Out),
        2 => Ok(Stream::Error),
        _ => Err(from.wrong("stream")),
    }
}

const fn stream_number(stream: Stream) -> u8 {
    match stream {
        Stream::In => 0,
        Stream::Out => 1,
        Stream::Error => 2,
    }
}

fn read_step(from: &mut Reader<'_>) -> Result<Step, FrameError> {
    match from.u8()? {
        0 => Ok(Step::Prepare),
        1 => Ok(Step::Terminal),
        2 => Ok(Step::Ids),
        3 => Ok(Step::Exec),
        _ => Err(from.wrong("step")),
    }
}

const fn step_number(step: Step) -> u8 {
    match step {
        Step::Prepare => 0,
        Step::Terminal => 1,
        Step::Ids => 2,
        Step::Exec => 3,
    }
}
