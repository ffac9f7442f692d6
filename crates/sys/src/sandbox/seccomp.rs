//! The system calls a relay worker may make, and those of them that an SSH session may.
//!
//! [`allowed`] is the whole policy, one entry per call with what it is for; everything else ends the
//! process. Arguments are looked at where a call can also do something a relay never does. A session is handed every
//! descriptor it uses and makes none: [`allowed_in_session`] leaves out what does.

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

/// What an argument has to be for the call to pass. Arguments are counted from 0; 32 bits are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Any arguments.
    Always,
    /// The argument is one of these values.
    OneOf(u8, &'static [u32]),
    /// The argument has none of these bits.
    Without(u8, u32),
    /// The argument is the worker's own pid.
    OwnPid(u8),
    /// Both hold.
    Both(&'static When, &'static When),
}

/// A system call that a worker may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Its name, as in the manual.
    pub name: &'static str,
    /// Its number on this machine.
    pub number: c_long,
    /// With which arguments.
    pub when: When,
    /// What the worker does with it.
    pub why: &'static str,
}

const fn any(name: &'static str, number: c_long, why: &'static str) -> Allowed {
    Allowed { name, number, when: When::Always, why }
}

const fn only(name: &'static str, number: c_long, when: When, why: &'static str) -> Allowed {
    Allowed { name, number, when, why }
}

/// `O_RDONLY`: no bit that writes or creates.
const READ_ONLY: u32 = (libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND).cast_unsigned();

/// Opening below a descriptor is for openat2, whose paths are those of the instance.
const OPEN_BY_PATH: When =
    When::Both(&When::OneOf(0, &[libc::AT_FDCWD.cast_unsigned()]), &When::Without(2, READ_ONLY));

const NOT_EXECUTABLE: u32 = libc::PROT_EXEC.cast_unsigned();

const FAMILIES: &[u32] =
    &[libc::AF_UNIX.cast_unsigned(), libc::AF_INET.cast_unsigned(), libc::AF_INET6.cast_unsigned()];

/// linux/sockios.h and asm-generic/ioctls.h: `FIONREAD`, `SIOCOUTQ`, `FIONBIO`.
const IOCTLS: &[u32] = &[0x541b, 0x5411, 0x5421];

const FCNTLS: &[u32] = &[
    libc::F_GETFD.cast_unsigned(),
    libc::F_SETFD.cast_unsigned(),
    libc::F_GETFL.cast_unsigned(),
    libc::F_SETFL.cast_unsigned(),
    libc::F_DUPFD_CLOEXEC.cast_unsigned(),
    libc::F_SETPIPE_SZ.cast_unsigned(),
    libc::F_GETPIPE_SZ.cast_unsigned(),
];

