//! Connecting, and the folders that connects start from.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};

use super::*;

#[test]
fn connecting() {
    expect_child(None, connecting_alone);
}

fn connecting_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    let listener = UnixListener::bind(dir.path().join("run/s")).unwrap();
    let _datagram = UnixDatagram::bind(dir.path().join("run/d")).unwrap();
    drop(UnixListener::bind(dir.path().join("run/dead")).unwrap());
    fs::write(dir.path().join("run/file"), "").unwrap();
    symlink("/run/s", dir.path().join("link")).unwrap();
    symlink("s", dir.path().join("run/link")).unwrap();
    symlink("loop", dir.path().join("run/loop")).unwrap();
    let root = below(dir.path(), "/").root;
    let parent = below(&dir.path().join("run"), "/").root;
    let errno = |kind, path: &str| {
        let base = if kind == Base::Root { &root } else { &parent };
        connect_stream(base.as_fd(), kind, Path::new(path))
            .map_err(|error| error.raw_os_error().unwrap_or(libc::EINVAL))
            .err()
    };
    let cases = [
        (Base::Root, "/run/s", None),
        (Base::Root, "/link", None),
        (Base::Root, "/run/none", Some(libc::ENOENT)),
        (Base::Root, "/run/dead", Some(libc::ECONNREFUSED)),
        (Base::Root, "/run/file", Some(libc::ECONNREFUSED)),
        (Base::Root, "/run/d", Some(libc::EPROTOTYPE)),
        (Base::Root, "/run/loop", Some(libc::ELOOP)),
        (Base::Root, "/run", Some(libc::ECONNREFUSED)),
        (Base::Parent, "/srv/s", None),
        (Base::Parent, "/srv/link", Some(libc::ELOOP)),
        (Base::Parent, "/srv/none", Some(libc::ENOENT)),
        (Base::Parent, "/srv/dead", Some(libc::ECONNREFUSED)),
        (Base::Parent, "/srv/..", Some(libc::EINVAL)),
    ];
    for (kind, path, expected) in cases {
        assert_eq!(errno(kind, path), expected, "{kind:?} {path}");
    }
    let socket = connect_stream(root.as_fd(), Base::Root, Path::new("/run/s")).unwrap();
    assert!(rustix::fs::fcntl_getfl(&socket).unwrap().contains(OFlags::NONBLOCK));
    drop((listener, socket));
}

#[test]
fn a_full_backlog_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let socket = net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    net::bind(&socket, &SocketAddrUnix::new(dir.path().join("s")).unwrap()).unwrap();
    net::listen(&socket, 1).unwrap();
    let root = below(dir.path(), "/").root;
    let mut waiting = Vec::new();
    let error = loop {
        match connect_stream(root.as_fd(), Base::Root, Path::new("/s")) {
            Ok(client) => waiting.push(client),
            Err(error) => break error,
        }
        assert!(waiting.len() < 10);
    };
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    assert!(matches!(bind(&dir.path().join("s")), Err(BindError::InUse { .. })));
}

#[test]
fn the_parent_of_what_a_symlink_leads_to() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("a/b")).unwrap();
    symlink("b/one", dir.path().join("a/link")).unwrap();
    symlink("/a/link", dir.path().join("far")).unwrap();
    symlink("loop", dir.path().join("loop")).unwrap();
    let root = below(dir.path(), "/").root;
    let found = |path: &str| open_target_parent(root.as_fd(), Path::new(path));
    for path in ["/far", "/a/link", "/a/b/one"] {
        let (parent, name) = found(path).unwrap();
        assert_eq!(
            rustix::fs::fstat(parent).unwrap().st_ino,
            fs::metadata(dir.path().join("a/b")).unwrap().ino()
        );
        assert_eq!(name, "one");
    }
    assert_eq!(found("/loop").unwrap_err().raw_os_error(), Some(libc::ELOOP));
    assert_eq!(found("/none/x").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_jailed_folder_has_no_way_up() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("run")).unwrap();
    let _inside = UnixListener::bind(dir.path().join("run/s")).unwrap();
    let _outside = UnixListener::bind(dir.path().join("secret")).unwrap();
    let (parent, name) = open_parent(host_root().unwrap().as_fd(), &dir.path().join("run/s")).unwrap();
    let up = |base: &OwnedFd| rustix::fs::openat(base, "../secret", OFlags::PATH, Mode::empty());
    assert!(up(&parent).is_ok(), "what this is about");
    let jailed = jail(parent.as_fd()).unwrap();
    assert_eq!(up(&jailed).unwrap_err(), rustix::io::Errno::NOENT);
    drop(parent);
    connect_stream(jailed.as_fd(), Base::Parent, Path::new(&name)).unwrap();
    // A socket that is made later is seen too.
    let _later = UnixListener::bind(dir.path().join("run/later")).unwrap();
    connect_stream(jailed.as_fd(), Base::Parent, Path::new("later")).unwrap();
    assert!(sockopt::socket_acceptconn(&_later).unwrap());
}
