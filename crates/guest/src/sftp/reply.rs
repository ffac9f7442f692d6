//! Answers.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use portway_proto::sftp::{Attributes, DATA_MAX_BYTES, PACKET_MAX_BYTES, Status};
use rustix::event::PollFlags;
use rustix::fs::{StatVfs, StatVfsMountFlags};
use rustix::io::{Errno, Result};

use super::errors;
use super::handles::HANDLES_MAX_COUNT;
use super::stat::Entry;
use super::wait_for;

const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED: u8 = 201;

/// Answers are written when there are so many bytes of them, however many requests wait.
const FLUSH_BYTES: usize = 256 * 1024;

/// From so many bytes on a file's contents go from where they were read to the pipe, and are not copied between.
const LARGE_BYTES: usize = 8 * 1024;

/// Answers that have not been written yet.
pub(super) struct Replies<'o> {
    output: BorrowedFd<'o>,
    bytes: Vec<u8>,
    /// Where files are read to.
    scratch: Vec<u8>,
    /// What of `scratch` comes after `bytes`.
    large: usize,
}

impl<'o> Replies<'o> {
    pub(super) const fn new(output: BorrowedFd<'o>) -> Self {
        Self { output, bytes: Vec::new(), scratch: Vec::new(), large: 0 }
    }

    pub(super) fn version(&mut self, version: u32, extensions: &[(&str, &str)]) {
        let mut packet = Packet::new(VERSION, version, &mut self.bytes);
        for (name, value) in extensions {
            packet.text(name.as_bytes());
            packet.text(value.as_bytes());
        }
        packet.end();
    }

    pub(super) const fn begin(&mut self, id: u32) -> Reply<'_, 'o> {
        Reply { id, to: self }
    }

    /// Writes what has gathered if it is much, or cannot wait.
    pub(super) fn flush_if_many(&mut self) -> io::Result<()> {
        if self.large > 0 || self.bytes.len() >= FLUSH_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes everything.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        let (mut written, all) = (0, self.bytes.len() + self.large);
        while written < all {
            let first = self.bytes.get(written..).unwrap_or_default();
            let second = self.scratch.get(written.saturating_sub(self.bytes.len())..self.large);
            let parts = [IoSlice::new(first), IoSlice::new(second.unwrap_or_default())];
            match rustix::io::writev(self.output, &parts) {
                Ok(count) => written += count,
                Err(Errno::INTR | Errno::AGAIN) => wait_for(self.output, PollFlags::OUT)?,
                Err(error) => return Err(error.into()),
            }
        }
        self.bytes.clear();
        self.large = 0;
        Ok(())
    }
}

/// One answer that is still to be given.
pub(super) struct Reply<'a, 'o> {
    id: u32,
    to: &'a mut Replies<'o>,
}

