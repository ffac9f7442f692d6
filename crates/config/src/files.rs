//! Reading a file that somebody else may have put there: bounded, never waiting, and only what is a
//! file that nobody untrusted can write.

mod places;

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use thiserror::Error;

pub use places::{Places, Position};

/// Whose file it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Anybody's: the caller named it. Not one that everybody can write.
    Named,
    /// The caller's or root's; no other group than theirs can write it.
    Own,
}

/// Why a file cannot be used.
#[derive(Debug, Error)]
pub enum FileError {
    /// There is none.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else than a file.
    #[error("{} is {what}, not a file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is too long.
    #[error("{} is larger than {limit_bytes} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit_bytes: u64,
    },
    /// It belongs to somebody else.
    #[error("{} belongs to uid {owner}, who is neither you nor root", path.display())]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others can write it.
    #[error("{} can be written by others (mode {mode:04o})", path.display())]
    Writable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no text.
    #[error("{}:{line}:{column}: {what}", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In bytes, from 1.
        column: usize,
        /// What is there.
        what: &'static str,
    },
}

impl FileError {
    /// Whether the file itself is at fault, and not the world around it.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        match self {
            FileError::NotAFile { .. } | FileError::TooLarge { .. } | FileError::NotText { .. } => true,
            FileError::Missing { .. }
            | FileError::Read { .. }
            | FileError::Owner { .. }
            | FileError::Writable { .. } => false,
        }
    }

    /// The likely cure, one line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            FileError::Writable { path, .. } => Some(format!("chmod go-w {}", path.display())),
            FileError::Owner { path, .. } => Some(format!("chown root {}, if it is right", path.display())),
            FileError::NotText { what, .. } if what.contains("mark") => {
                Some("save it as UTF-8 without a byte order mark".to_owned())
            }
            FileError::Missing { .. }
            | FileError::Read { .. }
            | FileError::NotAFile { .. }
            | FileError::TooLarge { .. }
            | FileError::NotText { .. } => None,
        }
    }
}

/// The bytes of `path`, at most `limit_bytes`. Opening never waits, for a FIFO or a terminal neither.
///
/// # Errors
/// [`FileError`], any but [`FileError::NotText`].
pub fn read(path: &Path, limit_bytes: u64, trust: Trust) -> Result<Vec<u8>, FileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing { path: path.to_owned() },
        _ => FileError::Read { path: path.to_owned(), source },
    };
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        // A socket file cannot be opened.
        Err(error) if error.raw_os_error() == Some(nix::libc::ENXIO) => {
            return Err(FileError::NotAFile { path: path.to_owned(), what: "a socket" });
        }
        Err(error) => return Err(failed(error)),
    };
    let found = file.metadata().map_err(failed)?;
    let kind = found.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a folder",
            () if kind.is_fifo() => "a pipe",
            () if kind.is_char_device() || kind.is_block_device() => "a device",
            () => "something else",
        };
        return Err(FileError::NotAFile { path: path.to_owned(), what });
    }
    trusted(path, &found, trust)?;
    if found.len() > limit_bytes {
        return Err(FileError::TooLarge { path: path.to_owned(), limit_bytes });
    }
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit_bytes {
        return Err(FileError::TooLarge { path: path.to_owned(), limit_bytes });
    }
    Ok(bytes)
}

fn trusted(path: &Path, found: &std::fs::Metadata, trust: Trust) -> Result<(), FileError> {
    let me = rustix::process::geteuid().as_raw();
    let group = rustix::process::getegid().as_raw();
    let mode = found.mode() & 0o7777;
    if trust == Trust::Own && found.uid() != me && found.uid() != 0 {
        return Err(FileError::Owner { path: path.to_owned(), owner: found.uid() });
    }
    let foreign_group = trust == Trust::Own && found.gid() != group && found.gid() != 0;
    if mode & 0o002 != 0 || (mode & 0o020 != 0 && foreign_group) {
        return Err(FileError::Writable { path: path.to_owned(), mode });
    }
    Ok(())
}

/// Line and column of a byte of `text`, both from 1, the column in characters. A byte that begins no character, or lies
/// behind the end, counts as the end.
#[must_use]
pub fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// `bytes` as text: UTF-8 without a byte order mark and without NUL. `path` is only for messages.
///
/// # Errors
/// [`FileError::NotText`].
pub fn text(path: &Path, bytes: Vec<u8>) -> Result<String, FileError> {
    let wrong = |bytes: &[u8], at: usize, what: &'static str| {
        let before = bytes.get(..at).unwrap_or(bytes);
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        FileError::NotText { path: path.to_owned(), line, column: at - line_start + 1, what }
    };
    if bytes.starts_with(b"\xef\xbb\xbf") || bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff")
    {
        return Err(wrong(&bytes, 0, "a byte order mark"));
    }
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(wrong(&bytes, at, "a NUL byte"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        wrong(error.as_bytes(), at, "a byte that is not UTF-8")
    })
}

#[cfg(test)]
mod tests;
