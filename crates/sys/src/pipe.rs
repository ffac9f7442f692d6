//! Pipes for splice(2).

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with};

/// A non-blocking pipe that carries bytes between two sockets inside the kernel.
#[derive(Debug)]
pub struct Pipe {
    /// Where bytes come out.
    pub read: OwnedFd,
    /// Where bytes go in.
    pub write: OwnedFd,
    /// How many bytes it holds at most, if they come in full pages.
    pub capacity_bytes: usize,
}

impl Pipe {
    /// Makes a pipe of `wanted_bytes` if the kernel allows it, else of what there is: an unprivileged
    /// user gets at most /proc/sys/fs/pipe-max-size, and single pages past pipe-user-pages-soft (pipe(7)).
    ///
    /// # Errors
    /// EMFILE or ENFILE when no descriptors are left.
    pub fn new(wanted_bytes: usize) -> io::Result<Pipe> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let capacity_bytes = match fcntl_setpipe_size(&write, wanted_bytes) {
            Ok(size) => size,
            Err(_) => rustix::pipe::fcntl_getpipe_size(&write)?,
        };
        Ok(Pipe { read, write, capacity_bytes })
    }
}

/// Moves up to `len` bytes from `from` to `to`, one of which is a pipe, without blocking on the
/// pipe. Sockets have to be non-blocking themselves. 0 is the end of `from`.
///
/// # Errors
/// `WouldBlock` when `from` is empty or `to` is full; which of the two, the kernel does not say.
/// EINVAL when `from` is a socket kind that cannot be spliced.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, len: usize) -> io::Result<usize> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(from, None, to, None, len, flags)?)
}

#[cfg(test)]
mod tests;
