//! Giving up what a process does not need: [`enter`] has the order, for every process of ours that reads what comes
//! from outside, and [`guard`] is for those that start them.
//!
//! What each is for: [`private_root`] takes away every path of the host, [`landlock()`] every other process
//! of the same user (whose /proc/PID/root would be a way back to those paths), [`Role::calls`] every
//! part of the kernel that the process does not use.

use std::io;

use nix::unistd::{Gid, Uid};
use rustix::io::Errno;
use rustix::process::DumpableBehavior;
use rustix::thread::{self, CapabilitySet, CapabilitySets};

mod landlock;
mod limits;
mod role;
mod root;
pub mod seccomp;

pub use landlock::{Calls, landlock, landlock_version};
pub use role::{Entered, Files, Refused, Role, enter};
pub use root::private_root;
pub use seccomp::Denies;

/// What the daemon works with: namespaces and foreign processes (`SYS_ADMIN`, `SYS_PTRACE`, `KILL`), sockets and
/// nftables (`NET_ADMIN`, `NET_BIND_SERVICE`), owners of sockets and ids of workers (the rest).
const DAEMON_CAPS: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::DAC_OVERRIDE)
    // For the gateway that it starts, which must not write where it may read.
    .union(CapabilitySet::DAC_READ_SEARCH);

/// What the broker of the SSH gateway works with: the private roots, users and capabilities of its connections'
/// processes, files of its host's users, its port, the network namespaces of containers. It makes nobody else's files its own, and changes no network.
const GATEWAY_CAPS: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::SYS_PTRACE);

/// Capability numbers are asked for one by one up to here; the kernel says which of them exist.
const CAP_LIMIT: u32 = 64;

/// Becomes `uid` and `gid` for good, with these supplementary groups, in every thread. Empties the capability
/// bounding set of the calling thread first, for which the privilege is gone afterwards.
///
/// # Errors
/// `InvalidInput` for an id that is not mapped in this user namespace, `PermissionDenied`.
pub fn drop_ids(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    limit_bounding_set(CapabilitySet::empty())?;
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setresgid(gid, gid, gid)?;
    Ok(nix::unistd::setresuid(uid, uid, uid)?)
}

/// Gives up every capability of the calling thread in every set. The bounding set stays where the thread may
/// not change it (no `CAP_SETPCAP`): it only limits what an exec could gain, which [`no_new_privs`] forbids.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn drop_all_caps() -> io::Result<()> {
    limit_caps(CapabilitySet::empty())
}

/// Reduces the calling thread's capabilities, and what its children can have, to those the daemon works with.
/// Call it before any other thread exists. What the process does not have is not asked for, so it works
/// without privilege too.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn daemon_keep_caps() -> io::Result<()> {
    limit_caps(DAEMON_CAPS)
}

/// The same with what the broker of the SSH gateway works with.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn gateway_keep_caps() -> io::Result<()> {
    limit_caps(GATEWAY_CAPS)
}

fn limit_caps(keep: CapabilitySet) -> io::Result<()> {
    thread::clear_ambient_capability_set()?;
    limit_bounding_set(keep)?;
    let permitted = thread::capabilities(None)?.permitted & keep;
    let sets = CapabilitySets { effective: permitted, permitted, inheritable: CapabilitySet::empty() };
    Ok(thread::set_capabilities(None, sets)?)
}

/// Takes everything but `keep` out of the bounding set, if this thread may.
fn limit_bounding_set(keep: CapabilitySet) -> io::Result<()> {
    if !thread::capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for number in 0..CAP_LIMIT {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Past the last capability of this kernel.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// No exec can gain privilege any more (`PR_SET_NO_NEW_PRIVS`), in the calling thread and those it starts.
///
/// # Errors
/// Those of prctl(2).
pub fn no_new_privs() -> io::Result<()> {
    Ok(thread::set_no_new_privs(true)?)
}

/// No other process of the same user can trace this one or read its memory; no core dumps.
///
/// # Errors
/// Those of prctl(2).
pub fn undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

/// For what runs as root, or starts processes of its own: no exec can gain privilege, nobody of the same user can look
/// into it, it leaves no core, and what nothing of ours does is refused, to it and to all that it starts
/// ([`seccomp::denied`]).
///
/// # Errors
/// Those of prctl(2), setrlimit(2) and seccomp(2).
pub fn guard(denies: Denies) -> io::Result<()> {
    no_new_privs()?;
    undumpable()?;
    limits::forbid(rustix::process::Resource::Core)?;
    seccomp::deny(denies)
}

#[cfg(test)]
mod tests;
