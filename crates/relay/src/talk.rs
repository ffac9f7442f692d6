//! The other end of a worker's channel: what whoever starts a worker says and hears, one packet each. Whether that waits
//! is for the channel to say.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use portway_sys::seqpacket::Channel;
use portway_sys::shm::CountersView;

use crate::wire::{FromWorker, SLOT_COUNT, ToWorker};

/// Sends a message and the descriptors that belong to it.
///
/// # Errors
/// Those of sendmsg(2).
pub fn say(channel: &Channel, message: &ToWorker, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    channel.send(&serde_json::to_vec(message)?, fds)
}

/// The next message; `None` when the worker has ended.
///
/// # Errors
/// Those of recvmsg(2), and `InvalidData`.
pub fn hear(channel: &Channel) -> io::Result<Option<(FromWorker, Vec<OwnedFd>)>> {
    let mut packet = Vec::new();
    let Some(fds) = channel.recv(&mut packet)? else { return Ok(None) };
    Ok(Some((serde_json::from_slice(&packet)?, fds)))
}

/// The counters of a worker whose first message this is: it serves.
///
/// # Errors
/// What it says is in its way; `InvalidData` of another message; those of mmap(2).
pub fn begun(message: &FromWorker, fds: &[OwnedFd]) -> io::Result<CountersView> {
    match (message, fds) {
        (FromWorker::Ready { .. }, [memory, ..]) => {
            CountersView::map(memory.as_fd(), usize::try_from(SLOT_COUNT).unwrap_or(usize::MAX))
        }
        (FromWorker::Done { error: Some(why), .. }, _) => Err(io::Error::other(why.clone())),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}
