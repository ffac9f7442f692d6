//! Somebody exchanges names below a root, or waits for a socket file to appear, as fast as the machine allows.
//!
//! ```text
//! root/way   <-> root/leap       a folder with a socket, a link to `outside` or out of the root
//! root/far/s <-> root/far/t      a socket, a link to the one outside
//! root/low/deep <-> root/deep    a folder on whose way `..` leads up
//! outside/s                      never called, and nothing appears beside it
//! ```

use std::path::PathBuf;

use portway_testkit::faults::{figure, scale};
use rustix::fs::{CWD, Gid, RenameFlags, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use super::*;

/// What is exchanged, below the root.
const EXCHANGED: [(&str, &str); 3] = [("way", "leap"), ("far/s", "far/t"), ("low/deep", "deep")];

/// Where sockets are called or bound: each leads through something that is exchanged.
const WAYS: [&str; 4] = ["/way/", "/far/", "/low/deep/../../way/", "/leap/"];

/// A root, what is exchanged in it, and what lies beside it.
struct Yard {
    dir: tempfile::TempDir,
    _live: [UnixDatagram; 3],
}

impl Yard {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        for folder in ["way", "far", "low/deep", "deep"] {
            fs::create_dir_all(root.join(folder)).unwrap();
        }
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("leap")).unwrap();
        symlink(outside.join("s"), root.join("far/t")).unwrap();
        // Datagram sockets have no queue of callers that could be full.
        let live = [root.join("way/s"), root.join("far/s"), outside.join("s")]
            .map(|path| UnixDatagram::bind(path).unwrap());
        Self { dir, _live: live }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Does `work` while everything is exchanged all the time; returns how often it was.
    fn while_exchanging(&self, work: impl FnOnce()) -> u64 {
        let stop = AtomicBool::new(false);
        let root = self.path("root");
        std::thread::scope(|scope| {
            let exchanging = scope.spawn(|| {
                let mut count = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    for (one, other) in EXCHANGED {
                        let (one, other) = (root.join(one), root.join(other));
                        rustix::fs::renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).unwrap();
                        count += 1;
                    }
                }
                count
            });
            // It ends when the work fails, too.
            let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            stop.store(true, Ordering::Relaxed);
            let count = exchanging.join().unwrap();
            worked.unwrap_or_else(|payload| std::panic::resume_unwind(payload));
            count
        })
    }
}

/// Where a connected socket is connected to.
fn peer_of(socket: &OwnedFd) -> PathBuf {
    let peer = UnixDatagram::from(socket.try_clone().unwrap()).peer_addr().unwrap();
    peer.as_pathname().unwrap().to_owned()
}

/// Whoever may rename below an instance's root leads no call of ours out of it.
///
/// Fails when: a path is looked at first and opened by another way then.
#[test]
fn no_exchange_leads_a_call_out_of_the_root() {
    let yard = Yard::new();
    let (tries, outside) = (scale(40_000, 1_000_000), yard.path("outside"));
    let bases = [
        (Base::Root, below(&yard.path("root"), "/").root, WAYS.map(|way| PathBuf::from(format!("{way}s")))),
        (Base::Parent, below(&yard.path("root/far"), "/").root, [(); 4].map(|()| PathBuf::from("s"))),
    ];
    let (mut there, mut refused) = (0_u64, 0_u64);
    let exchanges = yard.while_exchanging(|| {
        for number in 0..tries {
            let (kind, base, paths) = &bases[number % 2];
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap();
            match connect(socket.as_fd(), base.as_fd(), *kind, &paths[number / 2 % 4]) {
                Ok(()) => {
                    let peer = peer_of(&socket);
                    assert!(!peer.starts_with(&outside), "try {number} led to {}", peer.display());
                    there += 1;
                }
                Err(_) => refused += 1,
            }
        }
    });
    figure("R35", "calls below a root whose names are exchanged", tries, "calls");
    figure("R35", "exchanges meanwhile", exchanges, "");
    figure("R35", "calls that left the root", 0, "calls");
    assert!(there > 0 && refused > 0, "{there} came through, {refused} did not");
}

/// The same for sockets that are bound and removed, by root, whom no permission stops.
///
/// Fails when: as above.
#[test]
fn no_exchange_leads_a_socket_file_out_of_the_root() {
    let yard = Yard::new();
    let (tries, outside) = (scale(8_000, 1_000_000), yard.path("outside"));
    let mut bound_count = 0_u64;
    let exchanges = yard.while_exchanging(|| {
        for number in 0..tries {
            let path = format!("{}new", WAYS[number % 4]);
            let place = || below(&yard.path("root"), &path);
            let Ok(bound) = bind_stream(place(), me(), 0o600) else { continue };
            bound_count += 1;
            let inside = fs::read_dir(&outside).unwrap().count();
            assert_eq!(inside, 1, "try {number} at {path} made a file outside");
            // Its folder may have another name already: then it is looked for at both.
            for way in ["/way/new", "/leap/new", "/far/new"] {
                let _ = remove_if_ours(&below(&yard.path("root"), way), bound.dev, bound.ino);
            }
        }
    });
    figure("R35", "sockets bound below such a root", tries, "tries");
    figure("R35", "exchanges meanwhile", exchanges, "");
    figure("R35", "socket files outside it", 0, "files");
    assert!(bound_count > 0);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

/// A user whom the mode keeps out calls a socket all the time while it is bound again and again by a thread whose umask
/// is 0: there is no moment in which it may.
///
/// Fails when: the mode is set after the file is there.
#[test]
fn nobody_calls_a_socket_before_its_mode_is_set() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = dir.path().join("s");
    let (tries, stop) = (scale(10_000, 1_000_000), AtomicBool::new(false));
    let (refused, entered) = std::thread::scope(|scope| {
        let stranger = scope.spawn(|| {
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(None, Gid::from_raw(testing::NOBODY), None).unwrap();
            set_thread_res_uid(None, Uid::from_raw(testing::NOBODY), None).unwrap();
            let (mut refused, mut entered) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                match UnixStream::connect(&path) {
                    Ok(_) => entered += 1,
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused += 1,
                    // It is not there at this moment.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    // Nobody listens yet, but the file may be called.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => entered += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            (refused, entered)
        });
        for _ in 0..tries {
            let bound = bind_stream(place(&path), Owner { uid: 0, gid: 0 }, 0o660).unwrap();
            assert!(remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        stranger.join().unwrap()
    });
    figure("E1", "sockets bound while a stranger calls", tries, "sockets");
    figure("E1", "calls of the stranger that were refused", refused, "calls");
    figure("E1", "calls of the stranger that came through", entered, "calls");
    assert_eq!(entered, 0);
    assert!(refused > 0);
}
