//! Giving up what a process does not need. Order for a worker, on its only thread:
//! [`private_root`], [`drop_ids`], [`drop_all_caps`], [`no_new_privs`], [`undumpable`], [`worker_seccomp`].

use std::io;

pub mod seccomp;

pub use seccomp::worker_seccomp;

/// Replaces the file system the process sees by an empty, read-only one with nothing but /proc in it
/// (only the process folders), in a mount namespace of its own. Descriptors that are open keep working,
/// so do paths below O_PATH descriptors; no path of the host exists any more.
///
/// # Errors
/// `PermissionDenied` in a user namespace that may not mount /proc: the process is then unchanged, or in a
/// mount namespace of its own that still shows everything. The caller decides whether that will do.
pub fn private_root() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Becomes `uid` and `gid` for good, without supplementary groups, in every thread; empties the capability
/// bounding set first, which needs the privilege that is about to go.
///
/// # Errors
/// `InvalidInput` for an id that is not mapped in this user namespace, `PermissionDenied`.
pub fn drop_ids(_uid: u32, _gid: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Gives up every capability of the calling thread in every set.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn drop_all_caps() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// No exec can gain privilege any more (`PR_SET_NO_NEW_PRIVS`).
///
/// # Errors
/// Those of prctl(2).
pub fn no_new_privs() -> io::Result<()> {
    Ok(rustix::thread::set_no_new_privs(true)?)
}

/// No other process of the same user can trace this one or read its memory; no core dumps.
///
/// # Errors
/// Those of prctl(2).
pub fn undumpable() -> io::Result<()> {
    Ok(rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?)
}

/// Reduces the calling thread's capabilities to those the daemon works with. Call it before any other
/// thread exists. What the process does not have is not asked for, so it works without privilege too.
///
/// # Errors
/// Those of capset(2) and prctl(2).
pub fn daemon_keep_caps() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