/// Every call a worker may make on any machine.
#[rustfmt::skip]
const COMMON: &[Allowed] = &[
    any("read", libc::SYS_read, "timers, /proc/PID/stat"),
    any("write", libc::SYS_write, "bytes to a stream, log lines"),
    any("readv", libc::SYS_readv, "bytes from a stream"),
    any("writev", libc::SYS_writev, "header and bytes in one segment"),
    any("pread64", libc::SYS_pread64, "/proc/PID/stat kept open"),
    any("lseek", libc::SYS_lseek, "the standard library asks a file's position before reading it"),
    any("close", libc::SYS_close, "ends connections"),
    any("splice", libc::SYS_splice, "bulk bytes between sockets without copying"),
    any("pipe2", libc::SYS_pipe2, "pipes for splice"),
    only("fcntl", libc::SYS_fcntl, When::OneOf(1, FCNTLS), "pipe sizes, descriptor flags, the reserve descriptor"),
    only("ioctl", libc::SYS_ioctl, When::OneOf(1, IOCTLS), "queue lengths, non-blocking mode"),
    only("openat", libc::SYS_openat, OPEN_BY_PATH, "reads /proc/PID/stat: is the instance dying"),
    any("openat2", libc::SYS_openat2, "finds unix sockets below the instance's root"),
    any("fstat", libc::SYS_fstat, "kind of a descriptor that a peer passes"),
    any("newfstatat", libc::SYS_newfstatat, "as fstat, in newer C libraries"),
    any("statx", libc::SYS_statx, "as fstat, in the standard library"),
    only("socket", libc::SYS_socket, When::OneOf(0, FAMILIES), "upstream connections"),
    any("connect", libc::SYS_connect, "dials upstream"),
    any("accept4", libc::SYS_accept4, "takes clients"),
    any("listen", libc::SYS_listen, "reopens a listener after a hold"),
    any("shutdown", libc::SYS_shutdown, "half-close; closes a listener after a hold"),
    any("getsockopt", libc::SYS_getsockopt, "result of a dial, credentials of an adopting daemon"),
    any("setsockopt", libc::SYS_setsockopt, "keepalive, time-outs, reset on close"),
    any("getsockname", libc::SYS_getsockname, "destination address for PROXY headers"),
    any("getpeername", libc::SYS_getpeername, "source address for PROXY headers"),
    any("recvfrom", libc::SYS_recvfrom, "bytes from a stream"),
    any("sendto", libc::SYS_sendto, "bytes to a stream"),
    any("recvmsg", libc::SYS_recvmsg, "descriptors beside bytes; the control channel"),
    any("sendmsg", libc::SYS_sendmsg, "descriptors beside bytes; the control channel"),
    any("recvmmsg", libc::SYS_recvmmsg, "datagrams in batches"),
    any("sendmmsg", libc::SYS_sendmmsg, "datagrams in batches"),
    any("epoll_create1", libc::SYS_epoll_create1, "the event loop"),
    any("epoll_ctl", libc::SYS_epoll_ctl, "the event loop"),
    any("epoll_pwait", libc::SYS_epoll_pwait, "the event loop"),
    any("epoll_pwait2", libc::SYS_epoll_pwait2, "the event loop, time in nanoseconds"),
    any("ppoll", libc::SYS_ppoll, "is a pidfd dead"),
    any("timerfd_create", libc::SYS_timerfd_create, "timers"),
    any("timerfd_settime", libc::SYS_timerfd_settime, "timers"),
    any("clock_gettime", libc::SYS_clock_gettime, "the clock where the vDSO has none"),
    any("clock_nanosleep", libc::SYS_clock_nanosleep, "short waits on the way out"),
    any("nanosleep", libc::SYS_nanosleep, "as clock_nanosleep, in older C libraries"),
    any("futex", libc::SYS_futex, "locks of the C library"),
    any("sched_yield", libc::SYS_sched_yield, "locks of the allocator"),
    any("brk", libc::SYS_brk, "memory"),
    only("mmap", libc::SYS_mmap, When::Without(2, NOT_EXECUTABLE), "memory, never executable"),
    only("mprotect", libc::SYS_mprotect, When::Without(2, NOT_EXECUTABLE), "memory, never executable"),
    any("munmap", libc::SYS_munmap, "memory"),
    any("mremap", libc::SYS_mremap, "memory"),
    any("madvise", libc::SYS_madvise, "gives memory back"),
    any("getrandom", libc::SYS_getrandom, "seeds of hash tables"),
    any("rt_sigaction", libc::SYS_rt_sigaction, "the C library on abort"),
    any("rt_sigprocmask", libc::SYS_rt_sigprocmask, "the C library on abort"),
    any("rt_sigreturn", libc::SYS_rt_sigreturn, "returns from a signal handler"),
    any("sigaltstack", libc::SYS_sigaltstack, "the standard library at the end of a thread"),
    any("restart_syscall", libc::SYS_restart_syscall, "a wait goes on after a stop"),
    any("rseq", libc::SYS_rseq, "the C library"),
    any("set_robust_list", libc::SYS_set_robust_list, "the C library"),
    any("getpid", libc::SYS_getpid, "the C library on abort"),
    any("gettid", libc::SYS_gettid, "the C library on abort"),
    only("tgkill", libc::SYS_tgkill, When::OwnPid(0), "aborts itself"),
    any("exit", libc::SYS_exit, "ends a thread"),
    any("exit_group", libc::SYS_exit_group, "ends the worker"),
];

/// Calls that only older architectures have, and C libraries there still make.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLDER: &[Allowed] = &[
    only("open", libc::SYS_open, When::Without(1, READ_ONLY), "as openat, in other C libraries"),
    any("epoll_wait", libc::SYS_epoll_wait, "the event loop"),
    any("poll", libc::SYS_poll, "is a pidfd dead"),
];

/// Calls that only older architectures have, and C libraries there still make.
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[Allowed] = &[];

/// The whole policy, in the order of the documentation.
pub fn allowed() -> impl Iterator<Item = &'static Allowed> {
    COMMON.iter().chain(OLDER)
}

/// What an SSH session does not need: sockets, pipes and files of its own.
const NOT_IN_SESSIONS: [&str; 11] = [
    "splice",
    "pipe2",
    "openat2",
    "socket",
    "connect",
    "listen",
    "recvmmsg",
    "sendmmsg",
    "timerfd_create",
    "timerfd_settime",
    "pread64",
];

