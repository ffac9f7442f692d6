//! Pipes for splice(2): made when a stream is busy enough, kept for the next one.
//!
//! Pipes cost two descriptors and kernel memory that the kernel counts per user (pipe(7)); beyond a limit it
//! gives new pipes a page or two. So only the first few are made large, idle ones are kept in small number, and
//! there is a limit to all of them. A stream that gets none is copied.
//!
//! What streams keep here for want of room on the other side is counted beside them: bytes, and descriptors.

use std::io;

use portway_sys::pipe::Pipe;

use super::message::{Held, MESSAGE_FDS};
use super::socket::Socket;

/// Size of a large pipe, bytes.
pub(super) const LARGE_BYTES: usize = 256 * 1024;

/// Size of the others, bytes: what pipe(2) gives.
const SMALL_BYTES: usize = 64 * 1024;

/// How many pipes are large: 8 MiB of the 64 MiB the kernel grants a user by default, who may have several workers.
const LARGE_COUNT: usize = 32;

/// How many idle pipes are kept.
const IDLE_COUNT: usize = 8;

/// Rests kept in memory by all streams and listeners, bytes, past which they stay in the kernel. A thousand clients that send and
/// do not read would otherwise keep a buffer each, 64 MiB.
const KEPT_BYTES: usize = 1024 * 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Pipes {
    idle: Vec<Pipe>,
    count: usize,
    limit: usize,
    /// Rests that streams and listeners keep in memory, bytes.
    kept_bytes: usize,
    /// Descriptors of messages that wait for their destination.
    held_fds: usize,
    held_fds_limit: usize,
    /// Descriptors that nothing else needs, when that was last counted.
    pub(super) spare_fds: usize,
    /// A look at one byte of a unix stream tells of descriptors anywhere behind it (`unix_fds`).
    pub(super) looks_reach: bool,
}

impl Pipes {
    /// For a process with so many descriptors: there is a pipe for every sixteenth of them, and a quarter may wait
    /// with their messages.
    pub(super) fn new(fd_limit: usize) -> Pipes {
        Pipes {
            idle: Vec::new(),
            count: 0,
            limit: (fd_limit / 16).clamp(4, 1024),
            kept_bytes: 0,
            held_fds: 0,
            held_fds_limit: fd_limit / 4,
            spare_fds: fd_limit,
            looks_reach: false,
        }
    }

    /// Number of pipes, in use and idle.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// An empty pipe, if there may be another one.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        if self.count >= self.limit {
            return None;
        }
        let made = Pipe::new(if self.count < LARGE_COUNT { LARGE_BYTES } else { SMALL_BYTES });
        match made {
            Ok(pipe) => {
                self.count += 1;
                Some(pipe)
            }
            Err(error) => {
                tracing::debug!(%error, "no pipe");
                None
            }
        }
    }

    /// Takes `pipe` back, which holds `bytes`.
    pub(super) fn give_back(&mut self, pipe: Pipe, bytes: usize) {
        if bytes == 0 && self.idle.len() < IDLE_COUNT {
            self.idle.push(pipe);
        } else {
            self.part();
        }
    }

    /// Counts a pipe that comes with its stream from another thread.
    pub(super) fn receive(&mut self) {
        self.count += 1;
    }

    /// Counts a pipe no longer: it goes with its stream to another thread, or is closed.
    pub(super) fn part(&mut self) {
        self.count = self.count.saturating_sub(1);
    }

    /// Counts bytes that a stream keeps in memory for want of a pipe.
    pub(super) fn keep(&mut self, bytes: usize) {
        self.kept_bytes += bytes;
    }

    /// Counts bytes that a stream has kept and keeps no longer.
    pub(super) fn unkeep(&mut self, bytes: usize) {
        self.kept_bytes = self.kept_bytes.saturating_sub(bytes);
    }

    /// Counts a message that waits with its descriptors.
    pub(super) fn keep_message(&mut self, held: &Held) {
        self.keep(held.bytes.len());
        self.held_fds += held.descriptors.len();
    }

    /// Counts a message that waits no longer.
    pub(super) fn unkeep_message(&mut self, held: &Held) {
        self.unkeep(held.bytes.len());
        self.held_fds = self.held_fds.saturating_sub(held.descriptors.len());
    }

    /// Descriptors that wait with their messages.
    pub(super) const fn held_fds(&self) -> usize {
        self.held_fds
    }

    /// Whether another message with descriptors may be taken, though it may have to wait here: one always may.
    pub(super) fn may_hold_fds(&self) -> bool {
        self.held_fds == 0 || self.held_fds + MESSAGE_FDS <= self.held_fds_limit.min(self.spare_fds)
    }

    /// The same for a destination without room, so that it will wait, nobody knows how long. Half of the room is
    /// for others, whose wait has an end.
    pub(super) fn may_stall_fds(&self) -> bool {
        self.held_fds + MESSAGE_FDS <= self.held_fds_limit.min(self.spare_fds) / 2
    }

    /// Whether more may be kept; the last one may exceed the limit by its buffer.
    pub(super) fn may_keep(&self) -> bool {
        self.kept_bytes < KEPT_BYTES
    }

    /// Whether a message for `to` may be taken from its source: there is room for it in `to`, or else here.
    /// If not, `to` is to be waited for.
    pub(super) fn may_take_for(&self, to: &mut Socket) -> bool {
        let may = (self.may_keep() && self.may_stall_fds()) || to.has_room();
        to.write &= may;
        may
    }

    /// Closes the idle pipes: descriptors are short.
    pub(super) fn trim(&mut self) {
        self.count = self.count.saturating_sub(self.idle.len());
        self.idle.clear();
    }
}

/// Writes as much of `bytes` into `pipe` as fits.
pub(super) fn fill(pipe: &Pipe, bytes: &[u8]) -> io::Result<usize> {
    match rustix::io::write(&pipe.write, bytes) {
        Ok(written) => Ok(written),
        Err(rustix::io::Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
