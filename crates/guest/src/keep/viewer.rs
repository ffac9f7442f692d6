//! Who looks at a terminal that is kept: a connection to its holder, and what is on its way there.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_proto::guest::{DATA_MAX_BYTES, Held, Inbox, Size};
use rustix::io::Errno;

/// What may be on its way to a viewer, bytes: a picture with all that has scrolled away is half of it. Beyond that the program waits for an only viewer a little while.
const QUEUE_MAX_BYTES: usize = 2 * 1024 * 1024;

/// How long that is.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long one may take to say what it comes for.
const SILENCE: Duration = Duration::from_secs(5);

/// A connection.
#[derive(Debug)]
pub(super) struct Viewer {
    socket: OwnedFd,
    pub(super) inbox: Inbox,
    /// Frames, the first of which may be half written.
    queue: VecDeque<Vec<u8>>,
    written: usize,
    queued_bytes: usize,
    /// It has said that it looks.
    pub(super) looks: bool,
    /// Until when it is to have said what it comes for; `None` once it has.
    silent_until: Option<Instant>,
    /// Something was left out: it gets a picture when it has taken the rest.
    is_stale: bool,
    /// Since when too much is on its way.
    lags: Option<Instant>,
    /// It is to go when everything is written.
    pub(super) is_leaving: bool,
    /// When it last did something that a leader does.
    pub(super) acted: Instant,
    /// Of its terminal.
    pub(super) size: Size,
}

/// The other side has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

impl Viewer {
    pub(super) fn new(socket: OwnedFd, now: Instant) -> Self {
        Self {
            socket,
            inbox: Inbox::default(),
            queue: VecDeque::new(),
            written: 0,
            queued_bytes: 0,
            looks: false,
            silent_until: Some(now + SILENCE),
            is_stale: false,
            lags: None,
            is_leaving: false,
            acted: now,
            size: Size::default(),
        }
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(super) fn has_more(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether what it needs is a picture of everything.
    pub(super) const fn wants_picture(&self) -> bool {
        self.looks && self.is_stale && self.queued_bytes == 0
    }

    /// Has a frame written.
    pub(super) fn push(&mut self, frame: &Held<'_>) {
        let mut bytes = Vec::new();
        if frame.write(&mut bytes).is_ok() {
            self.queued_bytes += bytes.len();
            self.queue.push_back(bytes);
        }
    }

    /// Has bytes shown, unless it gets a picture of everything anyway.
    pub(super) fn show(&mut self, bytes: &[u8]) {
        if !self.looks || self.is_stale {
            return;
        }
        for piece in bytes.chunks(DATA_MAX_BYTES) {
            self.push(&Held::Bytes(piece));
        }
    }

    /// Has everything shown: what was on its way before is left out.
    pub(super) fn show_picture(&mut self, picture: &[u8]) {
        self.leave_out();
        self.is_stale = false;
        self.show(picture);
    }

    /// What is on its way is left out, but for a frame that has begun.
    fn leave_out(&mut self) {
        self.queue.truncate(usize::from(self.written > 0));
        self.queued_bytes = self.queue.front().map_or(0, Vec::len) - self.written;
    }

    /// Whether a program is to wait for it now. One that takes nothing for a while, or is not alone, is shown a picture
    /// of everything once it goes on.
    pub(super) fn holds_up(&mut self, is_alone: bool, now: Instant) -> bool {
        if self.queued_bytes < QUEUE_MAX_BYTES || !self.looks {
            self.lags = None;
            return false;
        }
        let since = *self.lags.get_or_insert(now);
        if is_alone && now.saturating_duration_since(since) < PATIENCE {
            return true;
        }
        self.lags = None;
        self.is_stale = true;
        self.leave_out();
        false
    }

    /// When [`Viewer::holds_up`] or [`Viewer::is_mute`] may say something else.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        self.lags.map(|since| since + PATIENCE).into_iter().chain(self.silent_until).min()
    }

    /// It has said what it comes for.
    pub(super) const fn speaks(&mut self) {
        self.silent_until = None;
    }

    /// Whether it has had its time to say so.
    pub(super) fn is_mute(&self, now: Instant) -> bool {
        self.silent_until.is_some_and(|until| until <= now)
    }

    /// Writes what it takes.
    pub(super) fn flush(&mut self) -> Result<(), Gone> {
        while let Some(frame) = self.queue.front() {
            let rest = frame.get(self.written..).unwrap_or_default();
            match rustix::net::send(&self.socket, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.written += count;
                    self.queued_bytes = self.queued_bytes.saturating_sub(count);
                    if self.written >= frame.len() {
                        self.queue.pop_front();
                        self.written = 0;
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(_) => return Err(Gone),
            }
        }
        Ok(())
    }

    /// Reads once; whether anything has come.
    pub(super) fn read(&mut self) -> Result<bool, Gone> {
        match rustix::io::read(&self.socket, self.inbox.room()) {
            Ok(0) => Err(Gone),
            Ok(count) => {
                self.inbox.filled(count);
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(_) => Err(Gone),
        }
    }
}
