//! Changes into an instance.
//!
//! Nothing but what is below the target is written: links in its place or below it are made and removed, and never
//! followed; what a rule does not copy stays.

use std::collections::BTreeSet;
use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use portway_incus::{FileKind, Open, PIECE_BYTES, Sftp, SftpError};
use rustix::fs::OFlags;

use super::super::stage::warn;
use super::rules::Rule;
use super::tree::Changes;

/// Deepest folder that is removed with all in it.
const DEPTH_MAX: usize = 256;

/// A connection to one instance, for one rule.
pub(super) struct Inside<'i> {
    pub(super) sftp: &'i mut Sftp,
    pub(super) rule: &'i Rule,
    /// Folders below the target that are known to be some.
    pub(super) folders: BTreeSet<String>,
}

type Done<T = ()> = Result<T, SftpError>;

impl Inside<'_> {
    /// Brings about what has changed. What the instance refuses is told, and left out.
    ///
    /// # Errors
    /// When it cannot be talked to.
    pub(super) async fn bring(&mut self, changes: &Changes) -> Done {
        for path in changes.gone.iter().filter(|path| self.rule.counts(path)) {
            let done = self.gone(path).await;
            heard(done)?;
        }
        for path in changes.changed.iter().filter(|path| self.rule.counts(path)) {
            let done = self.changed(path).await;
            heard(done)?;
        }
        Ok(())
    }

    /// Where a path is inside; `None` for a name that is no text, or where its folder is none.
    async fn target(&mut self, path: &Path, makes: bool) -> Done<Option<String>> {
        let mut target = self.rule.target.clone();
        let mut parts = Vec::new();
        for part in path.components() {
            let Some(part) = part.as_os_str().to_str() else {
                warn(&format!("{}: its name is no text, and it is left out", path.display()));
                return Ok(None);
            };
            parts.push(part);
        }
        let Some(last) = parts.pop() else { return Ok(Some(target)) };
        if makes {
            self.root(&target).await?;
        }
        for part in parts {
            target = format!("{target}/{part}");
            if self.folders.contains(&target) {
                continue;
            }
            match self.sftp.facts(&target).await? {
                Some(found) if found.kind == FileKind::Directory => {}
                None if makes => self.sftp.make_dir(&target, 0o755).await?,
                None => return Ok(None),
                Some(_) => {
                    warn(&format!("{target} is no folder inside: {} is left out", path.display()));
                    return Ok(None);
                }
            }
            self.folders.insert(target.clone());
        }
        Ok(Some(format!("{target}/{last}")))
    }

    /// The target of a folder is one, and so is what it is in.
    async fn root(&mut self, target: &str) -> Done {
        if self.folders.contains(target) {
            return Ok(());
        }
        let mut path = String::new();
        for part in target.split('/').filter(|part| !part.is_empty()) {
            path = format!("{path}/{part}");
            if self.sftp.facts_behind(&path).await?.is_none() {
                self.sftp.make_dir(&path, 0o755).await?;
            }
        }
        self.folders.insert(target.to_owned());
        Ok(())
    }

    async fn gone(&mut self, path: &Path) -> Done {
        let target = match (path.as_os_str().is_empty(), self.rule.is_folder) {
            (false, _) => self.target(path, false).await?,
            (true, false) => Some(self.own().await?),
            // The target itself stays, empty: it is what the service has.
            (true, true) => None,
        };
        match target {
            Some(target) => remove(self.sftp, &target).await,
            None => Ok(()),
        }
    }

    /// Where a file is inside that is watched alone: at the target, or in it where that is a folder.
    async fn own(&mut self) -> Done<String> {
        let target = self.rule.target.clone();
        let found = self.sftp.facts_behind(&target).await?;
        let name = self.rule.root.file_name().and_then(|name| name.to_str());
        Ok(match (found, name) {
            (Some(found), Some(name)) if found.kind == FileKind::Directory => format!("{target}/{name}"),
            _ => target,
        })
    }

    async fn changed(&mut self, path: &Path) -> Done {
        let from =
            if path.as_os_str().is_empty() { self.rule.root.clone() } else { self.rule.root.join(path) };
        // It may have gone: that is another change.
        let Ok(found) = from.symlink_metadata() else { return Ok(()) };
        let target = match (path.as_os_str().is_empty(), self.rule.is_folder) {
            (false, _) => self.target(path, true).await?,
            (true, false) => {
                let target = self.own().await?;
                let above = target.rsplit_once('/').map(|(above, _)| above.to_owned());
                self.root(&above.unwrap_or_default()).await?;
                Some(target)
            }
            (true, true) => {
                let target = self.rule.target.clone();
                return self.root(&target).await;
            }
        };
        let Some(target) = target else { return Ok(()) };
        let there = self.sftp.facts(&target).await?.map(|facts| facts.kind);
        if found.is_dir() {
            if there != Some(FileKind::Directory) {
                if there.is_some() {
                    remove(self.sftp, &target).await?;
                }
                self.sftp.make_dir(&target, found.mode() & 0o777).await?;
            }
            return self.sftp.set(&target, None, found.mode() & 0o777).await;
        }
        if there.is_some_and(|kind| kind != FileKind::Plain || !found.is_file()) {
            remove(self.sftp, &target).await?;
        }
        if found.is_symlink() {
            let Ok(leads) = std::fs::read_link(&from) else { return Ok(()) };
            return self.sftp.make_link(&target, leads.as_os_str().as_bytes()).await;
        }
        if found.is_file() {
            return self.file(&from, &target).await;
        }
        warn(&format!("{} is no file, folder or link, and is left out", from.display()));
        Ok(())
    }

    /// Copies a file, as long as it is when it is opened. No bit goes along that makes who runs it somebody else.
    async fn file(&mut self, from: &Path, target: &str) -> Done {
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW).bits();
        let opened =
            File::options().read(true).custom_flags(i32::try_from(flags).unwrap_or_default()).open(from);
        let known = opened.and_then(|file| file.metadata().map(|found| (file, found)));
        let (file, found): (File, Metadata) = match known {
            Ok((file, found)) if found.is_file() => (file, found),
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                warn(&format!("{}: {error}", from.display()));
                return Ok(());
            }
        };
        let mode = found.mode() & 0o777;
        let to = self.sftp.open(target, Open::Write, mode).await?;
        let mut rest = file.take(found.len());
        let mut piece = vec![0; usize::try_from(PIECE_BYTES).unwrap_or_default()];
        let mut at = 0;
        loop {
            let count = match rest.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    warn(&format!("{}: {error}", from.display()));
                    break;
                }
            };
            self.sftp.write(&to, at, &piece[..count]).await?;
            at += count as u64;
        }
        self.sftp.close(to).await?;
        self.sftp.set(target, None, mode).await
    }
}

/// What is refused is told; only a connection that is gone is a failure.
fn heard(done: Done) -> Done {
    match done {
        Err(error @ SftpError::Refused { .. }) => {
            warn(&crate::failure::chain(&error));
            Ok(())
        }
        done => done,
    }
}

/// Removes what is there, of a folder all that is in it.
async fn remove(sftp: &mut Sftp, path: &str) -> Done {
    let mut next = vec![(path.to_owned(), false, 0)];
    while let Some((path, is_empty, depth)) = next.pop() {
        if is_empty {
            sftp.remove_dir(&path).await?;
            continue;
        }
        match sftp.facts(&path).await? {
            None => {}
            Some(found) if found.kind == FileKind::Directory && depth < DEPTH_MAX => {
                let names = sftp.names(&path).await?;
                next.push((path.clone(), true, depth));
                next.extend(names.into_iter().map(|name| (format!("{path}/{name}"), false, depth + 1)));
            }
            Some(_) => sftp.remove(&path).await?,
        }
    }
    Ok(())
}
