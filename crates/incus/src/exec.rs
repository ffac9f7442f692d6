//! A program run inside an instance.
//!
//! The server starts it once all its sockets are connected: `control` first, because it does not wait for that one and
//! a short program is over before it is there, then standard input, output and error, or one for a terminal. They are
//! opened where the API may be used ([`Client::exec`]) and speak where it may not ([`Exec::new`]): what
//! [`ExecSockets`] holds are descriptors of connections that serve this one program and nothing else, so they can be
//! handed to a process without privilege. The bytes then never pass the one that has it.
//!
//! Back-pressure goes through: who does not read holds the program up, and a program that does not read holds up who
//! writes. Dropping [`Exec`], or the end of the process that has it, kills the program (its children live on).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::client::instance_target;
use crate::transport::{Door, Failure, Saying, one_line, protocol};
use crate::{Client, IncusError, Result};

mod outcome;
mod pipe;
mod tolerant;
pub(crate) mod upgrade;
mod whole;

use tolerant::Tolerant;

pub use outcome::{ExecEnd, Outcome};
pub use pipe::Pipe;
pub use whole::Whole;

/// Longest message of the server's. It sends at most 32 KiB.
const MESSAGE_BYTES: usize = 1 << 20;

/// Greatest id a program may be run as: with the next one the server runs it as root (`-1` is "no change").
const ID_MAX: u32 = u32::MAX - 1;

type Socket = WebSocketStream<Tolerant>;

/// What is run, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecSpec {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables beside those the server sets.
    pub environment: BTreeMap<String, String>,
    /// User inside.
    pub user: u32,
    /// Group inside. There are no others: the server knows none.
    pub group: u32,
    /// Directory; `/` where it does not exist.
    pub cwd: String,
    /// Columns and rows of a terminal, if it gets one.
    #[serde(skip)]
    pub terminal: Option<Size>,
}

impl ExecSpec {
    /// A program that root runs in `/`, without a terminal.
    #[must_use]
    pub fn of_root(command: Vec<String>, environment: BTreeMap<String, String>) -> ExecSpec {
        ExecSpec { command, environment, user: 0, group: 0, cwd: "/".to_owned(), terminal: None }
    }
}

/// Columns and rows of a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(flatten)]
    spec: &'a ExecSpec,
    #[serde(rename = "wait-for-websocket")]
    wait_for_websocket: bool,
    interactive: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    width: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    height: Option<u16>,
}

#[derive(Deserialize)]
struct Started {
    metadata: Operation,
}

#[derive(Deserialize)]
struct Operation {
    id: String,
    metadata: Secrets,
}

#[derive(Deserialize)]
struct Secrets {
    fds: BTreeMap<String, String>,
}

/// Connections of one program: opened, and not yet spoken on.
#[derive(Debug)]
pub struct ExecSockets {
    control: OwnedFd,
    outcome: OwnedFd,
    /// A terminal, or standard input, output and error.
    data: Vec<OwnedFd>,
}

impl ExecSockets {
    /// All of them, in the order in which [`from_fds`](Self::from_fds) takes them.
    #[must_use]
    pub fn into_fds(self) -> Vec<OwnedFd> {
        [self.control, self.outcome].into_iter().chain(self.data).collect()
    }

    /// The reverse; `None` when there are not three (with a terminal) or five.
    #[must_use]
    pub fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        if !matches!(fds.len(), 3 | 5) {
            return None;
        }
        let mut fds = fds.into_iter();
        let (control, outcome) = (fds.next()?, fds.next()?);
        Some(Self { control, outcome, data: fds.collect() })
    }
}

/// A program that runs. Its parts are used apart from each other.
#[derive(Debug)]
pub struct Exec {
    /// Signals, sizes, and its life.
    pub control: Control,
    /// Standard input, or what is typed.
    pub input: Input,
    /// Standard output, or the screen.
    pub output: Output,
    /// Standard error; with a terminal there is none.
    pub errors: Option<Output>,
    /// How it ends.
    pub outcome: Outcome,
}

