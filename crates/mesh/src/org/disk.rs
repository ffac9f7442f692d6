//! Files that are whole or not there: what a device and a registrar keep.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

/// What became of a file.
#[derive(Debug, Error)]
pub enum DiskError {
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what was written there.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In which way.
        what: String,
    },
}

impl DiskError {
    pub(super) fn damaged(path: &Path, what: impl ToString) -> DiskError {
        DiskError::Damaged { path: path.to_owned(), what: what.to_string() }
    }

    /// The same of a file in a folder that is called otherwise.
    pub(super) fn in_folder(mut self, dir: &Path) -> DiskError {
        let (DiskError::Read { path, .. } | DiskError::Write { path, .. } | DiskError::Damaged { path, .. }) =
            &mut self;
        if let Some(file) = path.file_name() {
            *path = dir.join(file);
        }
        self
    }
}

/// Makes a folder, and those above it, for its owner alone.
pub(super) fn folder(path: &Path) -> Result<(), DiskError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| DiskError::Write { path: path.to_owned(), source })
}

/// Reads a file; `None` when there is none.
pub(super) fn read(path: &Path, limit_bytes: usize) -> Result<Option<Zeroizing<Vec<u8>>>, DiskError> {
    let failed = |source| DiskError::Read { path: path.to_owned(), source };
    // Who has the folder may have put a link or a pipe there: neither is followed for another user.
    let flags = if given_to(path).is_some() { OFlags::NOFOLLOW | OFlags::NONBLOCK } else { OFlags::empty() };
    let flags = i32::try_from(flags.bits()).unwrap_or(0);
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) if !file.metadata().map_err(failed)?.is_file() => {
            return Err(DiskError::damaged(path, "it is no file"));
        }
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Zeroizing::new(Vec::new());
    let limit = u64::try_from(limit_bytes).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit_bytes {
        return Err(DiskError::damaged(path, "it is too long"));
    }
    Ok(Some(bytes))
}

/// Whom the folder of a file belongs to, if root has given it away: a network that the daemon runs is that user's.
fn given_to(path: &Path) -> Option<(u32, u32)> {
    let dir = path.parent().filter(|_| rustix::process::geteuid().is_root())?;
    let owner = fs::metadata(dir).ok()?;
    (owner.uid() != 0).then(|| (owner.uid(), owner.gid()))
}

/// Keeps other processes that ask for it out of a folder, until what is returned is dropped; `None`: one of them has it.
pub(super) fn lock(dir: &Path) -> Result<Option<File>, DiskError> {
    let failed = |source| DiskError::Read { path: dir.to_owned(), source };
    let folder = File::open(dir).map_err(failed)?;
    match folder.try_lock() {
        Ok(()) => Ok(Some(folder)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// Gives a file the place of another one: the old one or the new one is there, whatever happens meanwhile.
pub(super) fn replace(from: &Path, to: &Path) -> Result<(), DiskError> {
    let replaced =
        fs::rename(from, to).and_then(|()| to.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()));
    replaced.map_err(|source| DiskError::Write { path: to.to_owned(), source })
}

/// Writes a file of its owner's alone: the old one or the new one is there, whatever happens meanwhile.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    // Another process that writes the same has a draft of its own, and threads of this one wait for each other.
    static WRITING: Mutex<()> = Mutex::new(());
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let draft = path.with_extension(format!("{}.new", std::process::id()));
    let written = (|| {
        // Left behind by who was stopped between this and the next line but one.
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        file.write_all(bytes)?;
        // Whoever has the folder goes on having what is in it.
        if let Some((uid, gid)) = given_to(path) {
            fchown(&file, Some(uid), Some(gid))?;
        }
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    written.map_err(|source| DiskError::Write { path: path.to_owned(), source })
}