/// What only a session does.
#[rustfmt::skip]
const ONLY_IN_SESSIONS: [Allowed; 4] = [
    any("mlock", libc::SYS_mlock, "keys stay out of swap"),
    any("munlock", libc::SYS_munlock, "keys stay out of swap"),
    only("sched_setattr", libc::SYS_sched_setattr, When::OneOf(0, &[0]), "goes before those who are not logged in"),
    any("getpriority", libc::SYS_getpriority, "keeps its nice value meanwhile"),
];

/// The policy of an SSH session.
pub fn allowed_in_session() -> impl Iterator<Item = &'static Allowed> {
    allowed().filter(|call| !NOT_IN_SESSIONS.contains(&call.name)).chain(&ONLY_IN_SESSIONS)
}

/// What the stack of a mesh tunnel does not need: its descriptors are pairs that it makes, and those it was handed.
const NOT_IN_STACKS: [&str; 12] = [
    "splice",
    "pipe2",
    "pread64",
    "openat2",
    "socket",
    "connect",
    "accept4",
    "listen",
    "timerfd_create",
    "timerfd_settime",
    "recvmmsg",
    "sendmmsg",
];

/// What only such a stack does.
#[rustfmt::skip]
const ONLY_IN_STACKS: [Allowed; 1] = [
    only("socketpair", libc::SYS_socketpair, When::OneOf(0, &[libc::AF_UNIX.cast_unsigned()]), "a connection's two ends"),
];

/// The policy of the stack of a mesh tunnel that is no kernel's.
pub fn allowed_in_stack() -> impl Iterator<Item = &'static Allowed> {
    allowed().filter(|call| !NOT_IN_STACKS.contains(&call.name)).chain(&ONLY_IN_STACKS)
}

/// Ends the process (SIGSYS) at any system call that is not [`allowed`], in all its threads and for good. Needs
/// [`no_new_privs`](super::no_new_privs), which is set here too.
///
/// # Errors
/// Those of seccomp(2): the kernel has no filters, or a thread has another filter already.
pub fn worker_seccomp() -> io::Result<()> {
    apply(allowed())
}

/// The same with what is [`allowed_in_session`].
///
/// # Errors
/// As [`worker_seccomp`].
pub fn session_seccomp() -> io::Result<()> {
    apply(allowed_in_session())
}

/// The same with what is [`allowed_in_stack`].
///
/// # Errors
/// As [`worker_seccomp`].
pub fn stack_seccomp() -> io::Result<()> {
    apply(allowed_in_stack())
}

fn apply(policy: impl Iterator<Item = &'static Allowed>) -> io::Result<()> {
    let program = compile(policy, std::process::id()).map_err(io::Error::other)?;
    seccompiler::apply_filter_all_threads(&program).map_err(io::Error::other)
}

fn compile(
    policy: impl Iterator<Item = &'static Allowed>,
    own_pid: u32,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules = BTreeMap::new();
    for call in policy {
        rules.insert(call.number, rules_for(call.when, own_pid)?);
    }
    let arch = std::env::consts::ARCH.try_into()?;
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)?.try_into()
}

/// One rule per way to pass; none means any arguments.
fn rules_for(when: When, own_pid: u32) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    ways(when, own_pid)?.into_iter().filter(|way| !way.is_empty()).map(SeccompRule::new).collect()
}

/// The ways to pass, each a list of conditions that all have to hold.
fn ways(when: When, own_pid: u32) -> Result<Vec<Vec<SeccompCondition>>, seccompiler::BackendError> {
    let way = |argument, op, value: u32| {
        Ok(vec![SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, u64::from(value))?])
    };
    match when {
        When::Always => Ok(vec![Vec::new()]),
        When::OneOf(argument, values) => {
            values.iter().map(|value| way(argument, SeccompCmpOp::Eq, *value)).collect()
        }
        When::Without(argument, bits) => Ok(vec![way(argument, SeccompCmpOp::MaskedEq(u64::from(bits)), 0)?]),
        When::OwnPid(argument) => Ok(vec![way(argument, SeccompCmpOp::Eq, own_pid)?]),
        When::Both(one, two) => {
            let two = ways(*two, own_pid)?;
            let one = ways(*one, own_pid)?;
            Ok(one.iter().flat_map(|one| two.iter().map(|two| [one.as_slice(), two].concat())).collect())
        }
    }
}

#[cfg(test)]
mod tests;
