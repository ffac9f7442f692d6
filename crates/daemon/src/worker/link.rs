//! The first words with a worker: started or adopted, before it is known to serve.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portway_relay::wire::{FromWorker, Identity, Init, SLOT_COUNT, ToWorker};
use portway_sys::process::Child;
use portway_sys::seqpacket::Channel;
use portway_sys::shm::CountersView;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::{ANSWER_TIMEOUT, Found, Pending, Sink, Worker, WorkerError, read, send};
use crate::keeper::receive_packet;
use crate::watched::watched;

/// Longest wait for an adopted worker's first message and each next one of its table.
pub(super) const ADOPT_TIMEOUT: Duration = Duration::from_secs(2);

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
        let message = serde_json::from_slice(&packet)
            .map_err(|problem| WorkerError::Refused(format!("unreadable message: {problem}")))?;
        Ok((message, descriptors))
    }

    pub(super) async fn ready(&self, limit: Duration) -> Result<(Identity, CountersView), WorkerError> {
        match self.receive(limit).await? {
            (FromWorker::Ready { identity, .. }, mut descriptors) if descriptors.len() == 1 => {
                let lines = usize::try_from(SLOT_COUNT).unwrap_or(usize::MAX);
                let memory = descriptors.remove(0);
                Ok((identity, CountersView::map(memory.as_fd(), lines).map_err(WorkerError::Start)?))
            }
            (FromWorker::Version { version }, _) => Err(WorkerError::Version(version)),
            (FromWorker::Done { error: Some(reason), .. }, _) => Err(WorkerError::Refused(reason)),
            _ => Err(WorkerError::Refused("the relay worker began with another message than ready".into())),
        }
    }

    pub(super) async fn table(&self) -> Result<Vec<Found>, WorkerError> {
        let mut table: Vec<Found> = Vec::new();
        loop {
            match self.receive(ADOPT_TIMEOUT).await? {
                (FromWorker::Entry { slot, device, listen_count, first }, descriptors) => {
                    if slot.0 >= SLOT_COUNT || listen_count > u32::from(u16::MAX) {
                        return Err(WorkerError::Refused("the relay worker's table is malformed".into()));
                    }
                    if first == 0 {
                        table.push(Found { slot, device, listeners: descriptors, listen_count });
                    } else if let Some(found) = table.iter_mut().find(|found| found.slot == slot) {
                        found.listeners.extend(descriptors);
                    }
                }
                (FromWorker::End, _) => return Ok(table),
                // Reports may come between; they are repeated when they matter.
                _ => {}
            }
        }
    }

    pub(super) fn into_worker(
        self,
        dir: &Path,
        name: String,
        counters: CountersView,
        next_slot: u32,
        sink: Sink,
    ) -> Worker {
        let channel = Arc::new(self.channel);
        let pidfd = Arc::new(self.pidfd);
        let pending = Pending::default();
        let reader = tokio::spawn(read(name.clone(), Arc::clone(&channel), Arc::clone(&pending), sink));
        Worker {
            name,
            pid: self.pid,
            dir: dir.to_path_buf(),
            channel,
            pidfd,
            pending,
            counters,
            next_seq: 0,
            next_slot,
            reader: reader.abort_handle(),
        }
    }
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
    let (_, counters) = link.ready(ANSWER_TIMEOUT).await?;
    Ok((link, counters))
}
