use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::*;
use crate::testing;

fn pid_of(child: &Child) -> i32 {
    child.id().try_into().unwrap()
}

fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn life_and_death_of_a_process() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    let pid = pid_of(&child);
    let fd = open(pid).unwrap();
    assert!(!exited(fd.as_fd()));
    assert!(!dying(pid));
    let own = start_time(std::process::id().try_into().unwrap()).unwrap();
    assert!(start_time(pid).unwrap() >= own);
    send_signal(fd.as_fd(), libc::SIGKILL).unwrap();
    eventually("a dead process makes its pidfd readable", || exited(fd.as_fd()));
    assert!(dying(pid), "a zombie");
    child.wait().unwrap();
    assert!(dying(pid), "gone");
    assert_eq!(send_signal(fd.as_fd(), libc::SIGKILL).unwrap_err().raw_os_error(), Some(libc::ESRCH));
    assert_eq!(start_time(pid).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert_eq!(open(pid).unwrap_err().raw_os_error(), Some(libc::ESRCH));
}

#[test]
fn pids_below_one_and_wrong_signals_are_refused() {
    for pid in [0, -1, i32::MIN] {
        assert_eq!(open(pid).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let own = open(std::process::id().try_into().unwrap()).unwrap();
    assert_eq!(send_signal(own.as_fd(), 999).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn the_command_name_may_look_like_fields() {
    let stat = b"7 (a) Z 0 (b)) S 1 7 7 0 -1 4194560 1";
    let fields = after_name(stat).unwrap();
    assert_eq!(field(fields, 3), Some("S"));
    assert_eq!(field(fields, 9), Some("4194560"));
    assert_eq!(field(fields, 22), None);
    assert_eq!(field(fields, 2), None);
    assert_eq!(after_name(b"").unwrap(), "");
    assert!(after_name(b"7 (x) \xff").is_err());
}

/// An init that is killed waits for everything in its pid namespace before its pidfd becomes readable. A traced
/// process there cannot be reaped, which keeps the window open for the test.
#[test]
fn an_init_that_waits_for_its_processes_is_dying() {
    if !testing::root() {
        return;
    }
    let script = "sleep 1000 & exec sleep 1001";
    let mut unshare = Command::new("unshare").args(["-pf", "sh", "-c", script]).spawn().unwrap();
    let child_of = |pid: i32| {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        list.split_whitespace().next().and_then(|pid| pid.parse::<i32>().ok())
    };
    eventually("init has a child", || child_of(pid_of(&unshare)).and_then(child_of).is_some());
    let init = child_of(pid_of(&unshare)).unwrap();
    let traced = child_of(init).unwrap();
    let fd = open(init).unwrap();
    // SAFETY: PTRACE_SEIZE takes numbers only.
    let seized = unsafe { libc::ptrace(libc::PTRACE_SEIZE, traced, 0, 0) };
    assert_eq!(seized, 0, "{}", io::Error::last_os_error());

    send_signal(fd.as_fd(), libc::SIGKILL).unwrap();
    eventually("a killed init is dying", || dying(init));
    assert!(!exited(fd.as_fd()), "it still waits for the traced process");

    let traced = Pid::from_raw(traced);
    rustix::process::waitpid(traced, rustix::process::WaitOptions::empty()).unwrap();
    eventually("init ends", || exited(fd.as_fd()));
    unshare.wait().unwrap();
}
