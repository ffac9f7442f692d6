//! The system calls that each process of ours may make.
//!
//! One entry per call with what it is for; everything else ends the process. Arguments are looked at where a call can
//! also do something that no process of ours does. What a role is handed it does not make: the lists of the others leave
//! out what does.

use libc::c_long;

use crate::sandbox::Role;

/// What an argument has to be for the call to pass. Arguments are counted from 0; 32 bits are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Any arguments.
    Always,
    /// The argument is one of these values.
    OneOf(u8, &'static [u32]),
    /// The argument has none of these bits.
    Without(u8, u32),
    /// The argument is the process's own pid.
    OwnPid(u8),
    /// Both hold.
    Both(&'static When, &'static When),
}

/// A system call that may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowed {
    /// Its name, as in the manual.
    pub name: &'static str,
    /// Its number on this machine.
    pub number: c_long,
    /// With which arguments.
    pub when: When,
    /// What it is for.
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
    any("exit_group", libc::SYS_exit_group, "ends the process"),
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

/// The list of a role, in the order of the documentation.
pub(crate) fn calls_of(role: Role) -> impl Iterator<Item = &'static Allowed> {
    let (from, more): (Part, &[Allowed]) = match role {
        Role::Worker => (Part::All, &[]),
        Role::Session => (Part::Without(&NOT_IN_SESSIONS), &ONLY_IN_SESSIONS),
        Role::Tunnel => (Part::Without(&NOT_IN_TUNNELS), &[]),
        Role::Keeper => (Part::Only(&IN_KEEPERS), &[]),
        Role::Stack => (Part::Without(&NOT_IN_STACKS), &ONLY_IN_STACKS),
        Role::Inside => (Part::Only(&IN_INSIDES), &ONLY_IN_INSIDES),
    };
    COMMON.iter().chain(OLDER).filter(move |call| from.has(call.name)).chain(more)
}

/// A part of the worker's list.
#[derive(Clone, Copy)]
enum Part {
    All,
    Without(&'static [&'static str]),
    Only(&'static [&'static str]),
}

impl Part {
    fn has(self, name: &str) -> bool {
        match self {
            Part::All => true,
            Part::Without(names) => !names.contains(&name),
            Part::Only(names) => names.contains(&name),
        }
    }
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

/// What a tunnel does not need: the same, and nobody comes to it.
const NOT_IN_TUNNELS: [&str; 12] = [
    "splice",
    "pipe2",
    "openat2",
    "socket",
    "connect",
    "accept4",
    "listen",
    "recvmmsg",
    "sendmmsg",
    "timerfd_create",
    "timerfd_settime",
    "pread64",
];

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

/// What the C library needs to live, and to end.
macro_rules! with_bare_life {
    ($($more:literal),+ $(,)?) => {
        [
            $($more,)+
            "write",
            "close",
            "fcntl",
            "clock_gettime",
            "futex",
            "sched_yield",
            "brk",
            "mmap",
            "mprotect",
            "munmap",
            "mremap",
            "madvise",
            "getrandom",
            "rt_sigaction",
            "rt_sigprocmask",
            "rt_sigreturn",
            "sigaltstack",
            "restart_syscall",
            "rseq",
            "set_robust_list",
            "getpid",
            "gettid",
            "tgkill",
            "exit",
            "exit_group",
        ]
    };
}

/// What a keeper does: it waits, and takes and gives descriptors. It neither reads nor dials.
const IN_KEEPERS: [&str; 33] =
    with_bare_life!["accept4", "getsockopt", "setsockopt", "recvmsg", "sendmsg", "poll", "ppoll", "ioctl",];

/// What the maker of sockets inside a mesh network does.
const IN_INSIDES: [&str; 39] = with_bare_life![
    "read",
    "lseek",
    "openat",
    "open",
    "fstat",
    "newfstatat",
    "statx",
    "connect",
    "listen",
    "getsockopt",
    "setsockopt",
    "getsockname",
    "recvmsg",
    "sendmsg",
];

/// What only such a one does.
#[rustfmt::skip]
const ONLY_IN_INSIDES: [Allowed; 2] = [
    only("socket", libc::SYS_socket, When::OneOf(0, INTERNET), "sockets of its namespace"),
    any("bind", libc::SYS_bind, "their addresses"),
];

const INTERNET: &[u32] = &[libc::AF_INET.cast_unsigned(), libc::AF_INET6.cast_unsigned()];
