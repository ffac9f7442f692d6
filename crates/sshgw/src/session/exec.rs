//! A channel with a program behind it that the instance's server runs, and carries the bytes of.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use portway_incus::{Control, Exec, ExecEnd, Input, Output, Size};
use russh::ChannelWriteHalf;
use russh::server::Msg;

use super::inbox::{Outlet, Pieces, Steer, Steering};
use super::program::{Counts, GATEWAY_FAILED, STDERR, Unheard};

/// The signals a program gets when its client has gone, each with the time it then has.
const FAREWELL: [(i32, Duration); 2] =
    [(nix::libc::SIGHUP, Duration::from_secs(3)), (nix::libc::SIGTERM, Duration::from_secs(5))];

/// Carries bytes until the program has ended; its exit status, if anybody is there to be told.
pub(super) async fn converse(
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
                    None => Ok(()),
                }
            };
            tokio::try_join!(carry(&mut output, channel, None, counts), errors).is_ok()
        };
        tokio::select! {
            heard = answers => heard,
            () = steer(&mut control, &mut steering, counts) => false,
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
            () = steer(&mut control, &mut steering, counts) => None,
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
                let count = bytes.len();
                if input.send(bytes).await.is_err() {
                    return;
                }
                counts.came(count);
            }
            None => {
                let _ended = input.finish().await;
                input.closed().await;
                return;
            }
        }
    }
}

/// What a program writes, to the client.
async fn carry(
    output: &mut Output,
    channel: &ChannelWriteHalf<Msg>,
    ext: Option<u32>,
    counts: &Counts,
) -> Result<(), Unheard> {
    while let Some(bytes) = output.next().await {
        counts.tell(channel, ext, bytes).await?;
    }
    Ok(())
}

/// Steers the program until its client has gone.
async fn steer(control: &mut Control, steering: &mut Steering, counts: &Counts) {
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
            Steer::Resize(size) => {
                counts.resized(size);
                control.resize(Size { width: size.columns, height: size.rows }).await
            }
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
