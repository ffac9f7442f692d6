//! Files by way of programs at both ends: rsync, git, tar, scp of old.

use std::fs;
use std::path::Path;
use std::process::Command;

use portway_testkit::{Image, client};

use crate::scene::Scene;
use crate::{run, scene_of};

/// OpenSSH's client as other programs call it, as one word of a shell's.
fn transport(scene: &Scene) -> String {
    let words: Vec<String> = scene.options("key");
    format!("ssh {} -p {}", words.join(" "), scene.port)
}

/// A folder with what copying gets wrong: names, modes, times, links, emptiness.
fn tree(at: &Path) {
    let script = "mkdir -p deep/er; head -c 3000000 /dev/urandom >deep/data; : >empty; echo x >'a name with \"quotes\"'; \
        chmod 640 empty; chmod 755 deep/data; ln -s deep/data link; touch -d '2001-02-03 04:05:06.7' empty; \
        printf 'r\\303\\244tsel' >\"$(printf 'r\\303\\244tsel')\"";
    fs::create_dir_all(at).unwrap();
    portway_testkit::run(Command::new("sh").args(["-ec", script]).current_dir(at)).unwrap();
}

/// Fails when a byte, a mode, a time or a name is lost on either way, or a second run finds something to do.
#[test]
fn rsync_and_git_go_there_and_back() {
    let Some(scene) = scene_of(Image::Debian, "copies") else { return };
    let name = scene.container.name();
    let (from, back) = (scene.path("from"), scene.path("back"));
    tree(&from);
    let rsync = |from: &str, to: &str| {
        let mut command = client("rsync");
        command.args(["-aiz", "--delete", "-e", &transport(&scene), from, to]);
        run(&scene, &mut command)
    };
    let place = format!("{}:/srv/tree/", Scene::at(name));
    let source = format!("{}/", from.display());
    assert!(rsync(&source, &place).contains("deep/data"));
    assert_eq!(rsync(&source, &place), "", "nothing is left to do");
    rsync(&place, &format!("{}/", back.display()));
    let differences = run(
        &scene,
        client("rsync").args(["-acin", "--delete"]).args([&source, &format!("{}/", back.display())]),
    );
    assert_eq!(differences, "");
    git(&scene);
}

/// A repository inside is cloned, and changed from here.
fn git(scene: &Scene) {
    scene.container.sh("git init -q --bare -b main /srv/repository.git").unwrap();
    let work = scene.path("work").display().to_string();
    let there = format!("ssh://{}/srv/repository.git", Scene::at(scene.container.name()));
    let git = |words: &[&str]| {
        let mut command = client("git");
        command.env("GIT_SSH_COMMAND", transport(scene)).env("HOME", scene.path("."));
        command.args(["-c", "user.name=n", "-c", "user.email=e@example.org"]).args(words);
        run(scene, &mut command)
    };
    git(&["clone", "-q", &there, &work]);
    fs::write(scene.path("work/file"), vec![7; 2_000_000]).unwrap();
    git(&["-C", &work, "checkout", "-q", "-b", "main"]);
    git(&["-C", &work, "add", "file"]);
    git(&["-C", &work, "commit", "-qm", "one"]);
    git(&["-C", &work, "push", "-q", "origin", "main"]);
    let again = scene.path("again").display().to_string();
    git(&["-c", "protocol.version=2", "clone", "-q", &there, &again]);
    assert!(fs::read(scene.path("again/file")).unwrap() == vec![7; 2_000_000]);
}
