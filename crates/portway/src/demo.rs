//! `portway demo`: a host and an instance, both throw-away, with a real daemon and live traffic between them.
//!
//! Three processes of ours, each the program run again in a role:
//!
//! - the *stage* (this file) makes user, network, mount and pid namespaces and a folder, waits, and takes the
//!   folder away again;
//! - [`inside()`] is the first process in them: it starts the daemon and the instance, adds the devices, makes
//!   traffic and shows it. When it ends, the pid namespace ends, and with it whatever it started;
//! - [`instance()`] holds the second network namespace and serves in it.
//!
//! Where /proc is masked (most containers) there can be no pid namespace: `inside` then adopts all orphans below
//! it and ends them itself.

use std::env;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use portway_config::paths::DIR_VARIABLE;
use portway_sys::userns;

use crate::cli::DemoArgs;
use crate::doctor::userns_mend;
use crate::failure::{Outcome, Stop, chain};
use crate::role;

mod inside;
mod instance;
mod traffic;
mod view;

pub(crate) use inside::inside;
pub(crate) use instance::instance;

/// Longest temporary folder that leaves room for the daemon's sockets, bytes.
const TEMP_MAX_BYTES: usize = 40;

/// Servers of this host, which are none of the demo's business.
const SERVER_VARIABLES: [&str; 4] = ["INCUS_SOCKET", "INCUS_DIR", "LXD_SOCKET", "LXD_DIR"];

/// Runs the demo to its end.
pub(crate) fn run(args: &DemoArgs) -> Outcome<ExitCode> {
    make_namespaces()?;
    let folder = Folder::make()?;
    let signals = SigSet::from_iter([Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    signals.thread_block().map_err(|error| failed("block signals", &error.into()))?;
    let mut command = role::ourselves();
    command.arg(role::DEMO_INSIDE).env(DIR_VARIABLE, &folder.0);
    for name in SERVER_VARIABLES {
        command.env_remove(name);
    }
    if args.once {
        command.arg("--once");
    }
    let child = command.spawn().map_err(|error| failed("start in the new namespaces", &error))?;
    let code = wait(child, &signals)?;
    folder.remove()?;
    Ok(code)
}

/// How the demo ends when a step of its own fails.
fn failed(what: &str, error: &io::Error) -> Stop {
    Stop::refused(format!("cannot {what}: {}", chain(error)))
}

/// Moves this process into namespaces of its own; the pid namespace takes in its children alone.
///
/// As root it also works where user namespaces are forbidden.
fn make_namespaces() -> Outcome {
    if let Err(error) = userns::unshare_as_root(true, true) {
        if !rustix::process::geteuid().is_root() {
            return Err(failed("make namespaces without root", &error).hint(userns_mend()));
        }
        let flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
        nix::sched::unshare(flags).map_err(|errno| {
            failed("make namespaces", &errno.into())
                .hint("even root may not make namespaces here; run the demo outside of this container")
        })?;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if !proc_is_masked(&mounts) {
        nix::sched::unshare(CloneFlags::CLONE_NEWPID)
            .map_err(|errno| failed("make a pid namespace", &errno.into()))?;
    }
    Ok(())
}

/// Whether parts of /proc are covered, proc_pid_mountinfo(5): the kernel then refuses a fresh one.
///
/// What is mounted on binfmt_misc covers an empty folder, which counts for nothing.
fn proc_is_masked(mountinfo: &str) -> bool {
    let mut places = mountinfo.lines().filter_map(|line| line.split(' ').nth(4));
    places.any(|place| place.starts_with("/proc/") && place != "/proc/sys/fs/binfmt_misc")
}

/// Waits for the demo. The first signal asks it to end, a second one makes it.
fn wait(mut child: Child, signals: &SigSet) -> Outcome<ExitCode> {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX));
    let mut asked = false;
    loop {
        if let Some(status) = child.try_wait().map_err(|error| failed("wait", &error))? {
            let code = status.code().and_then(|code| u8::try_from(code).ok());
            return Ok(ExitCode::from(code.unwrap_or(1)));
        }
        let signal = signals.wait().map_err(|error| failed("wait", &error.into()))?;
        if signal != Signal::SIGCHLD {
            let how = if asked { Signal::SIGKILL } else { Signal::SIGTERM };
            asked = true;
            // One that has ended meanwhile is found by the next turn.
            let _gone = kill(pid, how);
        }
    }
}

/// The demo's folder: everything that is not in memory.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Outcome<Folder> {
        let temp = env::temp_dir();
        let temp = if temp.as_os_str().len() <= TEMP_MAX_BYTES { temp.as_path() } else { Path::new("/tmp") };
        let mut last = None;
        for number in 0..100 {
            let path = temp.join(format!("portway-demo-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => return Ok(Folder(path)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = Some(error),
                Err(error) => {
                    return Err(failed(&format!("make a folder in {}", temp.display()), &error));
                }
            }
        }
        let error = last.unwrap_or_else(|| io::ErrorKind::AlreadyExists.into());
        Err(failed(&format!("make a folder in {}", temp.display()), &error))
    }

    fn remove(&self) -> Outcome {
        fs::remove_dir_all(&self.0)
            .map_err(|error| failed(&format!("remove folder {}", self.0.display()), &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_proc_is_told_from_a_whole_one() {
        let whole = "22 28 0:21 / /proc rw,nosuid - proc proc rw\n\
                     33 22 0:29 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n";
        assert!(!proc_is_masked(whole));
        assert!(proc_is_masked(&format!("{whole}40 22 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n")));
    }
}
