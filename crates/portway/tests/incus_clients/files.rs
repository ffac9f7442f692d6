//! Files by SFTP: whose they are afterwards, and whether every byte is there.

use std::fs;

use portway_testkit::{Image, client};

use crate::scene::Scene;
use crate::{driver, run, scene_of};

const SFTP: &str = include_str!("drivers/sftp_clients.py");

/// Length of the large file, bytes.
const LARGE_BYTES: usize = 200_000_000;

/// OpenSSH's sftp with these commands, which all have to succeed.
fn sftp(scene: &Scene, login: &str, batch: &str) -> String {
    let mut command = client("sftp");
    command.args(["-q", "-b"]).arg(scene.path("batch")).args(scene.options("key"));
    command.args(["-P", &scene.port.to_string(), &Scene::at(login)]);
    fs::write(scene.path("batch"), batch).unwrap();
    run(scene, &mut command)
}

/// The sum of a file's bytes, here.
fn sum(scene: &Scene, name: &str) -> String {
    let text = run(scene, client("sha256sum").arg(scene.path(name)));
    text.split_whitespace().next().unwrap().to_owned()
}

/// Fails when a byte of a large file is lost on either way.
#[test]
fn a_large_file_goes_there_and_back() {
    let Some(scene) = scene_of(Image::Busybox, "large") else { return };
    let data: Vec<u8> = (0..u32::try_from(LARGE_BYTES / 4).unwrap())
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    fs::write(scene.path("large"), data).unwrap();
    let (there, back) =
        (scene.path("large").display().to_string(), scene.path("large.back").display().to_string());
    sftp(&scene, scene.container.name(), &format!("put {there} /root/large\nget /root/large {back}\n"));
    let inside = scene.container.sh("sha256sum /root/large; rm /root/large").unwrap();
    assert_eq!(inside.split_whitespace().next(), Some(sum(&scene, "large").as_str()));
    assert_eq!(sum(&scene, "large"), sum(&scene, "large.back"));
}

