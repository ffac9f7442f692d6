//! Speaking to the program, and the processes it runs.
//!
//! One task reads and never waits for anybody: what comes is within what was granted, so there is always room. Another
//! writes. Both end with the stream, and every process is told then.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portway_proto::guest::{
    Credits, Exit, Frame, FrameError, Hello, Inbox, Start, Started, Step, Stream, VERSION,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf};
use tokio::sync::{mpsc, oneshot};

use super::frames::{FRAMES_MAX_COUNT, Frames, Outbound, speak, written};
use super::pipe::{Incoming, Outgoing};
use super::process::{Control, Input, Output, Process, Wanted};
use super::sockets::Sockets;

/// Bytes of each output that may be under way, while there are few programs and when there are many: they are kept here while
/// nobody takes them.
const WINDOW_FEW: u32 = 1 << 20;
const WINDOW_MANY: u32 = 128 << 10;
const FEW: usize = 16;

/// Why the program is of no use.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// Its stream failed or ended.
    #[error("cannot speak to the helper in the instance")]
    Stream(#[source] io::Error),
    /// What it says is not the protocol.
    #[error("the helper in the instance does not speak as it should")]
    Frame(#[source] FrameError),
    /// It is not the one that was put there.
    #[error("the helper in the instance is another one")]
    Other,
}

/// Why a process was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The program could not.
    #[error("cannot start the program ({step:?})")]
    Refused {
        /// What failed.
        step: Step,
        /// Why.
        source: io::Error,
    },
    /// It is too long to be sent: arguments and environment together pass half a megabyte.
    #[error("the command or its environment is too long")]
    TooLong,
    /// The program is gone.
    #[error("the helper in the instance is gone")]
    Gone,
}

/// The program in an instance. When the last clone and all processes of it are dropped it ends, and hangs up what it runs.
#[derive(Debug, Clone)]
pub struct Guest {
    shared: Arc<Shared>,
    frames: Frames,
}

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    sockets: Sockets,
}

#[derive(Debug, Default)]
struct Table {
    channels: BTreeMap<u32, Channel>,
    next: u32,
    gone: bool,
}

/// What is known here of a process.
#[derive(Debug)]
struct Channel {
    started: Option<oneshot::Sender<Result<Started, StartError>>>,
    ended: Option<oneshot::Sender<Exit>>,
    input: Arc<Outgoing>,
    outputs: [Arc<Incoming>; 2],
}

impl Guest {
    /// Speaks to the program at the other end of `stream`, which [`greet`] has met. It reads and writes in tasks of its own
    /// from then on.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn adopt<S>(stream: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut inbox = Inbox::default();
        let shared = Arc::new(Shared::default());
        let (frames, waiting) = mpsc::channel(FRAMES_MAX_COUNT);
        let reading = Arc::clone(&shared);
        tokio::spawn(async move {
            let end = tokio::select! {
                end = listen(&mut reader, &mut inbox, &reading) => end,
                end = speak(&mut writer, waiting) => end,
            };
            reading.all_gone();
            end
        });
        Self { shared, frames }
    }

    pub(super) fn sockets(&self) -> &Sockets {
        &self.shared.sockets
    }

    pub(super) fn frames(&self) -> Frames {
        self.frames.clone()
    }

    /// Whether the program has gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.shared.table().gone
    }

    /// Starts a process.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(&self, wanted: Wanted) -> Result<Process, StartError> {
        let (started, answer) = oneshot::channel();
        let (ended, exit) = oneshot::channel();
        let input = Arc::new(Outgoing::default());
        let window = self.shared.window();
        let outputs = [(); 2].map(|()| Arc::new(Incoming::new(window)));
        let [output, error] = outputs.clone();
        let entry =
            Channel { started: Some(started), ended: Some(ended), input: Arc::clone(&input), outputs };
        let channel = self.shared.add(entry).ok_or(StartError::Gone)?;
        let start = Start {
            channel,
            program: wanted.program,
            env: wanted.env,
            environment: wanted.environment,
            cwd: wanted.cwd,
            ids: wanted.ids,
            umask: wanted.umask,
            pty: wanted.pty,
            credits: Credits { stdout: window, stderr: window },
        };
        if start.pty.is_some() {
            error.end();
        }
        let Ok(frame) = Outbound::of(&Frame::Start(Box::new(start))) else {
            self.shared.remove(channel);
            return Err(StartError::TooLong);
        };
        // It is told of them before it starts.
        let mut loans = Vec::new();
        for lent in wanted.loans {
            let loan = self.lend(channel, lent.clone()).await.map_err(|_| StartError::Gone)?;
            loans.push((lent, loan));
        }
        self.frames.send(frame).await.map_err(|_| StartError::Gone)?;
        let started = answer.await.map_err(|_| StartError::Gone)??;
        // What was asked before is answered before.
        let lent = loans.into_iter().filter_map(|(lent, loan)| Some((lent, loan.opened()?))).collect();
        let frames = || self.frames.clone();
        let output_of = |stream, incoming| Output::new(channel, stream, incoming, frames());
        Ok(Process {
            started,
            input: Input::new(channel, input, frames()),
            output: output_of(Stream::Out, output),
            error: output_of(Stream::Error, error),
            exit,
            control: Control::new(channel, frames()),
            lent,
        })
    }
}

