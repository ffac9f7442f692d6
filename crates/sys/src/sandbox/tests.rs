use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::{Forked, NOBODY, expect_child, root};
use crate::unix_path::{self, Base};
use crate::{netns, pidfd, userns};

#[cfg(target_arch = "x86_64")]
mod page;

/// A line of /proc/self/status, without its name.
fn status(name: &str) -> String {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn the_private_root_shows_processes_and_nothing_else() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let base = File::open(dir.path()).unwrap();
    let before = mounts();
    expect_child(None, || {
        private_root().unwrap();
        let names: Vec<_> = fs::read_dir("/").unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["proc"]);
        assert_eq!(std::env::current_dir().unwrap(), Path::new("/"));
        for gone in ["/etc", "/proc/meminfo", "/proc/sys", "/..", "/proc/../etc"] {
            let gone = Path::new(gone);
            assert!(gone == Path::new("/..") || !gone.exists(), "{}", gone.display());
        }
        assert_eq!(File::create("/x").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert_eq!(fs::create_dir("/x").unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
        assert!(!pidfd::dying(1) && !pidfd::dying(std::process::id().try_into().unwrap()));
        assert_eq!(mounts().lines().count(), 2);
        unix_path::connect_stream(base.as_fd(), Base::Root, Path::new("/s")).unwrap();
    });
    listener.accept().unwrap();
    assert_eq!(mounts(), before, "the host sees nothing of it");
}

/// It is part of every worker's start, which has to stay below 5 ms in all.
#[test]
fn the_private_root_is_cheap() {
    if !root() {
        return;
    }
    let (mut from, to) = io::pipe().unwrap();
    for _ in 0..20 {
        expect_child(None, || {
            let start = Instant::now();
            private_root().unwrap();
            (&to).write_all(&start.elapsed().as_micros().to_ne_bytes()).unwrap();
        });
    }
    drop(to);
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).unwrap();
    let mut micros: Vec<_> = bytes.chunks(16).map(|b| u128::from_ne_bytes(b.try_into().unwrap())).collect();
    micros.sort_unstable();
    println!("private_root, microseconds: {micros:?}");
    assert!(micros[micros.len() / 2] < 4000, "{micros:?}");
}

