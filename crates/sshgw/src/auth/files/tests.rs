//! Files that somebody else could have written.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("ssh")).unwrap();
        fs::write(dir.path().join("ssh/keys"), "text").unwrap();
        let home = Self { dir };
        for path in ["ssh/keys", "ssh", "."] {
            home.mode(path, 0o700);
        }
        home
    }

    fn mode(&self, path: &str, mode: u32) {
        fs::set_permissions(self.dir.path().join(path), Permissions::from_mode(mode)).unwrap();
    }

    fn read(&self, path: &str) -> Result<Vec<u8>, FileError> {
        let uid = rustix::process::getuid().as_raw();
        read(&self.dir.path().join(path), Owner { uid, home: Some(self.dir.path()) }, 16)
    }
}

/// Fails when: a file or folder that others can write is trusted.
#[test]
fn what_others_can_write_is_not_read() {
    for path in ["ssh/keys", "ssh", "."] {
        for mode in [0o720, 0o702, 0o1777] {
            let home = Home::new();
            assert_eq!(home.read("ssh/keys").unwrap(), b"text");
            home.mode(path, mode);
            assert!(matches!(home.read("ssh/keys"), Err(FileError::Writable { .. })), "{path} {mode:o}");
        }
    }
}

/// Fails when: a folder of somebody else's leads to the file, or a link hides where it is.
#[test]
fn what_belongs_to_others_is_not_read() {
    let home = Home::new();
    let other = Owner { uid: 4_000_000, home: Some(home.dir.path()) };
    let path = home.dir.path().join("ssh/keys");
    let is_root = rustix::process::getuid().is_root();
    assert_eq!(matches!(read(&path, other, 16), Err(FileError::Owner { .. })), !is_root);
    home.mode("ssh", 0o777);
    symlink(&path, home.dir.path().join("link")).unwrap();
    assert!(matches!(home.read("link"), Err(FileError::Writable { .. })));
}

/// Fails when: something else than a file is opened and waited for, or a long one is read whole.
#[test]
fn only_short_files_are_read() {
    let home = Home::new();
    let path = home.dir.path().join("fifo");
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(home.read("fifo"), Err(FileError::NotAFile(_))));
    assert!(matches!(home.read("ssh"), Err(FileError::NotAFile(_))));
    assert!(matches!(home.read("none"), Err(FileError::Missing(_))));
    assert!(matches!(home.read("ssh/keys/none"), Err(FileError::Missing(_))));
    fs::write(home.dir.path().join("ssh/keys"), [b'x'; 17]).unwrap();
    assert!(matches!(home.read("ssh/keys"), Err(FileError::TooLong { max_bytes: 16, .. })));
}
