//! What a client has open.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::Dir;
use rustix::io::{Errno, Result};

/// Most that may be open at a time: with the three streams it stays below every usual limit of descriptors.
pub(super) const HANDLES_MAX_COUNT: usize = 400;

/// A folder that is being read.
pub(super) struct OpenDir {
    pub(super) fd: OwnedFd,
    pub(super) entries: Dir,
}

enum Open {
    File(OwnedFd),
    Dir(OpenDir),
}

/// The table: a handle is a place in it.
#[derive(Default)]
pub(super) struct Handles(Vec<Option<Open>>);

impl Handles {
    pub(super) fn add_file(&mut self, file: OwnedFd) -> Result<[u8; 4]> {
        self.add(Open::File(file))
    }

    pub(super) fn add_dir(&mut self, dir: OpenDir) -> Result<[u8; 4]> {
        self.add(Open::Dir(dir))
    }

    fn add(&mut self, open: Open) -> Result<[u8; 4]> {
        let free = self.0.iter().position(Option::is_none);
        let at = free.unwrap_or(self.0.len());
        if at >= HANDLES_MAX_COUNT {
            return Err(Errno::MFILE);
        }
        if free.is_none() {
            self.0.push(None);
        }
        if let Some(place) = self.0.get_mut(at) {
            *place = Some(open);
        }
        u32::try_from(at).map(u32::to_be_bytes).map_err(|_| Errno::MFILE)
    }

    fn place(handle: &[u8]) -> Result<usize> {
        let number = <[u8; 4]>::try_from(handle).map_err(|_| Errno::BADF)?;
        usize::try_from(u32::from_be_bytes(number)).map_err(|_| Errno::BADF)
    }

    fn look(&self, handle: &[u8]) -> Result<&Open> {
        self.0.get(Self::place(handle)?).and_then(Option::as_ref).ok_or(Errno::BADF)
    }

    pub(super) fn file(&self, handle: &[u8]) -> Result<BorrowedFd<'_>> {
        match self.look(handle)? {
            Open::File(file) => Ok(file.as_fd()),
            Open::Dir(_) => Err(Errno::ISDIR),
        }
    }

    pub(super) fn dir(&mut self, handle: &[u8]) -> Result<&mut OpenDir> {
        match self.0.get_mut(Self::place(handle)?) {
            Some(Some(Open::Dir(dir))) => Ok(dir),
            _ => Err(Errno::BADF),
        }
    }

    /// A file or a folder.
    pub(super) fn any(&self, handle: &[u8]) -> Result<BorrowedFd<'_>> {
        match self.look(handle)? {
            Open::File(file) => Ok(file.as_fd()),
            Open::Dir(dir) => Ok(dir.fd.as_fd()),
        }
    }

    pub(super) fn close(&mut self, handle: &[u8]) -> Result<()> {
        let place = self.0.get_mut(Self::place(handle)?).ok_or(Errno::BADF)?;
        place.take().map(drop).ok_or(Errno::BADF)
    }
}
