//! An end that waits for connections: nobody new comes in, and who is in stays until he leaves.
//!
//! States: serving; draining, with the door shut, until the last connection has ended or the time is over; over, when all
//! that are left are told and go. A gateway that takes its place takes the connections too, and it ends at once.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use portway_sys::pidfd;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{door, roll};

/// What whoever is still there when the time is over reads.
pub(super) const NOTICE: &str = "the gateway is being shut down, and the time for connections is over";

/// How long connections may take to end then, all together: their processes are killed before.
const LAST: Duration = Duration::from_secs(60);

/// Of one gateway.
#[derive(Debug)]
pub(super) struct Drain {
    /// Since it is asked for: until when connections may stay, or for ever.
    until: watch::Sender<Option<Option<Instant>>>,
    /// The listener is closed.
    shut: CancellationToken,
    /// Who is still there has to go.
    over: CancellationToken,
    /// What looks after connections, one each.
    connections: TaskTracker,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            until: watch::Sender::new(None),
            shut: CancellationToken::new(),
            over: CancellationToken::new(),
            connections: TaskTracker::new(),
        }
    }
}

impl Drain {
    /// Looks after a connection.
    pub(super) fn attend(&self, connection: impl Future<Output = ()> + Send + 'static) {
        // Its end is awaited by the tracker; nobody wants what comes of it.
        let _ended = self.connections.spawn(connection);
    }

    /// Has it begin, or gives it another end. Done when the door is shut; how many connections are left.
    pub(super) async fn begin(&self, limit: Option<Duration>) -> usize {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        self.until.send_replace(Some(until));
        self.shut.cancelled().await;
        self.connections.len()
    }

    /// Waits until it is asked for.
    pub(super) async fn begun(&self) {
        let mut until = self.until.subscribe();
        // The sender is in here.
        let _asked = until.wait_for(Option::is_some).await;
    }

    /// The listener is closed.
    pub(super) fn shut(&self) {
        self.shut.cancel();
    }

    /// Waits until all have left, or the time is over and all have gone.
    pub(super) async fn left(&self) {
        self.connections.close();
        let mut until = self.until.subscribe();
        loop {
            let end = until.borrow_and_update().flatten();
            tokio::select! {
                () = self.connections.wait() => return,
                () = at(end) => break,
                changed = until.changed() => if changed.is_err() { break },
            }
        }
        tracing::info!(connections = self.connections.len(), "the time of those who are left is over");
        self.over.cancel();
        let _all_or_enough = tokio::time::timeout(LAST, self.connections.wait()).await;
    }

    /// Waits until who is still there has to go.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }
}

async fn at(end: Option<Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// A gateway that takes nobody new.
#[derive(Debug)]
pub struct Draining {
    /// Connections that are left.
    pub connections: usize,
    /// Somebody else keeps its listener: who connects waits there for another gateway.
    pub is_kept: bool,
    process: OwnedFd,
}

impl Draining {
    /// Has the gateway that keeps its sessions in `dir` take nobody new, and end with its last connection, or when this
    /// time is over. Asked again it takes the new time.
    ///
    /// # Errors
    /// `NotFound` when none runs; `Unsupported` when it is of a version that cannot.
    pub fn begin(dir: &Path, limit: Option<Duration>) -> io::Result<Self> {
        let process = pidfd::open(roll::gateway(dir).ok_or(io::ErrorKind::NotFound)?)?;
        let (connections, is_kept) = door::drain(dir, limit)?;
        Ok(Self { connections, is_kept, process })
    }

    /// Waits until that gateway has ended.
    ///
    /// # Errors
    /// When its end cannot be seen.
    pub fn wait(&self) -> io::Result<()> {
        loop {
            let mut polled = [PollFd::from_borrowed_fd(self.process.as_fd(), PollFlags::IN)];
            match rustix::event::poll(&mut polled, None) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    /// Fails when it does not wait for who is there, or for nobody.
    #[tokio::test]
    async fn the_last_one_ends_it() {
        let drain = Arc::new(Drain::default());
        let (leave, left) = tokio::sync::oneshot::channel::<()>();
        drain.attend(async {
            let _left = left.await;
        });
        drain.shut();
        assert_eq!(drain.begin(None).await, 1);
        drain.begun().await;
        let waits = tokio::time::timeout(Duration::from_millis(20), drain.left()).await;
        assert!(waits.is_err(), "somebody is there");
        leave.send(()).expect("it waits");
        drain.left().await;
    }

    /// Fails when a time that is over ends nobody, or a later one does not take the place of an earlier one.
    #[tokio::test(start_paused = true)]
    async fn a_time_has_an_end() {
        let drain = Arc::new(Drain::default());
        let there = Arc::clone(&drain);
        drain.attend(async move { there.over().await });
        drain.shut();
        drain.begin(Some(Duration::from_secs(3600))).await;
        let begin = Instant::now();
        let waiting = tokio::spawn({
            let drain = Arc::clone(&drain);
            async move { drain.left().await }
        });
        tokio::task::yield_now().await;
        drain.begin(Some(Duration::from_secs(60))).await;
        waiting.await.expect("it ends");
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}
