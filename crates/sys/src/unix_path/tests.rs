use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::mount::MountPropagationFlags;
use rustix::net::sockopt;

use super::*;
use crate::testing::{self, expect_child};

mod connect;
mod ids;
mod races;

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
    expect_child(None, a_bound_socket_serves_alone);
}

fn a_bound_socket_serves_alone() {
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
    expect_child(None, || every_mode(dir.path()));
}

fn every_mode(dir: &Path) {
    let directory = std::env::current_dir().unwrap();
    let umask = rustix::process::umask(Mode::from_raw_mode(0o077));
    for mode in [0, 0o400, 0o600, 0o644, 0o666, 0o777] {
        let path = dir.join(format!("{mode:o}"));
        bind_stream(place(&path), me(), mode).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, mode);
    }
    bind_stream(place(dir.join("more")), me(), 0o7777).unwrap();
    assert_eq!(fs::symlink_metadata(dir.join("more")).unwrap().mode() & 0o7777, 0o777);
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
    expect_child(None, a_dead_socket_is_replaced_alone);
}

fn a_dead_socket_is_replaced_alone() {
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

/// Each kind of socket: owner and mode from the first moment, in use by any kind, replaced when it is dead.
/// Fails when: the probe takes another kind's refusal to connect for death.
#[test]
fn every_kind_of_socket() {
    expect_child(None, every_kind_of_socket_alone);
}

fn every_kind_of_socket_alone() {
    const KINDS: [SocketType; 3] = [SocketType::STREAM, SocketType::SEQPACKET, SocketType::DGRAM];
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for kind in KINDS {
        let bound = crate::unix_path::bind(place(&path), kind, me(), 0o620).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o7777, 0o620);
        assert!(crate::listen::is_unix(bound.fd.as_fd(), kind).unwrap());
        for other in KINDS {
            let taken = crate::unix_path::bind(place(&path), other, me(), 0o600);
            assert!(matches!(taken, Err(BindError::InUse { .. })), "{other:?} over {kind:?}: {taken:?}");
        }
        let base = below(dir.path(), "/").root;
        let client = net::socket(AddressFamily::UNIX, kind, None).unwrap();
        connect(client.as_fd(), base.as_fd(), Base::Root, Path::new("/s")).unwrap();
        // The next round finds it dead.
    }
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
