//! The first words with a worker: started or adopted, before it is known to serve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portway_relay::wire::{FromWorker, Init, Lifetime, MAX_FDS, SLOT_COUNT, ToWorker};
use portway_sys::process::Child;
use portway_sys::seqpacket::Channel;
use portway_sys::shm::CountersView;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Desk, Found, Pending, Sink, Worker, WorkerError, attend, send};
use crate::keeper::receive_packet;
use crate::watched::watched;

/// Longest wait for an adopted worker's first message and each next one of its table.
pub(super) const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);

/// Packets of a table, at most: every device one, the listeners of all ports of both protocols on a
/// few addresses, and as many reports.
const TABLE_MAX_PACKETS: usize = 2 * (SLOT_COUNT as usize + 8 * 65_536 / MAX_FDS);

/// A worker before it is known to serve.
pub(super) struct Link {
    channel: AsyncFd<Channel>,
    pub(super) pid: i32,
    pidfd: OwnedFd,
}

impl Link {
    pub(super) fn new(channel: Channel, pid: i32, pidfd: OwnedFd) -> std::io::Result<Link> {
        channel.set_nonblocking(true)?;
        Ok(Link { channel: watched(channel)?, pid, pidfd })
    }

    pub(super) async fn send(
        &self,
        message: &ToWorker,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), WorkerError> {
        send(&self.channel, message, descriptors).await
    }

    async fn receive(&self, limit: Duration) -> Result<(FromWorker, Vec<OwnedFd>), WorkerError> {
        let mut packet = Vec::new();
        let received = timeout(limit, receive_packet(&self.channel, &mut packet)).await;
        let descriptors = received
            .map_err(|_| WorkerError::Silent("starting"))?
            .map_err(WorkerError::Start)?
            .ok_or(WorkerError::Ended("starting"))?;
        let descriptors = checked(descriptors)?;
        let message = serde_json::from_slice(&packet)
            .map_err(|problem| WorkerError::Refused(format!("unreadable message: {problem}")))?;
        Ok((message, descriptors))
    }

    /// The worker's counters. What it says of itself is not asked for: our own record knows.
    pub(super) async fn ready(&self, limit: Duration) -> Result<CountersView, WorkerError> {
        match self.receive(limit).await? {
            (FromWorker::Ready { .. }, mut descriptors) if descriptors.len() == 1 => {
                let lines = usize::try_from(SLOT_COUNT).unwrap_or(usize::MAX);
                let memory = descriptors.remove(0);
                CountersView::map(memory.as_fd(), lines).map_err(WorkerError::Start)
            }
            (FromWorker::Version { version }, _) => Err(WorkerError::Version(version)),
            (FromWorker::Done { error: Some(reason), .. }, _) => Err(WorkerError::Refused(reason)),
            _ => Err(WorkerError::Refused("the relay worker began with another message than ready".into())),
        }
    }

    /// The worker's devices with their listeners.
    ///
    /// # Errors
    /// Also for a table that does not end: it would cost memory and descriptors of all instances.
    pub(super) async fn table(&self) -> Result<Vec<Found>, WorkerError> {
        let mut table = Vec::new();
        for _ in 0..TABLE_MAX_PACKETS {
            match self.receive(ADOPT_TIMEOUT).await? {
                (FromWorker::Entry { slot, device, listen_count, first }, listeners) => {
                    enter(&mut table, Found { slot, device, listeners, listen_count }, first)?;
                }
                (FromWorker::End, _) => return Ok(table),
                // Reports may come between; they are repeated when they matter.
                _ => {}
            }
        }
        Err(malformed())
    }

    pub(super) fn into_worker(
        self,
        dir: &Path,
        name: String,
        counters: CountersView,
        news: (Lifetime, Sink),
    ) -> Worker {
        let channel = Arc::new(self.channel);
        let pidfd = Arc::new(self.pidfd);
        let pending = Pending::default();
        let desk = Arc::<Desk>::default();
        let answers = (Arc::clone(&pending), Arc::clone(&desk));
        let reader = tokio::spawn(attend(name.clone(), Arc::clone(&channel), answers, news));
        Worker {
            name,
            pid: self.pid,
            dir: dir.to_path_buf(),
            channel,
            pidfd,
            pending,
            counters,
            desk,
            next_seq: 0,
            is_recording: false,
            reader: reader.abort_handle(),
        }
    }
}

/// Adds a packet of the table: a device that is not there yet, or more listeners of one that is.
fn enter(table: &mut Vec<Found>, packet: Found, first: u32) -> Result<(), WorkerError> {
    if packet.slot.index >= SLOT_COUNT || packet.listen_count > u32::from(u16::MAX) {
        return Err(malformed());
    }
    let before = table.iter_mut().find(|found| found.slot.index == packet.slot.index);
    let found = match (before, first) {
        (None, 0) => {
            table.push(packet);
            table.last()
        }
        (Some(found), 1..) if found.slot == packet.slot => {
            found.listeners.extend(packet.listeners);
            Some(&*found)
        }
        _ => None,
    };
    let within =
        |found: &Found| u32::try_from(found.listeners.len()).is_ok_and(|have| have <= found.listen_count);
    if found.is_some_and(within) { Ok(()) } else { Err(malformed()) }
}

/// What a worker sends with a packet: sockets, or its counters. Closing anything else may hang for as
/// long as the instance's root likes (a FUSE file), which is left to a thread of its own.
///
/// # Errors
/// When there is something else.
pub(super) fn checked(descriptors: Vec<OwnedFd>) -> Result<Vec<OwnedFd>, WorkerError> {
    let is_ours = |fd: &OwnedFd| {
        rustix::net::sockopt::socket_type(fd).is_ok() || rustix::fs::fcntl_get_seals(fd).is_ok()
    };
    if descriptors.iter().all(is_ours) {
        return Ok(descriptors);
    }
    // At most one for each worker: it is ended for this.
    std::thread::spawn(move || drop(descriptors));
    Err(WorkerError::Refused("the relay worker sent a descriptor that is no socket".into()))
}

fn malformed() -> WorkerError {
    WorkerError::Refused("the relay worker's table is malformed".into())
}

pub(super) async fn handshake(
    ours: Channel,
    child: Child,
    init: &Init,
    descriptors: &[OwnedFd],
) -> Result<(Link, CountersView), WorkerError> {
    let link = Link::new(ours, child.pid, child.pidfd).map_err(WorkerError::Start)?;
    let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
    link.send(&ToWorker::Init(init.clone()), &borrowed).await?;
    let counters = link.ready(ANSWER_TIMEOUT).await?;
    Ok((link, counters))
}
