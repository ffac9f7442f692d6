use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;

use super::*;

const LIMIT: u64 = 1 << 20;

fn said(path: &Path) -> String {
    let read = read(path, LIMIT, Trust::Own).and_then(|bytes| text(path, bytes));
    read.unwrap_err().to_string().replace(&path.display().to_string(), "FILE")
}

/// Fails when a pipe is opened without `O_NONBLOCK`: the test hangs.
#[test]
fn what_is_no_file_is_named_and_never_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let _listener = UnixListener::bind(path("socket")).unwrap();
    symlink("/dev/zero", path("zero")).unwrap();
    symlink("/dev/full", path("full")).unwrap();
    for (name, expected) in [
        ("pipe", "FILE is a pipe, not a file"),
        ("socket", "FILE is a socket, not a file"),
        ("", "FILE is a folder, not a file"),
        ("zero", "FILE is a device, not a file"),
        ("full", "FILE is a device, not a file"),
        ("none", "FILE does not exist"),
    ] {
        assert_eq!(said(&path(name)), expected);
    }
}

#[test]
fn a_file_of_a_hundred_megabytes_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large");
    File::create(&path).unwrap().set_len(100 << 20).unwrap();
    assert_eq!(said(&path), format!("FILE is larger than {LIMIT} bytes"));
}

#[test]
fn what_is_no_text_is_shown_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("text");
    for (bytes, expected) in [
        (b"a\nbc\xff".as_slice(), "FILE:2:3: a byte that is not UTF-8"),
        (b"\xef\xbb\xbfa", "FILE:1:1: a byte order mark"),
        (b"\xff\xfea\0", "FILE:1:1: a byte order mark"),
        (b"a\0", "FILE:1:2: a NUL byte"),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_eq!(said(&path), expected);
    }
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("open");
    fs::write(&path, "").unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o646)).unwrap();
    assert_eq!(said(&path), "FILE can be written by others (mode 0646)");
    assert!(matches!(read(&path, LIMIT, Trust::Named), Err(FileError::Writable { .. })));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(read(&path, LIMIT, Trust::Own).unwrap(), b"");
}

/// A link to a file of somebody else counts as that file.
#[test]
fn a_link_to_a_file_of_somebody_else_is_refused() {
    if !portway_testkit::is_root() {
        // Nobody else can give a file away.
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (file, link) = (dir.path().join("file"), dir.path().join("link"));
    fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(4242), Some(4242)).unwrap();
    symlink(&file, &link).unwrap();
    assert_eq!(said(&link), "FILE belongs to uid 4242, who is neither you nor root");
    assert_eq!(read(&link, LIMIT, Trust::Named).unwrap(), b"");
    std::os::unix::fs::chown(&file, Some(0), Some(4242)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
    assert_eq!(said(&link), "FILE can be written by others (mode 0664)");
}