impl Table {
    fn channel(&mut self, number: u32) -> io::Result<&mut Channel> {
        self.channels.get_mut(&number).ok_or_else(|| wrong("a channel that is not"))
    }

    fn forget(&mut self, number: u32) -> io::Result<Channel> {
        self.channels.remove(&number).ok_or_else(|| wrong("a channel that is not"))
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of each output of one more.
    fn window(&self) -> u32 {
        if self.table().channels.len() < FEW { WINDOW_FEW } else { WINDOW_MANY }
    }

    fn add(&self, channel: Channel) -> Option<u32> {
        let mut table = self.table();
        if table.gone {
            return None;
        }
        while table.channels.contains_key(&table.next) {
            table.next = table.next.wrapping_add(1);
        }
        let number = table.next;
        table.next = number.wrapping_add(1);
        table.channels.insert(number, channel);
        Some(number)
    }

    fn remove(&self, channel: u32) -> Option<Channel> {
        self.table().channels.remove(&channel)
    }

    /// The stream has ended.
    fn all_gone(&self) {
        let mut table = self.table();
        table.gone = true;
        self.sockets.all_gone();
        for channel in std::mem::take(&mut table.channels).into_values() {
            channel.end();
        }
    }

    /// What the program says.
    fn hear(&self, frame: Frame<'_>) -> io::Result<()> {
        let Some(frame) = self.sockets.hear(frame)? else { return Ok(()) };
        let mut table = self.table();
        match frame {
            Frame::Started(started) => {
                let channel = table.channel(started.channel)?;
                channel.input.add(started.stdin_credit).map_err(io::Error::other)?;
                if let Some(waiting) = channel.started.take() {
                    // Who asked may have gone.
                    let _ = waiting.send(Ok(started));
                }
            }
            Frame::Refused { channel, step, errno } => {
                let mut channel = table.forget(channel)?;
                let source = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or_default());
                let Some(waiting) = channel.started.take() else {
                    channel.end();
                    return Err(wrong("a refusal of what runs"));
                };
                let _ = waiting.send(Err(StartError::Refused { step, source }));
            }
            Frame::Data { channel, stream, bytes } => {
                table.channel(channel)?.output(stream)?.push(bytes).map_err(io::Error::other)?;
            }
            Frame::Eof { channel, stream: Stream::In } => table.channel(channel)?.input.end(),
            Frame::Eof { channel, stream } => table.channel(channel)?.output(stream)?.end(),
            Frame::Credit { channel, stream: Stream::In, bytes } => {
                table.channel(channel)?.input.add(bytes).map_err(io::Error::other)?;
            }
            Frame::Exited { channel, exit } => {
                let channel = table.channel(channel)?;
                channel.input.end();
                if let Some(waiting) = channel.ended.take() {
                    let _ = waiting.send(exit);
                }
            }
            Frame::Closed { channel } => {
                let channel = table.forget(channel)?;
                channel.end();
            }
            Frame::Hello(_)
            | Frame::Start(_)
            | Frame::Credit { .. }
            | Frame::Resize { .. }
            | Frame::Signal { .. }
            | Frame::Close { .. }
            | Frame::Move(_)
            | Frame::Socket(_)
            | Frame::Moved { .. } => return Err(wrong("a frame that has no place here")),
        }
        Ok(())
    }
}

impl Channel {
    fn output(&self, stream: Stream) -> io::Result<&Incoming> {
        let [output, error] = &self.outputs;
        match stream {
            Stream::Out => Ok(output),
            Stream::Error => Ok(error),
            Stream::In => Err(wrong("an output that is an input")),
        }
    }

    fn end(&self) {
        self.input.end();
        for output in &self.outputs {
            output.end();
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Says hello to the program at the other end of `stream` and hears its own; its file must have had this SHA-256. Nothing
/// else has been said then, so the stream may go to another process, and [`Guest::adopt`] there.
///
/// # Errors
/// [`GuestError`].
pub async fn greet<S>(stream: &mut S, hash: &[u8; 32]) -> Result<(), GuestError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting = written(&Frame::Hello(Hello::GATEWAY)).map_err(GuestError::Frame)?;
    stream.write_all(&greeting).await.map_err(GuestError::Stream)?;
    stream.flush().await.map_err(GuestError::Stream)?;
    let mut inbox = Inbox::default();
    let ours = loop {
        if let Some(frame) = inbox.next().map_err(GuestError::Frame)? {
            let hello = Frame::read(frame).map_err(GuestError::Frame)?;
            break matches!(hello, Frame::Hello(hello) if hello.version == VERSION && hello.build == *hash);
        }
        fill(stream, &mut inbox).await.map_err(GuestError::Stream)?;
    };
    if ours && !inbox.is_amid() { Ok(()) } else { Err(GuestError::Other) }
}

pub(super) async fn fill<R: AsyncRead + Unpin>(reader: &mut R, inbox: &mut Inbox) -> io::Result<()> {
    match reader.read(inbox.room()).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        count => {
            inbox.filled(count);
            Ok(())
        }
    }
}

async fn listen<S: AsyncRead>(
    reader: &mut ReadHalf<S>,
    inbox: &mut Inbox,
    shared: &Shared,
) -> io::Result<()> {
    loop {
        while let Some(frame) = inbox.next().map_err(io::Error::other)? {
            shared.hear(Frame::read(frame).map_err(io::Error::other)?)?;
        }
        fill(reader, inbox).await?;
    }
}
