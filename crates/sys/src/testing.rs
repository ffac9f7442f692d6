//! What the tests of this crate share.
//!
//! Much of what is tested here cannot be undone in a process (ids, seccomp, namespaces), or wants a process
//! with one thread. [`in_child`] forks one for it.

use std::io::{PipeReader, Read, Write};
use std::panic::{self, AssertUnwindSafe};

use rustix::process::{Pid, WaitOptions, WaitStatus};

/// Set for the process that a role of the test binary runs in.
const ROLE: &str = "PORTWAY_SYS_ROLE";

/// An unprivileged user.
pub(crate) const NOBODY: u32 = 65_534;

/// Whether the tests run as root. If they do not, the calling test is skipped, or fails with `PORTWAY_TESTS=require`.
pub(crate) fn root() -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    assert_ne!(std::env::var("PORTWAY_TESTS").as_deref(), Ok("require"), "this test needs root");
    println!("skipped: needs root");
    false
}

/// A forked process. Killed when dropped.
pub(crate) struct Forked {
    /// Its pid.
    pub(crate) pid: i32,
    message: PipeReader,
    waited: bool,
}

impl Forked {
    /// Forks a process for `body`, as `uid` if given.
    pub(crate) fn new(uid: Option<u32>, body: impl FnOnce()) -> Forked {
        let (message, to_parent) = std::io::pipe().expect("descriptors are left");
        // SAFETY: the child has one thread and a copy of everything; it leaves by _exit, without running what
        // belongs to the parent. glibc makes its allocator usable after fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid > 0 {
            return Forked { pid, message, waited: false };
        }
        panic::set_hook(Box::new(move |panic| {
            // The parent sees the exit status if this fails.
            writeln!(&to_parent, "{panic}").ok();
        }));
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            if let Some(id) = uid {
                become_user(id);
            }
            body();
        }));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }

    /// Waits for its end and returns it with the message of its panic.
    pub(crate) fn wait(mut self) -> (WaitStatus, String) {
        let mut message = String::new();
        self.message.read_to_string(&mut message).expect("a panic message is text");
        (self.reap(), message)
    }

    fn reap(&mut self) -> WaitStatus {
        self.waited = true;
        let pid = Pid::from_raw(self.pid);
        let ended = rustix::process::waitpid(pid, WaitOptions::empty()).expect("it is our child");
        ended.expect("it has ended").1
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.waited {
            let pid = Pid::from_raw(self.pid).expect("a child's pid is positive");
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it is our child");
            self.reap();
        }
    }
}

/// Makes the calling process an ordinary one of user `id`.
fn become_user(id: u32) {
    nix::unistd::setgroups(&[]).expect("the test runs as root");
    nix::unistd::setgid(id.into()).expect("the test runs as root");
    nix::unistd::setuid(id.into()).expect("the test runs as root");
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
        .expect("PR_SET_DUMPABLE 1 cannot fail");
}

/// Runs `body` in a forked process to its end, as `uid` if given.
pub(crate) fn in_child(uid: Option<u32>, body: impl FnOnce()) -> (WaitStatus, String) {
    Forked::new(uid, body).wait()
}

/// Runs `body` in a forked process, where it has to succeed.
pub(crate) fn expect_child(uid: Option<u32>, body: impl FnOnce()) {
    let (status, message) = in_child(uid, body);
    assert_eq!(status.exit_status(), Some(0), "{status:?} {message}");
}

/// What the running process was started for; `None` in an ordinary test run.
pub(crate) fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// Arguments that make this test binary run one test function alone.
pub(crate) fn role_args(test: &str) -> [&str; 4] {
    [test, "--exact", "--nocapture", "--test-threads=1"]
}

/// The environment for [`role_args`].
pub(crate) fn role_env(value: &str) -> Vec<(String, String)> {
    vec![(ROLE.to_owned(), value.to_owned())]
}
