//! The thread that writes the state, in the hands of strace: what it asks of the kernel fails, or is its last.

use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Daemon, wait_for};

/// System calls of one write of the state, in no order. `futex` is not among them: it is how the thread waits for work.
const CALLS: &str = "unlink,unlinkat,openat,statx,write,fdatasync,fsync,link,linkat,rename,renameat,close";

/// A thread under strace. Drop lets it go.
pub(crate) struct Traced(Child);

impl Traced {
    /// The thread dies, and with it its process, when it makes its `number`th call, before that is made.
    pub(crate) fn killed_at(daemon: &Daemon, number: u32) -> Traced {
        Self::attach(daemon, &format!("inject={CALLS}:signal=KILL:when={number}"))
    }

    /// Each `call` fails with `error`.
    pub(crate) fn failing(daemon: &Daemon, call: &str, error: &str) -> Traced {
        Self::attach(daemon, &format!("inject={call}:error={error}"))
    }

    fn attach(daemon: &Daemon, what: &str) -> Traced {
        let thread = writer(daemon.pid().unwrap());
        let mut strace = Command::new("strace");
        strace.args(["-qqq", "-o", "/dev/null", "-p", &thread.to_string(), "-e", what]);
        let child = strace.stdin(Stdio::null()).spawn().unwrap();
        wait_for("strace to attach", || is_traced(thread).then_some(())).unwrap();
        Traced(child)
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        // It detaches; or it has ended with what it traced.
        let _ = kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGINT);
        let _ = self.0.wait();
    }
}

/// The thread that writes the state.
fn writer(pid: i32) -> i32 {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let named = |path: std::path::PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    let mut found = threads.filter(|thread| named(thread.path()).trim() == "state");
    found.next().unwrap().file_name().to_str().unwrap().parse().unwrap()
}

fn is_traced(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}
