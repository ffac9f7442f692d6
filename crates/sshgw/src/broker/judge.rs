//! Who somebody is: whether a key is one of a host user's, and where the login leads.
//!
//! Nothing here touches a server, so that the answer and its time are the same whatever instances there are.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use portway_proto::login::{Dialect, Keep, Login, Wish};
use russh::keys::{HashAlg, PublicKey};

use super::grant::Grant;
use crate::auth::key;

/// Longest file of keys that is read, bytes.
const FILE_BYTES: u64 = 1 << 20;

/// Why somebody is not let in: for the log, never for the client.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    /// The login says nothing, or nothing that is known.
    #[error("the login is not understood: {0}")]
    Login(String),
    /// What it asks for cannot be done.
    #[error("{0} cannot be asked for")]
    Wish(&'static str),
    /// What the client offers is no key.
    #[error("the key is not understood")]
    Key,
    /// It is one that is not used, wherever it is listed.
    #[error(transparent)]
    Weak(#[from] key::WeakKey),
    /// There is no such user of the host.
    #[error("there is no host user {0}")]
    NoUser(String),
    /// He does not have the key.
    #[error("host user {0} has no such key")]
    NoKey(String),
    /// His keys cannot be trusted.
    #[error("the keys of host user {0} are not used: {1}")]
    Keys(String, String),
}

/// Whether `login` may be entered with `key`, a public key in OpenSSH's format.
pub(super) fn judge(login: &str, key: &str) -> Result<Grant, Reason> {
    let login = Login::parse(login, Dialect::Auto).map_err(|error| Reason::Login(error.to_string()))?;
    let session = match login.wish {
        Wish::Session(session) => session,
        Wish::Create(_) => return Err(Reason::Wish("a new instance")),
        Wish::Command(_) => return Err(Reason::Wish("a command")),
    };
    if session.keep != Keep::No {
        return Err(Reason::Wish("a session that stays"));
    }
    if session.place.remote.is_some() {
        return Err(Reason::Wish("another server"));
    }
    let key = PublicKey::from_openssh(key).map_err(|_| Reason::Key)?;
    key::check(key.key_data())?;
    let person = session.host_user.as_str();
    // Others would have to be in a group.
    if person != "root" {
        return Err(Reason::NoUser(person.to_owned()));
    }
    let user = nix::unistd::User::from_name(person).ok().flatten();
    let user = user.ok_or_else(|| Reason::NoUser(person.to_owned()))?;
    let text = keys(&user.dir, user.uid.as_raw());
    let text = text.map_err(|error| Reason::Keys(person.to_owned(), error.to_string()))?;
    if !holds(&text, &key) {
        return Err(Reason::NoKey(person.to_owned()));
    }
    Ok(Grant {
        person: person.to_owned(),
        key: key.fingerprint(HashAlg::Sha256).to_string(),
        project: session.place.project.to_string(),
        instance: session.place.instance.to_string(),
        instance_user: session.place.instance_user.as_str().to_owned(),
    })
}

/// The user's keys, when nobody else can have written them (`StrictModes` of sshd_config(5)).
fn keys(home: &Path, uid: u32) -> io::Result<String> {
    let folder = home.join(".ssh");
    for path in [home, &folder] {
        check(&fs::metadata(path)?, uid)?;
    }
    let file = File::open(folder.join("authorized_keys"))?;
    let meta = file.metadata()?;
    check(&meta, uid)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut text = String::new();
    file.take(FILE_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn check(meta: &fs::Metadata, uid: u32) -> io::Result<()> {
    let fine = meta.mode() & 0o022 == 0 && (meta.uid() == uid || meta.uid() == 0);
    if fine { Ok(()) } else { Err(io::Error::other("bad ownership or modes")) }
}

/// Whether a line is this key and nothing else. One with options is not taken: they would have to be honoured.
fn holds(text: &str, key: &PublicKey) -> bool {
    let kind = key.algorithm();
    let lines = text.lines().map(str::trim).filter(|line| line.split(' ').next() == Some(kind.as_str()));
    lines.filter_map(|line| PublicKey::from_openssh(line).ok()).any(|one| one.key_data() == key.key_data())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl a";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4K6MRt3+Y3UnT6W7WpBtqIR2Wq0t3kPcwcKkLBPGNY b";

    #[test]
    fn a_key_with_options_is_not_taken() {
        let key = PublicKey::from_openssh(KEY).expect("a key");
        assert!(holds(&format!("# c\n\n{OTHER}\n  {KEY} with words\r\n"), &key));
        for text in [OTHER, &format!("restrict {KEY}"), &format!("#{KEY}"), &KEY[..60], "", "ssh-ed25519"] {
            assert!(!holds(text, &key), "{text}");
        }
    }

    #[test]
    fn keys_that_others_may_write_are_not_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let (home, uid) = (dir.path(), rustix::process::geteuid().as_raw());
        let mode =
            |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
        let folder = home.join(".ssh");
        assert!(keys(home, uid).is_err());
        fs::create_dir(&folder).expect("a folder");
        mode(&folder, 0o755);
        let file = folder.join("authorized_keys");
        fs::write(&file, KEY).expect("written");
        mode(&file, 0o644);
        assert_eq!(keys(home, uid).expect("keys"), KEY);
        for path in [home, &folder, &file] {
            let before = fs::metadata(path).expect("there").mode();
            mode(path, before | 0o020);
            assert!(keys(home, uid).is_err(), "{}", path.display());
            mode(path, before);
        }
    }
}
