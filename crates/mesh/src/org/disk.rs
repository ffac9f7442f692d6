//! Files that are whole or not there: what a device and a registrar keep.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::OFlags;
use thiserror::Error;
use zeroize::Zeroizing;

/// How long a turn to write is waited for. Each takes milliseconds.
const TURN: Duration = Duration::from_secs(2);

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

/// The same, unless what is there `stays`. No other process comes between the look and the write.
pub(super) fn write_unless(
    path: &Path,
    bytes: &[u8],
    limit_bytes: usize,
    stays: impl FnOnce(&[u8]) -> bool,
) -> Result<(), DiskError> {
    let failed = |source| DiskError::Write { path: path.to_owned(), source };
    let turn = path.with_extension("lock");
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or(0);
    let mut options = OpenOptions::new();
    let lock = options.create(true).truncate(false).write(true).mode(0o600).custom_flags(flags).open(&turn);
    let lock = lock.map_err(failed)?;
    if let Some((uid, gid)) = given_to(path) {
        fchown(&lock, Some(uid), Some(gid)).map_err(failed)?;
    }
    let until = Instant::now() + TURN;
    // Who keeps it for longer is stopped, or the folder's hostile owner: neither is waited for.
    while let Err(TryLockError::WouldBlock) = lock.try_lock()
        && Instant::now() < until
    {
        thread::sleep(Duration::from_millis(1));
    }
    // What cannot be read is no reason to keep it.
    if read(path, limit_bytes).ok().flatten().is_some_and(|there| stays(&there)) {
        return Ok(());
    }
    write(path, bytes)
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
    written.map_err(|source| {
        // A draft with a key in it is not left behind. That it was not made is no matter.
        let _gone = fs::remove_file(&draft);
        DiskError::Write { path: path.to_owned(), source }
    })
}
