//! Starting any program as any user, on pipes or on a terminal.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use super::Child;
use super::spawn::{clone_child, errno, pointers, reset_signals, taken_in, unblock_signals};

/// A program as it is to run.
#[derive(Debug)]
pub struct Program<'a> {
    /// The file.
    pub image: Image<'a>,
    /// All its arguments, its own name first.
    pub args: &'a [CString],
    /// Its environment, and nothing else.
    pub env: &'a [CString],
    /// Working directory, entered as the user; `/` where that is refused.
    pub cwd: &'a CStr,
    /// User and groups; `None`: those of the caller.
    pub ids: Option<Ids<'a>>,
    /// File mode creation mask.
    pub umask: u16,
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// What standard input is.
    pub input: Input,
}

/// Where a program's file is.
#[derive(Debug, Clone, Copy)]
pub enum Image<'a> {
    /// At a path, as the user finds it.
    Path(&'a CStr),
    /// Open.
    File(BorrowedFd<'a>),
}

/// User, group and supplementary groups.
#[derive(Debug, Clone, Copy)]
pub struct Ids<'a> {
    /// User id: real, effective and saved.
    pub uid: u32,
    /// Group id: real, effective and saved.
    pub gid: u32,
    /// Supplementary groups, and no others.
    pub groups: &'a [u32],
}

/// What standard input is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// No terminal, or one that is not the program's to control.
    Stream,
    /// A terminal that becomes the controlling one.
    Terminal,
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    /// The process: it leads a session and a process group.
    pub child: Child,
    /// Why its working directory is `/` and not what was wanted; 0 when it is.
    pub cwd_error: i32,
}

/// A program that does not run.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// No process could be made.
    #[error("cannot make a process")]
    Process(#[source] io::Error),
    /// Its standard streams or its terminal could not be put in place.
    #[error("cannot set up its standard streams")]
    Streams(#[source] io::Error),
    /// The caller may not become that user.
    #[error("cannot become the user")]
    Ids(#[source] io::Error),
    /// The file could not be run.
    #[error("cannot run the file")]
    Exec(#[source] io::Error),
}

/// What the child was at.
#[derive(Debug, Clone, Copy)]
enum Stage {
    Streams,
    Ids,
    Exec,
}

/// What the child works from. It lives in the parent, which waits for the exec.
struct Plan<'a> {
    image: Image<'a>,
    argv: &'a [*const c_char],
    envp: &'a [*const c_char],
    cwd: &'a CStr,
    ids: Option<Ids<'a>>,
    umask: u16,
    /// All numbered above 2.
    stdio: [RawFd; 3],
    input: Input,
    stage: Stage,
    cwd_error: c_int,
    /// errno of the stage, written by the child; 0 while nothing has failed.
    error: c_int,
}

const ROOT: &CStr = c"/";
const HERE: &CStr = c"";

/// Starts `program` as a process that leads a session of its own, with default signal actions, none blocked, and no
/// descriptor but the three. It gets SIGHUP when the calling thread ends, unless its file changes its user.
///
/// # Errors
/// [`ProgramError`]; nothing runs then.
pub fn spawn(program: &Program<'_>) -> Result<Running, ProgramError> {
    let moved: Vec<_> = program
        .stdio
        .iter()
        .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3))
        .collect::<Result<_, _>>()
        .map_err(|error| ProgramError::Streams(error.into()))?;
    let mut stdio = [-1; 3];
    for (to, from) in stdio.iter_mut().zip(&moved) {
        *to = from.as_raw_fd();
    }
    let mut plan = Plan {
        image: program.image,
        argv: &pointers(program.args),
        envp: &pointers(program.env),
        cwd: program.cwd,
        ids: program.ids,
        umask: program.umask,
        stdio,
        input: program.input,
        stage: Stage::Streams,
        cwd_error: 0,
        error: 0,
    };
    // SAFETY: `child` takes the pointer for a `Plan`, which it is.
    let started = unsafe { clone_child(child, (&raw mut plan).cast()) };
    let child = started.map_err(ProgramError::Process)?;
    if plan.error == 0 {
        return Ok(Running { child, cwd_error: plan.cwd_error });
    }
    let error = taken_in(&child, plan.error);
    Err(match plan.stage {
        Stage::Streams => ProgramError::Streams(error),
        Stage::Ids => ProgramError::Ids(error),
        Stage::Exec => ProgramError::Exec(error),
    })
}

