//! From a file somebody put into the instance to a program that has no file: checked, copied to memory, unlinked.
//!
//! The program runs twice: from its file, which it copies into a sealed memfd and removes, and then from there. Where
//! the kernel refuses to run a memfd (`vm.memfd_noexec`) it goes on from its file, which has no name any more.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, SealFlags};
use sha2::{Digest as _, Sha256};

use crate::{serve, status};

/// How an ended role says why: exit status and one line.
type Ended = Result<(), (u8, String)>;

/// What the names of our files and folders begin with; nothing else is removed.
const NAME_PREFIX: &[u8] = b".portway-guest-";

/// Our own file, whatever its name or whether it has one.
const SELF: &str = "/proc/self/exe";

/// Largest file of ours, bytes: with all that a debugger wants to know. What is sent is half a megabyte.
const FILE_MAX_BYTES: u64 = 256 << 20;

/// Checks our own file against `wanted`, a SHA-256 in hex, removes its name and serves from memory.
pub(crate) fn settle(wanted: Option<&str>) -> Ended {
    let failed = |error: io::Error| (status::FAILED, format!("cannot read {SELF}: {error}"));
    let file = File::open(SELF).map_err(failed)?;
    let mut program = Vec::new();
    (&file).take(FILE_MAX_BYTES).read_to_end(&mut program).map_err(failed)?;
    let hash = Sha256::digest(&program).into();
    remove_name();
    if wanted.is_some_and(|wanted| wanted != hex(&hash)) {
        return Err((status::DAMAGED, "the program's file is not what was sent".to_owned()));
    }
    if let Ok(memory) = in_memory(&program) {
        drop(program);
        let error = run(&memory, &hash);
        // Only what was refused to a memfd is tried without one.
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err((status::FAILED, format!("cannot run from memory: {error}")));
        }
    }
    // Users run it too, for SFTP; nobody finds it by name.
    file.set_permissions(Permissions::from_mode(0o755)).map_err(failed)?;
    serve::serve(hash).map_err(|error| (status::FAILED, error.to_string()))
}

/// Serves as what [`settle`] has made of us; `hash` is what it found.
pub(crate) fn serving(hash: &str) -> Ended {
    let Some(hash) = unhex(hash) else {
        return Err((status::USAGE, "serving is not called by hand".to_owned()));
    };
    serve::serve(hash).map_err(|error| (status::FAILED, error.to_string()))
}

/// Removes the file we run from and the folder it was put in, if their names are ours.
fn remove_name() {
    let Ok(path) = fs::read_link(SELF) else { return };
    if is_ours(path.file_name()) {
        // Somebody may have removed it already; a name that stays is of no harm but for its place.
        let _ = fs::remove_file(&path);
        if let Some(dir) = path.parent().filter(|dir| is_ours(dir.file_name())) {
            let _ = fs::remove_dir(dir);
        }
    }
}

fn is_ours(name: Option<&OsStr>) -> bool {
    name.is_some_and(|name| name.as_encoded_bytes().starts_with(NAME_PREFIX))
}

/// A sealed file without a name that holds `program`.
fn in_memory(program: &[u8]) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag, and need none.
    let memory = rustix::fs::memfd_create("portway-guest", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("portway-guest", flags))?;
    let mut memory = File::from(memory);
    memory.write_all(program)?;
    let seals = SealFlags::SEAL | SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK;
    rustix::fs::fcntl_add_seals(memory.as_fd(), seals)?;
    Ok(memory)
}

/// Becomes what is in `memory`; returns why not.
fn run(memory: &File, hash: &[u8; 32]) -> io::Error {
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Command::new(Path::new(&path)).arg0("portway-guest").arg("serving").arg(hex(hash)).exec()
}

fn hex(hash: &[u8; 32]) -> String {
    let digit = |value: u8| char::from_digit(u32::from(value), 16).unwrap_or('0');
    hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    (text.len() == 64).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_written() {
        let hash: [u8; 32] = Sha256::digest(b"x").into();
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        assert_eq!(unhex(&hex(&hash)[1..]), None);
        assert_eq!(unhex(&"g".repeat(64)), None);
    }

    #[test]
    fn only_names_of_ours_are_removed() {
        assert!(is_ours(Some(OsStr::new(".portway-guest-0123"))));
        assert!(!is_ours(Some(OsStr::new("portway-guest"))));
        assert!(!is_ours(None));
    }
}
