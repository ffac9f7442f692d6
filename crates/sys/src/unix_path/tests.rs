use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::MountPropagationFlags;
use rustix::net::sockopt;

use super::*;
use crate::testing::{self, NOBODY, expect_child};

fn me() -> Owner {
    Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
}

fn place(path: impl Into<PathBuf>) -> Place {
    Place { root: host_root().unwrap(), path: path.into() }
}

/// A place whose root is `dir`.
fn below(dir: &Path, path: &str) -> Place {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    Place { root: rustix::fs::open(dir, flags, Mode::empty()).unwrap(), path: path.into() }
}

fn bind(path: &Path) -> Result<Bound, BindError> {
    bind_stream(place(path), me(), 0o644)
}

/// Waits for and takes a client of a non-blocking listener.
fn accept(bound: &Bound) -> OwnedFd {
    let mut fds = [rustix::event::PollFd::new(&bound.fd, rustix::event::PollFlags::IN)];
    let time = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&time)).unwrap();
    net::accept(&bound.fd).unwrap()
}

#[test]
fn a_bound_socket_serves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("web.sock");
    let bound = bind(&path).unwrap();
    let flags = rustix::fs::fcntl_getfl(&bound.fd).unwrap();
    assert!(flags.contains(OFlags::NONBLOCK));
    assert!(rustix::io::fcntl_getfd(&bound.fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    let meta = fs::symlink_metadata(&path).unwrap();
    assert_eq!((meta.dev(), meta.ino()), (bound.dev, bound.ino));
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"x").unwrap();
    File::from(accept(&bound)).read_exact(&mut [0]).unwrap();
    assert!(check(&place(&path), bound.dev, bound.ino));
    assert!(remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap());
    assert!(!check(&place(&path), bound.dev, bound.ino));
    assert!(!remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap(), "nothing there is no error");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn the_longest_name_fits() {
    let dir = tempfile::tempdir().unwrap();
    let name = "n".repeat(106);
    let bound = bind_stream(below(dir.path(), &format!("/{name}")), me(), 0o600).unwrap();
    let base = below(dir.path(), "/").root;
    connect_stream(base.as_fd(), Base::Root, Path::new(&format!("/{name}"))).unwrap();
    connect_stream(base.as_fd(), Base::Parent, Path::new(&format!("/{name}"))).unwrap();
    drop(bound);
    let longer = bind_stream(below(dir.path(), &format!("/{}", "n".repeat(200))), me(), 0o600);
    assert!(matches!(longer, Err(BindError::Failed { .. })));
}

/// Owner and mode are looked at from the moment the file appears, many times over.
#[test]
fn owner_and_mode_are_right_from_the_first_moment() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let stop = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let spy = scope.spawn(|| {
            let mut seen = std::collections::BTreeSet::new();
            while !stop.load(Ordering::Relaxed) {
                if let Ok(meta) = fs::symlink_metadata(&path) {
                    seen.insert((meta.uid(), meta.gid(), meta.mode() & 0o7777));
                }
            }
            seen
        });
        let owner = Owner { uid: 1234, gid: 2345 };
        for _ in 0..300 {
            let bound = bind_stream(place(&path), owner, 0o660).unwrap();
            assert!(remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap());
        }
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        drop(bound);
        stop.store(true, Ordering::Relaxed);
        spy.join().unwrap()
    });
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(1234, 2345, 0o660)]);
}

#[test]
fn every_mode_is_possible_and_the_callers_umask_and_directory_stay() {
    let dir = tempfile::tempdir().unwrap();
    let directory = std::env::current_dir().unwrap();
    let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
    for mode in [0, 0o400, 0o600, 0o644, 0o666, 0o777] {
        let path = dir.path().join(format!("{mode:o}"));
        bind_stream(place(&path), me(), mode).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    bind_stream(place(dir.path().join("more")), me(), 0o7777).unwrap();
    assert_eq!(fs::symlink_metadata(dir.path().join("more")).unwrap().mode() & 0o7777, 0o777);
    assert_eq!(rustix::process::umask(umask), Mode::from_raw_mode(0o077));
    assert_eq!(std::env::current_dir().unwrap(), directory);
    assert_eq!(me().uid, rustix::process::geteuid().as_raw());
}

#[test]
fn the_listeners_credentials_are_the_owners() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bound = bind_stream(place(&path), Owner { uid: 1234, gid: 2345 }, 0o666).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let peer = nix::sys::socket::getsockopt(&client, nix::sys::socket::sockopt::PeerCredentials).unwrap();
    assert_eq!((peer.uid(), peer.gid()), (1234, 2345));
    drop(bound);
}

#[test]
fn a_set_group_id_folder_does_not_decide_the_group() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(77), Some(77)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2700)).unwrap();
    for owner in [Owner { uid: 1234, gid: 2345 }, Owner { uid: 0, gid: 0 }, Owner { uid: 77, gid: 5 }] {
        let path = dir.path().join(owner.gid.to_string());
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (owner.uid, owner.gid, 0o660));
        drop(bound);
    }
}