/// The child. Never returns; leaves errno in the plan when a step fails.
extern "C" fn child(plan: *mut c_void) -> c_int {
    // SAFETY: the pointer is the parent's `&mut Plan`, and the parent is stopped.
    let plan = unsafe { &mut *plan.cast::<Plan<'_>>() };
    plan.error = run(plan).map_or_else(|errno| errno, |never| match never {});
    // SAFETY: ends the child without destructors or exit handlers, which belong to the parent.
    unsafe { libc::_exit(127) }
}

fn run(plan: &mut Plan<'_>) -> Result<std::convert::Infallible, c_int> {
    reset_signals();
    // SAFETY: takes nothing. Cannot fail: a new process leads no group.
    unsafe { libc::setsid() };
    take_streams(plan)?;
    plan.stage = Stage::Ids;
    if let Some(ids) = plan.ids {
        become_user(ids)?;
    }
    plan.stage = Stage::Exec;
    // SAFETY: numbers only. Cannot fail; the parent is stopped, so it has not ended before this.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGHUP) };
    // SAFETY: a number only.
    unsafe { libc::umask(libc::mode_t::from(plan.umask)) };
    // SAFETY: a string that lives in the stopped parent.
    if unsafe { libc::chdir(plan.cwd.as_ptr()) } < 0 {
        plan.cwd_error = errno();
        // SAFETY: a constant string.
        unsafe { libc::chdir(ROOT.as_ptr()) };
    }
    unblock_signals();
    match plan.image {
        Image::Path(path) => {
            // SAFETY: both arrays end with a null pointer, and they and the path live in the stopped parent.
            unsafe { libc::execve(path.as_ptr(), plan.argv.as_ptr(), plan.envp.as_ptr()) };
        }
        Image::File(file) => {
            let (fd, argv, envp) = (file.as_raw_fd(), plan.argv.as_ptr(), plan.envp.as_ptr());
            // SAFETY: as above; an empty path with AT_EMPTY_PATH means the descriptor.
            unsafe { libc::syscall(libc::SYS_execveat, fd, HERE.as_ptr(), argv, envp, libc::AT_EMPTY_PATH) };
        }
    }
    Err(errno())
}

fn take_streams(plan: &Plan<'_>) -> Result<(), c_int> {
    for (target, source) in (0..).zip(plan.stdio) {
        // SAFETY: numbers only; every source is above every target, and the copy is not close-on-exec.
        if unsafe { libc::dup2(source, target) } < 0 {
            return Err(errno());
        }
    }
    // Closed by the exec and not before: the file may be one of them. Kernels before 5.11 refuse, and there what this
    // program itself opened is close-on-exec anyway.
    // SAFETY: numbers only.
    unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if plan.input == Input::Terminal {
        // SAFETY: numbers only; the process leads a session without a terminal.
        if unsafe { libc::ioctl(0, libc::TIOCSCTTY as libc::Ioctl, 0) } < 0 {
            return Err(errno());
        }
    }
    Ok(())
}

/// Becomes a user, with these groups and no others, and does not come back. Only for a program of one thread.
///
/// # Errors
/// Those of setgroups(2), setresgid(2) and setresuid(2); some of it may have happened then.
pub fn become_for_good(ids: Ids<'_>) -> io::Result<()> {
    become_user(ids).map_err(io::Error::from_raw_os_error)
}

/// By bare system calls: the C library's functions would change every thread that shares this memory.
fn become_user(ids: Ids<'_>) -> Result<(), c_int> {
    let (uid, gid, groups) = (ids.uid, ids.gid, ids.groups);
    // SAFETY: the list lives in the stopped parent and has that length.
    if unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) } < 0 {
        return Err(errno());
    }
    // SAFETY: numbers only.
    if unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) } < 0 {
        return Err(errno());
    }
    // SAFETY: numbers only.
    if unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) } < 0 {
        return Err(errno());
    }
    Ok(())
}
