use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::*;
use crate::testing;

/// A new network namespace, alive as long as the descriptor.
fn new_netns() -> OwnedFd {
    run_in(None, || {
        // SAFETY: the thread ends with this closure.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        current().unwrap()
    })
    .unwrap()
}

#[test]
fn run_in_enters_and_the_caller_stays() {
    if !testing::root() {
        return;
    }
    let before = id(current().unwrap().as_fd()).unwrap();
    let ns = new_netns();
    let wanted = id(ns.as_fd()).unwrap();
    let inside = run_in(Some(ns), || id(current().unwrap().as_fd()).unwrap()).unwrap();
    assert_eq!(inside, wanted);
    assert_ne!(inside, before);
    assert_eq!(id(current().unwrap().as_fd()).unwrap(), before);
}

#[test]
fn sockets_keep_the_namespace_they_were_made_in() {
    if !testing::root() {
        return;
    }
    let ns = new_netns();
    let (listener, cookie) = run_in(Some(ns), || {
        assert!(
            TcpStream::connect("127.0.0.1:9").is_err_and(|e| e.kind() == io::ErrorKind::NetworkUnreachable)
        );
        loopback_up().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cookie = socket_netns_cookie(listener.as_fd()).unwrap();
        (listener, cookie)
    })
    .unwrap();
    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(socket_netns_cookie(listener.as_fd()).unwrap(), cookie);
    assert_ne!(socket_netns_cookie(here.as_fd()).unwrap(), cookie);
}

#[test]
fn open_path_takes_network_namespaces_only() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    let start = Instant::now();
    for path in [fifo.as_path(), dir.path(), Path::new("/proc/self/ns/mnt"), Path::new("/proc/self/stat")] {
        assert_eq!(open_path(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{}", path.display());
    }
    assert!(start.elapsed() < Duration::from_secs(1), "a fifo must not block");
    assert_eq!(open_path(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(open_pid(i32::MAX).unwrap_err().kind(), io::ErrorKind::NotFound);
    let own = open_pid(std::process::id().try_into().unwrap()).unwrap();
    assert_eq!(id(own.as_fd()).unwrap(), id(current().unwrap().as_fd()).unwrap());
}

#[test]
fn the_current_namespace_needs_no_privilege() {
    if testing::root() {
        testing::expect_child(Some(testing::NOBODY), || {
            assert_eq!(run_in(Some(current().unwrap()), || 7).unwrap(), 7);
            assert_eq!(run_in(None, || 8).unwrap(), 8);
            assert_eq!(
                enter(current().unwrap().as_fd()).unwrap_err().kind(),
                io::ErrorKind::PermissionDenied
            );
        });
    }
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_goes_on_in_the_caller() {
    run_in(None, || panic!("inside")).unwrap();
}
