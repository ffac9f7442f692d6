//! Counters in memory shared between a worker (writer) and the daemon (reader).
//!
//! A memfd of lines of 256 bytes, 32 relaxed `u64` each, so that lines of different devices never share a cache
//! line; what counts every message is in the first half of a line, what counts events in the second. A reader also
//! takes the lines of a writer that has only the first half ([`FORMER_FIELD_COUNT`]): the rest reads as zero. It is sealed: its size is fixed (a reader cannot be made to fault) and nobody but the
//! maker can map it writable. The reader trusts the size, never the contents.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};

/// Fields of a line.
pub const FIELD_COUNT: usize = 32;

/// Fields of a line as writers of version 0.1 make it: the first of those of today.
pub const FORMER_FIELD_COUNT: usize = 16;

/// `TMPFS_MAGIC` of linux/magic.h: what an ordinary memfd lives on. One of huge pages could fault when
/// none are left.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// The writer's side. Shared between threads by reference; unmapped on drop.
#[derive(Debug)]
pub struct Counters(Mapping);

impl Counters {
    /// Makes `lines` lines of zeroes; the descriptor is what the reader gets.
    ///
    /// # Errors
    /// `InvalidInput` for 0 lines or too many; those of memfd_create(2) and mmap(2).
    pub fn create(lines: usize) -> io::Result<(Counters, OwnedFd)> {
        let bytes = size_of_lines(lines, FIELD_COUNT)?;
        let fd = rustix::fs::memfd_create(
            "portway-counters",
            MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::NOEXEC_SEAL,
        )
        // NOEXEC_SEAL exists since Linux 6.3.
        .or_else(|_| {
            rustix::fs::memfd_create("portway-counters", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        })?;
        rustix::fs::ftruncate(&fd, u64::try_from(bytes).map_err(io::Error::other)?)?;
        let mapping = Mapping::new(fd.as_fd(), (lines, FIELD_COUNT), ProtFlags::READ | ProtFlags::WRITE)?;
        // After the mapping: FUTURE_WRITE leaves those that exist writable.
        rustix::fs::fcntl_add_seals(
            &fd,
            SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL,
        )?;
        Ok((Counters(mapping), fd))
    }

    /// Adds `n` to `field` of `line`. Out of range: nothing happens.
    #[inline]
    pub fn add(&self, line: usize, field: usize, n: u64) {
        if let Some(cell) = self.0.cell(line, field, FIELD_COUNT) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Sets all fields of `line` to zero, for its next user.
    pub fn clear(&self, line: usize) {
        for field in 0..FIELD_COUNT {
            if let Some(cell) = self.0.cell(line, field, FIELD_COUNT) {
                cell.store(0, Ordering::Relaxed);
            }
        }
    }

    /// The fields of `line`; zeroes when out of range. Each field is whole, the line as a whole is no snapshot.
    #[must_use]
    pub fn read(&self, line: usize) -> [u64; FIELD_COUNT] {
        self.0.read(line)
    }
}

/// The reader's side.
#[derive(Debug)]
pub struct CountersView(Mapping);

impl CountersView {
    /// Maps `lines` lines of `fd` read-only. `fd` may come from an untrusted process.
    ///
    /// # Errors
    /// `InvalidData` when it is no memfd on tmpfs, can still shrink, or is not exactly `lines` long, of this width or of
    /// the former one.
    pub fn map(fd: BorrowedFd<'_>, lines: usize) -> io::Result<CountersView> {
        let seals = rustix::fs::fcntl_get_seals(fd).unwrap_or(SealFlags::empty());
        let stat = rustix::fs::fstat(fd)?;
        let sealed = seals.contains(SealFlags::SHRINK) && rustix::fs::fstatfs(fd)?.f_type == TMPFS_MAGIC;
        let mut width = None;
        for fields in [FIELD_COUNT, FORMER_FIELD_COUNT] {
            if usize::try_from(stat.st_size) == Ok(size_of_lines(lines, fields)?) {
                width = Some(fields);
            }
        }
        match width.filter(|_| sealed) {
            Some(fields) => Ok(CountersView(Mapping::new(fd, (lines, fields), ProtFlags::READ)?)),
            None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a sealed counter memfd")),
        }
    }

    /// The fields of `line`; zeroes when out of range. Each field is whole, the line as a whole is no snapshot.
    #[must_use]
    pub fn read(&self, line: usize) -> [u64; FIELD_COUNT] {
        self.0.read(line)
    }

    /// How many lines there are.
    #[must_use]
    pub fn line_count(&self) -> usize {
        self.0.lines
    }
}

fn size_of_lines(lines: usize, fields: usize) -> io::Result<usize> {
    lines
        .checked_mul(fields * size_of::<u64>())
        .filter(|bytes| *bytes > 0 && isize::try_from(*bytes).is_ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "number of counter lines"))
}

/// A shared mapping of whole lines.
#[derive(Debug)]
struct Mapping {
    cells: NonNull<AtomicU64>,
    lines: usize,
    /// Fields of a line.
    width: usize,
}

// SAFETY: the memory belongs to the mapping, not to a thread, and is only touched as atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, (lines, width): (usize, usize), protection: ProtFlags) -> io::Result<Mapping> {
        let bytes = size_of_lines(lines, width)?;
        // SAFETY: a new mapping at an address the kernel picks aliases nothing.
        let start = unsafe { rustix::mm::mmap(ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }?;
        let cells = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapping at address 0"))?;
        Ok(Mapping { cells, lines, width })
    }

    #[inline]
    /// The cell of `field` in `line`; `width` is that of the mapping, a constant where it is known.
    fn cell(&self, line: usize, field: usize, width: usize) -> Option<&AtomicU64> {
        debug_assert_eq!(width, self.width, "lines of another width");
        if line >= self.lines || field >= width {
            return None;
        }
        // SAFETY: the index is within the mapping by the check above and the size given to mmap.
        let cell = unsafe { self.cells.add(line * width + field) };
        // SAFETY: mapped until drop, aligned (pages), shrinking is sealed; other processes write it, which
        // an atomic allows. The read-only side only loads.
        Some(unsafe { cell.as_ref() })
    }

    fn read(&self, line: usize) -> [u64; FIELD_COUNT] {
        std::array::from_fn(|field| {
            self.cell(line, field, self.width).map_or(0, |cell| cell.load(Ordering::Relaxed))
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, and every reference into it borrows from `self`.
        let result = unsafe {
            rustix::mm::munmap(self.cells.as_ptr().cast(), self.lines * self.width * size_of::<u64>())
        };
        debug_assert!(result.is_ok(), "unmapping one's own mapping cannot fail");
    }
}

#[cfg(test)]
mod tests;
