//! System calls that the rest of the program needs and the standard library lacks.
//!
//! The only crate with `unsafe`. Each function is a thin, safe wrapper that says in which thread,
//! namespace and with which capabilities it has to be called. There is no policy here.
//!
//! - [`netns`], [`userns`], [`sandbox`]: namespaces, ids, capabilities, seccomp;
//! - [`process`], [`pidfd`], [`sched`], [`signals`], [`resident`]: starting our own roles, watching foreign processes,
//!   when a thread runs, what it is told, what of the program stays in memory;
//! - [`listen`], [`unix_path`], [`sockopt`], [`path_mtu`], [`pipe`], [`mmsg`], [`tcp_info`], [`interface`], [`device`]:
//!   sockets, pipes and interfaces of the data path;
//! - [`seqpacket`], [`shm`]: what daemon and worker share;
//! - [`netlink`]: sockets to the kernel's tables;
//! - [`random`]: bytes that nobody can guess.

#![expect(unsafe_code, reason = "system calls without a safe wrapper are made here and nowhere else")]

pub mod device;
pub mod interface;
pub mod listen;
pub mod mmsg;
pub mod netlink;
pub mod netns;
pub mod path_mtu;
pub mod pidfd;
pub mod pipe;
pub mod process;
pub mod random;
pub mod resident;
pub mod sandbox;
pub mod sched;
pub mod seqpacket;
pub mod shm;
pub mod signals;
pub mod sockopt;
pub mod tcp_info;
#[cfg(test)]
mod testing;
mod text;
pub mod unix_path;
pub mod userns;

use std::io;

/// Turns the `-1` of a libc call into the thread's `errno`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
