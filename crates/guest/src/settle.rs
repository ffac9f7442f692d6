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
use std::time::Duration;

use rustix::fs::{MemfdFlags, SealFlags};
use sha2::{Digest as _, Sha256};

use crate::limits::Limits;
use crate::{keep, serve, status};

/// How an ended role says why: exit status and one line.
type Ended = Result<(), (u8, String)>;

/// What the names of our files and folders begin with; nothing else is removed.
const NAME_PREFIX: &[u8] = b".portway-guest-";

/// Where such files are put.
const PLACES: [&str; 2] = ["/dev/shm", "/run"];

/// From this age on such a file is nobody's: it is run, or taken away again, in less than a minute.
const STALE: Duration = Duration::from_secs(600);

/// Our own file, whatever its name or whether it has one.
const SELF: &str = "/proc/self/exe";

/// Largest file of ours, bytes: with all that a debugger wants to know. What is sent is half a megabyte.
const FILE_MAX_BYTES: u64 = 256 << 20;

/// Checks our own file against `wanted`, a SHA-256 in hex, removes its name and serves from memory, within `limits`.
pub(crate) fn settle(wanted: Option<&str>, limits: &[&OsStr]) -> Ended {
    if wanted.is_some_and(|wanted| unhex(wanted).is_none()) {
        return Err((status::USAGE, "what follows serve is no SHA-256".to_owned()));
    }
    limits_of(limits)?;
    let failed = |error: io::Error| (status::FAILED, format!("cannot read {SELF}: {error}"));
    let file = File::open(SELF).map_err(failed)?;
    let mut program = Vec::new();
    (&file).take(FILE_MAX_BYTES).read_to_end(&mut program).map_err(failed)?;
    let hash = Sha256::digest(&program).into();
    remove_name();
    for dir in PLACES {
        sweep(Path::new(dir));
    }
    if wanted.is_some_and(|wanted| wanted != hex(&hash)) {
        return Err((status::DAMAGED, "the program's file is not what was sent".to_owned()));
    }
    if let Ok(memory) = in_memory(&program) {
        drop(program);
        let error = run(&memory, &hash, limits);
        // Only what was refused to a memfd is tried without one.
        if error.kind() != io::ErrorKind::PermissionDenied {
            return Err((status::FAILED, format!("cannot run from memory: {error}")));
        }
    }
    // Users run it too, for SFTP; nobody finds it by name.
    file.set_permissions(Permissions::from_mode(0o755)).map_err(failed)?;
    within(limits, hash)
}

/// Serves as what [`settle`] has made of us; `hash` is what it found.
pub(crate) fn serving(hash: &str, limits: &[&OsStr]) -> Ended {
    let Some(hash) = unhex(hash) else {
        return Err((status::USAGE, "serving is not called by hand".to_owned()));
    };
    within(limits, hash)
}

/// Serves as the user that the limits name, if there are any; or does the one thing that stands in their place.
fn within(limits: &[&OsStr], hash: [u8; 32]) -> Ended {
    if let Some(words) = survey(limits) {
        return keep::survey(words);
    }
    serve::serve(hash, limits_of(limits)?).map_err(|error| (status::FAILED, error.to_string()))
}

/// What is asked of sessions that stay, where a call asks that.
fn survey<'a>(words: &'a [&'a OsStr]) -> Option<&'a [&'a OsStr]> {
    words.split_first().filter(|(first, _)| **first == "kept").map(|(_, words)| words)
}

/// The limits a call names, if it names any.
fn limits_of(words: &[&OsStr]) -> Result<Option<Limits>, (u8, String)> {
    if survey(words).is_some() {
        return Ok(None);
    }
    match (words, Limits::read(words)) {
        ([], _) => Ok(None),
        (_, None) => Err((status::USAGE, "limits that are none".to_owned())),
        (_, limits) => Ok(limits),
    }
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

/// Removes what is left in a folder of helpers that never ran: their gateway died while it put them there.
fn sweep(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|entry| is_ours(Some(&entry.file_name()))) {
        // Of the entry itself: a link says nothing about what it leads to.
        let age =
            entry.metadata().and_then(|entry| entry.modified()).ok().and_then(|then| then.elapsed().ok());
        if age.is_some_and(|age| age > STALE) {
            let path = entry.path();
            // A folder of ours holds a file of its own name. What is something else stays.
            let _ = fs::remove_file(path.join(entry.file_name()));
            let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
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
fn run(memory: &File, hash: &[u8; 32], limits: &[&OsStr]) -> io::Error {
    let path = format!("/proc/self/fd/{}", memory.as_raw_fd());
    Command::new(Path::new(&path)).arg0("portway-guest").arg("serving").arg(hex(hash)).args(limits).exec()
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

    /// Fails when a file of a moment ago, or of another name, is taken for a leftover.
    #[test]
    fn leftovers_are_old_and_ours() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let names = [".portway-guest-old", ".portway-guest-new", "old"];
        for name in names {
            File::create(path(name)).expect("a file");
        }
        let old = path(".portway-guest-dir");
        fs::create_dir(&old).expect("a folder");
        File::create(old.join(".portway-guest-dir")).expect("a file");
        let then = std::time::SystemTime::now() - 2 * STALE;
        for name in [names[0], names[2], ".portway-guest-dir"] {
            File::open(path(name)).and_then(|file| file.set_modified(then)).expect("a time");
        }
        sweep(dir.path());
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).expect("a folder").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, [".portway-guest-new", "old"]);
    }

    #[test]
    fn only_names_of_ours_are_removed() {
        assert!(is_ours(Some(OsStr::new(".portway-guest-0123"))));
        assert!(!is_ours(Some(OsStr::new("portway-guest"))));
        assert!(!is_ours(None));
    }
}
