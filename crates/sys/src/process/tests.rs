use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use super::*;
use crate::{pidfd, testing};

const ROLE: &str = "process::tests::role";

fn start(value: &str, fds: Vec<OwnedFd>) -> Child {
    spawn_role(&testing::role_args(ROLE), fds, testing::role_env(value)).unwrap()
}

fn wait(child: &Child) -> Exit {
    let start = Instant::now();
    while !pidfd::exited(child.pidfd.as_fd()) {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(1));
    }
    reap(child.pid).unwrap().expect("it has ended")
}

/// What a started role does; see [`start`].
#[test]
fn role() {
    match testing::role().as_deref() {
        Some("describe") => {
            let mut out = File::from(inherited(3).unwrap());
            let text = describe();
            out.write_all(text.as_bytes()).unwrap();
        }
        Some("sleep") => std::thread::sleep(Duration::from_secs(1000)),
        Some("fail") => std::process::exit(42),
        _ => {}
    }
}

/// One line per fact about this process.
fn describe() -> String {
    let mut fds: Vec<String> = fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let target = fs::read_link(entry.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            (!target.starts_with("/proc/")).then(|| format!("fd {} {target}", entry.file_name().display()))
        })
        .collect();
    fds.sort();
    let status = fs::read_to_string("/proc/thread-self/status").unwrap();
    let masks = status.lines().filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"));
    let leader = rustix::process::getsid(None).unwrap() == rustix::process::getpid();
    let env: Vec<_> = std::env::vars().map(|(key, _)| key).collect();
    let args: Vec<_> = std::env::args().take(2).collect();
    let cwd = std::env::current_dir().unwrap();
    let mut lines = fds;
    lines.extend(masks.map(str::to_owned));
    lines.push(format!("leader {leader}\nenv {env:?}\nargs {args:?}\ncwd {}", cwd.display()));
    lines.push(format!("twice {:?}", inherited(3).unwrap_err().kind()));
    lines.push(format!("absent {:?}", inherited(60).unwrap_err().kind()));
    lines.push(format!(
        "wrong {:?} {:?}",
        inherited(2).unwrap_err().kind(),
        inherited(67).unwrap_err().kind()
    ));
    let cloexec =
        inherited(4).map(|fd| rustix::io::fcntl_getfd(fd).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
    lines.push(format!("cloexec {cloexec:?}"));
    lines.join("\n")
}

#[test]
fn a_role_gets_what_it_is_given_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| File::create(dir.path().join(name)).unwrap();
    // Descriptors that are not close-on-exec, low and high, must not leak.
    let leak = rustix::io::dup(file("leak")).unwrap();
    let (mut from, to) = io::pipe().unwrap();
    // In an order that overwrites a source unless they are moved away first.
    let mut fds = vec![OwnedFd::from(file("b")), OwnedFd::from(file("a")), to.into()];
    fds.rotate_right(1);
    let child = start("describe", fds);
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    assert_eq!(wait(&child), Exit::Code(0), "{text}");
    drop(leak);

    let has = |line: &str| assert!(text.lines().any(|l| l.starts_with(line)), "{line} in\n{text}");
    has("fd 0 /dev/null");
    has("fd 3 pipe:");
    has(&format!("fd 4 {}", dir.path().join("b").display()));
    has(&format!("fd 5 {}", dir.path().join("a").display()));
    let open = text.lines().filter(|line| line.starts_with("fd ")).count();
    assert_eq!(open, 6, "{text}");
    has("SigBlk:\t0000000000000000");
    has("leader true");
    has("env [\"PORTWAY_SYS_ROLE\"]");
    has("args [\"portway\", \"process::tests::role\"]");
    has("cwd /");
    has("twice NotFound");
    has("absent NotFound");
    has("wrong InvalidInput InvalidInput");
    has("cloexec Ok(true)");
}

#[test]
fn nothing_is_left_open_here() {
    testing::expect_child(None, || {
        let open = || fs::read_dir("/proc/self/fd").unwrap().count();
        let before = open();
        for _ in 0..20 {
            let child = start("fail", vec![File::open("/dev/null").unwrap().into()]);
            assert_eq!(wait(&child), Exit::Code(42));
        }
        assert_eq!(open(), before);
    });
}

#[test]
fn ends_are_told_apart() {
    let child = start("sleep", Vec::new());
    assert_eq!(reap(child.pid).unwrap(), None);
    pidfd::send_signal(child.pidfd.as_fd(), libc::SIGKILL).unwrap();
    assert_eq!(wait(&child), Exit::Signal(libc::SIGKILL));
    assert_eq!(reap(child.pid).unwrap_err().raw_os_error(), Some(libc::ECHILD));
    for pid in [0, -1] {
        assert_eq!(reap(pid).unwrap_err().raw_os_error(), Some(libc::ECHILD), "never any child");
    }
}

#[test]
fn many_threads_start_roles_at_once() {
    let threads: Vec<_> = (0..8)
        .map(|_| {
            std::thread::spawn(|| {
                for _ in 0..5 {
                    let (mut from, to) = io::pipe().unwrap();
                    let child = start("describe", vec![to.into()]);
                    let mut text = String::new();
                    from.read_to_string(&mut text).unwrap();
                    assert_eq!(wait(&child), Exit::Code(0), "{text}");
                    assert_eq!(text.lines().filter(|line| line.starts_with("fd ")).count(), 4, "{text}");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

#[test]
fn handed_over_descriptors_are_closed_here() {
    testing::expect_child(None, || {
        let (mut from, to) = io::pipe().unwrap();
        let number = to.as_raw_fd();
        let child = start("fail", vec![to.into()]);
        assert_eq!(from.read(&mut [0]).unwrap(), 0, "only the role had it");
        wait(&child);
        assert!(!fs::exists(format!("/proc/self/fd/{number}")).unwrap());
    });
}

#[test]
fn a_zero_byte_is_refused() {
    assert_eq!(spawn_role(&["a\0b"], vec![], vec![]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    let env = vec![("K".to_owned(), "\0".to_owned())];
    assert_eq!(spawn_role(&[], vec![], env).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn errors_of_the_child_reach_the_caller() {
    testing::expect_child(None, || {
        // Too few descriptors for the targets: dup2 fails in the child.
        let fds: Vec<OwnedFd> = (0..50).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let few = Rlimit { current: Some(20), maximum: Some(20) };
        setrlimit(Resource::Nofile, few).unwrap();
        let error = spawn_role(&[], fds, vec![]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    });
    testing::expect_child(None, || {
        // More arguments than exec takes.
        let long = "x".repeat(1 << 20);
        let error = spawn_role(&[&long], vec![], vec![]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::E2BIG));
        assert_eq!(rustix::process::wait(WaitOptions::NOHANG).unwrap_err(), rustix::io::Errno::CHILD);
    });
}

#[test]
fn the_limit_of_descriptors_is_raised() {
    testing::expect_child(None, || {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
        assert_eq!(raise_nofile(), hard.unwrap_or(u64::MAX));
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    });
}

#[test]
fn names() {
    set_name("portway-worker-with-a-long-name");
    assert_eq!(rustix::thread::name().unwrap().as_c_str(), c"portway-worker-");
}