#[test]
fn without_privilege_the_private_root_is_refused_and_nothing_changes() {
    if !root() {
        return;
    }
    expect_child(Some(NOBODY), || {
        userns::unshare_as_root(true, true).unwrap();
        let before = mounts();
        assert_eq!(private_root().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(mounts(), before);
        daemon_keep_caps().unwrap();
        assert_eq!(drop_ids(1, 1, &[]).unwrap_err().kind(), io::ErrorKind::PermissionDenied, "setgroups");
        drop_all_caps().unwrap();
        assert_eq!(status("CapEff"), "0000000000000000");
    });
    expect_child(Some(NOBODY), || {
        assert_eq!(private_root().unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        daemon_keep_caps().unwrap();
        drop_all_caps().unwrap();
        assert_eq!(drop_ids(0, 0, &[]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    });
}

#[test]
fn ids_and_capabilities_are_gone_for_good() {
    if !root() {
        return;
    }
    expect_child(None, || {
        nix::unistd::setgroups(&[4.into(), 5.into()]).unwrap();
        drop_ids(NOBODY, 1000, &[]).unwrap();
        drop_all_caps().unwrap();
        no_new_privs().unwrap();
        assert_eq!(status("Uid"), format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"));
        assert_eq!(status("Gid"), "1000\t1000\t1000\t1000");
        assert_eq!(status("Groups"), "");
        assert_eq!(status("NoNewPrivs"), "1");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(set), "0000000000000000", "{set}");
        }
        assert!(nix::unistd::setuid(0.into()).is_err());
    });
}

#[test]
fn groups_are_those_asked_for() {
    if !root() {
        return;
    }
    expect_child(None, || {
        nix::unistd::setgroups(&[6.into()]).unwrap();
        drop_ids(NOBODY, 1000, &[4, 5]).unwrap();
        assert_eq!(status("Groups"), "4 5");
        assert!(nix::unistd::setgroups(&[]).is_err());
    });
}

#[test]
fn every_thread_loses_its_ids() {
    if !root() {
        return;
    }
    expect_child(None, || {
        let (go, wait) = std::sync::mpsc::sync_channel(0);
        let thread = std::thread::spawn(move || {
            wait.recv().unwrap();
            rustix::process::geteuid().as_raw()
        });
        drop_ids(NOBODY, NOBODY, &[]).unwrap();
        go.send(()).unwrap();
        assert_eq!(thread.join().unwrap(), NOBODY);
    });
}

#[test]
fn root_without_capabilities_gets_none_back_by_exec() {
    if !root() {
        return;
    }
    expect_child(None, || {
        drop_ids(0, 0, &[]).unwrap();
        drop_all_caps().unwrap();
        let mut grep = Command::new("grep");
        let output = grep.args(["-c", "Cap...:.0000000000000000", "/proc/self/status"]).output().unwrap();
        assert_eq!(output.stdout, b"5\n");
    });
}

#[test]
fn the_daemons_capabilities_suffice_for_its_work() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    // A folder like /run/user/N: closed to everybody else.
    std::os::unix::fs::chown(dir.path(), Some(1234), Some(1234)).unwrap();
    let other = Forked::new(Some(NOBODY), || std::thread::sleep(Duration::from_secs(1000)));
    expect_child(None, || {
        daemon_keep_caps().unwrap();
        let kept = format!("{:016x}", DAEMON_CAPS.bits());
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert_eq!(status(set), kept, "{set}");
        }
        let output = Command::new("grep").args(["-c", &kept, "/proc/self/status"]).output().unwrap();
        assert_eq!(output.stdout, b"3\n", "a child has them and no others");

        let place = unix_path::Place { root: unix_path::host_root().unwrap(), path: dir.path().join("s") };
        unix_path::bind_stream(place, unix_path::Owner { uid: 1234, gid: 1234 }, 0o600).unwrap();
        // SAFETY: this process has one thread.
        unsafe { thread::unshare_unsafe(thread::UnshareFlags::NEWNET) }.unwrap();
        netns::run_in(Some(netns::open_pid(other.pid).unwrap()), || ()).unwrap();
        unix_path::open_root(other.pid).unwrap();
        private_root().unwrap();
        drop_ids(NOBODY, NOBODY, &[]).unwrap();
        drop_all_caps().unwrap();
    });
}

#[test]
fn landlock_closes_other_processes_of_the_same_user() {
    if !root() {
        return;
    }
    let other = Forked::new(Some(NOBODY), || std::thread::sleep(Duration::from_secs(1000)));
    let path = |file: &str| format!("/proc/{}/{file}", other.pid);
    let ready = || fs::read_link(path("root"));
    expect_child(Some(NOBODY), || {
        let start = Instant::now();
        while ready().is_err() {
            assert!(start.elapsed() < Duration::from_secs(5), "the other process becomes the same user");
        }
        assert!(fs::exists(path("root/etc")).unwrap(), "what this is about");
        no_new_privs().unwrap();
        landlock(Calls::Out).unwrap();
        for file in ["root", "cwd", "exe", "fd/0", "ns/net"] {
            assert_eq!(
                fs::read_link(path(file)).unwrap_err().kind(),
                io::ErrorKind::PermissionDenied,
                "{file}"
            );
        }
        assert!(!pidfd::dying(other.pid));
        assert!(fs::exists("/proc/self/fd/0").unwrap(), "its own files stay open to it");
    });
    expect_child(Some(NOBODY), || {
        assert_eq!(
            landlock(Calls::Out).unwrap_err().kind(),
            io::ErrorKind::PermissionDenied,
            "no_new_privs comes first"
        );
    });
}

/// Fails when: a process that is handed its connections can open a file, a port or a socket by itself, or signal
/// another process of its user, or when one that dials cannot.
#[test]
fn landlock_leaves_what_is_needed() {
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixStream};
    if !root() {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let name = SocketAddr::from_abstract_name(format!("portway-{}", std::process::id())).unwrap();
    let _abstract = UnixListener::bind_addr(&name).unwrap();
    let other = Forked::new(Some(NOBODY), || std::thread::sleep(Duration::from_secs(1000)));
    let version = landlock_version().unwrap();
    for (calls, dials) in [(Calls::Out, true), (Calls::Nobody, false)] {
        expect_child(Some(NOBODY), || {
            let signal =
                || rustix::process::test_kill_process(rustix::process::Pid::from_raw(other.pid).unwrap());
            let start = Instant::now();
            while signal().is_err() {
                assert!(start.elapsed() < Duration::from_secs(5), "the other process becomes the same user");
            }
            assert!(File::open("/etc/passwd").is_ok(), "what this is about");
            no_new_privs().unwrap();
            landlock(calls).unwrap();
            let denied = io::ErrorKind::PermissionDenied;
            for path in ["/etc/passwd", "/dev/null", "/"] {
                assert_eq!(File::open(path).unwrap_err().kind(), denied, "{path}");
            }
            File::open("/proc/self/stat").unwrap();
            if version >= 4 {
                assert_eq!(std::net::TcpListener::bind("127.0.0.1:0").unwrap_err().kind(), denied);
                assert_eq!(std::net::TcpStream::connect(address).is_ok(), dials);
            }
            if version >= 6 {
                assert_eq!(signal().unwrap_err(), Errno::PERM);
                assert_eq!(UnixStream::connect_addr(&name).is_ok(), dials);
            }
        });
    }
}

#[test]
fn an_undumpable_process_can_use_its_own_descriptors_by_path() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _listener = UnixListener::bind(dir.path().join("s")).unwrap();
    for place in [dir.path().to_owned(), dir.path().join("s")] {
        fs::set_permissions(place, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }
    let base = File::open(dir.path()).unwrap();
    expect_child(None, || {
        private_root().unwrap();
        drop_ids(NOBODY, NOBODY, &[]).unwrap();
        drop_all_caps().unwrap();
        no_new_privs().unwrap();
        undumpable().unwrap();
        landlock(Calls::Out).unwrap();
        unix_path::connect_stream(base.as_fd(), Base::Parent, Path::new("/any/s")).unwrap();
    });
}
