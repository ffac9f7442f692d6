//! Into an instance: from a folder here, or from an archive on standard input.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use portway_control::api::FailureKind;
use portway_incus::{FileKind, Open, PIECE_BYTES, Sftp};
use rustix::fs::OFlags;

use super::super::stage::warn;
use super::tar::{Archive, Kind};
use super::{DEPTH_MAX, Wish, below, refused};
use crate::failure::{Outcome, Stop, chain};

/// Permissions, owner and group of something that is made.
struct Traits {
    mode: u32,
    owner: (u32, u32),
}

impl Traits {
    fn of(found: &Metadata) -> Self {
        Self { mode: found.mode() & 0o7777, owner: (found.uid(), found.gid()) }
    }
}

fn here(path: &Path, error: &io::Error) -> Stop {
    let kind =
        if error.kind() == io::ErrorKind::NotFound { FailureKind::Missing } else { FailureKind::Refused };
    Stop::of(kind, format!("{}: {}", path.display(), chain(error)))
}

/// Copies `from` to `path`.
pub(super) async fn copy(sftp: &mut Sftp, from: &Path, path: &str, wish: Wish) -> Outcome {
    let found = look(from, wish.follow)?;
    let there = sftp.facts_behind(path).await.map_err(refused)?;
    let into = there.is_some_and(|there| there.kind == FileKind::Directory);
    if !into && path.ends_with('/') && !found.is_dir() {
        return Err(Stop::refused(format!("there is no folder {path} inside")));
    }
    if there.is_some() && !into && found.is_dir() {
        return Err(Stop::refused(format!("{path} is no folder inside, and {} is one", from.display())));
    }
    let only_contents = from.as_os_str().as_bytes().ends_with(b"/.") || from.file_name().is_none();
    let target = match from.file_name() {
        Some(name) if into && !only_contents => below(path, utf8(name.as_bytes(), from)?),
        _ => path.to_owned(),
    };
    let mut next: Vec<(PathBuf, String, usize)> = vec![(from.to_owned(), target, 0)];
    while let Some((from, path, depth)) = next.pop() {
        if depth > DEPTH_MAX {
            return Err(Stop::refused(format!("{} is too deep", from.display())));
        }
        let found = look(&from, wish.follow && depth == 0)?;
        if found.is_dir() {
            folder(sftp, &path, &Traits::of(&found), wish).await?;
            let entries = std::fs::read_dir(&from).map_err(|error| here(&from, &error))?;
            for entry in entries {
                let name = entry.map_err(|error| here(&from, &error))?.file_name();
                let member = below(&path, utf8(name.as_bytes(), &from)?);
                next.push((from.join(name), member, depth + 1));
            }
        } else {
            one(sftp, &from, (&path, &found), wish).await?;
        }
    }
    Ok(())
}

fn look(from: &Path, follow: bool) -> Outcome<Metadata> {
    let found = if follow { from.metadata() } else { from.symlink_metadata() };
    found.map_err(|error| here(from, &error))
}

fn utf8<'n>(name: &'n [u8], of: &Path) -> Outcome<&'n str> {
    str::from_utf8(name).map_err(|_| Stop::refused(format!("{}: a name in it is no text", of.display())))
}

/// Copies a file or a link.
async fn one(sftp: &mut Sftp, from: &Path, (path, found): (&str, &Metadata), wish: Wish) -> Outcome {
    let kind: FileType = found.file_type();
    if kind.is_symlink() {
        let target = std::fs::read_link(from).map_err(|error| here(from, &error))?;
        return link(sftp, path, target.as_os_str().as_bytes()).await;
    }
    if !kind.is_file() {
        warn(&format!("{} is no file, folder or link, and is left out", from.display()));
        return Ok(());
    }
    let flags = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or_default();
    let opened = File::options().read(true).custom_flags(flags).open(from);
    let mut file = opened.map_err(|error| here(from, &error))?;
    write(sftp, path, &Traits::of(found), wish, |to| file.read(to).map_err(|error| here(from, &error))).await
}

/// Writes a file in place of what is there.
async fn write(
    sftp: &mut Sftp,
    path: &str,
    traits: &Traits,
    wish: Wish,
    mut read: impl FnMut(&mut [u8]) -> Outcome<usize>,
) -> Outcome {
    let file = sftp.open(path, Open::Write, traits.mode).await.map_err(refused)?;
    let mut piece = vec![0; usize::try_from(PIECE_BYTES).unwrap_or_default()];
    let mut at = 0;
    loop {
        let count = read(&mut piece)?;
        if count == 0 {
            break;
        }
        sftp.write(&file, at, &piece[..count]).await.map_err(refused)?;
        at += count as u64;
    }
    sftp.close(file).await.map_err(refused)?;
    sftp.set(path, wish.owners.then_some(traits.owner), traits.mode).await.map_err(refused)
}

/// Makes a folder; one that is there stays as it is.
async fn folder(sftp: &mut Sftp, path: &str, traits: &Traits, wish: Wish) -> Outcome {
    match sftp.facts_behind(path).await.map_err(refused)? {
        Some(there) if there.kind == FileKind::Directory => Ok(()),
        Some(_) => Err(Stop::refused(format!("{path} is no folder inside"))),
        None => {
            sftp.make_dir(path, traits.mode).await.map_err(refused)?;
            sftp.set(path, wish.owners.then_some(traits.owner), traits.mode).await.map_err(refused)
        }
    }
}

/// Makes a link, in place of what is no folder.
async fn link(sftp: &mut Sftp, path: &str, target: &[u8]) -> Outcome {
    if sftp.facts(path).await.map_err(refused)?.is_some() {
        sftp.remove(path).await.map_err(refused)?;
    }
    sftp.make_link(path, target).await.map_err(refused)
}

/// Takes an archive from standard input apart in the folder `path`, which must be there.
pub(super) async fn unpack(sftp: &mut Sftp, path: &str, wish: Wish) -> Outcome {
    let there = sftp.facts_behind(path).await.map_err(refused)?;
    if there.is_none_or(|there| there.kind != FileKind::Directory) {
        return Err(Stop::of(FailureKind::Missing, format!("there is no folder {path} inside")));
    }
    let mut archive = Archive::new(io::stdin().lock());
    let broken = |error: io::Error| Stop::refused(chain(&error));
    while let Some(entry) = archive.next().map_err(broken)? {
        let name =
            String::from_utf8(entry.path).map_err(|_| Stop::refused("a name in the archive is no text"))?;
        let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.contains(&"..") || name.contains('\0') {
            return Err(Stop::refused(format!("{name}: the archive leads out of its folder")));
        }
        let Some((last, above)) = parts.split_last() else { continue };
        let mut target = path.to_owned();
        for part in above {
            target = below(&target, part);
            folder(sftp, &target, &Traits { mode: 0o755, owner: (0, 0) }, wish).await?;
        }
        let target = below(&target, last);
        let traits = Traits { mode: entry.mode, owner: (entry.uid, entry.gid) };
        match entry.kind {
            Kind::Directory => folder(sftp, &target, &traits, wish).await?,
            Kind::Link(to) => link(sftp, &target, &to).await?,
            Kind::Plain => write(sftp, &target, &traits, wish, |to| archive.read(to).map_err(broken)).await?,
            Kind::Other(letter) => {
                warn(&format!("{name} is left out: entries of type {:?} are not copied", char::from(letter)));
            }
        }
    }
    Ok(())
}
