//! Out of an instance: into a folder here, or as an archive on standard output.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::rc::Rc;

use portway_incus::{FileFacts, FileKind, Open, Sftp};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::super::stage::warn;
use super::tar::{BLOCK_BYTES, Entry, Kind};
use super::{DEPTH_MAX, Wish, below, last, refused};
use crate::failure::{Outcome, Stop, chain};

/// Bits that a file of an instance may have here: none that makes who runs it somebody else.
const MODE_BITS: u32 = 0o777;

/// What is to be copied: its path inside, and the name it gets in a folder here.
struct Next {
    path: String,
    folder: Rc<OwnedFd>,
    name: String,
    depth: usize,
}

/// Copies `path` to `to`.
pub(super) async fn copy(sftp: &mut Sftp, path: &str, to: &Path, wish: Wish) -> Outcome {
    let (path, facts) = source(sftp, path, wish).await?;
    let is_folder = facts.kind == FileKind::Directory;
    let shown = to.display();
    // Whoever calls has named it: links in it are theirs.
    let (folder, name) = if to.is_dir() {
        (to, last(&path).map(str::to_owned))
    } else {
        let name = to.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| Stop::usage(format!("{shown} is no name of a file")))?;
        if !is_folder && to.as_os_str().as_bytes().ends_with(b"/") {
            return Err(Stop::refused(format!("there is no folder {shown}")));
        }
        if is_folder && to.exists() {
            return Err(Stop::refused(format!("{shown} is no folder, and {path} is one")));
        }
        let above = to.parent().filter(|above| !above.as_os_str().is_empty());
        (above.unwrap_or(Path::new(".")), Some(name.to_owned()))
    };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(CWD, folder, flags, Mode::empty());
    let opened = opened.map_err(|error| here(&folder.display().to_string(), error))?;
    let folder = Rc::new(opened);
    let mut next = Vec::new();
    match name {
        Some(name) => next.push(Next { path, folder, name, depth: 0 }),
        None => next.extend(members(sftp, &path, &folder, 0).await?),
    }
    while let Some(one) = next.pop() {
        next.extend(put(sftp, &one, wish).await?);
    }
    Ok(())
}

/// What is copied, and what is known of it.
async fn source(sftp: &mut Sftp, path: &str, wish: Wish) -> Outcome<(String, FileFacts)> {
    let facts = if wish.follow { sftp.facts_behind(path).await } else { sftp.facts(path).await };
    let missing =
        || Stop::of(portway_control::api::FailureKind::Missing, format!("there is no {path} inside"));
    let facts = facts.map_err(refused)?.ok_or_else(missing)?;
    Ok((path.to_owned(), facts))
}

/// What is in a folder inside, the last name first.
async fn members(sftp: &mut Sftp, path: &str, folder: &Rc<OwnedFd>, depth: usize) -> Outcome<Vec<Next>> {
    if depth > DEPTH_MAX {
        return Err(Stop::refused(format!("{path} is too deep")));
    }
    let names = sftp.names(path).await.map_err(refused)?;
    let next = names.into_iter().rev().map(|name| Next {
        path: below(path, &name),
        folder: Rc::clone(folder),
        name,
        depth: depth + 1,
    });
    Ok(next.collect())
}

