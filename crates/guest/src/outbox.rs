//! Frames on their way to the gateway.

use std::io;
use std::os::fd::BorrowedFd;

use portway_proto::guest::Frame;

/// Frames that have not been written yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    /// What of them has been written.
    written: usize,
}

/// With so much to be written no output of programs is read, bytes.
const FULL_BYTES: usize = 256 * 1024;

/// With so much to be written nothing is read from the gateway: it does not read either, bytes.
const STUCK_BYTES: usize = 1024 * 1024;

impl Outbox {
    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: &Frame<'_>) {
        let fits = frame.write(&mut self.bytes);
        debug_assert!(fits.is_ok(), "what the guest says is short");
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.waiting() >= FULL_BYTES
    }

    pub(crate) const fn is_stuck(&self) -> bool {
        self.waiting() >= STUCK_BYTES
    }

    const fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Writes what the pipe takes.
    ///
    /// # Errors
    /// When nobody reads any more.
    pub(crate) fn flush(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        while !self.is_empty() {
            match rustix::io::write(to, self.bytes.get(self.written..).unwrap_or_default()) {
                Ok(written) => self.written += written,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if self.is_empty() {
            self.bytes.clear();
            self.written = 0;
        } else if self.written >= FULL_BYTES {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        Ok(())
    }
}
