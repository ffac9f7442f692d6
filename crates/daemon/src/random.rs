//! Bytes that nobody can guess.

use std::fs::File;
use std::io::{self, Read as _};

/// `COUNT` bytes of the kernel's.
///
/// # Errors
/// When it has none to read.
pub(crate) fn random_bytes<const COUNT: usize>() -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Name of a worker: `w` and 16 hex digits.
///
/// # Errors
/// As [`random_bytes`].
pub(crate) fn random_name() -> io::Result<String> {
    Ok(format!("w{:016x}", u64::from_ne_bytes(random_bytes()?)))
}
