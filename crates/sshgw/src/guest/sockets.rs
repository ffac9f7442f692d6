//! Sockets in the instance: connections that are asked for there, and those that come to where somebody listens.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portway_proto::guest::{ACCEPTED, Frame, Lent, Place, SOCKETS, Socket, Stream, Why};
use tokio::sync::{mpsc, oneshot};

use super::frames::{Frames, send};
use super::link::Guest;
use super::pipe::{Incoming, Outgoing};
use super::process::{Input, Output};

/// Bytes from a socket that may be under way, by how many there are before it: for a client that reads nothing all of them
/// are the memory of this process, 33 MiB at 400.
const WINDOWS: [(usize, u32); 3] = [(16, 1 << 20), (64, 128 << 10), (usize::MAX, 32 << 10)];

/// Who has come to one listener and was not looked at yet.
const COME_MAX_COUNT: usize = 64;

/// What the program may say that has come, whatever it says: more than its descriptors are.
const ENTRIES_MAX_COUNT: usize = 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The program has none.
    #[error("no connection ({why:?})")]
    Refused {
        /// What was in the way.
        why: Why,
        /// Why.
        source: io::Error,
    },
    /// The program is gone.
    #[error("the helper in the instance is gone")]
    Gone,
}

/// A connection inside the instance. Whoever drops it says before how it ends, by [`Farewell`].
#[derive(Debug)]
pub struct Connection {
    /// Towards the socket.
    pub input: Input,
    /// From it.
    pub output: Output,
    /// How it ends.
    pub farewell: Farewell,
    /// Address it leads to; empty where there is none.
    pub peer: String,
}

/// A place in the instance where somebody listens. It ends with [`Listener::close`], or the program.
#[derive(Debug)]
pub struct Listener {
    /// Its port, where it has one.
    pub port: u16,
    come: mpsc::Receiver<Come>,
    farewell: Farewell,
}

/// Somebody who has come to a listener.
#[derive(Debug)]
pub struct Come {
    /// The connection; nothing is read of it until it is [opened](Come::open).
    connection: Connection,
    window: u32,
    /// Port it comes from.
    pub port: u16,
}

impl Come {
    /// Address it comes from; empty over a unix socket.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.connection.peer
    }

    /// From here on it is read of.
    pub async fn open(self) -> Connection {
        let Self { connection, window, .. } = self;
        let Farewell { channel, frames, .. } = &connection.farewell;
        send(frames, &Frame::Credit { channel: *channel, stream: Stream::Out, bytes: window }).await;
        connection
    }

    /// Turned away.
    pub async fn reset(self) {
        self.connection.farewell.reset().await;
    }
}

impl Listener {
    /// The next one who comes; `None` when nobody can any more. Cancel safe.
    pub async fn next(&mut self) -> Option<Come> {
        self.come.recv().await
    }

    /// Nobody is to come any more. Who has come stays.
    pub async fn close(self) {
        self.farewell.close().await;
    }
}

/// The end of a connection.
#[derive(Debug, Clone)]
pub struct Farewell {
    channel: u32,
    is_reset: Arc<AtomicBool>,
    frames: Frames,
}

impl Farewell {
    /// Whether the other side of the socket has reset it, or it is not known how it ended.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.is_reset.load(Ordering::Relaxed)
    }

    /// Nobody reads of it any more. What was sent to it arrives.
    pub async fn close(&self) {
        send(&self.frames, &Frame::Close { channel: self.channel }).await;
    }

    /// It has ended before its time.
    pub async fn reset(&self) {
        send(&self.frames, &Frame::Socket(Socket::Reset { channel: self.channel })).await;
    }
}

/// What is known here of sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<u32, Entry>,
    listeners: BTreeMap<u32, Listening>,
    next: u32,
    is_gone: bool,
    /// Who was turned away and is not told yet.
    turned_away: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Listening {
    opened: Option<oneshot::Sender<Result<u16, ConnectError>>>,
    come: mpsc::Sender<Come>,
    frames: Frames,
}

#[derive(Debug)]
struct Entry {
    connected: Option<oneshot::Sender<Result<String, ConnectError>>>,
    input: Arc<Outgoing>,
    output: Arc<Incoming>,
    is_reset: Arc<AtomicBool>,
}

impl Entry {
    fn new(window: u32) -> Self {
        Self {
            connected: None,
            input: Arc::default(),
            output: Arc::new(Incoming::new(window)),
            is_reset: Arc::default(),
        }
    }

    fn end(&self) {
        self.input.end();
        self.output.end();
    }

    /// It has not ended in order.
    fn reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
        self.end();
    }
}

