//! What the tests of this crate share.
//!
//! Much of what is tested here cannot be undone in a process (ids, seccomp, namespaces), or wants a process
//! with one thread. [`in_child`] forks one for it. A forked process has copies of all descriptors, those of tests on
//! other threads too; so a test that looks for the effect of closing one is run in a child as well, for the sake of
//! runners that do not give each test a process.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Mutex, Once, PoisonError};

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

/// Where a forked process writes its panic messages. Empty in the process that runs the tests.
static TO_PARENT: Mutex<Option<PipeWriter>> = Mutex::new(None);

static REPORT: Once = Once::new();

/// Sends panic messages of forked processes to their parents. Before any fork: in a forked process the lock of the
/// panic hook may be held by a thread that does not exist there.
fn report_panics() {
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        let mut to_parent = TO_PARENT.lock().unwrap_or_else(PoisonError::into_inner);
        match to_parent.as_mut() {
            // The parent sees the exit status if this fails.
            Some(to_parent) => writeln!(to_parent, "{panic}").unwrap_or_default(),
            None => {
                drop(to_parent);
                usual(panic);
            }
        }
    }));
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
        REPORT.call_once(report_panics);
        // SAFETY: the child has one thread and a copy of everything; it leaves by _exit, without running what
        // belongs to the parent. glibc makes its allocator usable after fork.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork");
        if pid > 0 {
            return Forked { pid, message, waited: false };
        }
        *TO_PARENT.lock().expect("a child has one thread") = Some(to_parent);
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
        let status = self.reap();
        // What is there, not up to the end: processes that other tests forked meanwhile hold the pipe open too.
        rustix::io::ioctl_fionbio(&self.message, true).expect("a pipe can be non-blocking");
        let mut message = Vec::new();
        self.message.read_to_end(&mut message).ok();
        (status, String::from_utf8_lossy(&message).into_owned())
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
