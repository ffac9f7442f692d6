//! One stream of a process, between the task that reads from the instance and whoever takes the bytes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portway_proto::guest::{Allowance, Exceeded, Grant};
use tokio::sync::Notify;

/// Bytes that have come and not been taken; never more than the window.
#[derive(Debug)]
pub(super) struct Incoming {
    state: Mutex<Arrived>,
    changed: Notify,
}

#[derive(Debug)]
struct Arrived {
    bytes: Vec<u8>,
    ended: bool,
    grant: Grant,
}

impl Incoming {
    pub(super) fn new(window: u32) -> Self {
        let state = Arrived { bytes: Vec::new(), ended: false, grant: Grant::new(window) };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, Arrived> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what has come.
    pub(super) fn push(&self, bytes: &[u8]) -> Result<(), Exceeded> {
        let mut state = self.state();
        state.grant.receive(bytes.len())?;
        state.bytes.extend_from_slice(bytes);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Nothing more will come.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// Of what was taken so much has been passed on. What is to be granted for it.
    pub(super) fn passed(&self, bytes: usize) -> Option<u32> {
        self.state().grant.finish(bytes)
    }

    /// Waits for bytes and takes all there are; `None` at the end. One caller at a time. Cancelling it loses nothing.
    pub(super) async fn take(&self) -> Option<Vec<u8>> {
        loop {
            {
                let mut state = self.state();
                if !state.bytes.is_empty() {
                    return Some(std::mem::take(&mut state.bytes));
                }
                if state.ended {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }
}

/// What may be sent.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    state: Mutex<Credit>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Credit {
    allowance: Allowance,
    ended: bool,
}

impl Outgoing {
    fn state(&self) -> MutexGuard<'_, Credit> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// More may be sent.
    pub(super) fn add(&self, bytes: u32) -> Result<(), Exceeded> {
        self.state().allowance.add(bytes)?;
        self.changed.notify_one();
        Ok(())
    }

    /// Nobody takes any more.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// Waits until something may be sent and takes leave for at most `most` bytes; `None` when nobody takes any more. One
    /// caller at a time.
    pub(super) async fn spend(&self, most: usize) -> Option<usize> {
        loop {
            {
                let mut state = self.state();
                if state.ended {
                    return None;
                }
                let bytes = most.min(state.allowance.left());
                if bytes > 0 && state.allowance.spend(bytes).is_ok() {
                    return Some(bytes);
                }
            }
            self.changed.notified().await;
        }
    }
}