impl Guest {
    /// Connects to somewhere as the instance's user. Cancelled, the connection is given up.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, to: Place) -> Result<Connection, ConnectError> {
        let (connected, answer) = oneshot::channel();
        let (sockets, frames) = (self.sockets(), self.frames());
        let (channel, window, entry) = sockets.add(connected).ok_or(ConnectError::Gone)?;
        let connect = Frame::Socket(Socket::Connect { channel, to, credit: window });
        if !send(&frames, &connect).await {
            return Err(ConnectError::Gone);
        }
        let farewell = Farewell { channel, is_reset: entry.is_reset, frames: frames.clone() };
        let mut given_up = GivenUp(Some(farewell.clone()));
        let peer = answer.await;
        given_up.0 = None;
        Ok(Connection {
            peer: peer.map_err(|_| ConnectError::Gone)??,
            input: Input::new(channel, entry.input, frames.clone()),
            output: Output::new(channel, Stream::Out, entry.output, frames),
            farewell,
        })
    }
}

impl Guest {
    /// Listens somewhere as the instance's user. Cancelled, it is given up.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn listen(&self, at: Place) -> Result<Listener, ConnectError> {
        self.ask(|listener| Socket::Listen { listener, at }).await?.wait().await
    }

    /// Listens for a program that is to be started on a channel.
    pub(super) async fn lend(&self, channel: u32, lent: Lent) -> Result<Asked, ConnectError> {
        self.ask(|listener| Socket::Lend { listener, channel, lent }).await
    }

    async fn ask(&self, question: impl FnOnce(u32) -> Socket) -> Result<Asked, ConnectError> {
        let (opened, answer) = oneshot::channel();
        let (sender, come) = mpsc::channel(COME_MAX_COUNT);
        let frames = self.frames();
        let listening = Listening { opened: Some(opened), come: sender, frames: frames.clone() };
        let listener = self.sockets().add_listener(listening).ok_or(ConnectError::Gone)?;
        let farewell = Farewell { channel: listener, is_reset: Arc::default(), frames };
        let asked = Asked { answer, come, farewell };
        if send(&asked.farewell.frames, &Frame::Socket(question(listener))).await {
            Ok(asked)
        } else {
            Err(ConnectError::Gone)
        }
    }
}

/// A listener that was asked for.
pub(super) struct Asked {
    answer: oneshot::Receiver<Result<u16, ConnectError>>,
    come: mpsc::Receiver<Come>,
    farewell: Farewell,
}

impl Asked {
    /// Once it is answered.
    async fn wait(self) -> Result<Listener, ConnectError> {
        let Self { answer, come, farewell } = self;
        let mut given_up = GivenUp(Some(farewell.clone()));
        let port = answer.await;
        given_up.0 = None;
        Ok(Listener { port: port.map_err(|_| ConnectError::Gone)??, come, farewell })
    }

    /// When it was answered, and is open.
    pub(super) fn opened(mut self) -> Option<Listener> {
        match self.answer.try_recv() {
            Ok(Ok(port)) => Some(Listener { port, come: self.come, farewell: self.farewell }),
            Ok(Err(error)) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "a program is not lent what was asked for"
                );
                None
            }
            Err(_) => None,
        }
    }
}

/// Closes what nobody waits for any more.
struct GivenUp(Option<Farewell>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        if let Some(farewell) = self.0.take() {
            tokio::spawn(async move { farewell.close().await });
        }
    }
}

/// What is handed out of an entry.
struct Handed {
    input: Arc<Outgoing>,
    output: Arc<Incoming>,
    is_reset: Arc<AtomicBool>,
}

impl Sockets {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for another one, what may come of it, and its parts; `None` when the program has gone.
    fn add(&self, connected: oneshot::Sender<Result<String, ConnectError>>) -> Option<(u32, u32, Handed)> {
        let mut table = self.table();
        if table.is_gone {
            return None;
        }
        let (number, window) = (table.number(), table.window());
        let entry = Entry { connected: Some(connected), ..Entry::new(window) };
        let handed = Handed {
            input: Arc::clone(&entry.input),
            output: Arc::clone(&entry.output),
            is_reset: Arc::clone(&entry.is_reset),
        };
        table.entries.insert(number, entry);
        Some((number, window, handed))
    }

    /// A number for another listener; `None` when the program has gone.
    fn add_listener(&self, listening: Listening) -> Option<u32> {
        let mut table = self.table();
        if table.is_gone {
            return None;
        }
        let number = table.number();
        table.listeners.insert(number, listening);
        Some(number)
    }

    /// The stream has ended, and with it all of them.
    pub(super) fn all_gone(&self) {
        let mut table = self.table();
        table.is_gone = true;
        table.listeners.clear();
        for entry in std::mem::take(&mut table.entries).into_values() {
            entry.reset();
        }
    }

