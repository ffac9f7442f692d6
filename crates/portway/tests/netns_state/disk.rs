//! The state cannot be written.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use portway_testkit::faults::{figure, scale};
use portway_testkit::{Answer, is_root};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::scene::{Scene, wait_for_names};
use crate::traced::Traced;

/// A small file system of its own at a folder. Drop takes it away, with the folder.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf) -> Self {
        mount("tmpfs", &path, "tmpfs", MountFlags::empty(), Some(c"size=1m,mode=700")).unwrap();
        Self(path)
    }

    /// Lays a view of itself over it that nobody may write to: files that are open stay so.
    fn close(&self) {
        mount_bind(&self.0, &self.0).unwrap();
        mount_remount(&self.0, MountFlags::BIND | MountFlags::RDONLY, "").unwrap();
    }

    fn open(&self) {
        unmount(&self.0, UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Also what a test that fails has left over it.
        while unmount(&self.0, UnmountFlags::DETACH).is_ok() {}
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A change that could not be stored: the answer says why, and nothing has changed, neither in memory nor on disk nor
/// for clients.
fn changes_nothing(scene: &Scene, words: &str, ask: impl FnOnce(&Scene) -> Answer) {
    let before = scene.names();
    let answer = ask(scene);
    let error = answer.body["error"].as_str().unwrap_or_default().to_owned();
    assert!(answer.status >= 500, "{answer:?}");
    assert!(error.contains("state.json") && error.contains(words), "{error}");
    assert_eq!(scene.names(), before, "{words}");
    assert_eq!(scene.stored(), before, "{words}");
    assert!(scene.listens(0) && !scene.listens(1), "{words}");
}

/// The disk is full, or read-only: what serves goes on, changes are refused with the reason, and as soon as there is
/// room they are made, by the same daemon.
///
/// Fails when: a device is taken in before it is stored, or a line of the log that cannot be written ends its thread.
#[test]
fn without_room_for_the_state_nothing_changes() {
    if !is_root() {
        return;
    }
    let Some(mut scene) = Scene::start() else { return };
    assert!(scene.daemon.terminate().unwrap().success());
    let saved = fs::read(scene.file()).unwrap();
    for process in scene.daemon.processes() {
        // Their sockets would be below the mount.
        let _ =
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), nix::sys::signal::Signal::SIGKILL);
    }
    // The log, which is beside the daemon's folder, has no room either.
    let disk = Mounted::at(scene.daemon.dir().parent().unwrap().to_owned());
    fs::DirBuilder::new().mode(0o700).create(scene.daemon.dir()).unwrap();
    fs::write(scene.file(), saved).unwrap();
    scene.daemon.launch().unwrap();
    scene.daemon.wait_for_state("used", "active").unwrap();
    let traffic = scene.traffic();
    assert_eq!(scene.try_add(0).unwrap().status, 200);
    let rounds = scale(10, 100);
    let filler = scene.daemon.dir().join("filler");
    for _ in 0..rounds {
        fs::write(&filler, vec![1; 2 << 20]).unwrap_err();
        changes_nothing(&scene, "No space left on device", |scene| scene.try_add(1).unwrap());
        changes_nothing(&scene, "No space left on device", |scene| scene.try_remove(0).unwrap());
        traffic.goes_on();
        fs::remove_file(&filler).unwrap();
        assert_eq!(scene.try_add(1).unwrap().status, 200);
        assert!(scene.try_remove(1).unwrap().status < 300);
        disk.close();
        changes_nothing(&scene, "Read-only file system", |scene| scene.try_add(1).unwrap());
        changes_nothing(&scene, "Read-only file system", |scene| scene.try_remove(0).unwrap());
        disk.open();
        assert_eq!(scene.try_add(1).unwrap().status, 200);
        assert!(scene.try_remove(1).unwrap().status < 300);
    }
    figure("R33", "changes asked for on a full or read-only disk", rounds * 4, "changes");
    figure("R33", "changes made though they were refused, or half made", 0, "changes");
    figure("R33", "connections meanwhile, none lost", traffic.end(), "connections");
    drop(scene);
    drop(disk);
}

/// Any call of a write of the state fails: the answer says which, memory and disk agree, also for the next daemon, and
/// the next change is made.
///
/// Fails when: a file that has taken its place stays though its folder could not be synced.
#[test]
fn whichever_call_fails_memory_and_disk_agree() {
    let Some(mut scene) = Scene::start() else { return };
    let traffic = scene.traffic();
    assert_eq!(scene.try_add(0).unwrap().status, 200);
    let mut trials = 0_u32;
    for _ in 0..scale(1, 20) {
        for (calls, error, words) in [
            ("openat", "EROFS", "Read-only file system"),
            ("write", "ENOSPC", "No space left on device"),
            ("write", "EIO", "Input/output error"),
            ("fdatasync", "EIO", "Input/output error"),
            ("fdatasync", "ENOSPC", "No space left on device"),
            ("link,linkat", "EIO", "Input/output error"),
            ("rename,renameat", "EIO", "Input/output error"),
            ("fsync", "EIO", "Input/output error"),
        ] {
            let before = scene.names();
            for is_added in [true, false] {
                let traced = Traced::failing(&scene.daemon, calls, error);
                let answer = if is_added { scene.try_add(1) } else { scene.try_remove(0) }.unwrap();
                drop(traced);
                let said = answer.body["error"].as_str().unwrap_or_default().to_owned();
                assert!(answer.status >= 500 && said.contains(words), "{calls} {error}: {answer:?}");
                assert_eq!(scene.names(), before, "{calls} {error}");
                assert_eq!(scene.stored(), before, "{calls} {error}");
                assert!(scene.listens(0) && !scene.listens(1), "{calls} {error}");
                trials += 1;
            }
            scene.daemon.kill().unwrap();
            scene.daemon.launch().unwrap();
            wait_for_names(&scene, &before);
            assert_eq!(scene.try_add(1).unwrap().status, 200, "{calls} {error}");
            assert!(scene.try_remove(1).unwrap().status < 300, "{calls} {error}");
            wait_for_names(&scene, &before);
        }
        traffic.goes_on();
    }
    figure("R33", "changes with a failing system call", trials, "changes");
    figure("R33", "changes after which disk and memory differed", 0, "changes");
    figure("R33", "connections meanwhile, none lost", traffic.end(), "connections");
}
