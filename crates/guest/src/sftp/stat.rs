//! Attributes of files, read and set; and the lines of a folder.

use std::os::fd::{AsFd as _, BorrowedFd};

use portway_proto::sftp::Attributes;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::{Errno, Result};

use super::handles::OpenDir;
use super::names::Names;
use super::paths::name;

/// Entries in one answer: as many as OpenSSH's server sends.
const ENTRIES_MAX_COUNT: usize = 100;

/// One line of a folder.
pub(super) struct Entry {
    pub(super) name: Vec<u8>,
    /// As `ls -l` would show it.
    pub(super) line: Vec<u8>,
    pub(super) attributes: Attributes,
}

pub(super) fn stat(path: &[u8]) -> Result<Attributes> {
    rustix::fs::stat(&*name(path)?).map(|stat| attributes(&stat))
}

pub(super) fn lstat(path: &[u8]) -> Result<Attributes> {
    rustix::fs::lstat(&*name(path)?).map(|stat| attributes(&stat))
}

pub(super) fn fstat(fd: BorrowedFd<'_>) -> Result<Attributes> {
    rustix::fs::fstat(fd).map(|stat| attributes(&stat))
}

/// Seconds of the protocol's times end in 2106; what is outside is shown at the edge.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

fn attributes(stat: &Stat) -> Attributes {
    Attributes {
        size: u64::try_from(stat.st_size).ok(),
        ids: Some((stat.st_uid, stat.st_gid)),
        permissions: Some(stat.st_mode),
        times: Some((seconds(stat.st_atime), seconds(stat.st_mtime))),
    }
}

/// The next entries of a folder; none at its end.
pub(super) fn entries(dir: &mut OpenDir, names: &mut Names) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while entries.len() < ENTRIES_MAX_COUNT {
        let Some(found) = dir.entries.read() else { break };
        let found = found?;
        let name = found.file_name();
        // What has gone since it was listed is left out.
        let stat = rustix::fs::statat(dir.fd.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW);
        let Ok(stat) = stat else { continue };
        let line = line(name.to_bytes(), &stat, names);
        entries.push(Entry { name: name.to_bytes().to_vec(), line, attributes: attributes(&stat) });
    }
    Ok(entries)
}

fn line(name: &[u8], stat: &Stat, names: &mut Names) -> Vec<u8> {
    let of = |name: Vec<u8>, id: u32| {
        if name.is_empty() { id.to_string() } else { String::from_utf8_lossy(&name).into_owned() }
    };
    let user = of(names.user(stat.st_uid), stat.st_uid);
    let group = of(names.group(stat.st_gid), stat.st_gid);
    let (mode, links, size) = (mode_text(stat.st_mode), stat.st_nlink, stat.st_size);
    let text = format!("{mode} {links:>4} {user:<8} {group:<8} {size:>8} {} ", date(stat.st_mtime));
    [text.as_bytes(), name].concat()
}

fn mode_text(mode: u32) -> String {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharacterDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::RegularFile => '-',
        FileType::Unknown => '?',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Nov 20 2026`, UTC. The time of day, which `ls` shows for files of this year, is in the attributes.
fn date(time: i64) -> String {
    // Days are counted from the first of March of a year 0, so that a leap day is the last of its year.
    let days = time.div_euclid(86_400) + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 2, 0) } else { (month - 10, 1) };
    let name = usize::try_from(month).ok().and_then(|month| MONTHS.get(month)).unwrap_or(&"???");
    format!("{name} {day:>2}  {}", era * 400 + year + later)
}

fn times(pair: (u32, u32)) -> Timestamps {
    let at = |seconds: u32| Timespec { tv_sec: seconds.into(), tv_nsec: 0 };
    Timestamps { last_access: at(pair.0), last_modification: at(pair.1) }
}

fn ids(pair: (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(pair.0)), Some(Gid::from_raw(pair.1)))
}

/// The protocol says "not this one" by leaving the pair out; the system would by this number.
const fn check_ids(attributes: &Attributes) -> Result<()> {
    match attributes.ids {
        Some((u32::MAX, _) | (_, u32::MAX)) => Err(Errno::INVAL),
        _ => Ok(()),
    }
}

pub(super) fn set(path: &[u8], wanted: &Attributes) -> Result<()> {
    check_ids(wanted)?;
    let path = name(path)?;
    if let Some(size) = wanted.size {
        let file =
            rustix::fs::open(&*path, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
        rustix::fs::ftruncate(&file, size)?;
    }
    if let Some(mode) = wanted.permissions {
        rustix::fs::chmod(&*path, Mode::from_raw_mode(mode & 0o7777))?;
    }
    if let Some(pair) = wanted.times {
        rustix::fs::utimensat(CWD, &*path, &times(pair), AtFlags::empty())?;
    }
    if let Some(pair) = wanted.ids {
        let (uid, gid) = ids(pair);
        rustix::fs::chown(&*path, uid, gid)?;
    }
    Ok(())
}

/// Of a link itself. It has no size to be set, and no permissions on Linux.
pub(super) fn set_link(path: &[u8], wanted: &Attributes) -> Result<()> {
    check_ids(wanted)?;
    let path = name(path)?;
    if wanted.size.is_some() {
        return Err(Errno::INVAL);
    }
    if let Some(mode) = wanted.permissions {
        rustix::fs::chmodat(CWD, &*path, Mode::from_raw_mode(mode & 0o7777), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(pair) = wanted.times {
        rustix::fs::utimensat(CWD, &*path, &times(pair), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    if let Some(pair) = wanted.ids {
        let (uid, gid) = ids(pair);
        rustix::fs::chownat(CWD, &*path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

pub(super) fn set_open(fd: BorrowedFd<'_>, wanted: &Attributes) -> Result<()> {
    check_ids(wanted)?;
    if let Some(size) = wanted.size {
        rustix::fs::ftruncate(fd, size)?;
    }
    if let Some(mode) = wanted.permissions {
        rustix::fs::fchmod(fd, Mode::from_raw_mode(mode & 0o7777))?;
    }
    if let Some(pair) = wanted.times {
        rustix::fs::futimens(fd, &times(pair))?;
    }
    if let Some(pair) = wanted.ids {
        let (uid, gid) = ids(pair);
        rustix::fs::fchown(fd, uid, gid)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(date(0), "Jan  1  1970");
        assert_eq!(date(951_782_400), "Feb 29  2000");
        assert_eq!(date(1_795_000_000), "Nov 18  2026");
        assert_eq!(date(-1), "Dec 31  1969");
        assert_eq!(date(4_107_542_400), "Mar  1  2100");
    }

    #[test]
    fn modes_are_those_of_ls() {
        assert_eq!(mode_text(0o100_644), "-rw-r--r--");
        assert_eq!(mode_text(0o041_777), "drwxrwxrwt");
        assert_eq!(mode_text(0o104_710), "-rws--x---");
        assert_eq!(mode_text(0o106_600), "-rwS--S---");
    }
}
