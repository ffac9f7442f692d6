//! A root directory with nothing in it but /proc.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags,
};
use rustix::thread::UnshareFlags;

/// Replaces the file system the process sees by an empty, read-only one with nothing but /proc in it (only the
/// process folders), in a mount namespace of its own. Call it on the only thread. Descriptors that are open keep
/// working, so do paths below O_PATH descriptors; no path of the host exists any more. The directory is `/`.
///
/// # Errors
/// `PermissionDenied` in a user namespace that may not mount /proc, `InvalidInput` (EINVAL) where the host's root
/// is an initial ramfs or the kernel is older than 5.8. In the first case nothing has changed; the caller decides
/// whether it goes on without.
pub fn private_root() -> io::Result<()> {
    // Both file systems come first: they are what an unprivileged caller is refused, and stay detached,
    // visible to nobody, until they are moved into place.
    let proc = detached(c"proc", &[(c"subset", c"pid")])?;
    let root = detached(c"tmpfs", &[(c"size", c"4096"), (c"nr_inodes", c"4"), (c"mode", c"0755")])?;
    // Its owner may write until it is read-only, so that root needs no capability to pass by modes.
    rustix::fs::mkdirat(&root, c"proc", Mode::from_raw_mode(0o555))?;

    // SAFETY: the caller has one thread, so no other loses the shared directory and umask.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    // Else what follows would be repeated in the host's namespace.
    rustix::mount::mount_change(c"/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    attach(root.as_fd(), CWD, c"/")?;
    attach(proc.as_fd(), root.as_fd(), c"proc")?;
    rustix::process::fchdir(&root)?;
    // The old root goes on top of the new one and is taken off at once; no folder for it is needed.
    rustix::process::pivot_root(c".", c".")?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
    rustix::process::chdir(c"/")?;
    let flags =
        MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount_remount(c"/", flags, c"")?)
}

/// A new file system that is mounted nowhere.
fn detached(kind: &CStr, options: &[(&CStr, &CStr)]) -> io::Result<OwnedFd> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        rustix::mount::fsconfig_set_string(&context, *key, *value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

fn attach(mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &CStr) -> io::Result<()> {
    Ok(rustix::mount::move_mount(mount, c"", dir, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}
