//! The one way out of this crate: reading files.

use std::io;
use std::path::{Path, PathBuf};

/// Reads the files that a Compose file names.
pub trait Host {
    /// The text of a file.
    ///
    /// # Errors
    /// As reading a file fails; a file that is no UTF-8 or far too long is an error too.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Whether there is such a file.
    fn is_file(&self, path: &Path) -> bool;

    /// Where a path leads when links are followed; `None` when nobody can tell.
    fn real(&self, path: &Path) -> Option<PathBuf> {
        Some(path.to_owned())
    }

    /// Whether what a file says may be repeated in a message.
    fn is_own(&self, _path: &Path) -> bool {
        true
    }
}