impl<'a> Reply<'a, '_> {
    fn packet(self, kind: u8) -> Packet<'a> {
        Packet::new(kind, self.id, &mut self.to.bytes)
    }

    pub(super) fn status(self, status: Status) {
        let mut packet = self.packet(STATUS);
        packet.u32(status.code());
        packet.text(status.text().as_bytes());
        packet.text(b"");
        packet.end();
    }

    pub(super) fn done(self, result: Result<()>) {
        self.status(result.map_or_else(errors::status, |()| Status::Ok));
    }

    /// What was asked for, or why not.
    pub(super) fn of<T>(self, result: Result<T>, give: impl FnOnce(Self, T)) {
        match result {
            Ok(value) => give(self, value),
            Err(error) => self.status(errors::status(error)),
        }
    }

    pub(super) fn handle(self, handle: [u8; 4]) {
        let mut packet = self.packet(HANDLE);
        packet.text(&handle);
        packet.end();
    }

    pub(super) fn attributes(self, attributes: Attributes) {
        let packet = self.packet(ATTRS);
        attributes.write(packet.to);
        packet.end();
    }

    pub(super) fn name(self, name: Vec<u8>) {
        let mut packet = self.packet(NAME);
        packet.u32(1);
        packet.text(&name);
        packet.text(&name);
        Attributes::default().write(packet.to);
        packet.end();
    }

    pub(super) fn entries(self, entries: Result<Vec<Entry>>) {
        let entries = match entries {
            Ok(entries) if entries.is_empty() => return self.status(Status::Eof),
            Ok(entries) => entries,
            Err(error) => return self.status(errors::status(error)),
        };
        let mut packet = self.packet(NAME);
        packet.u32(u32::try_from(entries.len()).unwrap_or_default());
        for entry in &entries {
            packet.text(&entry.name);
            packet.text(&entry.line);
            entry.attributes.write(packet.to);
        }
        packet.end();
    }

    /// What a file holds there.
    pub(super) fn data(self, file: BorrowedFd<'_>, offset: u64, length: u32) {
        let most = usize::try_from(length).unwrap_or(usize::MAX).min(DATA_MAX_BYTES);
        if self.to.scratch.len() < most {
            self.to.scratch.resize(most, 0);
        }
        let count = match read(file, offset, self.to.scratch.get_mut(..most).unwrap_or_default()) {
            Ok(0) if length > 0 => return self.status(Status::Eof),
            Ok(count) => count,
            Err(error) => return self.status(errors::status(error)),
        };
        let mut packet = Packet::new(DATA, self.id, &mut self.to.bytes);
        packet.u32(u32::try_from(count).unwrap_or_default());
        if count < LARGE_BYTES {
            packet.to.extend_from_slice(self.to.scratch.get(..count).unwrap_or_default());
            packet.end();
        } else {
            packet.end_before(count);
            self.to.large = count;
        }
    }

    pub(super) fn limits(self) {
        let mut packet = self.packet(EXTENDED);
        for limit in [PACKET_MAX_BYTES, DATA_MAX_BYTES, DATA_MAX_BYTES, HANDLES_MAX_COUNT] {
            packet.u64(u64::try_from(limit).unwrap_or_default());
        }
        packet.end();
    }

    pub(super) fn statvfs(self, stat: StatVfs) {
        let has = |flag, bit: u64| if stat.f_flag.contains(flag) { bit } else { 0 };
        let flags = has(StatVfsMountFlags::RDONLY, 1) | has(StatVfsMountFlags::NOSUID, 2);
        let mut packet = self.packet(EXTENDED);
        let sizes = [stat.f_bsize, stat.f_frsize, stat.f_blocks, stat.f_bfree, stat.f_bavail];
        let files = [stat.f_files, stat.f_ffree, stat.f_favail, stat.f_fsid, flags, stat.f_namemax];
        for number in sizes.into_iter().chain(files) {
            packet.u64(number);
        }
        packet.end();
    }

    pub(super) fn id_names(self, users: &[Vec<u8>], groups: &[Vec<u8>]) {
        let mut packet = self.packet(EXTENDED);
        for names in [users, groups] {
            let mut list = Vec::new();
            for name in names {
                list.extend(u32::try_from(name.len()).unwrap_or_default().to_be_bytes());
                list.extend_from_slice(name);
            }
            packet.text(&list);
        }
        packet.end();
    }
}

/// Reads at `offset`; what has no positions (a pipe, a terminal) is read in order.
fn read(file: BorrowedFd<'_>, offset: u64, to: &mut [u8]) -> Result<usize> {
    rustix::io::retry_on_intr(|| match rustix::io::pread(file, &mut *to, offset) {
        Err(Errno::SPIPE) => rustix::io::read(file, &mut *to),
        other => other,
    })
}

/// A packet that is being written.
struct Packet<'a> {
    to: &'a mut Vec<u8>,
    begin: usize,
}

impl<'a> Packet<'a> {
    fn new(kind: u8, number: u32, to: &'a mut Vec<u8>) -> Self {
        let begin = to.len();
        to.extend([0, 0, 0, 0, kind]);
        to.extend(number.to_be_bytes());
        Self { to, begin }
    }

    fn u32(&mut self, value: u32) {
        self.to.extend(value.to_be_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.to.extend(value.to_be_bytes());
    }

    fn text(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or_default());
        self.to.extend_from_slice(bytes);
    }

    /// Overwrites four bytes, so many after the beginning.
    fn end(self) {
        self.end_before(0);
    }

    /// Ends it here, with so many bytes of its own to follow.
    fn end_before(self, more: usize) {
        let length = u32::try_from(self.to.len() - self.begin - 4 + more).unwrap_or_default();
        if let Some(place) = self.to.get_mut(self.begin..self.begin + 4) {
            place.copy_from_slice(&length.to_be_bytes());
        }
    }
}
