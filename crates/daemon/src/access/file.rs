//! The file of the access log: appended to, never through a symlink, and changed for a new one when it is full.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Who may read it: its owner and its group.
const MODE: u32 = 0o640;

/// The file that is written.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    size_bytes: u64,
}

impl LogFile {
    /// Opens the file at `path`, made if there is none.
    ///
    /// # Errors
    /// Also when there is something else than a file, a symlink above all.
    pub(super) fn open(path: &Path) -> io::Result<LogFile> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let mut options = OpenOptions::new();
        // A pipe at the path would keep who opens it waiting.
        options.append(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).mode(MODE);
        let file = match options.clone().create_new(true).open(path) {
            Ok(file) => {
                // The daemon's umask may have taken the group out.
                file.set_permissions(Permissions::from_mode(MODE))?;
                file
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} is no file", path.display()),
            ));
        }
        Ok(LogFile { file, size_bytes: found.len() })
    }

    /// Whether `lines` belong into the next file. One that is empty takes anything.
    pub(super) fn is_full(&self, lines: &[u8], max_bytes: u64) -> bool {
        let more = u64::try_from(lines.len()).unwrap_or(u64::MAX);
        self.size_bytes > 0 && self.size_bytes.saturating_add(more) > max_bytes
    }

    /// Appends whole lines, all of them or none.
    ///
    /// # Errors
    /// When there is no room, above all. What was written of them is taken back.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        match self.file.write_all(lines) {
            Ok(()) => {
                self.size_bytes = self.size_bytes.saturating_add(u64::try_from(lines.len()).unwrap_or(0));
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.size_bytes)?;
                Err(error)
            }
        }
    }
}

/// Gives the full file at `path` the name with `.1`, those before it the next numbers; the one above `files` goes.
///
/// # Errors
/// When a file cannot be renamed: nothing is written then, so that the disk is not filled.
pub(super) fn turn(path: &Path, files: u32) -> io::Result<()> {
    let numbered = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let gone = |result: io::Result<()>| match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    if files == 0 {
        return gone(fs::remove_file(path));
    }
    for number in (1..files).rev() {
        gone(fs::rename(numbered(number), numbered(number + 1)))?;
    }
    gone(fs::rename(path, numbered(1)))
}
