//! Starting a role of our own program, and what a role does first.

use std::ffi::CString;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Pid, Resource, Rlimit, WaitOptions, getrlimit, setrlimit};

pub mod program;
mod spawn;

/// First descriptor that is handed to a role.
pub const FIRST_FD: RawFd = 3;

/// A started role.
#[derive(Debug)]
pub struct Child {
    /// Its pid. Safe to use until it is reaped.
    pub pid: i32,
    /// Readable when it is dead.
    pub pidfd: OwnedFd,
}

/// How a role ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// Starts the running program again with `args` (after the program name) as a process of its own session.
///
/// `fds` become descriptors 3, 4, ... of it; standard input is /dev/null, standard output and error
/// are the caller's, every other descriptor is closed. Its environment is `env` and nothing else, its
/// directory is `/`, signal handlers and mask are the defaults, files that it makes are its user's alone, and it leaves
/// no core. `fds` are closed here in any case.
///
/// # Errors
/// `InvalidInput` for a zero byte in `args` or `env`; EMFILE, EAGAIN, ENOMEM; those of execve(2).
pub fn spawn_role(args: &[&str], fds: Vec<OwnedFd>, env: Vec<(String, String)>) -> io::Result<Child> {
    let args = std::iter::once("portway")
        .chain(args.iter().copied())
        .map(CString::new)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let env = env
        .into_iter()
        .map(|(key, value)| CString::new(format!("{key}={value}")))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    spawn::spawn(&args, &fds, &env)
}

/// Takes the exit status of child `pid` if it has ended. Never waits.
///
/// # Errors
/// ECHILD when it is no child of ours or was reaped already.
pub fn reap(pid: i32) -> io::Result<Option<Exit>> {
    let pid = Pid::from_raw(pid.max(0)).ok_or(rustix::io::Errno::CHILD)?;
    let Some((_, status)) = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG)? else {
        return Ok(None);
    };
    Ok(status.exit_status().map(Exit::Code).or_else(|| status.terminating_signal().map(Exit::Signal)))
}

/// Inherited descriptors that have been taken, one bit each from [`FIRST_FD`].
static TAKEN: AtomicU64 = AtomicU64::new(0);

/// Takes over descriptor `fd` that [`spawn_role`] handed to this process, and makes it close-on-exec.
/// Call it first in a role, before anything else opens descriptors.
///
/// # Errors
/// `InvalidInput` when `fd` is not within 3 to 66; `NotFound` when it is not open or was taken before.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    let bit = u32::try_from(fd - FIRST_FD)
        .ok()
        .and_then(|bit| 1_u64.checked_shl(bit))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no inherited descriptor number"))?;
    // SAFETY: F_GETFD only asks whether the number is open; it touches no memory.
    let open = unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if !open || TAKEN.fetch_or(bit, Ordering::Relaxed) & bit != 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "descriptor is not inherited"));
    }
    // SAFETY: the number is open, was handed to this process at exec and, by the bit above, has no other owner.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    rustix::io::fcntl_setfd(&owned, rustix::io::FdFlags::CLOEXEC)?;
    Ok(owned)
}

/// Raises the soft limit of open descriptors to the hard one and returns what holds.
#[must_use]
pub fn raise_nofile() -> u64 {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    let holds = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limits.maximum,
        Err(_) => limits.current,
    };
    holds.unwrap_or(u64::MAX)
}

/// Names the calling thread (of a role: the process) in `ps`; cut at 15 bytes.
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(name)
        && let Err(error) = rustix::thread::set_name(&name)
    {
        debug_assert!(false, "PR_SET_NAME cannot fail: {error}");
    }
}

#[cfg(test)]
mod tests;
