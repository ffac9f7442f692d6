//! The seal on notes about devices that move.
//!
//! A note stands in the instance's configuration, where whoever may edit the instance can write one, too. A device that
//! the server had was checked by it and its project's restrictions; what a note says was checked by nobody. So a note
//! counts only with a code (HMAC-SHA256) under a key that this host keeps to itself.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use hmac::{Hmac, KeyInit as _, Mac as _};
use portway_config::files::{self, FileError, Trust};
use sha2::Sha256;
use tracing::warn;

use crate::aside::Aside;
use crate::state::Origin;

/// Bytes of a key: as many as the hash gives (RFC 2104, section 3).
const KEY_BYTES: usize = 32;

/// What notes are sealed with, and judged by.
#[derive(Debug)]
pub(crate) struct Seals(Option<[u8; KEY_BYTES]>);

impl Seals {
    /// The key in `path`. Without one no note counts.
    pub(crate) fn load(path: &Path) -> Seals {
        match read(path) {
            Ok(key) => Seals(Some(key)),
            Err(FileError::Missing { .. }) => Seals(None),
            Err(problem) => {
                warn!(path = %path.display(), error = %problem, "no key of seals");
                Seals(None)
            }
        }
    }

    /// The key in `path`, made first if there is none.
    ///
    /// # Errors
    /// What is there is no key, or none can be made.
    pub(crate) fn load_or_make(path: &Path) -> io::Result<Seals> {
        // Two that move at once would each make one, and the second would unseal what the first has sealed. A folder
        // has one daemon, so a lock of this process is enough.
        static MAKING: Mutex<()> = Mutex::new(());
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        match read(path) {
            Ok(key) => Ok(Seals(Some(key))),
            Err(FileError::Missing { .. }) => make(path).map(|key| Seals(Some(key))),
            Err(problem) => Err(io::Error::other(problem)),
        }
    }

    /// The seal of a note, in hexadecimal digits; empty without a key.
    pub(crate) fn of(&self, uuid: &str, name: &str, origin: &Origin) -> String {
        let Some(mac) = self.code(uuid, name, origin) else { return String::new() };
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether `seal` is that of the note.
    pub(crate) fn fit(&self, uuid: &str, name: &str, origin: &Origin, seal: &str) -> bool {
        let digits = seal
            .as_bytes()
            .chunks(2)
            .map(|two| std::str::from_utf8(two).ok().and_then(|two| u8::from_str_radix(two, 16).ok()));
        let Some(seal) = digits.collect::<Option<Vec<u8>>>() else { return false };
        self.code(uuid, name, origin).is_some_and(|mac| mac.verify_slice(&seal).is_ok())
    }

    fn code(&self, uuid: &str, name: &str, origin: &Origin) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(self.0.as_ref()?).ok()?;
        // As JSON the three cannot run into each other.
        mac.update(&serde_json::to_vec(&(uuid, name, origin)).ok()?);
        Some(mac)
    }

    #[cfg(test)]
    pub(crate) const fn with(key: [u8; KEY_BYTES]) -> Seals {
        Seals(Some(key))
    }

    #[cfg(test)]
    pub(crate) const fn none() -> Seals {
        Seals(None)
    }
}

fn read(path: &Path) -> Result<[u8; KEY_BYTES], FileError> {
    let limit = u64::try_from(KEY_BYTES).unwrap_or(0);
    let bytes = files::read(path, limit, Trust::Own)?;
    let wrong = |_| FileError::Read {
        path: path.to_owned(),
        source: io::Error::other(format!("it has not {KEY_BYTES} bytes")),
    };
    <[u8; KEY_BYTES]>::try_from(bytes).map_err(wrong)
}

/// Makes a key that is on disk, whole, before it is used.
fn make(path: &Path) -> io::Result<[u8; KEY_BYTES]> {
    let key = portway_sys::random::bytes()?;
    Aside::write(path, &key, 0o600).and_then(Aside::replace).map_err(|failed| failed.source)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moves.key");
        assert!(Seals::load(&path).0.is_none());
        let made = Seals::load_or_make(&path).expect("a key").0;
        assert!(made.is_some());
        assert_eq!(Seals::load(&path).0, made);
        assert_eq!(Seals::load_or_make(&path).expect("a key").0, made);
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    /// Fails when: each that finds no key makes one, and what the first has sealed counts for nobody.
    #[test]
    fn those_who_ask_at_once_get_the_same_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moves.key");
        let start = std::sync::Barrier::new(8);
        let made: Vec<_> = std::thread::scope(|scope| {
            let ask = || {
                start.wait();
                Seals::load_or_make(&path).expect("a key").0
            };
            let asking: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
            asking.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let stays = Seals::load(&path).0;
        assert!(stays.is_some() && made.iter().all(|key| *key == stays));
    }

    #[test]
    fn what_is_no_key_is_not_used() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("moves.key");
        fs::write(&path, b"short").expect("written");
        assert!(Seals::load(&path).0.is_none());
        Seals::load_or_make(&path).expect_err("not a key");
        assert_eq!(fs::read(&path).expect("there"), b"short");
    }
}
