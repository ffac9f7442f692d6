//! Separation from files, from ports, and from the other processes of the same user.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// `struct landlock_ruleset_attr` (linux/landlock.h). A kernel takes a shorter structure than its own.
#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// `struct landlock_path_beneath_attr`, which is packed.
#[repr(C, packed)]
struct PathBeneathAttr {
    allowed_access: u64,
    parent_fd: i32,
}

/// `LANDLOCK_CREATE_RULESET_VERSION`.
const CREATE_RULESET_VERSION: u32 = 1;
/// `LANDLOCK_RULE_PATH_BENEATH`.
const RULE_PATH_BENEATH: u32 = 1;

/// `LANDLOCK_ACCESS_FS_READ_FILE` and `_READ_DIR`.
const ACCESS_FS_READ: u64 = 1 << 2 | 1 << 3;

/// From which version of Landlock on (landlock(7)), how many of the rights to files exist.
const FS_RIGHTS: [(u32, u32); 4] = [(1, 13), (2, 14), (3, 15), (5, 16)];
/// Since which version there are rights to TCP ports, and since which one scopes.
const NET_SINCE: u32 = 4;
const SCOPE_SINCE: u32 = 6;

/// `LANDLOCK_ACCESS_NET_BIND_TCP` and `_CONNECT_TCP`.
const BIND_TCP: u64 = 1;
const CONNECT_TCP: u64 = 2;
/// `LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET` and `LANDLOCK_SCOPE_SIGNAL`.
const SCOPE_ABSTRACT: u64 = 1;
const SCOPE_SIGNAL: u64 = 2;

/// Whom a process may call by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// It dials: tcp ports and sockets without a path.
    Out,
    /// It is handed its connections.
    Nobody,
    /// The ports of a network namespace that is its own are what it is for.
    Inside,
}

/// Which version of Landlock the kernel has.
///
/// # Errors
/// `Unsupported` (ENOSYS, EOPNOTSUPP) where it has none: before 5.13, or switched off.
pub fn landlock_version() -> io::Result<u32> {
    let none = ptr::null::<RulesetAttr>();
    // SAFETY: a null pointer of length 0, which this flag asks for.
    let version = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, CREATE_RULESET_VERSION)
    })?;
    u32::try_from(version).map_err(io::Error::other)
}

/// Puts the calling thread, and those it starts, into a Landlock domain of its own: from then on
/// /proc/PID/root, cwd, fd and mem of other processes are closed to it even when they run as the same user,
/// it can neither mount nor execute, and of files it can open those below /proc to read and no others. As far as
/// the kernel's version of Landlock goes, it can by `calls` bind or call no tcp port (4), and it can
/// send no signal and, by `calls`, reach no unix socket without a path outside of the domain (6). What it
/// holds already stays as it is. Reading /proc/PID/stat still works. Needs `no_new_privs`.
///
/// # Errors
/// `Unsupported` (ENOSYS, EOPNOTSUPP) where the kernel has no Landlock (before 5.13, or switched off): the
/// caller decides whether it goes on without; EPERM without `no_new_privs`.
pub fn landlock(calls: Calls) -> io::Result<()> {
    let version = landlock_version()?;
    let handled = handled(version, calls);
    let fields = if version >= SCOPE_SINCE {
        3
    } else if version >= NET_SINCE {
        2
    } else {
        1
    };
    // SAFETY: reads as many of its fields as this version knows, and it outlives the call.
    let ruleset = checked(unsafe {
        let size = fields * size_of::<u64>();
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&handled), size, 0)
    })?;
    // SAFETY: the call has just made this descriptor (close-on-exec) and nobody else owns it.
    let ruleset = unsafe { OwnedFd::from_raw_fd(ruleset) };
    match rustix::fs::open("/proc", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
        Ok(proc) => allow_reading(&ruleset, &proc)?,
        // Then there is nothing to be read.
        Err(Errno::NOENT | Errno::ACCESS) => {}
        Err(error) => return Err(error.into()),
    }
    // SAFETY: numbers only.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) })?;
    Ok(())
}

/// All that this version can take away: what no rule gives back is gone.
fn handled(version: u32, calls: Calls) -> RulesetAttr {
    let rights = FS_RIGHTS.iter().rev().find(|(since, _)| *since <= version).map_or(0, |(_, rights)| *rights);
    let (net, scoped) = match calls {
        Calls::Out => (BIND_TCP, SCOPE_SIGNAL),
        Calls::Nobody => (BIND_TCP | CONNECT_TCP, SCOPE_SIGNAL | SCOPE_ABSTRACT),
        Calls::Inside => (0, SCOPE_SIGNAL | SCOPE_ABSTRACT),
    };
    RulesetAttr {
        handled_access_fs: (1 << rights) - 1,
        handled_access_net: if version >= NET_SINCE { net } else { 0 },
        scoped: if version >= SCOPE_SINCE { scoped } else { 0 },
    }
}

fn allow_reading(ruleset: &OwnedFd, below: &OwnedFd) -> io::Result<()> {
    let rule = PathBeneathAttr { allowed_access: ACCESS_FS_READ, parent_fd: below.as_raw_fd() };
    // SAFETY: reads `rule`, which is of this kind and outlives the call.
    checked(unsafe {
        let (number, rule) = (libc::SYS_landlock_add_rule, ptr::from_ref(&rule));
        libc::syscall(number, ruleset.as_raw_fd(), RULE_PATH_BENEATH, rule, 0)
    })?;
    Ok(())
}

fn checked(result: libc::c_long) -> io::Result<libc::c_int> {
    crate::check(libc::c_int::try_from(result).map_err(io::Error::other)?)
}
