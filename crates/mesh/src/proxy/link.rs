//! The relay worker as this process sees it: started, told what to serve, and heard.
//!
//! It has no privilege. For each connection it asks, and is given a connected socket; where there is nothing to choose it
//! calls the destination itself, into the network with a socket that was given for that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portway_relay::talk;
use portway_relay::wire::{FromWorker, Identity, Init, Lifetime, PROTOCOL_VERSION, Sandbox, ToWorker};
use portway_sys::process::{self, Child};
use portway_sys::seqpacket::Channel;
use portway_sys::shm::{CountersView, FIELD_COUNT};
use rustix::process::{Pid, Signal, pidfd_send_signal};
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

/// Role of the worker.
const ROLE: &str = "worker";

/// How long it has to begin, and to take a message.
const PATIENCE: Duration = Duration::from_secs(10);

/// See the module. The process ends when this is dropped.
pub(super) struct Link {
    channel: AsyncFd<Channel>,
    counters: CountersView,
    child: Child,
}

/// Has the runtime watch a descriptor that `owner` owns.
pub(super) fn watched<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe for owners without I/O safety; AsFd proves it here"
    )]
    AsyncFd::new(owner)
}

impl Link {
    /// Starts a worker and waits until it is confined and serves.
    ///
    /// # Errors
    /// Those of the start; `TimedOut`; what the worker says is in the way.
    pub(super) async fn start(name: &str) -> io::Result<Link> {
        let (ours, theirs) = Channel::pair()?;
        // It ends with this process, so nobody will ever adopt it: it has no door.
        let child = process::spawn_role(&[ROLE], vec![theirs.into()], Vec::new())?;
        ours.set_nonblocking(true)?;
        let channel = watched(ours)?;
        let identity = Identity {
            name: "mesh".to_owned(),
            instance: format!("mesh:{name}"),
            run: String::new(),
            group: String::new(),
            build: String::new(),
        };
        let init = Init {
            version: PROTOCOL_VERSION,
            has_netns: false,
            has_pidfd: false,
            init_pid: None,
            ids: None,
            sandbox: Sandbox::BestEffort,
            lifetime: Lifetime::WithDaemon,
            owner_uid: rustix::process::geteuid().as_raw(),
            identity,
        };
        let begun = timeout(PATIENCE, begin(&channel, init)).await;
        match begun.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(counters) => Ok(Link { channel, counters, child }),
            Err(error) => {
                end(&child);
                Err(error)
            }
        }
    }

    pub(super) async fn say(&self, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let said = timeout(PATIENCE, send(&self.channel, message, fds)).await;
        said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The next message; `None` when it has ended.
    ///
    /// # Errors
    /// Those of the channel, and `InvalidData`.
    pub(super) async fn hear(&self) -> io::Result<Option<FromWorker>> {
        Ok(receive(&self.channel).await?.map(|(message, _)| message))
    }

    /// A line of its counters.
    pub(super) fn line(&self, line: u32) -> [u64; FIELD_COUNT] {
        self.counters.read(usize::try_from(line).unwrap_or(usize::MAX))
    }

    pub(super) fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        end(&self.child);
    }
}

fn end(child: &Child) {
    let pid = Pid::from_raw(child.pid);
    if pidfd_send_signal(&child.pidfd, Signal::KILL).is_ok() {
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()).ok();
    }
}

async fn begin(channel: &AsyncFd<Channel>, init: Init) -> io::Result<CountersView> {
    send(channel, &ToWorker::Init(init), &[]).await?;
    let (message, fds) = receive(channel).await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    talk::begun(&message, &fds)
}

async fn send(channel: &AsyncFd<Channel>, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    loop {
        let mut guard = channel.writable().await?;
        match talk::say(guard.get_inner(), message, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            done => return done,
        }
    }
}

async fn receive(channel: &AsyncFd<Channel>) -> io::Result<Option<(FromWorker, Vec<OwnedFd>)>> {
    loop {
        let mut guard = channel.readable().await?;
        match talk::hear(guard.get_inner()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
            heard => return heard,
        }
    }
}
