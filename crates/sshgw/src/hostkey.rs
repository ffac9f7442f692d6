//! The key that says which gateway this is.
//!
//! One Ed25519 key of the gateway's own, made at its first start, so that it shares no identity with the host's SSH
//! server. A file that others can read is not used: whoever has it can pretend to be this gateway.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use portway_sys::random;
use russh::keys::ssh_key::LineEnding;
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::keys::{Algorithm, PrivateKey};

/// Longest key file, bytes; an RSA key of 16,384 bits takes 13 kB.
const FILE_BYTES: u64 = 64 << 10;

/// Why there is no host key.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    /// The file cannot be read.
    #[error("cannot read host key {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("cannot make host key {}", path.display())]
    Make {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it, or somebody else has written it.
    #[error("host key {} is not ours alone (owner {owner}, mode {mode:04o})", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// It is not a private key in OpenSSH's format, or has a passphrase.
    #[error("host key {} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Reads the key at `path`, made first when there is none.
///
/// # Errors
/// Any [`HostKeyError`].
pub fn load_or_make(path: &Path) -> Result<PrivateKey, HostKeyError> {
    match load(path) {
        Err(HostKeyError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            make(path).map_err(|source| HostKeyError::Make { path: path.to_owned(), source })?;
            load(path)
        }
        other => other,
    }
}

/// Reads the key at `path`.
///
/// # Errors
/// Any [`HostKeyError`] but `Make`.
pub fn load(path: &Path) -> Result<PrivateKey, HostKeyError> {
    let failed = |source| HostKeyError::Read { path: path.to_owned(), source };
    let unusable = |reason: &str| HostKeyError::Unusable { path: path.to_owned(), reason: reason.to_owned() };
    // Not to hang on a pipe that has its name.
    let flags = nix::libc::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(unusable("it is no plain file"));
    }
    let (owner, mode) = (meta.uid(), meta.mode() & 0o7777);
    let me = rustix::process::geteuid().as_raw();
    if mode & 0o077 != 0 || (owner != me && owner != 0) {
        return Err(HostKeyError::Exposed { path: path.to_owned(), owner, mode });
    }
    let mut text = Vec::new();
    file.take(FILE_BYTES).read_to_end(&mut text).map_err(failed)?;
    let key = PrivateKey::from_openssh(&text).map_err(|error| unusable(&error.to_string()))?;
    if key.is_encrypted() {
        return Err(unusable("it has a passphrase"));
    }
    match key.algorithm() {
        Algorithm::Ed25519 | Algorithm::Ecdsa { .. } => Ok(key),
        // RUSTSEC-2023-0071: the time an RSA signature takes tells of the key.
        _ => Err(unusable("only Ed25519 and ECDSA keys are")),
    }
}

/// Keys of the host's own SSH server in a folder, those of them that can be used here.
#[must_use]
pub fn of_host(dir: &Path) -> Vec<PrivateKey> {
    let mut keys = Vec::new();
    for name in ["ssh_host_ed25519_key", "ssh_host_ecdsa_key"] {
        match load(&dir.join(name)) {
            Ok(key) => keys.push(key),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a key of the host is not offered")
            }
        }
    }
    keys
}

/// Makes a key. Whoever comes first wins; nobody ever sees half a file.
fn make(path: &Path) -> io::Result<()> {
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&random::bytes()?));
    key.set_comment("portway");
    let text = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let draft = dir.join(format!(".ssh_host_key.{:016x}", u64::from_ne_bytes(random::bytes()?)));
    let flags = nix::libc::O_NOFOLLOW;
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(flags).open(&draft);
    let made = made.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        match fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    });
    let removed = fs::remove_file(&draft);
    made?;
    removed?;
    File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_only() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("deeper/ssh_host_ed25519_key");
        let made: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_make(&path))).collect();
            makers.into_iter().map(|maker| maker.join().expect("no panic").expect("a key")).collect()
        });
        let first = load(&path).expect("a key");
        assert!(made.iter().all(|key| key.public_key() == first.public_key()), "two keys were used");
        assert_eq!(first.algorithm(), Algorithm::Ed25519);
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o7777, 0o600);
        let left: Vec<_> = fs::read_dir(path.parent().expect("a folder")).expect("a list").collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[test]
    fn what_others_can_read_or_nobody_understands_is_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("key");
        load_or_make(&path).expect("a key");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("a mode");
        let error = load_or_make(&path).expect_err("it is exposed");
        assert!(matches!(error, HostKeyError::Exposed { mode: 0o640, .. }), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        fs::write(&path, "no key").expect("written");
        assert!(matches!(load_or_make(&path), Err(HostKeyError::Unusable { .. })));
        assert_eq!(fs::read(&path).expect("there"), b"no key", "it is not overwritten");
        assert!(matches!(load_or_make(dir.path()), Err(HostKeyError::Unusable { .. })));
    }
}
