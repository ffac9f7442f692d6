//! Files that decide who gets in, read only where nobody else could have written them: `StrictModes` of sshd(8).
//!
//! A file and every folder above it, up to the user's home or else to `/`, belong to root or the user and can be
//! written by nobody else.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file is not read.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is none.
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is a folder, a pipe, a device.
    #[error("{} is not a file", .0.display())]
    NotAFile(PathBuf),
    /// It, or a folder above it, is another's.
    #[error("{} belongs to uid {owner}", path.display())]
    Owner {
        /// The file or folder.
        path: PathBuf,
        /// Whose.
        owner: u32,
    },
    /// It, or a folder above it, can be written by others.
    #[error("{} can be written by others (mode {mode:04o})", path.display())]
    Writable {
        /// The file or folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is too long.
    #[error("{} is longer than {max_bytes} bytes", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
        /// Greatest length.
        max_bytes: usize,
    },
}

/// Whose files are looked at.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The user. Root's files are always fine.
    pub uid: u32,
    /// His home: the folders above it are not looked at.
    pub home: Option<&'a Path>,
}

/// Reads a whole file of at most `max_bytes`. A pipe in its place does not make this wait.
///
/// # Errors
/// Why it was not read; [`FileError::Missing`] is no reason for alarm.
pub fn read(path: &Path, owner: Owner<'_>, max_bytes: usize) -> Result<Vec<u8>, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing(path.to_owned()),
        _ => FileError::Read { path: path.to_owned(), source },
    };
    // What is checked is where the links lead to.
    let real = fs::canonicalize(path).map_err(failed)?;
    let file = open(&real).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    check(&real, &meta, owner)?;
    check_parents(&real, owner)?;
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > max_bytes {
        return Err(FileError::TooLong { path: path.to_owned(), max_bytes });
    }
    Ok(bytes)
}

/// Whether nobody but root and the user could have put a program there.
///
/// # Errors
/// Who else could, or that there is none.
pub fn check_path(path: &Path, owner: Owner<'_>) -> Result<(), FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => FileError::Missing(path.to_owned()),
        _ => FileError::Read { path: path.to_owned(), source },
    };
    let real = fs::canonicalize(path).map_err(failed)?;
    let meta = fs::metadata(&real).map_err(failed)?;
    if !meta.is_file() {
        return Err(FileError::NotAFile(path.to_owned()));
    }
    check(&real, &meta, owner)?;
    check_parents(&real, owner)
}

fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

fn check_parents(file: &Path, owner: Owner<'_>) -> Result<(), FileError> {
    let home = owner.home.and_then(|home| fs::canonicalize(home).ok());
    for folder in file.ancestors().skip(1) {
        let meta =
            fs::metadata(folder).map_err(|source| FileError::Read { path: folder.to_owned(), source })?;
        check(folder, &meta, owner)?;
        if home.as_deref() == Some(folder) {
            break;
        }
    }
    Ok(())
}

fn check(path: &Path, meta: &Metadata, owner: Owner<'_>) -> Result<(), FileError> {
    if meta.uid() != 0 && meta.uid() != owner.uid {
        return Err(FileError::Owner { path: path.to_owned(), owner: meta.uid() });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(FileError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