/// Copies one, and gives what is in it.
async fn put(sftp: &mut Sftp, one: &Next, wish: Wish) -> Outcome<Vec<Next>> {
    let followed = wish.follow && one.depth == 0;
    let (_, facts) = source(sftp, &one.path, Wish { follow: followed, ..wish }).await?;
    let failed = |error: Errno| here(&one.name, error);
    match facts.kind {
        FileKind::Plain => file(sftp, one, &facts, wish).await.map(|()| Vec::new()),
        FileKind::Directory => {
            let mode = Mode::from_raw_mode((facts.mode & MODE_BITS) | 0o700);
            match rustix::fs::mkdirat(&one.folder, &one.name, mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
            let made = rustix::fs::openat(&one.folder, &one.name, flags, Mode::empty()).map_err(failed)?;
            owned(&made, &facts, wish, &one.name)?;
            members(sftp, &one.path, &Rc::new(made), one.depth).await
        }
        FileKind::Link => {
            let target = sftp.link(&one.path).await.map_err(refused)?;
            let make = || rustix::fs::symlinkat(&target[..], &one.folder, &one.name);
            match make() {
                Err(Errno::EXIST) => {
                    // A folder is not removed by this.
                    rustix::fs::unlinkat(&one.folder, &one.name, AtFlags::empty()).map_err(failed)?;
                    make().map_err(failed)?;
                }
                made => made.map_err(failed)?,
            }
            Ok(Vec::new())
        }
        FileKind::Other => {
            warn(&format!("{} is no file, folder or link, and is left out", one.path));
            Ok(Vec::new())
        }
    }
}

async fn file(sftp: &mut Sftp, one: &Next, facts: &FileFacts, wish: Wish) -> Outcome {
    let failed = |error: Errno| here(&one.name, error);
    let mode = Mode::from_raw_mode(facts.mode & MODE_BITS);
    // A pipe that is there would never open, and a link leads anywhere.
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let made = rustix::fs::openat(&one.folder, &one.name, flags, mode | Mode::WUSR).map_err(failed)?;
    let there = rustix::fs::fstat(&made).map_err(failed)?;
    if FileType::from_raw_mode(there.st_mode) != FileType::RegularFile {
        return Err(Stop::refused(format!("{} is here and is no file", one.name)));
    }
    rustix::fs::ftruncate(&made, 0).map_err(failed)?;
    let mut to = File::from(made);
    let broken = |error: io::Error| Stop::refused(format!("{}: {}", one.name, chain(&error)));
    pour(sftp, &one.path, |bytes| to.write_all(bytes).map_err(broken)).await?;
    rustix::fs::fchmod(&to, mode).map_err(failed)?;
    owned(&to, facts, wish, &one.name)
}

/// Gives it its owner, where that is asked for.
fn owned(file: impl std::os::fd::AsFd, facts: &FileFacts, wish: Wish, name: &str) -> Outcome {
    if !wish.owners {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(facts.uid), Gid::from_raw(facts.gid));
    rustix::fs::fchown(file.as_fd(), Some(uid), Some(gid)).map_err(|error| here(name, error))
}

/// Reads a file inside to its end; its length.
async fn pour(sftp: &mut Sftp, path: &str, mut to: impl FnMut(&[u8]) -> Outcome) -> Outcome<u64> {
    let file = sftp.open(path, Open::Read, 0).await.map_err(refused)?;
    let mut at = 0;
    while let Some(bytes) = sftp.read(&file, at).await.map_err(refused)? {
        at += bytes.len() as u64;
        to(&bytes)?;
    }
    sftp.close(file).await.map_err(refused)?;
    Ok(at)
}

fn here(name: &str, error: Errno) -> Stop {
    let why = match error {
        Errno::LOOP => "is a link here, and is not followed".to_owned(),
        error => chain(&io::Error::from(error)),
    };
    Stop::refused(format!("{name}: {why}"))
}

/// Writes `path` and what is in it to standard output as an archive.
pub(super) async fn pack(sftp: &mut Sftp, path: &str, wish: Wish) -> Outcome {
    let (path, _) = source(sftp, path, wish).await?;
    let mut out = io::stdout().lock();
    let mut next = vec![(path.clone(), last(&path).unwrap_or(".").to_owned(), 0)];
    while let Some((path, name, depth)) = next.pop() {
        let (_, facts) = source(sftp, &path, Wish { follow: wish.follow && depth == 0, ..wish }).await?;
        let kind = match facts.kind {
            FileKind::Plain => Kind::Plain,
            FileKind::Directory => Kind::Directory,
            FileKind::Link => Kind::Link(sftp.link(&path).await.map_err(refused)?),
            FileKind::Other => {
                warn(&format!("{path} is no file, folder or link, and is left out"));
                continue;
            }
        };
        if depth > DEPTH_MAX {
            return Err(Stop::refused(format!("{path} is too deep")));
        }
        let size_bytes = if kind == Kind::Plain { facts.size_bytes } else { 0 };
        let FileFacts { uid, gid, mode, changed, .. } = facts;
        let entry = Entry { path: name.clone().into_bytes(), kind, size_bytes, uid, gid, mode, changed };
        write(&mut out, &entry.header())?;
        match entry.kind {
            Kind::Plain => body(sftp, &path, size_bytes, &mut out).await?,
            Kind::Directory => {
                let names = sftp.names(&path).await.map_err(refused)?;
                let members = names.into_iter().rev();
                next.extend(members.map(|one| (below(&path, &one), below(&name, &one), depth + 1)));
            }
            Kind::Link(_) | Kind::Other(_) => {}
        }
    }
    write(&mut out, &[0; 2 * BLOCK_BYTES])?;
    out.flush().map_err(|error| Stop::output(&error))
}

/// The contents of a file: as long as its header says, whatever becomes of it meanwhile.
async fn body(sftp: &mut Sftp, path: &str, size_bytes: u64, out: &mut impl Write) -> Outcome {
    let mut left = size_bytes;
    pour(sftp, path, |bytes| {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        left -= count as u64;
        write(out, &bytes[..count])
    })
    .await?;
    if left > 0 {
        return Err(Stop::refused(format!("{path} has become shorter meanwhile")));
    }
    let filled = size_bytes.next_multiple_of(BLOCK_BYTES as u64) - size_bytes;
    write(out, &[0; BLOCK_BYTES][..usize::try_from(filled).unwrap_or_default()])
}

fn write(out: &mut impl Write, bytes: &[u8]) -> Outcome {
    out.write_all(bytes).map_err(|error| Stop::output(&error))
}
