//! Bytes that nobody can guess.

use std::fs::File;
use std::io::{self, Read as _};

/// `COUNT` bytes of the kernel's. Not for a sandboxed process: the device is opened each time.
///
/// # Errors
/// When it has none to read.
pub fn bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}
