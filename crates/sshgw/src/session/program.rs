//! A channel with a program behind it.
//!
//! Started: the broker opens it and hands its ends over. Running: bytes go both ways, each direction at the pace of
//! who reads it. Ended: what it wrote is sent, then its exit status, then the channel is closed. When its client goes
//! first it gets HUP, then TERM, then KILL.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use portway_incus::{Control, Exec, ExecEnd, ExecSockets, Input, Output};
use russh::ChannelWriteHalf;
use russh::server::Msg;

use super::inbox::{Outlet, Pieces, Steer, Steering};
use super::link::{Link, Lost};
use crate::wire::{COMMAND_BYTES, Reply, Request, Terminal, What};

/// The signals a program gets when its client has gone, each with the time it then has.
const FAREWELL: [(i32, Duration); 2] =
    [(nix::libc::SIGHUP, Duration::from_secs(3)), (nix::libc::SIGTERM, Duration::from_secs(5))];

/// Standard error of a channel (RFC 4254, section 5.2).
const STDERR: u32 = 1;

/// Exit status of our own: sshd's, when it cannot go on.
const GATEWAY_FAILED: u8 = 255;

/// The command cannot be run: as of a shell (POSIX, XCU 2.8.2).
const NOT_EXECUTABLE: u8 = 126;

/// What the client has asked for.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) what: What,
    pub(super) command: Vec<u8>,
    pub(super) terminal: Option<Terminal>,
    pub(super) environment: Vec<(String, String)>,
}

/// Bytes of a program, as the audit has them.
#[derive(Debug, Default)]
struct Counts {
    from_client: AtomicU64,
    to_client: AtomicU64,
}

/// Runs a program on a channel to its end.
pub(super) async fn run(link: Arc<Link>, channel: ChannelWriteHalf<Msg>, outlet: Outlet, wanted: Wanted) {
    let number = u32::from(channel.id());
    let Wanted { what, command, terminal, environment } = wanted;
    let on_terminal = terminal.is_some();
    let request = Request::Open { channel: number, what, terminal, environment };
    let opened = if command.len() > COMMAND_BYTES {
        let text = format!("the command has {} bytes, and the longest has {COMMAND_BYTES}", command.len());
        Err((NOT_EXECUTABLE, text))
    } else {
        open(&link, number, request, &command).await
    };
    drop(command);
    let exec = match opened {
        Ok(exec) => exec,
        Err((status, message)) => {
            let end = if on_terminal { "\r\n" } else { "\n" };
            let text = Bytes::from(format!("portway: {message}{end}"));
            let _gone = channel.extended_data_bytes(STDERR, text).await;
            finish(&channel, status).await;
            return;
        }
    };
    let counts = Arc::new(Counts::default());
    let status = converse(&channel, outlet, exec, &counts).await;
    if let Some(status) = status {
        finish(&channel, status).await;
    }
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let (bytes_in, bytes_out) = (read(&counts.from_client), read(&counts.to_client));
    let ended = Request::Closed { channel: number, status: status.map(u32::from), bytes_in, bytes_out };
    link.closed(number, ended).await;
}

/// Has the broker start it.
async fn open(link: &Link, channel: u32, request: Request, command: &[u8]) -> Result<Exec, (u8, String)> {
    let failed = || (GATEWAY_FAILED, "the gateway could not start the program".to_owned());
    match link.ask(request, command).await {
        Ok((Reply::Opened, fds)) => {
            let sockets = ExecSockets::from_fds(fds).ok_or_else(failed)?;
            Exec::new(sockets).await.map_err(|_| failed())
        }
        Ok((Reply::Refused { status, message }, _)) => Err((status, message)),
        Ok((Reply::Verdict { .. } | Reply::Starting, _)) => Err(failed()),
        Err(lost @ Lost) => {
            // What comes of it after all is not taken: it does not run.
            let never = Request::Closed { channel, status: None, bytes_in: 0, bytes_out: 0 };
            link.closed(channel, never).await;
            Err((GATEWAY_FAILED, lost.to_string()))
        }
    }
}

