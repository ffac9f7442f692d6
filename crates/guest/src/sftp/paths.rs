//! Paths: as the system takes them, absolute, and with a home in them.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, Result};

use super::names;

/// A path as system calls take it; an empty one is the working directory.
pub(super) fn name(path: &[u8]) -> Result<CString> {
    let path = if path.is_empty() { b"." } else { path };
    CString::new(path).map_err(|_| Errno::INVAL)
}

/// The absolute path without links and dots. Its last part need not be there.
pub(super) fn real(path: &[u8]) -> Result<Vec<u8>> {
    let path = name(path)?;
    let path = Path::new(OsStr::from_bytes(path.as_bytes()));
    let real = match fs::canonicalize(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(path).is_err() => {
            absent(path).ok_or(error)
        }
        other => other,
    };
    real.map(|path| path.into_os_string().into_vec()).map_err(|error| errno(&error))
}

/// The place of something that is not there in a folder that is.
fn absent(path: &Path) -> Option<PathBuf> {
    let last = path.file_name()?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Some(fs::canonicalize(parent).ok()?.join(last))
}

/// `~` and `~user` at the beginning of a path are homes; then as [`real`].
pub(super) fn expand(path: &[u8]) -> Result<Vec<u8>> {
    let Some(rest) = path.strip_prefix(b"~") else { return real(path) };
    let end = rest.iter().position(|byte| *byte == b'/').unwrap_or(rest.len());
    let (user, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(b"/").unwrap_or(rest);
    let expanded = Path::new(OsStr::from_bytes(&home(user)?)).join(OsStr::from_bytes(rest));
    real(expanded.as_os_str().as_bytes())
}

/// The home of a user; of this one when none is named.
pub(super) fn home(user: &[u8]) -> Result<Vec<u8>> {
    if user.is_empty() {
        let own = std::env::var_os("HOME").filter(|home| !home.is_empty());
        return Ok(own.unwrap_or_else(|| OsString::from("/")).into_vec());
    }
    names::home_of(user).ok_or(Errno::NOENT)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