    /// Hears what a frame says about a socket; it is given back when it is about something else.
    pub(super) fn hear<'a>(&self, frame: Frame<'a>) -> io::Result<Option<Frame<'a>>> {
        let mut table = self.table();
        match frame {
            Frame::Socket(socket) => table.hear(socket)?,
            Frame::Data { channel, stream: Stream::Out, bytes } if channel >= SOCKETS => {
                table.entry(channel)?.output.push(bytes).map_err(io::Error::other)?;
            }
            Frame::Eof { channel, stream: Stream::In } if channel >= SOCKETS => {
                table.entry(channel)?.input.end()
            }
            Frame::Eof { channel, stream: Stream::Out } if channel >= SOCKETS => {
                table.entry(channel)?.output.end();
            }
            Frame::Credit { channel, stream: Stream::In, bytes } if channel >= SOCKETS => {
                table.entry(channel)?.input.add(bytes).map_err(io::Error::other)?;
            }
            Frame::Closed { channel } if channel >= SOCKETS => {
                if table.listeners.remove(&channel).is_none() {
                    table.forget(channel)?.end();
                }
            }
            other => return Ok(Some(other)),
        }
        Ok(None)
    }
}

impl Table {
    fn number(&mut self) -> u32 {
        loop {
            let number = SOCKETS + self.next % (ACCEPTED - SOCKETS);
            self.next = self.next.wrapping_add(1);
            if !self.entries.contains_key(&number) && !self.listeners.contains_key(&number) {
                return number;
            }
        }
    }

    fn window(&self) -> u32 {
        window(self.entries.len())
    }

    fn entry(&mut self, number: u32) -> io::Result<&mut Entry> {
        self.entries.get_mut(&number).ok_or_else(unknown)
    }

    fn forget(&mut self, number: u32) -> io::Result<Entry> {
        self.entries.remove(&number).ok_or_else(unknown)
    }

    fn hear(&mut self, socket: Socket) -> io::Result<()> {
        match socket {
            Socket::Connected { channel, peer, credit } => {
                let entry = self.entry(channel)?;
                entry.input.add(credit).map_err(io::Error::other)?;
                if let Some(waiting) = entry.connected.take() {
                    // Who asked may have gone.
                    let _unheard = waiting.send(Ok(String::from_utf8_lossy(&peer).into_owned()));
                }
            }
            Socket::Failed { channel, why, errno } => {
                let source = io::Error::from_raw_os_error(i32::try_from(errno).unwrap_or_default());
                if let Some(listening) = self.listeners.remove(&channel) {
                    if let Some(waiting) = listening.opened {
                        let _unheard = waiting.send(Err(ConnectError::Refused { why, source }));
                    }
                    return Ok(());
                }
                let entry = self.forget(channel)?;
                // One that is connected does not fail: it ends.
                let Some(waiting) = entry.connected else {
                    entry.reset();
                    return Err(unknown());
                };
                let _unheard = waiting.send(Err(ConnectError::Refused { why, source }));
            }
            Socket::Reset { channel } => self.entry(channel)?.reset(),
            Socket::Listening { listener, port } => {
                let listening = self.listeners.get_mut(&listener).ok_or_else(unknown)?;
                if let Some(waiting) = listening.opened.take() {
                    let _unheard = waiting.send(Ok(port));
                }
            }
            Socket::Accepted { listener, channel, source, port, credit } => {
                self.come(listener, channel, &source, port, credit)?;
            }
            Socket::Connect { .. } | Socket::Listen { .. } | Socket::Lend { .. } => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that has no place here"));
            }
        }
        Ok(())
    }
}

impl Table {
    /// Somebody has come, and is turned away where too many wait.
    fn come(&mut self, listener: u32, channel: u32, source: &[u8], port: u16, credit: u32) -> io::Result<()> {
        let window = self.window();
        // It may have been closed meanwhile: then it is told soon, and this one is turned away.
        let Some(listening) = self.listeners.get(&listener) else { return Err(unknown()) };
        let (come, frames) = (listening.come.clone(), listening.frames.clone());
        if self.entries.contains_key(&channel) || self.entries.len() >= ENTRIES_MAX_COUNT {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more sockets than there can be"));
        }
        let entry = Entry::new(window);
        entry.input.add(credit).map_err(io::Error::other)?;
        let connection = Connection {
            input: Input::new(channel, Arc::clone(&entry.input), frames.clone()),
            output: Output::new(channel, Stream::Out, Arc::clone(&entry.output), frames.clone()),
            farewell: Farewell { channel, is_reset: Arc::clone(&entry.is_reset), frames },
            peer: String::from_utf8_lossy(source).into_owned(),
        };
        self.entries.insert(channel, entry);
        if let Err(turned) = come.try_send(Come { connection, window, port }) {
            let (mpsc::error::TrySendError::Full(one) | mpsc::error::TrySendError::Closed(one)) = turned;
            // The program may say more than it hears.
            if self.turned_away.fetch_add(1, Ordering::Relaxed) >= COME_MAX_COUNT {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more come than are turned away"));
            }
            let turned_away = Arc::clone(&self.turned_away);
            tokio::spawn(async move {
                one.reset().await;
                turned_away.fetch_sub(1, Ordering::Relaxed);
            });
        }
        Ok(())
    }
}

fn window(before: usize) -> u32 {
    WINDOWS.iter().find(|(count, _)| before < *count).map_or(0, |(_, bytes)| *bytes)
}

fn unknown() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a socket that is not")
}

#[cfg(test)]
mod tests;
