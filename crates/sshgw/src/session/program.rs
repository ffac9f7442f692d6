//! A channel with a program behind it.
//!
//! Started: the broker opens it and hands its ends over. Running: bytes go both ways, each direction at the pace of
//! who reads it. Ended: what it wrote is sent, then its exit status, then the channel is closed. When its client goes
//! first it gets HUP, then TERM, then KILL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use portway_incus::{Exec, ExecSockets};
use portway_proto::guest::Size as ScreenSize;
use russh::ChannelWriteHalf;
use russh::server::{Handle, Msg};
use tokio::sync::broadcast::error::RecvError;

use super::helper::{Helper, Unable};
use super::inbox::Outlet;
use super::link::{Link, Lost};
use super::listeners::Server;
use super::recorder::Recorder;
use super::shell::{self, Dialogue};
use super::stored::{self, Stored};
use super::teller::{Teller, in_words};
use super::transfers::Transfers;
use super::{asked, exec, inside, lent, signals};
use crate::explain::printable;
use crate::guest::{Process, Wanted as Start};
use crate::recording::Stream;
use crate::wire::{COMMAND_BYTES, Reply, Request, ShellReply, Terminal, What};

/// Standard error of a channel (RFC 4254, section 5.2).
pub(super) const STDERR: u32 = 1;

/// Exit status of our own: sshd's, when it cannot go on.
pub(super) const GATEWAY_FAILED: u8 = 255;

/// The command cannot be run: as of a shell (POSIX, XCU 2.8.2).
const NOT_EXECUTABLE: u8 = 126;

/// What the client has asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) what: What,
    pub(super) command: Vec<u8>,
    pub(super) screen: Option<Screen>,
    pub(super) environment: Vec<(String, String)>,
    /// Said before it says something.
    pub(super) welcome: String,
    /// What the client lends it.
    pub(super) asked: lent::Asked,
}

/// The client's terminal.
#[derive(Debug, Clone)]
pub(super) struct Screen {
    pub(super) kind: String,
    pub(super) size: ScreenSize,
    /// Opcodes and arguments of RFC 4254, section 8.
    pub(super) modes: Vec<(u8, u32)>,
}

/// What a program is started by, and told to the client with.
pub(super) struct Gateway {
    pub(super) link: Arc<Link>,
    pub(super) helper: Arc<Helper>,
    pub(super) handle: Handle,
    /// Of channels to the client.
    pub(super) server: Server,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// With this status.
    Status(u8),
    /// By a signal, by its number in Linux.
    Signal { number: u8, core: bool },
}

impl End {
    /// As a shell has it.
    fn status(self) -> u32 {
        match self {
            Self::Status(status) => status.into(),
            Self::Signal { number, .. } => 128 + u32::from(number),
        }
    }
}

/// A program that runs.
enum Running {
    /// The server runs it.
    Exec(Exec),
    /// The helper does.
    Inside(Process),
    /// The helper does, and it is its server of files.
    Files(Process),
    /// Nobody does: the server serves files.
    Stored(Stored),
    /// The gateway does: lines of Incus commands.
    Shell(Dialogue),
}

/// Why there is no program.
enum Without {
    /// There cannot be one: its exit status, and why.
    Refused(u8, String),
    /// The gateway was asked, and says this.
    Said(String),
    /// The gateway asks first.
    Asked(String),
}

impl Without {
    /// Tells the client. The exit status.
    async fn tell(self, channel: &ChannelWriteHalf<Msg>, on_terminal: bool) -> u8 {
        match self {
            Self::Refused(status, message) => {
                say(channel, &message, on_terminal).await;
                status
            }
            Self::Said(text) => {
                let text = if on_terminal { text.replace('\n', "\r\n") } else { text };
                let _gone = channel.data_bytes(Bytes::from(text)).await;
                0
            }
            // It asks once.
            Self::Asked(_) => GATEWAY_FAILED,
        }
    }
}

/// What goes over a channel, as the audit has it.
#[derive(Debug, Default)]
pub(super) struct Counts {
    from_client: AtomicU64,
    to_client: AtomicU64,
    /// Of a server of files.
    pub(super) transfers: Option<Transfers>,
    /// Of what is recorded.
    pub(super) recorder: Option<Recorder>,
}

