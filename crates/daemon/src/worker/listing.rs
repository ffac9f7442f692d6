//! Asking a worker for its live connections: one question at a time, part after part.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portway_relay::wire::{Live, Slot, ToWorker};
use portway_sys::seqpacket::Channel;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::timeout;

use super::{WorkerError, send};

/// Longest wait for a part.
const PART_TIMEOUT: Duration = Duration::from_secs(2);

/// After this long a list ends with what there is: a worker that lies may answer slowly, and for ever.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a worker is left alone that did not answer: it is of an earlier build that does not know the question, or
/// it hangs.
const MUTE_TIME: Duration = Duration::from_secs(30);

/// Parts of one list, at most: a million places.
const PARTS_MAX: usize = 2048;

/// Part of a list.
pub(super) struct Part {
    pub(super) listed: Vec<Live>,
    /// Where to go on.
    pub(super) next: Option<u64>,
}

/// Where questions and answers meet.
#[derive(Default)]
pub(super) struct Desk {
    turn: AsyncMutex<Turn>,
    /// The question that is asked.
    waiting: Mutex<Option<(u64, oneshot::Sender<Part>)>>,
}

#[derive(Default)]
struct Turn {
    seq: u64,
    mute_until: Option<Instant>,
}

impl Desk {
    /// An answer has come.
    pub(super) fn answered(&self, seq: u64, part: Part) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reply)) = waiting.take_if(|(asked, _)| *asked == seq) {
            // Whoever asked may have given up.
            let _ = reply.send(part);
        }
    }

    /// None will come any more.
    pub(super) fn close(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A worker that can be asked, whoever has it meanwhile.
#[derive(Clone)]
pub(crate) struct Asker {
    pub(super) channel: Arc<AsyncFd<Channel>>,
    pub(super) desk: Arc<Desk>,
}

impl Asker {
    /// What the device in `slot` has, at most `limit` of them. Dropping it gives the question up.
    ///
    /// # Errors
    /// [`WorkerError`] when the worker does not answer, or has not lately.
    pub(crate) async fn list(&self, slot: Slot, limit: usize) -> Result<Vec<Live>, WorkerError> {
        let mut turn = self.desk.turn.lock().await;
        if turn.mute_until.is_some_and(|until| Instant::now() < until) {
            return Err(WorkerError::Silent("listing its connections"));
        }
        let (mut found, mut from, begin) = (Vec::new(), 0, Instant::now());
        for _ in 0..PARTS_MAX {
            let part = self.part(&mut turn, slot, from).await?;
            found.extend(part.listed.into_iter().take(limit - found.len()));
            match part.next {
                Some(next) if next > from && found.len() < limit && begin.elapsed() < LIST_TIMEOUT => {
                    from = next;
                }
                Some(_) | None => break,
            }
        }
        Ok(found)
    }

    async fn part(&self, turn: &mut Turn, slot: Slot, from: u64) -> Result<Part, WorkerError> {
        turn.seq += 1;
        let (reply, answer) = oneshot::channel();
        *self.desk.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some((turn.seq, reply));
        send(&self.channel, &ToWorker::Connections { seq: turn.seq, slot, from }, &[]).await?;
        match timeout(PART_TIMEOUT, answer).await {
            Ok(Ok(part)) => Ok(part),
            Ok(Err(_)) => Err(WorkerError::Ended("listing its connections")),
            Err(_) => {
                turn.mute_until = Some(Instant::now() + MUTE_TIME);
                Err(WorkerError::Silent("listing its connections"))
            }
        }
    }
}