#[test]
fn a_dead_socket_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(UnixListener::bind(&path).unwrap());
    let first = bind(&path).unwrap();
    drop(first);
    drop(UnixDatagram::bind(dir.path().join("d")).unwrap());
    bind(&dir.path().join("d")).unwrap();
    let second = bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    drop(second);
}

#[test]
fn a_living_socket_of_any_kind_is_left_alone_and_notices_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stream");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    let in_use = |path: &Path| {
        let before = fs::symlink_metadata(path).unwrap().ino();
        assert!(matches!(bind(path), Err(BindError::InUse { .. })), "{}", path.display());
        assert_eq!(fs::symlink_metadata(path).unwrap().ino(), before);
    };
    in_use(&path);
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "no connection came");

    let _datagram = UnixDatagram::bind(dir.path().join("dgram")).unwrap();
    in_use(&dir.path().join("dgram"));
    let connected = UnixDatagram::bind(dir.path().join("connected")).unwrap();
    connected.connect(dir.path().join("dgram")).unwrap();
    in_use(&dir.path().join("connected"));
    for kind in [SocketType::SEQPACKET, SocketType::STREAM] {
        // Bound, but not listening yet.
        let path = dir.path().join(format!("kind {}", kind.as_raw()));
        let socket = net::socket(AddressFamily::UNIX, kind, None).unwrap();
        net::bind(&socket, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        in_use(&path);
    }
    let ours = bind(&dir.path().join("ours")).unwrap();
    in_use(&dir.path().join("ours"));
    drop(ours);
}

#[test]
fn what_is_no_socket_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("file"), "precious").unwrap();
    fs::create_dir(at("folder")).unwrap();
    drop(UnixListener::bind(at("dead")).unwrap());
    symlink("dead", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::RUSR, 0).unwrap();
    for name in ["file", "folder", "link", "dangling", "fifo"] {
        let before = fs::symlink_metadata(at(name)).unwrap().ino();
        let error = bind(&at(name)).unwrap_err();
        assert!(matches!(error, BindError::NotASocket { .. }), "{name}: {error}");
        assert_eq!(fs::symlink_metadata(at(name)).unwrap().ino(), before);
        let text = error.to_string();
        assert!(text.contains(name) && text.ends_with("exists and is not a socket"), "{text}");
    }
    assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
}

#[test]
fn a_missing_parent_is_not_created() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for path in ["none/s", "none/none/s", "file/s"] {
        let error = bind(&dir.path().join(path)).unwrap_err();
        assert!(matches!(error, BindError::ParentMissing { .. }), "{path}: {error}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    for path in ["/", "/.."] {
        assert!(matches!(bind(Path::new(path)), Err(BindError::Failed { .. })), "{path}");
    }
}

#[test]
fn symlinks_do_not_lead_out_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
    fs::create_dir_all(root.join("run")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("absolute")).unwrap();
    symlink("../../outside", root.join("run/up")).unwrap();
    symlink("/run", root.join("good")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    let _live = UnixListener::bind(outside.join("s")).unwrap();

    for path in ["/absolute/s", "/run/up/s", "/../outside/s"] {
        let error = bind_stream(below(&root, path), me(), 0o600).unwrap_err();
        assert!(matches!(error, BindError::ParentMissing { .. }), "{path}: {error}");
        let base = below(&root, "/").root;
        let error = connect_stream(base.as_fd(), Base::Root, Path::new(path)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound, "{path}");
    }
    let bound = bind_stream(below(&root, "/good/s"), me(), 0o600).unwrap();
    assert_eq!(fs::symlink_metadata(root.join("run/s")).unwrap().ino(), bound.ino);
    connect_stream(below(&root, "/").root.as_fd(), Base::Root, Path::new("/good/../run/s")).unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);

    let magic = bind(Path::new("/proc/self/root/tmp/portway-sys-magic")).unwrap_err();
    assert!(matches!(magic, BindError::Failed { .. }), "{magic}");
}

#[test]
fn only_our_own_socket_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bound = bind(&path).unwrap();
    let (dev, ino) = (bound.dev, bound.ino);
    fs::rename(&path, dir.path().join("moved")).unwrap();
    assert!(!remove_if_ours(&place(&path), dev, ino).unwrap());
    let other = UnixListener::bind(&path).unwrap();
    assert!(!remove_if_ours(&place(&path), dev, ino).unwrap());
    assert!(!check(&place(&path), dev, ino));
    UnixStream::connect(&path).unwrap();
    drop(other);
    fs::remove_file(&path).unwrap();
    // The same inode under its name, but no socket: a hard link cannot do that, so compare kinds directly.
    fs::write(&path, "").unwrap();
    let meta = fs::symlink_metadata(&path).unwrap();
    assert!(!remove_if_ours(&place(&path), meta.dev(), meta.ino()).unwrap());
    assert!(!remove_if_ours(&place(dir.path().join("none/s")), dev, ino).unwrap());
}

