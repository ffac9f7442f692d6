//! What every part of the engine uses.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portway_proto::Dir;
use portway_sys::unix_path::MESSAGE_MAX_BYTES;
use rustix::io::Errno;

use super::counters::CounterLines;
use super::failures;
use super::frames::FrameMemory;
use super::mix::Mix;
use super::pipes::Pipes;
use super::poller::Poller;
use super::slab::Key;
use super::timers::Timers;
use super::unix_fds;
use crate::wire::{DIAL_BOUNDS_MICROS, field};

/// The buffer through which small amounts are copied, bytes. One for a whole thread: it stays in the cache.
const BUFFER_BYTES: usize = 64 * 1024;

/// See the module.
pub(super) struct Core {
    pub(super) poller: Poller,
    pub(super) timers: Timers,
    pub(super) counters: CounterLines,
    pub(super) pipes: Pipes,
    /// Frames that are not whole, or do not go on yet.
    pub(super) frames: FrameMemory,
    pub(super) buffer: Box<[u8]>,
    /// The buffer for whole messages of unix sockets; empty until it is needed.
    messages: Vec<u8>,
    /// Time of this turn of the loop.
    pub(super) now: Instant,
    /// Streams that could go on, in the order of their turns.
    pub(super) ready: VecDeque<Key>,
    /// What has been carried lately.
    pub(super) mix: Mix,
    /// Descriptors and datagrams that the stream at hand did not pass on; counted after its turn.
    pub(super) refused: u64,
}

impl Core {
    /// For a process that may have so many descriptors. Also returns the memory of the counters, for the daemon.
    pub(super) fn new(fd_limit: usize) -> io::Result<(Core, OwnedFd)> {
        let (counters, memory) = CounterLines::new()?;
        let mut core = Core::with(counters, fd_limit)?;
        core.pipes.looks_reach = unix_fds::looks_reach();
        Ok((core, memory))
    }

    /// For another thread, with the same counters.
    pub(super) fn beside(&self, fd_limit: usize) -> io::Result<Core> {
        Core::with(self.counters.shared(), fd_limit)
    }

    fn with(counters: CounterLines, fd_limit: usize) -> io::Result<Core> {
        Ok(Core {
            poller: Poller::new()?,
            timers: Timers::default(),
            counters,
            pipes: Pipes::new(fd_limit),
            frames: FrameMemory::new(),
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            messages: Vec::new(),
            now: Instant::now(),
            ready: VecDeque::new(),
            mix: Mix::default(),
            refused: 0,
        })
    }

    /// The buffer for whole messages. Its memory is used as far as messages reach.
    pub(super) fn messages(&mut self) -> &mut [u8] {
        if self.messages.is_empty() {
            self.messages = vec![0; MESSAGE_MAX_BYTES];
        }
        &mut self.messages
    }

    /// Lends the buffer for whole messages, to be given back.
    pub(super) fn take_messages(&mut self) -> Vec<u8> {
        self.messages();
        std::mem::take(&mut self.messages)
    }

    pub(super) fn give_messages(&mut self, buffer: Vec<u8>) {
        self.messages = buffer;
    }

    /// Counts payload of `device`.
    pub(super) fn count_traffic(&self, device: Key, dir: Dir, bytes: u64) {
        if bytes > 0 {
            self.counters.add(device, traffic(dir), bytes);
        }
    }

    /// Counts payload in a line that is no device's.
    pub(super) fn count_share(&self, line: Option<u32>, dir: Dir, bytes: u64) {
        if let Some(line) = line.filter(|_| bytes > 0) {
            self.counters.add_to(line, traffic(dir), bytes);
        }
    }

    /// Counts a dial of `device` that has failed.
    pub(super) fn count_failed(&self, device: Key, errno: Errno) {
        self.count(device, field::DIAL_FAILED);
        self.count(device, failures::kind(errno).field());
    }

    /// Counts a dial of `device` that was answered after `took`.
    pub(super) fn count_answered(&self, device: Key, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = DIAL_BOUNDS_MICROS.iter().position(|bound| micros <= *bound);
        self.count(device, field::DIAL_TIMES + bucket.unwrap_or(DIAL_BOUNDS_MICROS.len()));
        self.counters.add(device, field::DIAL_MICROS, micros);
    }

    /// Counts one of `field` of `device`.
    pub(super) fn count(&self, device: Key, field: usize) {
        self.counters.add(device, field, 1);
    }
}

fn traffic(dir: Dir) -> usize {
    match dir {
        Dir::Up => field::BYTES_IN,
        Dir::Down => field::BYTES_OUT,
    }
}