/// Bob has two groups more than his own.
///
/// Fails when a file is another's than who made it, a mode is another than asked for and masked, a group is missing,
/// or what the user may not do is done.
fn are_the_users(image: Image, name: &str) {
    let Some(scene) = scene_of(image, name) else { return };
    // The busybox image has him in one group.
    scene.container.sh("grep -q '^extra:' /etc/group || echo 'extra:x:4001:bob' >>/etc/group").unwrap();
    scene.container.sh("mkdir -m 2770 /srv/shared && chown 0:4001 /srv/shared; echo secret >/root/secret; chmod 600 /root/secret").unwrap();
    let bob = format!("bob@{}", scene.container.name());
    let output =
        scene.talk(scene.client(&[]).args([&Scene::at(&bob), "id -u; id -g; id -G; umask"]), b"").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<&str> = said.lines().collect();
    let mut groups: Vec<&str> = lines[2].split(' ').collect();
    groups.sort_unstable();
    assert_eq!((lines[0], lines[1], &groups[..]), ("1000", "1000", &["1000", "29", "4001"][..]), "{said}");
    assert!(lines[3].ends_with("022"), "{said}");
    fs::write(scene.path("file"), "x\n").unwrap();
    let file = scene.path("file").display().to_string();
    fs::set_permissions(scene.path("file"), std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    sftp(
        &scene,
        &bob,
        &format!("put {file} plain\nput -p {file} kept\nput {file} /srv/shared/ours\nmkdir folder\n"),
    );
    let stat =
        |paths: &str| scene.container.sh(&format!("cd /home/bob && stat -c '%u %g %a' {paths}")).unwrap();
    assert_eq!(
        stat("plain kept /srv/shared/ours folder"),
        "1000 1000 644\n1000 1000 666\n1000 4001 644\n1000 1000 755\n"
    );
    for denied in ["get /root/secret /tmp/never", &format!("put {file} /etc/never"), "chown 0 plain"] {
        let mut command = client("sftp");
        fs::write(scene.path("batch"), format!("{denied}\n")).unwrap();
        command.args(["-q", "-b"]).arg(scene.path("batch")).args(scene.options("key"));
        let output =
            scene.talk(command.args(["-P", &scene.port.to_string(), &Scene::at(&bob)]), b"").unwrap();
        assert!(!output.status.success(), "{denied}");
    }
    sftp(&scene, scene.container.name(), &format!("put {file} plain\n"));
    assert_eq!(stat("/root/plain"), "0 0 644\n");
}

#[test]
fn files_are_the_users_on_busybox() {
    are_the_users(Image::Busybox, "owners");
}

#[test]
fn files_are_the_users_on_debian() {
    are_the_users(Image::Debian, "owners");
}

/// psftp, curl by libssh2, paramiko and asyncssh, each there and back; scp of today.
///
/// Fails when one of them loses a byte, or asks for what is not answered.
#[test]
fn every_client_moves_files() {
    let Some(scene) = scene_of(Image::Debian, "movers") else { return };
    let name = scene.container.name();
    let data: Vec<u8> = (0..10_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
    fs::write(scene.path("file"), data).unwrap();
    let file = scene.path("file").display().to_string();
    let back = |who: &str| scene.path(&format!("back.{who}")).display().to_string();
    run(&scene, driver(&scene, SFTP, name).args([&file, &back("paramiko"), &back("asyncssh")]));
    curl(&scene, &file, &back("curl"));
    psftp(&scene, &file, &back("psftp"));
    let port = scene.port.to_string();
    let scp = |from: &str, to: &str| {
        let mut command = client("scp");
        command.args(["-q", "-p"]).args(scene.options("key")).args(["-P", &port, from, to]);
        run(&scene, &mut command)
    };
    let there = format!("{}:scp file", Scene::at(name));
    scp(&file, &there);
    scp(&there, &back("scp"));
    for who in ["paramiko", "asyncssh", "curl", "psftp", "scp"] {
        assert_eq!(sum(&scene, &format!("back.{who}")), sum(&scene, "file"), "{who}");
    }
}

fn curl(scene: &Scene, from: &str, to: &str) {
    let key = scene.path("key").display().to_string();
    let public = scene.path("key.pub").display().to_string();
    let url = format!("sftp://127.0.0.1:{}/~/curl-file", scene.port);
    let user = format!("{}:", scene.container.name());
    let curl = |words: &[&str]| {
        let mut command = client("curl");
        command.env("HOME", scene.path("."));
        command.args(["-sS", "--insecure", "--key", &key, "--pubkey", &public, "-u", &user, &url]);
        run(scene, command.args(words))
    };
    curl(&["-T", from]);
    curl(&["-o", to]);
}

fn psftp(scene: &Scene, from: &str, to: &str) {
    let key = crate::programs::putty_key(scene);
    let print = crate::programs::host_key_print(scene);
    fs::write(scene.path("psftp"), format!("put {from} psftp-file\nget psftp-file {to}\n")).unwrap();
    let mut command = client("psftp");
    command.env("HOME", scene.path(".")).args(["-batch", "-hostkey", &print, "-i"]).arg(key);
    command
        .args(["-P", &scene.port.to_string(), "-l", scene.container.name(), "-b"])
        .arg(scene.path("psftp"));
    run(scene, command.arg("127.0.0.1"));
}

/// Fails when a mounted folder does otherwise than one that is there, or cannot be given back.
#[test]
fn sshfs_is_a_folder() {
    let Some(scene) = scene_of(Image::Debian, "sshfs") else { return };
    let words = scene.options("key");
    let options: Vec<&str> = words.iter().filter(|word| word.contains('=')).map(String::as_str).collect();
    let script = "mkdir $1 && sshfs -F none -p $2 -o IdentityFile=$3 -o $4 $5: $1 && cd $1 && \
        mkdir d && echo one >d/a && mv d/a d/b && ln -s d/b link && cat link && head -c 3000000 /dev/zero >big && \
        sync && wc -c <big && chmod 600 big && stat -c %a big && df . >/dev/null && rm -r d link && ls && cd / && umount $1";
    let mut command = client("sh");
    command.args(["-ec", script, "sh"]).arg(scene.path("mounted")).arg(scene.port.to_string());
    command.arg(scene.path("key")).arg(options.join(",")).arg(Scene::at(scene.container.name()));
    assert_eq!(run(&scene, &mut command), "one\n3000000\n600\nbig\n");
    assert_eq!(scene.container.sh("wc -c </root/big").unwrap().trim(), "3000000");
}
