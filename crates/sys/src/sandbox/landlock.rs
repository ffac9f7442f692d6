//! Separation from the other processes of the same user.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

/// First fields of `struct landlock_ruleset_attr` (linux/landlock.h). The kernel takes a shorter
/// structure than its own, so the fields of later versions need not be here.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
}

/// `LANDLOCK_ACCESS_FS_EXECUTE`. A ruleset has to handle something; nothing is executed in the private root
/// anyway. What matters is the domain: a process in it cannot look into one outside (landlock(7), Ptrace).
const ACCESS_FS_EXECUTE: u64 = 1;

/// Puts the calling thread, and those it starts, into a Landlock domain of its own: from then on
/// /proc/PID/root, cwd, fd and mem of other processes are closed to it even when they run as the same user,
/// and it can neither mount nor execute. Reading /proc/PID/stat still works. Needs `no_new_privs`.
///
/// # Errors
/// `Unsupported` (ENOSYS, EOPNOTSUPP) where the kernel has no Landlock (before 5.13, or switched off): the
/// caller decides whether it goes on without; EPERM without `no_new_privs`.
pub fn landlock() -> io::Result<()> {
    let attr = RulesetAttr { handled_access_fs: ACCESS_FS_EXECUTE };
    // SAFETY: reads `attr`, of the given size, which outlives the call.
    let ruleset = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&attr), size_of::<RulesetAttr>(), 0)
    })?;
    // SAFETY: the call has just made this descriptor (close-on-exec) and nobody else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    // SAFETY: numbers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

fn checked(result: libc::c_long) -> io::Result<libc::c_int> {
    crate::check(libc::c_int::try_from(result).map_err(io::Error::other)?)
}