/// Carries bytes until the program has ended; its exit status, if anybody is there to be told.
async fn converse(
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    exec: Exec,
    counts: &Arc<Counts>,
) -> Option<u8> {
    let Exec { mut control, input, mut output, mut errors, outcome } = exec;
    let Outlet { input: pieces, mut steering } = outlet;
    let feeding = tokio::spawn(feed(pieces, input, Arc::clone(counts)));
    let ended = {
        let answers = async {
            let errors = async {
                match errors.as_mut() {
                    Some(errors) => carry(errors, channel, Some(STDERR), counts).await,
                    None => true,
                }
            };
            let (one, two) = tokio::join!(carry(&mut output, channel, None, counts), errors);
            one && two
        };
        tokio::select! {
            heard = answers => heard,
            () = steer(&mut control, &mut steering) => false,
        }
    };
    // Of a terminal the server waits for this before it tells the end.
    feeding.abort();
    let mut end = std::pin::pin!(outcome.wait());
    let told = if ended {
        drop((output, errors));
        // One that has closed its outputs may run on, and its client may go meanwhile.
        let told = tokio::select! {
            told = &mut end => Some(told),
            () = steer(&mut control, &mut steering) => None,
        };
        if told.is_none() {
            farewell(control, end, None, None).await;
        }
        told
    } else {
        farewell(control, end, Some(output), errors).await;
        None
    };
    Some(match told? {
        Ok(ExecEnd::Status(status)) => status,
        Ok(ExecEnd::Failed(words)) => {
            let _gone = channel.extended_data_bytes(STDERR, format!("portway: {words}\n")).await;
            GATEWAY_FAILED
        }
        Err(_) => GATEWAY_FAILED,
    })
}

/// What the client sends, to the program.
async fn feed(mut pieces: Pieces, mut input: Input, counts: Arc<Counts>) {
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = input.closed() => return,
        };
        match piece {
            Some(bytes) => {
                let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                if input.send(bytes).await.is_err() {
                    return;
                }
                counts.from_client.fetch_add(count, Ordering::Relaxed);
            }
            None => {
                let _ended = input.finish().await;
                input.closed().await;
                return;
            }
        }
    }
}

/// What a program writes, to the client. Whether it ended before the client did.
async fn carry(
    output: &mut Output,
    channel: &ChannelWriteHalf<Msg>,
    ext: Option<u32>,
    counts: &Counts,
) -> bool {
    while let Some(bytes) = output.next().await {
        let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let sent = match ext {
            None => channel.data_bytes(bytes).await,
            Some(ext) => channel.extended_data_bytes(ext, bytes).await,
        };
        if sent.is_err() {
            return false;
        }
        counts.to_client.fetch_add(count, Ordering::Relaxed);
    }
    true
}

/// Steers the program until its client has gone.
async fn steer(control: &mut Control, steering: &mut Steering) {
    loop {
        let steer = tokio::select! {
            steer = steering.next() => steer,
            () = control.closed() => {
                // The program has ended: what it wrote is still being read.
                steering.hangup().await;
                return;
            }
        };
        let told = match steer {
            Steer::Signal(number) => control.signal(number).await,
            Steer::Resize(size) => control.resize(size).await,
            Steer::Hangup => return,
        };
        if told.is_err() {
            steering.hangup().await;
            return;
        }
    }
}

/// Ends a program that nobody listens to any more. What it writes is read, so that it can end.
async fn farewell(
    mut control: Control,
    end: impl Future<Output = io::Result<ExecEnd>>,
    output: Option<Output>,
    errors: Option<Output>,
) {
    let drain = async |output: Option<Output>| {
        let Some(mut output) = output else { return };
        while output.next().await.is_some() {}
    };
    let ended = async {
        tokio::join!(drain(output), drain(errors));
        let _unheard = end.await;
    };
    tokio::pin!(ended);
    for (signal, patience) in FAREWELL {
        if control.signal(signal).await.is_err() {
            return;
        }
        if tokio::time::timeout(patience, &mut ended).await.is_ok() {
            return;
        }
    }
    // Dropping the control kills it.
}

/// Says how it ended, and closes the channel.
async fn finish(channel: &ChannelWriteHalf<Msg>, status: u8) {
    let _gone = channel.exit_status(u32::from(status)).await;
    let _gone = channel.eof().await;
    let _gone = channel.close().await;
}
