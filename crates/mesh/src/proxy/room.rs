//! How much may be going on at once. Whatever a client can begin takes a place of its port's and one of all; so a
//! destination that does not answer, or a name server, holds up its own port and no other.
//!
//! What runs on a thread keeps its places for as long as it runs, also when nobody waits for it any more.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

/// Ends that are looked for: of all ports, and of one.
const DIALS: usize = 1024;
const PORT_DIALS: usize = 256;

/// Names of the host that are looked up: of all ports, and of one. Each is a thread, which the C library keeps for
/// as long as a server is silent.
const LOOKUPS: usize = 16;
const PORT_LOOKUPS: usize = 3;

/// Names of peers that are looked up, questions to the stack, and readers of the state.
const ENDPOINTS: usize = 2;
const QUESTIONS: usize = 4;
const READERS: usize = 4;

/// Threads for all of that, and some for the runtime's own.
pub(super) const THREADS: usize = LOOKUPS + ENDPOINTS + QUESTIONS + READERS + 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Room {
    dials: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    pub(super) endpoints: Arc<Semaphore>,
    pub(super) questions: Arc<Semaphore>,
    pub(super) readers: Arc<Semaphore>,
}

/// What one port has of it.
#[derive(Debug, Clone)]
pub(super) struct PortRoom {
    dials: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
}

/// Places that are taken.
pub(super) type Places = Vec<OwnedSemaphorePermit>;

fn places(count: usize) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(count))
}

impl Room {
    /// For a process that may have so many files.
    pub(super) fn new(files: u64) -> Room {
        let dials = usize::try_from(files / 8).unwrap_or(usize::MAX).clamp(16, DIALS);
        Room {
            dials: places(dials),
            lookups: places(LOOKUPS),
            endpoints: places(ENDPOINTS),
            questions: places(QUESTIONS),
            readers: places(READERS),
        }
    }

    /// Places to look for an end of a connection of this port.
    ///
    /// # Errors
    /// `TimedOut`.
    pub(super) async fn dial(&self, port: &PortRoom, until: Instant) -> io::Result<Places> {
        // The port's own first: who waits for that holds up nobody.
        let found = timeout_at(until, take([&port.dials, &self.dials])).await;
        found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Does something that may take long, for a name of this port.
    ///
    /// # Errors
    /// Those of `work`; `TimedOut`.
    pub(super) async fn look_up<T: Send + 'static>(
        &self,
        port: &PortRoom,
        patience: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        within(patience, on_thread([&port.lookups, &self.lookups], work)).await
    }

    /// The same for a peer's name.
    ///
    /// # Errors
    /// As [`Room::look_up`].
    pub(super) async fn look_up_peer<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        within(patience, on_thread([&self.endpoints], work)).await
    }

    /// Asks the stack something.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        on_thread([&self.questions], work).await
    }

    /// Reads the state of the tunnel and the stack.
    ///
    /// # Errors
    /// Those of `work`.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        on_thread([&self.readers], work).await
    }
}

impl Default for PortRoom {
    fn default() -> PortRoom {
        PortRoom { dials: places(PORT_DIALS), lookups: places(PORT_LOOKUPS) }
    }
}

async fn take<const N: usize>(from: [&Arc<Semaphore>; N]) -> io::Result<Places> {
    let mut places = Vec::with_capacity(N);
    for semaphore in from {
        places.push(Arc::clone(semaphore).acquire_owned().await.map_err(io::Error::other)?);
    }
    Ok(places)
}

async fn on_thread<T: Send + 'static, const N: usize>(
    from: [&Arc<Semaphore>; N],
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let places = take(from).await?;
    let done = spawn_blocking(move || {
        let _places = places;
        work()
    });
    done.await.map_err(io::Error::other)?
}

async fn within<T>(patience: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(patience, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn within_a_runtime<T>(work: impl Future<Output = T>) -> T {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().max_blocking_threads(THREADS).build().unwrap();
        let done = runtime.block_on(work);
        runtime.shutdown_background();
        done
    }

    /// Fails when: a name server that is silent for one port has every thread, also when those who asked have given up.
    #[test]
    fn a_silent_name_server_holds_up_its_own_port() {
        within_a_runtime(async {
            let room = Room::new(1 << 20);
            let (silent, other) = (PortRoom::default(), PortRoom::default());
            let (hold, held) = mpsc::sync_channel::<()>(0);
            let held = Arc::new(std::sync::Mutex::new(held));
            let short = Duration::from_millis(20);
            for _ in 0..3 * LOOKUPS {
                let held = Arc::clone(&held);
                let work = move || {
                    held.lock().unwrap().recv().ok();
                    Ok(())
                };
                let error = room.look_up(&silent, short, work).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            assert_eq!(room.lookups.available_permits(), LOOKUPS - PORT_LOOKUPS, "threads are still counted");
            assert_eq!(room.look_up(&other, Duration::from_secs(5), || Ok(7)).await.unwrap(), 7);
            assert_eq!(room.ask(|| Ok(8)).await.unwrap(), 8);
            drop(hold);
            assert_eq!(room.look_up(&silent, Duration::from_secs(5), || Ok(9)).await.unwrap(), 9);
        });
    }

    /// Fails when: those who wait for one destination take the places of all.
    #[test]
    fn a_destination_that_does_not_answer_holds_up_its_own_port() {
        within_a_runtime(async {
            let room = Room::new(1 << 20);
            let (silent, other) = (PortRoom::default(), PortRoom::default());
            let mut places = Vec::new();
            for _ in 0..PORT_DIALS {
                places.push(room.dial(&silent, Instant::now() + Duration::from_secs(5)).await.unwrap());
            }
            let soon = || Instant::now() + Duration::from_millis(20);
            assert_eq!(room.dial(&silent, soon()).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
            let one = room.dial(&other, soon()).await.unwrap();
            assert_eq!(room.dials.available_permits(), DIALS - PORT_DIALS - 1);
            places.pop();
            room.dial(&silent, soon()).await.unwrap();
            drop((one, places));
            assert_eq!(room.dials.available_permits(), DIALS);
        });
    }
}