impl Exec {
    /// Speaks on these connections. Needs a runtime.
    ///
    /// # Errors
    /// When they are no connections, or the runtime cannot watch them.
    pub async fn new(sockets: ExecSockets) -> io::Result<Self> {
        let (sink, reads) = websocket(sockets.control).await?.split();
        let control = Control { sink, reads };
        let outcome = Outcome::new(stream(sockets.outcome)?);
        let mut data = sockets.data.into_iter();
        let mut next = || data.next().ok_or(io::ErrorKind::InvalidInput);
        let (sink, reads) = websocket(next()?).await?.split();
        match (next(), next()) {
            (Ok(one), Ok(two)) => {
                let input = Input { sink, reads: Some(reads), is_over: false };
                let output = Output { reads: websocket(one).await?.split().1 };
                let errors = Output { reads: websocket(two).await?.split().1 };
                Ok(Self { control, input, output, errors: Some(errors), outcome })
            }
            _ => {
                let input = Input { sink, reads: None, is_over: false };
                let output = Output { reads };
                Ok(Self { control, input, output, errors: None, outcome })
            }
        }
    }
}

fn stream(fd: OwnedFd) -> io::Result<UnixStream> {
    let stream = StdStream::from(fd);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

async fn websocket(fd: OwnedFd) -> io::Result<Socket> {
    let config =
        WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES)).max_frame_size(Some(MESSAGE_BYTES));
    Ok(WebSocketStream::from_raw_socket(Tolerant(stream(fd)?), Role::Client, Some(config)).await)
}

/// The server's side of a socket is closed: the program has ended, or takes no more input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the program takes no more")]
pub struct Ended;

/// Reads what the server says on a socket that carries nothing towards us, so that its pings are answered, until it
/// closes. Cancel safe.
async fn drain(reads: &mut SplitStream<Socket>) {
    while let Some(Ok(_)) = reads.next().await {}
}

/// Steers a program. Dropped, it kills the program.
#[derive(Debug)]
pub struct Control {
    sink: SplitSink<Socket, Message>,
    reads: SplitStream<Socket>,
}

impl Control {
    /// Sends it a signal, by its number in Linux. Only the program itself gets it.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn signal(&mut self, number: i32) -> std::result::Result<(), Ended> {
        self.say(serde_json::json!({"command": "signal", "signal": number})).await
    }

    /// Gives its terminal another size.
    ///
    /// # Errors
    /// When it has ended.
    pub async fn resize(&mut self, size: Size) -> std::result::Result<(), Ended> {
        let (width, height) = (size.width.to_string(), size.height.to_string());
        let args = serde_json::json!({"width": width, "height": height});
        self.say(serde_json::json!({"command": "window-resize", "args": args})).await
    }

    async fn say(&mut self, message: serde_json::Value) -> std::result::Result<(), Ended> {
        tokio::select! {
            sent = self.sink.send(Message::text(message.to_string())) => sent.map_err(|_| Ended),
            () = drain(&mut self.reads) => Err(Ended),
        }
    }

    /// Waits until the server closes it. Poll it while there is nothing to say. Cancel safe.
    pub async fn closed(&mut self) {
        drain(&mut self.reads).await;
    }
}

/// What a program reads.
#[derive(Debug)]
pub struct Input {
    sink: SplitSink<Socket, Message>,
    /// Of a terminal the output has them.
    reads: Option<SplitStream<Socket>>,
    /// Its end was said.
    is_over: bool,
}

impl Input {
    /// Sends bytes; waits while the program does not read. Not cancel safe.
    ///
    /// # Errors
    /// When it reads no more, as far as that is known; otherwise the bytes are lost.
    pub async fn send(&mut self, bytes: Bytes) -> std::result::Result<(), Ended> {
        let Self { sink, reads, .. } = self;
        tokio::select! {
            sent = sink.send(Message::Binary(bytes)) => sent.map_err(|_| Ended),
            () = idle(reads) => Err(Ended),
        }
    }

    /// Ends what a program without a terminal reads; a terminal has no end.
    ///
    /// # Errors
    /// When it reads no more.
    pub async fn finish(&mut self) -> std::result::Result<(), Ended> {
        if self.reads.is_none() {
            return Ok(());
        }
        self.sink.send(Message::text("")).await.map_err(|_| Ended)
    }

    /// Waits until the server closes it; for ever with a terminal, whose output says so. Poll it while there is
    /// nothing to send. Cancel safe.
    pub async fn closed(&mut self) {
        idle(&mut self.reads).await;
    }
}

async fn idle(reads: &mut Option<SplitStream<Socket>>) {
    match reads {
        Some(reads) => drain(reads).await,
        None => std::future::pending().await,
    }
}

/// What a program writes.
#[derive(Debug)]
pub struct Output {
    reads: SplitStream<Socket>,
}

