//! A channel with a process of the helper's behind it: the same life as a program of the server's ([`super::program`]), but
//! with signals to whatever runs in front, and an end that tells a signal from a status.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use portway_proto::guest::{Environment, Exit, Ids, Keep, Program, Pty, Signal, Size};
use russh::ChannelWriteHalf;
use russh::server::Msg;
use tokio::sync::oneshot;

use super::inbox::{Outlet, Pieces, Steer, Steering};
use super::program::{Counts, End, STDERR, Unheard, Wanted, say};
use crate::guest::{Control, Input, Output, Process, Wanted as Start};
use crate::wire::{Kept, KeptWish, What};

/// How long a program gets to end once it was hung up: longer than the helper lets it.
const FAREWELL: Duration = Duration::from_secs(12);

/// File mode creation mask of a login (as of sshd and login).
const UMASK: u16 = 0o022;

/// Variable with the terminal's path.
const TTY: &[u8] = b"SSH_TTY";

/// What the helper is asked for, on the client's terminal where that is granted.
pub(super) fn start(
    wanted: &Wanted,
    shell: &str,
    home: &str,
    on_terminal: bool,
    keep: Option<&Kept>,
) -> Start {
    let name = shell.rsplit('/').next().unwrap_or(shell);
    let args = match wanted.what {
        // A leading sign makes it a login shell.
        What::Shell => vec![format!("-{name}").into_bytes()],
        What::Command => vec![name.as_bytes().to_vec(), b"-c".to_vec(), wanted.command.clone()],
        What::Sftp => Vec::new(),
    };
    let program = match (wanted.what, keep) {
        (_, Some(Kept { name, wish })) => {
            let wish = match wish {
                KeptWish::Attach => Keep::Attach,
                KeptWish::List => Keep::List,
                KeptWish::Kill => Keep::Kill,
            };
            Program::Keep { name: name.clone().into_bytes(), wish }
        }
        (What::Shell | What::Command, None) => Program::Exec { path: shell.as_bytes().to_vec(), args },
        (What::Sftp, None) => Program::Sftp,
    };
    let mut env: Vec<Vec<u8>> =
        wanted.environment.iter().map(|(name, value)| format!("{name}={value}").into_bytes()).collect();
    let screen = wanted.screen.as_ref().filter(|_| on_terminal);
    env.extend(screen.map(|screen| format!("TERM={}", screen.kind).into_bytes()));
    // What holds a zero byte is no variable.
    env.retain(|entry| !entry.contains(&0));
    Start {
        program,
        env,
        environment: Environment::Instance,
        cwd: home.as_bytes().to_vec(),
        // Whatever is said here, it is the user the helper is.
        ids: Ids { uid: 0, gid: 0, groups: Vec::new() },
        umask: UMASK,
        pty: screen.map(|screen| Pty {
            size: screen.size,
            modes: screen.modes.clone(),
            path_variable: TTY.to_vec(),
        }),
        loans: Vec::new(),
    }
}

/// Carries bytes until the process has ended; its end, if anybody is there to be told.
pub(super) async fn converse(
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    process: Process,
    counts: &Arc<Counts>,
) -> Option<End> {
    let Process { input, mut output, mut error, mut exit, control, .. } = process;
    let Outlet { input: pieces, mut steering } = outlet;
    let feeding = tokio::spawn(feed(pieces, input, Arc::clone(counts)));
    let is_heard = {
        let answers = async {
            let (out, errors) = (&mut output, &mut error);
            let answers = tokio::try_join!(
                carry(out, channel, None, counts),
                carry(errors, channel, Some(STDERR), counts)
            );
            answers.is_ok()
        };
        tokio::select! {
            is_heard = answers => is_heard,
            () = steer(&control, &mut steering, counts) => false,
        }
    };
    let told = if is_heard {
        tokio::select! {
            told = &mut exit => Some(told),
            () = steer(&control, &mut steering, counts) => None,
        }
    } else {
        None
    };
    feeding.abort();
    match told {
        Some(Ok(Exit::Code(status))) => Some(End::Status(status)),
        Some(Ok(Exit::Signal { signal, core })) => Some(End::Signal { number: signal.number(), core }),
        Some(Err(_)) => {
            say(channel, "the instance, or the helper in it, has gone", false).await;
            Some(End::Status(255))
        }
        None => {
            farewell(&control, exit).await;
            None
        }
    }
}

/// Ends a process that nobody listens to any more.
async fn farewell(control: &Control, exit: oneshot::Receiver<Exit>) {
    control.hang_up().await;
    if tokio::time::timeout(FAREWELL, exit).await.is_err() {
        tracing::warn!("a program does not end");
    }
}

/// What the client sends, to the process.
async fn feed(mut pieces: Pieces, mut input: Input, counts: Arc<Counts>) {
    while let Some(bytes) = pieces.next().await {
        if let Some(transfers) = &counts.transfers {
            transfers.asks(&bytes);
        }
        let count = bytes.len();
        if !input.write(bytes).await {
            return;
        }
        counts.came(count);
    }
    input.end().await;
}

/// What a process writes, to the client.
async fn carry(
    output: &mut Output,
    channel: &ChannelWriteHalf<Msg>,
    ext: Option<u32>,
    counts: &Counts,
) -> Result<(), Unheard> {
    while let Some(bytes) = output.read().await {
        if let (Some(transfers), None) = (&counts.transfers, ext) {
            transfers.answers(&bytes).await;
        }
        counts.tell(channel, ext, Bytes::from(bytes)).await?;
    }
    Ok(())
}

/// Steers the process until its client has gone.
async fn steer(control: &Control, steering: &mut Steering, counts: &Counts) {
    loop {
        match steering.next().await {
            Steer::Signal(number) => {
                if let Some(signal) = u8::try_from(number).ok().and_then(Signal::new) {
                    control.signal(signal).await;
                }
            }
            Steer::Resize(size) => {
                counts.resized(size);
                control.resize(size).await;
            }
            Steer::Hangup => return,
        }
    }
}

/// Columns, rows and pixels as a client says them; `None` when there are no columns or rows.
pub(super) fn size(columns: u32, rows: u32, width: u32, height: u32) -> Option<Size> {
    let one = |number: u32| u16::try_from(number).ok().filter(|&number| number > 0);
    let pixels = |number: u32| u16::try_from(number).unwrap_or_default();
    Some(Size { columns: one(columns)?, rows: one(rows)?, width: pixels(width), height: pixels(height) })
}
