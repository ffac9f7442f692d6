//! Owners: without privilege, in a user namespace, on an idmapped mount.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::testing::NOBODY;

#[test]
fn without_privilege_one_owns_what_one_binds() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let closed = tempfile::tempdir().unwrap();
    let foreign = closed.path().join("foreign");
    expect_child(Some(NOBODY), || {
        let path = dir.path().join("s");
        drop(bind_stream(place(&path), me(), 0o600).unwrap());
        drop(bind_stream(place(&path), me(), 0o600).unwrap());
        let other = bind_stream(place(dir.path().join("other")), Owner { uid: 1, gid: 1 }, 0o600);
        assert!(matches!(other, Err(BindError::Denied { .. })), "{other:?}");
        assert!(matches!(bind_stream(place(&foreign), me(), 0o600), Err(BindError::Denied { .. })));
        crate::userns::unshare_as_root(true, true).unwrap();
        let bound = bind_stream(place(&path), Owner { uid: 0, gid: 0 }, 0o666).unwrap();
        assert!(check(&place(&path), bound.dev, bound.ino));
        let unmapped = bind_stream(place(dir.path().join("other")), Owner { uid: 5, gid: 0 }, 0o600);
        assert!(matches!(unmapped, Err(BindError::NotMapped { .. })), "{unmapped:?}");
    });
    let names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["s"], "a failure leaves nothing behind");
}

/// A folder as an Incus container sees it: ids shifted by an idmapped mount.
#[test]
fn an_idmapped_mount_takes_the_ids_of_its_map() {
    if !testing::root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mapped = dir.path().join("mapped");
    fs::create_dir(&mapped).unwrap();
    std::os::unix::fs::chown(&mapped, Some(1000), Some(1000)).unwrap();
    fs::set_permissions(&mapped, fs::Permissions::from_mode(0o700)).unwrap();
    let holder = testing::Forked::new(None, || {
        // SAFETY: a forked process with one thread.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }.unwrap();
        std::thread::sleep(std::time::Duration::from_secs(1000));
    });
    let map = |file: &str| format!("/proc/{}/{file}", holder.pid);
    while fs::write(map("uid_map"), "0 1000000 65536").is_err() {
        std::thread::yield_now();
    }
    fs::write(map("gid_map"), "0 1000000 65536").unwrap();
    let userns = File::open(map("ns/user")).unwrap();
    expect_child(None, || {
        private_mounts();
        mount_idmapped(&mapped, &userns);
        assert_eq!(fs::metadata(&mapped).unwrap().uid(), 1_001_000);
        let path = mapped.join("s");
        let owner = Owner { uid: 1_001_000, gid: 1_000_005 };
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (owner.uid, owner.gid, 0o660));
        assert_eq!((meta.dev(), meta.ino()), (bound.dev, bound.ino));
        assert!(matches!(bind_stream(place(&path), owner, 0o660), Err(BindError::InUse { .. })));
        drop(bound);
        let bound = bind_stream(place(&path), owner, 0o660).unwrap();
        assert!(check(&place(&path), bound.dev, bound.ino));
        // A client with the mapped ids, as a worker is.
        let root = place("/").root;
        expect_child(None, || {
            crate::sandbox::drop_ids(owner.uid, owner.gid, &[]).unwrap();
            connect_stream(root.as_fd(), Base::Root, &path).unwrap();
        });
        assert!(remove_if_ours(&place(&path), bound.dev, bound.ino).unwrap());
        for owner in [
            Owner { uid: 0, gid: 0 },
            Owner { uid: 1_001_000, gid: 0 },
            Owner { uid: 2_000_000, gid: 1_000_000 },
        ] {
            let unmapped = bind_stream(place(&path), owner, 0o660);
            assert!(matches!(unmapped, Err(BindError::NotMapped { .. })), "{unmapped:?}");
        }
        assert_eq!(fs::read_dir(&mapped).unwrap().count(), 0);
    });
}

/// Mounts `dir` on itself with the ids of `userns`.
fn mount_idmapped(dir: &Path, userns: &File) {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags};
    use std::os::fd::AsRawFd;
    /// `struct mount_attr` of linux/mount.h.
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, dir, flags).unwrap();
    let userns_fd = u64::try_from(userns.as_raw_fd()).unwrap();
    // MOUNT_ATTR_IDMAP
    let attr = MountAttr { attr_set: 0x0010_0000, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: reads `attr`, of the given size, and a constant string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    rustix::mount::move_mount(&tree, "", rustix::fs::CWD, dir, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .unwrap();
}
