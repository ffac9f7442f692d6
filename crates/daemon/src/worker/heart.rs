//! Whether a worker still does anything. One that hangs keeps its listeners and its channel, so nothing else tells: it
//! is asked for a sign of life now and then, and taken for lost when it gives none twice in a row.
//!
//! Twice, because a daemon that was stopped itself, with its machine or by a debugger, finds its own time run out
//! before it has read what was answered in time.

use std::time::Duration;

use portway_relay::wire::BEAT;
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::keeper::send_packet;

/// Between a sign of life and the next question. With two [`PATIENCE`] it is 5 s from a worker's last sign to its end.
const PAUSE: Duration = Duration::from_secs(2);

/// Longest wait for a sign of life. A worker answers between two turns of its loop, none of which waits for anything.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Questions in a row without an answer that mean that it hangs.
const MISSES: u32 = 2;

/// Asks until the worker gives no answer. `heard` tells of each.
pub(super) async fn stops(channel: &AsyncFd<Channel>, heard: &Notify) {
    let mut missed = 0;
    while missed < MISSES {
        if missed == 0 {
            sleep(PAUSE).await;
        }
        let asked = send_packet(channel, BEAT, &[], PATIENCE).await;
        match asked {
            Ok(()) => {}
            // It takes nothing: asking has been the waiting.
            Err(failure) if failure.kind() == std::io::ErrorKind::TimedOut => {
                missed += 1;
                continue;
            }
            // Its channel has ended, which is seen by whoever reads it.
            Err(_) => return std::future::pending().await,
        }
        missed = if timeout(PATIENCE, heard.notified()).await.is_ok() { 0 } else { missed + 1 };
    }
}