impl Output {
    /// The next bytes, never none of them; `None` at the end. Cancel safe.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.reads.next().await? {
                Ok(Message::Binary(bytes)) if bytes.is_empty() => {}
                Ok(Message::Binary(bytes)) => return Some(bytes),
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                // A text ends the stream, whatever it says.
                Ok(Message::Text(_) | Message::Close(_)) | Err(_) => return None,
            }
        }
    }
}

impl Client {
    /// Starts a program inside an instance; `None` when the project or the instance does not exist. About 15 ms, most
    /// of it the server's start of the program. An instance that does not run is a [`IncusError::Status`] of 400 with
    /// the server's words.
    ///
    /// # Errors
    /// [`IncusError`], any; `Protocol` for a user or group that no program can have.
    pub async fn exec(&self, project: &str, name: &str, spec: &ExecSpec) -> Result<Option<ExecSockets>> {
        let Some(target) = instance_target(project, name, "/exec") else { return Ok(None) };
        if spec.user > ID_MAX || spec.group > ID_MAX {
            return Err(protocol(&target, "no program can have this user or group"));
        }
        let Some(operation) = self.started(&target, spec).await? else { return Ok(None) };
        let limit = self.limits().request;
        tokio::time::timeout(limit, sockets(self.door(), &target, &operation, spec.terminal.is_some()))
            .await
            .map_err(|_| IncusError::TimedOut { request: format!("POST {target}"), limit })?
            .map(Some)
    }

    /// Starts a program that nobody talks to and that lives on without us; `None` when the project or the instance does
    /// not exist.
    ///
    /// # Errors
    /// As [`exec`](Self::exec).
    pub async fn exec_detached(&self, project: &str, name: &str, spec: &ExecSpec) -> Result<Option<()>> {
        let Some(target) = instance_target(project, name, "/exec") else { return Ok(None) };
        if spec.user > ID_MAX || spec.group > ID_MAX {
            return Err(protocol(&target, "no program can have this user or group"));
        }
        let request =
            Request { spec, wait_for_websocket: false, interactive: false, width: None, height: None };
        let started = self.submit(hyper::Method::POST, &target, Some(&request), None).await;
        Ok(crate::resources::absent_is_none(started)?.map(|_| ()))
    }

    async fn started(&self, target: &str, spec: &ExecSpec) -> Result<Option<Operation>> {
        let request = Request {
            spec,
            wait_for_websocket: true,
            interactive: spec.terminal.is_some(),
            width: spec.terminal.map(|size| size.width),
            height: spec.terminal.map(|size| size.height),
        };
        let body = serde_json::to_vec(&request).map_err(|error| protocol(target, error))?;
        let (limit, bytes) = (self.limits().request, self.limits().answer_bytes);
        let said = self.door().say(target, Saying::post(body), limit, bytes).await?;
        match said.status {
            StatusCode::ACCEPTED => {
                let started: Started =
                    serde_json::from_slice(&said.body).map_err(|error| protocol(target, error))?;
                Ok(Some(started.metadata))
            }
            StatusCode::FORBIDDEN => Err(self.door().denied()),
            status => match serde_json::from_slice::<Failure>(&said.body) {
                Ok(failure) if failure.kind == "error" && status == StatusCode::NOT_FOUND => Ok(None),
                Ok(failure) if failure.kind == "error" => Err(IncusError::Status {
                    request: format!("POST {target}"),
                    code: status.as_u16(),
                    message: one_line(&failure.error),
                }),
                _ => Err(protocol(target, format!("status {status} without an API error"))),
            },
        }
    }
}

/// Connects them all; the last one starts the program.
async fn sockets(door: Door<'_>, target: &str, operation: &Operation, terminal: bool) -> Result<ExecSockets> {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    if !plain(&operation.id) {
        return Err(protocol(target, "the operation cannot be named"));
    }
    let path = format!("/1.0/operations/{}", operation.id);
    let socket = async |name: &str| {
        let secret = operation.metadata.fds.get(name).filter(|secret| plain(secret));
        let secret = secret.ok_or_else(|| protocol(target, format!("there is no socket {name}")))?;
        upgrade::websocket(door, &format!("{path}/websocket?secret={secret}")).await
    };
    let control = socket("control").await?;
    // Before the program starts: what has ended is forgotten after some seconds.
    let outcome = outcome::ask(door, &path).await?;
    let names: &[&str] = if terminal { &["0"] } else { &["0", "1", "2"] };
    let mut data = Vec::with_capacity(names.len());
    for name in names {
        data.push(socket(name).await?);
    }
    Ok(ExecSockets { control, outcome, data })
}
