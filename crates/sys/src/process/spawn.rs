//! vfork and exec: of our own program here, of others in [`super::program`].
//!
//! The child shares the parent's memory until it has called execve(2) (`CLONE_VM|CLONE_VFORK`): nothing is
//! copied, whatever the size of the daemon. Between the two it makes system calls only: no allocation, no
//! lock, no destructor. All its data is prepared here beforehand.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};

use super::{Child, FIRST_FD};

/// Stack of the child, bytes: a few frames of libc wrappers.
const STACK_BYTES: usize = 64 * 1024;

const EXE: &CStr = c"/proc/self/exe";
const ROOT: &CStr = c"/";

/// What a role makes is its own.
const UMASK: libc::mode_t = 0o077;
/// Its memory has keys and what clients say: it goes into no file.
static NO_CORE: libc::rlimit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };

/// What the child works from. It lives in the parent, which waits for the exec.
struct Plan<'a> {
    /// Sources for descriptors 0, 3, 4, ...: all numbered above any target.
    null: RawFd,
    sources: &'a [RawFd],
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    /// errno of the step that failed, written by the child; 0 while none has.
    error: c_int,
}

/// Starts the program. See [`super::spawn_role`].
pub(super) fn spawn(args: &[CString], fds: &[OwnedFd], env: &[CString]) -> io::Result<Child> {
    let past_targets = FIRST_FD + c_int::try_from(fds.len()).map_err(io::Error::other)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let moved = fds
        .iter()
        .chain([&null])
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, past_targets).map_err(io::Error::from))
        .collect::<io::Result<Vec<OwnedFd>>>()?;
    let mut sources: Vec<RawFd> = moved.iter().map(AsRawFd::as_raw_fd).collect();
    let null = sources.pop().unwrap_or(-1);
    let argv = pointers(args);
    let envp = pointers(env);
    let mut plan = Plan { null, sources: &sources, argv: &argv, envp: &envp, error: 0 };

    // SAFETY: `child` takes the pointer for a `Plan`, which it is.
    let child = unsafe { clone_child(child, (&raw mut plan).cast()) }?;
    if plan.error == 0 { Ok(child) } else { Err(taken_in(&child, plan.error)) }
}

/// Takes in a child that has left errno `error` and called _exit.
pub(super) fn taken_in(child: &Child, error: c_int) -> io::Error {
    let pid = rustix::process::Pid::from_raw(child.pid);
    match rustix::process::waitpid(pid, rustix::process::WaitOptions::empty()) {
        Ok(_) => io::Error::from_raw_os_error(error),
        Err(error) => error.into(),
    }
}

pub(super) fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn block_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: sigset_t is plain data; it is filled before use.
    let mut all: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    let mut before: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes the set it is given.
    unsafe { libc::sigfillset(&raw mut all) };
    // SAFETY: reads and writes sets that outlive the call.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before) };
    if error == 0 { Ok(before) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: reads a set that outlives the call.
    let error = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
    debug_assert_eq!(error, 0, "restoring a signal mask cannot fail");
}

/// Makes a process that runs `child` with `plan` on this one's memory, and waits until it has called execve or _exit.
///
/// # Safety
/// `plan` is what `child` takes it for and nobody else uses it meanwhile; `child` makes system calls only.
pub(super) unsafe fn clone_child(
    child: extern "C" fn(*mut c_void) -> c_int,
    plan: *mut c_void,
) -> io::Result<Child> {
    // No handler of ours may run in the child: it would run on shared memory.
    let blocked = block_signals()?;
    let mut stack = vec![0_u128; STACK_BYTES / size_of::<u128>()];
    let mut pidfd: c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    let top = stack.as_mut_ptr_range().end;
    // SAFETY: `child` gets a stack of its own that grows down from `top` (aligned as u128), and `plan`,
    // both of which live until the clone returns: CLONE_VFORK keeps this thread stopped until the child
    // has called execve or _exit. `pidfd` is written before that.
    let started = crate::check(unsafe { libc::clone(child, top.cast(), flags, plan, &raw mut pidfd) });
    restore_signals(&blocked);
    let pid = started?;
    // SAFETY: CLONE_PIDFD has just made this descriptor (close-on-exec) and nobody else owns it.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}

/// The child. Never returns; leaves errno in the plan when a step fails.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's `&mut Plan`, and the parent is stopped.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    plan.error = run(plan);
    // SAFETY: ends the child without destructors or exit handlers, which belong to the parent.
    unsafe { libc::_exit(127) }
}

/// Does the steps and execs; returns errno when one fails.
fn run(plan: &Plan<'_>) -> c_int {
    reset_signals();
    // SAFETY: takes nothing. Cannot fail: a new process leads no group.
    unsafe { libc::setsid() };
    // SAFETY: a number only; the child has its own mask.
    unsafe { libc::umask(UMASK) };
    // SAFETY: reads a constant; the child has limits of its own. Lowering them cannot fail.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const NO_CORE) };
    // SAFETY: a constant string.
    if unsafe { libc::chdir(ROOT.as_ptr()) } < 0 {
        return errno();
    }
    // SAFETY: numbers only; the child has its own descriptor table.
    if unsafe { libc::dup2(plan.null, 0) } < 0 {
        return errno();
    }
    let mut target = FIRST_FD;
    for source in plan.sources {
        // SAFETY: numbers only. Every source is above every target, so none is overwritten before its turn,
        // and the copy is not close-on-exec.
        if unsafe { libc::dup2(*source, target) } < 0 {
            return errno();
        }
        target += 1;
    }
    // SAFETY: numbers only.
    if unsafe { libc::syscall(libc::SYS_close_range, target, libc::c_uint::MAX, 0) } < 0 {
        return errno();
    }
    unblock_signals();
    // SAFETY: both arrays end with a null pointer and their strings live in the stopped parent.
    unsafe { libc::execve(EXE.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
    errno()
}

/// Gives every signal its default action. Handlers would be reset by exec anyway, but have to be gone
/// before signals are unblocked; ignored ones (SIGPIPE) would stay ignored.
pub(super) fn reset_signals() {
    // SAFETY: sigaction is plain data; all zeroes is SIG_DFL with an empty mask.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    for signal in 1..=64 {
        // SAFETY: reads `default`, which outlives the call. Numbers libc keeps for itself are refused.
        unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
    }
}

pub(super) fn unblock_signals() {
    // SAFETY: sigset_t is plain data; it is emptied before use.
    let mut none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes the set it is given.
    unsafe { libc::sigemptyset(&raw mut none) };
    // SAFETY: reads a set that outlives the call.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut()) };
}

pub(super) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}
