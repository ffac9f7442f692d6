//! What the tests of this crate share.
//!
//! Much of what is tested here cannot be undone in a process (ids, seccomp, namespaces), or wants a process
//! with one thread. [`in_child`] forks one for it.

use std::io::{Read, Write};
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

/// Runs `body` in a forked process, as `uid` if given. Returns how it ended and the message of its panic.
pub(crate) fn in_child(uid: Option<u32>, body: impl FnOnce()) -> (WaitStatus, String) {
    let (mut from_child, to_parent) = std::io::pipe().expect("descriptors are left");
    // SAFETY: the child has one thread and a copy of everything; it leaves by _exit, without running what
    // belongs to the parent. glibc makes its allocator usable after fork.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork");
    if pid == 0 {
        drop(from_child);
        panic::set_hook(Box::new(move |panic| {
            // The parent sees the exit status if this fails.
            writeln!(&to_parent, "{panic}").ok();
        }));
        let result = panic::catch_unwind(AssertUnwindSafe(|| {
            if let Some(id) = uid {
                nix::unistd::setgroups(&[]).expect("the test runs as root");
                nix::unistd::setgid(id.into()).expect("the test runs as root");
                nix::unistd::setuid(id.into()).expect("the test runs as root");
                rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable)
                    .expect("PR_SET_DUMPABLE 1 cannot fail");
            }
            body();
        }));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(result.is_err())) }
    }
    drop(to_parent);
    let mut message = String::new();
    from_child.read_to_string(&mut message).expect("a panic message is text");
    let (_, status) = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
        .expect("it is our child")
        .expect("it has ended");
    (status, message)
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
