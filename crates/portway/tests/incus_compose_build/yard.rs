//! A project with a builder that has a store of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use portway_testkit::{Server, require};

use crate::scene::Scene;

/// A project called after `name`, where `builder` is installed; `None` where it or a server cannot be had.
pub(crate) fn with(builder: &str, server: Server, name: &str) -> Option<Scene> {
    if Command::new(builder).arg("--version").output().is_err() {
        require(&format!("{builder} is not installed"));
        return None;
    }
    let mut scene = Scene::on(server, name)?;
    // It needs nothing of the host: plain files, and no container of its own.
    let storage = scene.home().join("storage.conf");
    let home = scene.home().display();
    let text =
        format!("[storage]\ndriver = \"vfs\"\nrunroot = \"{home}/run\"\ngraphroot = \"{home}/graph\"\n");
    fs::write(&storage, text).unwrap();
    scene.variables.push(("CONTAINERS_STORAGE_CONF", storage));
    scene.variables.push(("BUILDAH_ISOLATION", PathBuf::from("chroot")));
    add_busybox(&scene);
    Some(scene)
}

/// The same with buildah.
pub(crate) fn with_buildah(server: Server, name: &str) -> Option<Scene> {
    with("buildah", server, name)
}

/// Puts busybox into the project's folder, for a `Dockerfile` to copy.
fn add_busybox(scene: &Scene) {
    let bin = scene.dir().join("bin");
    fs::create_dir(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).unwrap();
    for name in ["sh", "sleep", "cat", "tr", "stat", "readlink"] {
        std::os::unix::fs::symlink("busybox", bin.join(name)).unwrap();
    }
}

/// What a program in an instance prints.
pub(crate) fn printed(scene: &Scene, instance: &str, script: &str) -> String {
    let output = scene.exec(instance, script);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
