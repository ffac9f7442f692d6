//! The instance's own files of users and groups.

use std::fs;
use std::path::Path;

use portway_proto::service::User;

/// Longest file that is read, bytes.
const FILE_MAX_BYTES: u64 = 16 << 20;

/// As [`User::find`], with the files of the folder.
pub(super) fn find(etc: &Path, wanted: &[u8], more: &[Vec<u8>]) -> Result<User, String> {
    User::find(&read(&etc.join("passwd")), &read(&etc.join("group")), wanted, more)
}

/// Nothing of what is no file.
fn read(path: &Path) -> Vec<u8> {
    let fits = fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() <= FILE_MAX_BYTES);
    if fits { fs::read(path).unwrap_or_default() } else { Vec::new() }
}
