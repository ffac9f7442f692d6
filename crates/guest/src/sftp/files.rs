//! Operations on files and names.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};

use portway_proto::sftp::{Attributes, Open};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::{Errno, Result};

use super::handles::OpenDir;
use super::paths::name;

/// Bytes that are copied at a time where the kernel does not copy by itself.
const COPY_BYTES: usize = 256 * 1024;

pub(super) fn open(path: &[u8], how: Open, attributes: &Attributes) -> Result<OwnedFd> {
    let access = match (how.read, how.write || how.append) {
        (_, false) => OFlags::RDONLY,
        (false, true) => OFlags::WRONLY,
        (true, true) => OFlags::RDWR,
    };
    let flags = [
        (how.append, OFlags::APPEND),
        (how.create, OFlags::CREATE),
        (how.truncate, OFlags::TRUNC),
        (how.exclusive, OFlags::EXCL),
    ];
    let flags = flags.into_iter().filter(|(wanted, _)| *wanted).fold(access, |flags, (_, flag)| flags | flag);
    let mode = Mode::from_raw_mode(attributes.permissions.unwrap_or(0o666) & 0o7777);
    rustix::fs::open(&*name(path)?, flags | OFlags::CLOEXEC | OFlags::NOCTTY, mode)
}

pub(super) fn open_dir(path: &[u8]) -> Result<OpenDir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(&*name(path)?, flags, Mode::empty())?;
    let entries = Dir::read_from(&fd)?;
    Ok(OpenDir { fd, entries })
}

pub(super) fn write(file: BorrowedFd<'_>, mut offset: u64, mut data: &[u8]) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(file, data, offset) {
            // What has no positions (a pipe, a terminal) is written in order.
            Err(Errno::SPIPE) => {
                let count = rustix::io::retry_on_intr(|| rustix::io::write(file, data))?;
                data = data.get(count..).unwrap_or_default();
            }
            Ok(count) => {
                data = data.get(count..).unwrap_or_default();
                offset = offset.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Copies `length` bytes, or to the end when it is 0.
pub(super) fn copy(from: (BorrowedFd<'_>, u64), to: (BorrowedFd<'_>, u64), length: u64) -> Result<()> {
    let ((source, mut from_offset), (sink, mut to_offset)) = (from, to);
    let mut left = if length == 0 { u64::MAX } else { length };
    while left > 0 {
        let most = usize::try_from(left.min(1 << 30)).unwrap_or(COPY_BYTES);
        let copied =
            rustix::fs::copy_file_range(source, Some(&mut from_offset), sink, Some(&mut to_offset), most);
        let count = match copied {
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::BADF) => {
                let mut buffer = vec![0; most.min(COPY_BYTES)];
                let count =
                    rustix::io::retry_on_intr(|| rustix::io::pread(source, &mut buffer[..], from_offset))?;
                write(sink, to_offset, buffer.get(..count).unwrap_or_default())?;
                let moved = u64::try_from(count).unwrap_or_default();
                from_offset += moved;
                to_offset += moved;
                count
            }
            Err(error) => return Err(error),
        };
        if count == 0 {
            break;
        }
        left -= u64::try_from(count).unwrap_or(left).min(left);
    }
    Ok(())
}

pub(super) fn remove(path: &[u8]) -> Result<()> {
    rustix::fs::unlink(&*name(path)?)
}

pub(super) fn make_dir(path: &[u8], attributes: &Attributes) -> Result<()> {
    let mode = Mode::from_raw_mode(attributes.permissions.unwrap_or(0o777) & 0o7777);
    rustix::fs::mkdir(&*name(path)?, mode)
}

pub(super) fn remove_dir(path: &[u8]) -> Result<()> {
    rustix::fs::rmdir(&*name(path)?)
}

/// Renames and takes nobody's place.
pub(super) fn rename(from: &[u8], to: &[u8]) -> Result<()> {
    let (from, to) = (name(from)?, name(to)?);
    match rustix::fs::renameat_with(CWD, &*from, CWD, &*to, RenameFlags::NOREPLACE) {
        // A file system that cannot: a second name for a file, and for a folder a look before.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            let stat = rustix::fs::lstat(&*from)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return match rustix::fs::lstat(&*to) {
                    Err(Errno::NOENT) => rustix::fs::rename(&*from, &*to),
                    Ok(_) => Err(Errno::EXIST),
                    Err(error) => Err(error),
                };
            }
            rustix::fs::link(&*from, &*to)?;
            rustix::fs::unlink(&*from)
        }
        other => other,
    }
}

/// Renames, and takes the place of what is there.
pub(super) fn rename_over(from: &[u8], to: &[u8]) -> Result<()> {
    rustix::fs::rename(&*name(from)?, &*name(to)?)
}

pub(super) fn link(from: &[u8], to: &[u8]) -> Result<()> {
    rustix::fs::linkat(CWD, &*name(from)?, CWD, &*name(to)?, AtFlags::empty())
}

pub(super) fn symlink(target: &[u8], path: &[u8]) -> Result<()> {
    rustix::fs::symlink(&*name(target)?, &*name(path)?)
}

pub(super) fn read_link(path: &[u8]) -> Result<Vec<u8>> {
    rustix::fs::readlink(&*name(path)?, Vec::new()).map(CString::into_bytes)
}