#[test]
fn a_mount_over_the_folder_hides_the_socket() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let bound = bind(&path).unwrap();
    expect_child(None, || {
        private_mounts();
        rustix::mount::mount("tmpfs", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        let here = place(&path);
        assert!(!check(&here, bound.dev, bound.ino));
        assert!(!remove_if_ours(&here, bound.dev, bound.ino).unwrap());
        let again = bind(&path).unwrap();
        assert!(check(&here, again.dev, again.ino));
        rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(check(&place(&path), bound.dev, bound.ino));
    });
}

/// Gives the calling process a mount namespace of its own.
fn private_mounts() {
    // SAFETY: a forked process with one thread.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
}

#[test]
fn without_privilege_one_owns_what_one_binds() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let closed = tempfile::tempdir().unwrap();
    let foreign = closed.path().join("foreign");
    expect_child(Some(NOBODY), || {
        let path = dir.path().join("s");
        drop(bind_stream(place(&path), me(), 0o600).unwrap());
        drop(bind_stream(place(&path), me(), 0o600).unwrap());
        let other = bind_stream(place(dir.path().join("other")), Owner { uid: 1, gid: 1 }, 0o600);
        assert!(matches!(other, Err(BindError::Denied { .. })), "{other:?}");
        assert!(matches!(bind_stream(place(&foreign), me(), 0o600), Err(BindError::Denied { .. })));
        crate::userns::unshare_as_root(true, true).unwrap();
        let bound = bind_stream(place(&path), Owner { uid: 0, gid: 0 }, 0o666).unwrap();
        assert!(check(&place(&path), bound.dev, bound.ino));
        let unmapped = bind_stream(place(dir.path().join("other")), Owner { uid: 5, gid: 0 }, 0o600);
        assert!(matches!(unmapped, Err(BindError::NotMapped { .. })), "{unmapped:?}");
    });
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["s"], "a failure leaves nothing behind");
}

/// A folder as an Incus container sees it: ids shifted by an idmapped mount.
#[test]
fn an_idmapped_mount_takes_the_ids_of_its_map() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mapped = dir.path().join("mapped");
    fs::create_dir(&mapped).unwrap();
    std::os::unix::fs::chown(&mapped, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&mapped, fs::Permissions::from_mode(0o700)).unwrap();
    let holder = testing::Forked::new(None, || {
        // SAFETY: a forked process with one thread.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }.unwrap();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
    let map = |file: &str| format!("/proc/{}/{file}", holder.pid);
    while fs::write(map("uid_map"), "0 1000000 65536").is_err() {
        std::thread::yield_now();
    }
    fs::write(map("gid_map"), "0 1000000 65536").unwrap();
    let userns = File::open(map("ns/user")).unwrap();
    expect_child(None, || {
        private_mounts();
        mount_idmapped(&mapped, &userns);
        assert_eq!(fs::metadata(&mapped).unwrap().uid(), 1_001_000);
        let path = mapped.join("s");
        let owner = Owner { uid: 1_001_000, gid: 1_000_005 };
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (owner.uid, owner.gid, 0o660));
        assert_eq!((meta.dev(), meta.ino()), (bound.dev, bound.ino));
        assert!(matches!(bind_stream(place(&path), owner, 0o660), Err(BindError::InUse { .. })));
        drop(bound);
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        assert!(check(&place(&path), bound.dev, bound.ino));
        // A client with the mapped ids, as a worker is.
        let root = place("/").root;
        expect_child(None, || {
            crate::sandbox::drop_ids(owner.uid, owner.gid).unwrap();
            connect_stream(root.as_fd(), Base::Root, &path).unwrap();
        });
        assert!(remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap());
        for owner in [
            Owner { uid: 0, gid: 0 },
            Owner { uid: 1_001_000, gid: 0 },
            Owner { uid: 2_000_000, gid: 1_000_000 },
        ] {
            let unmapped = bind_stream(place(&path), owner, 0o660);
            assert!(matches!(unmapped, Err(BindError::NotMapped { .. })), "{unmapped:?}");
        }
        assert_eq!(fs::read_dir(&mapped).unwrap().count(), 0);
    });
}

/// Mounts `dir` on itself with the ids of `userns`.
fn mount_idmapped(dir: &Path, userns: &File) {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags};
    use std::os::fd::AsRawFd;
    /// `struct mount_attr` of linux/mount.h.
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, dir, flags).unwrap();
    let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap();
    // MOUNT_ATTR_IDMAP
    let attr = MountAttr { attr_set: 0x0010_0000, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: reads `attr`, of the given size, and a constant string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .unwrap();
}

#[test]
fn connecting() {
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
