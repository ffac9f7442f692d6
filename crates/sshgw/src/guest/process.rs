//! A process in the instance, as its user here has it: its streams, and what may be done to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use portway_proto::guest::{
    DATA_MAX_BYTES, Environment, Exit, Frame, Ids, Lent, Program, Pty, Signal, Size, Started, Stream,
};
use tokio::sync::{mpsc, oneshot};

use super::frames::{Frames, Outbound, send};
use super::pipe::{Incoming, Outgoing};
use super::sockets::Listener;

/// A process as it is wanted; `Start` of the protocol without what this side decides.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "the fields of Start")]
pub struct Wanted {
    pub program: Program,
    pub env: Vec<Vec<u8>>,
    pub environment: Environment,
    pub cwd: Vec<u8>,
    pub ids: Ids,
    pub umask: u16,
    pub pty: Option<Pty>,
    /// What it is lent of the client's.
    pub loans: Vec<Lent>,
}

/// A process in an instance.
#[derive(Debug)]
pub struct Process {
    /// What is known from its start.
    pub started: Started,
    /// Its standard input.
    pub input: Input,
    /// Its standard output, or terminal.
    pub output: Output,
    /// Its standard error; it ends at once where there is a terminal.
    pub error: Output,
    /// How it ends; an error when the instance or the program there is gone.
    pub exit: oneshot::Receiver<Exit>,
    /// What may be done to it.
    pub control: Control,
    /// What it was lent, as far as that could be done: who comes there comes to these.
    pub lent: Vec<(Lent, Listener)>,
}

/// Standard input of a process.
#[derive(Debug)]
pub struct Input {
    channel: u32,
    credit: Arc<Outgoing>,
    frames: Frames,
}

/// An output of a process.
#[derive(Debug)]
pub struct Output {
    channel: u32,
    stream: Stream,
    incoming: Arc<Incoming>,
    /// Of these bytes nobody knows yet whether they have been passed on.
    taken: usize,
    frames: Frames,
    /// Credit that is granted, and has no place among the frames yet; while there is some a task waits for that.
    owed: Arc<AtomicU32>,
}

/// What may be done to a process.
#[derive(Debug, Clone)]
pub struct Control {
    channel: u32,
    frames: Frames,
}

impl Input {
    pub(super) const fn new(channel: u32, credit: Arc<Outgoing>, frames: Frames) -> Self {
        Self { channel, credit, frames }
    }

    /// Sends all of it, as fast as the process takes it; `false` when it takes no more.
    pub async fn write(&mut self, mut bytes: Bytes) -> bool {
        while !bytes.is_empty() {
            let most = bytes.len().min(DATA_MAX_BYTES);
            let Some(count) = self.credit.spend(most).await else { return false };
            let frame = Outbound::data(self.channel, Stream::In, bytes.split_to(count));
            if self.frames.send(frame).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Ends the stream. A terminal does not see it.
    pub async fn end(self) {
        send(&self.frames, &Frame::Eof { channel: self.channel, stream: Stream::In }).await;
    }
}

impl Output {
    pub(super) fn new(channel: u32, stream: Stream, incoming: Arc<Incoming>, frames: Frames) -> Self {
        Self { channel, stream, incoming, taken: 0, frames, owed: Arc::default() }
    }

    /// Waits for bytes and returns all there are; `None` at the end. Whoever asks again has passed on what there was before: until
    /// then it counts as under way, so that one window is all that is ever kept. Cancelling it loses nothing.
    pub async fn read(&mut self) -> Option<Vec<u8>> {
        let before = std::mem::take(&mut self.taken);
        if let Some(bytes) = self.incoming.passed(before) {
            self.grant(bytes);
        }
        let bytes = self.incoming.take().await?;
        self.taken = bytes.len();
        Some(bytes)
    }

    /// Tells that more may come. Bytes that have been taken are not to be lost with a caller that waits no longer.
    fn grant(&self, bytes: u32) {
        if self.owed.fetch_add(bytes, Ordering::Relaxed) != 0 {
            return;
        }
        let (channel, stream, owed) = (self.channel, self.stream, Arc::clone(&self.owed));
        let tell = move |place: mpsc::Permit<'_, Outbound>| {
            let bytes = owed.swap(0, Ordering::Relaxed);
            place.send(Outbound::of(&Frame::Credit { channel, stream, bytes }).unwrap_or_default());
        };
        match self.frames.try_reserve() {
            Ok(place) => tell(place),
            Err(mpsc::error::TrySendError::Closed(())) => {}
            Err(mpsc::error::TrySendError::Full(())) => {
                let frames = self.frames.clone();
                tokio::spawn(async move {
                    if let Ok(place) = frames.reserve().await {
                        tell(place);
                    }
                });
            }
        }
    }
}

impl Control {
    pub(super) const fn new(channel: u32, frames: Frames) -> Self {
        Self { channel, frames }
    }

    /// Sends a signal to the process group.
    pub async fn signal(&self, signal: Signal) {
        send(&self.frames, &Frame::Signal { channel: self.channel, signal }).await;
    }

    /// Gives the terminal another size.
    pub async fn resize(&self, size: Size) {
        send(&self.frames, &Frame::Resize { channel: self.channel, size }).await;
    }

    /// Hangs up: its streams are closed, and the process group gets SIGHUP.
    pub async fn hang_up(&self) {
        send(&self.frames, &Frame::Close { channel: self.channel }).await;
    }
}