impl Counts {
    pub(super) fn came(&self, bytes: usize) {
        self.from_client.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn went(&self, bytes: usize) {
        self.to_client.fetch_add(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// A program has written something. Whether it may go on.
    pub(super) fn shows(&self, ext: Option<u32>, bytes: &[u8]) -> bool {
        let stream = if ext.is_none() { Stream::Out } else { Stream::Error };
        self.recorder.as_ref().is_none_or(|recorder| recorder.output(stream, bytes))
    }

    /// Tells the client what a program has written, by its output or its errors (`ext`), as far as it is shown.
    pub(super) async fn tell(
        &self,
        channel: &ChannelWriteHalf<Msg>,
        ext: Option<u32>,
        bytes: Bytes,
    ) -> Result<(), Unheard> {
        let count = bytes.len();
        if !self.shows(ext, &bytes) {
            return Err(Unheard);
        }
        let sent = match ext {
            None => channel.data_bytes(bytes).await,
            Some(ext) => channel.extended_data_bytes(ext, bytes).await,
        };
        sent.map_err(|_| Unheard)?;
        self.went(count);
        Ok(())
    }

    /// Its terminal has another size.
    pub(super) fn resized(&self, size: ScreenSize) {
        if let Some(recorder) = &self.recorder {
            recorder.resize(size);
        }
    }
}

/// A program is heard no longer: its client has gone, or it may not go on.
pub(super) struct Unheard;

/// Runs a program on a channel to its end.
pub(super) async fn run(
    gateway: Gateway,
    channel: ChannelWriteHalf<Msg>,
    outlet: Outlet,
    mut wanted: Wanted,
) {
    let number = u32::from(channel.id());
    let on_terminal = wanted.screen.is_some();
    let mut outlet = outlet;
    let opened = if wanted.command.len() > COMMAND_BYTES {
        let text =
            format!("the command has {} bytes, and the longest has {COMMAND_BYTES}", wanted.command.len());
        Err(Without::Refused(NOT_EXECUTABLE, text))
    } else {
        let mut teller = Teller::new(&channel, on_terminal);
        let mut opened = open(&gateway, number, &wanted, &mut teller).await;
        if let Err(Without::Asked(question)) = &opened {
            wanted.command = asked::answer(&channel, &mut outlet.input, question).await;
            wanted.what = What::Command;
            opened = open(&gateway, number, &wanted, &mut teller).await;
        }
        teller.end().await;
        opened
    };
    wanted.command = Vec::new();
    if opened.is_ok() && !wanted.welcome.is_empty() {
        // Who does not hear it has gone.
        let _gone = channel.data_bytes(Bytes::from(std::mem::take(&mut wanted.welcome))).await;
    }
    let is_files = matches!(opened, Ok(Running::Files(_) | Running::Stored(_)));
    let transfers = is_files.then(|| Transfers::new(Arc::clone(&gateway.link), number));
    // Taken whatever came of it: the next program of this channel's number is another one.
    let recorder = gateway.link.recording(number).filter(|_| opened.is_ok());
    let recorder =
        recorder.map(|(terms, file)| Recorder::new(Arc::clone(&gateway.link), number, terms, file));
    let counts = Arc::new(Counts { transfers, recorder, ..Counts::default() });
    let mut end = match opened {
        Ok(running) => {
            let asked = std::mem::take(&mut wanted.asked);
            let telling = notices(&gateway.link, &channel, on_terminal);
            tokio::select! {
                end = carry(&gateway, &channel, outlet, (running, asked), &counts) => end,
                () = telling => None,
            }
        }
        Err(without) => {
            let status = without.tell(&channel, on_terminal).await;
            finish(&channel, &gateway.handle, End::Status(status)).await;
            return;
        }
    };
    if let Some(why) = counts.recorder.as_ref().and_then(Recorder::ended_by_it) {
        say(&channel, &format!("the session ends: {why}"), on_terminal).await;
        end = Some(End::Status(GATEWAY_FAILED));
    }
    if let Some(end) = end {
        finish(&channel, &gateway.handle, end).await;
    }
    if let Some(recorder) = &counts.recorder {
        recorder.end().await;
    }
    if let Some(transfers) = &counts.transfers {
        transfers.end().await;
    }
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (bytes_in, bytes_out) = (read(&counts.from_client), read(&counts.to_client));
    let ended = Request::Closed { channel: number, status: end.map(End::status), bytes_in, bytes_out };
    gateway.link.closed(number, ended).await;
}

/// Carries what goes between a program and its client; how it ends, if anybody is there to be told.
async fn carry(
    gateway: &Gateway,
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    (running, asked): (Running, lent::Asked),
    counts: &Arc<Counts>,
) -> Option<End> {
    match running {
        Running::Exec(program) => exec::converse(channel, outlet, program, counts).await.map(End::Status),
        Running::Inside(mut process) | Running::Files(mut process) => {
            asked.serve(&gateway.server, std::mem::take(&mut process.lent));
            inside::converse(channel, outlet, process, counts).await
        }
        Running::Stored(files) => stored::converse(channel, outlet, files, counts).await,
        Running::Shell(dialogue) => shell::converse(gateway, channel, outlet, dialogue, counts).await,
    }
}

/// Tells somebody at a terminal what everybody in the instance is told; for ever.
async fn notices(link: &Link, channel: &ChannelWriteHalf<Msg>, on_terminal: bool) {
    let mut notices = link.notices();
    loop {
        match notices.recv().await {
            Ok(text) if on_terminal => say(channel, &text, true).await,
            // Whoever reads slowly misses one.
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// Says something of the gateway's own on the channel.
pub(super) async fn say(channel: &ChannelWriteHalf<Msg>, message: &str, on_terminal: bool) {
    let end = if on_terminal { "\r\n" } else { "\n" };
    // Some of it may be an instance's word.
    let message = printable(&in_words(message));
    let _gone = channel.extended_data_bytes(STDERR, Bytes::from(format!("portway: {message}{end}"))).await;
}

/// Has it started: by the helper where the broker says so, and without one where there is none and it can be done.
async fn open(
    gateway: &Gateway,
    channel: u32,
    wanted: &Wanted,
    teller: &mut Teller<'_>,
) -> Result<Running, Without> {
    let failed = || Without::Refused(GATEWAY_FAILED, "the gateway could not start the program".to_owned());
    let mut why = String::new();
    let first = gateway.helper.is_first();
    for inside in [true, false] {
        let asked = request(channel, wanted, inside, first);
        match gateway.link.ask_telling(asked, &wanted.command, Some(teller)).await {
            Ok((Reply::Opened, fds)) => {
                let exec = match ExecSockets::from_fds(fds) {
                    Some(sockets) => Exec::new(sockets).await.ok(),
                    None => None,
                };
                if let Some(exec) = exec {
                    return Ok(Running::Exec(exec));
                }
                gateway.link.closed(channel, never(channel)).await;
                return Err(failed());
            }
            Ok((Reply::Stored { home }, fds)) => {
                if let Some(stored) = Stored::new(fds, home) {
                    return Ok(Running::Stored(stored));
                }
                gateway.link.closed(channel, never(channel)).await;
                return Err(failed());
            }
            Ok((Reply::Inside { shell, home, terminal, files, jail, keep, agent, cookie }, _)) => {
                let start = inside::start(wanted, &shell, &home, terminal, keep.as_ref());
                let start = Start { loans: wanted.asked.loans(agent, cookie), ..start };
                match gateway.helper.start(start, jail).await {
                    Ok(process) if files => return Ok(Running::Files(process)),
                    Ok(process) => return Ok(Running::Inside(process)),
                    Err(unable) => {
                        gateway.link.closed(channel, never(channel)).await;
                        match unable {
                            Unable::Program(status, text) => return Err(Without::Refused(status, text)),
                            Unable::Helper(text) => why = text,
                        }
                    }
                }
            }
            Ok((Reply::Refused { status, message }, _)) => {
                let message = if why.is_empty() { message } else { format!("{message}: {why}") };
                return Err(Without::Refused(status, message));
            }
            Ok((Reply::Shell(ShellReply::Dialogue { server, project, history, typed }), _)) => {
                return Ok(Running::Shell(Dialogue::new(wanted, (server, project), typed, history)));
            }
            Ok((Reply::Said { text }, _)) => return Err(Without::Said(text)),
            Ok((Reply::Ask { text }, _)) => return Err(Without::Asked(text)),
            Ok((
                Reply::Verdict { .. }
                | Reply::Progress { .. }
                | Reply::Ending { .. }
                | Reply::Starting
                | Reply::Shell(_)
                | Reply::Helped { .. },
                _,
            )) => return Err(failed()),
            Err(lost @ Lost) => {
                // What comes of it after all is not taken: it does not run.
                gateway.link.closed(channel, never(channel)).await;
                return Err(Without::Refused(GATEWAY_FAILED, lost.to_string()));
            }
        }
    }
    Err(failed())
}

fn request(channel: u32, wanted: &Wanted, inside: bool, first: bool) -> Request {
    let terminal = wanted.screen.as_ref().map(|screen| Terminal {
        kind: screen.kind.clone(),
        width: screen.size.columns,
        height: screen.size.rows,
    });
    let environment = wanted.environment.clone();
    let lends = wanted.asked.lends();
    // Only the helper can lend anything.
    let first = first && !lends.is_any();
    Request::Open {
        channel,
        what: wanted.what,
        terminal,
        environment,
        inside,
        first,
        can_record: true,
        lends,
    }
}

/// The end of a program that never was.
fn never(channel: u32) -> Request {
    Request::Closed { channel, status: None, bytes_in: 0, bytes_out: 0 }
}

/// Says how it ended, and closes the channel.
async fn finish(channel: &ChannelWriteHalf<Msg>, handle: &Handle, end: End) {
    match end {
        End::Status(status) => {
            let _gone = channel.exit_status(u32::from(status)).await;
        }
        End::Signal { number, core } => {
            let (name, nothing) = (signals::name(number), String::new());
            let _gone = handle.exit_signal_request(channel.id(), name, core, nothing.clone(), nothing).await;
        }
    }
    let _gone = channel.eof().await;
    let _gone = channel.close().await;
}
