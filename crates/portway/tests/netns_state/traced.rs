//! The thread that writes the state, in the hands of strace: what it asks of the kernel fails, or is its last.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{Daemon, wait_for};

/// A thread under strace. Drop lets it go.
pub(crate) struct Traced(Child);

impl Traced {
    /// The thread dies, and with it its process, when it makes the `number`th of `calls`, before that is made.
    pub(crate) fn killed_at(daemon: &Daemon, calls: &str, number: u32) -> Traced {
        Self::attach(daemon, &format!("inject={calls}:signal=KILL:when={number}"))
    }

    /// The first of `calls` fails with `error`: what the thread writes after it are a line of the log and a wake-up.
    pub(crate) fn failing(daemon: &Daemon, calls: &str, error: &str) -> Traced {
        Self::attach(daemon, &format!("inject={calls}:error={error}:when=1"))
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

/// The thread that writes the state. It gives itself its name.
fn writer(pid: i32) -> i32 {
    let named = |path: PathBuf| std::fs::read_to_string(path.join("comm")).unwrap_or_default();
    let found = || {
        let mut threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
        let thread = threads.find(|thread| named(thread.path()).trim() == "state")?;
        thread.file_name().to_str()?.parse().ok()
    };
    wait_for("the thread that writes the state", found).unwrap()
}

fn is_traced(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() != "0"))
}
