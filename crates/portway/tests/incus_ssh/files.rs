//! Files: what the audit says of them, and a home that is all there is. Commands of keys.

use std::fs;

use nix::sys::signal::Signal;
use portway_testkit::{Server, wait_for};
use serde_json::Value;

use crate::inside::{copier, sftp, shows, text};
use crate::scene::Scene;

/// The gateway anew with more on its command line.
fn again(scene: &mut Scene, arguments: &[&str]) {
    scene.stop(Signal::SIGTERM).unwrap();
    scene.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    scene.launch().unwrap();
}

/// Lines of the audit about files, once there are so many.
fn files(scene: &Scene, count: usize) -> Vec<Value> {
    let lines = wait_for("files in the audit", || {
        let lines = scene.audit().ok()?;
        let files: Vec<Value> = lines.into_iter().filter(|line| line["event"] == "file").collect();
        (files.len() >= count).then_some(files)
    });
    lines.unwrap()
}

/// Fails when a file that went either way is not in the audit, with how much of it and what became of it; or what it
/// holds is.
#[test]
fn files_are_in_the_audit() {
    let Some(scene) = Scene::start(Server::Incus6, "seen").unwrap() else { return };
    let name = scene.container.name().to_owned();
    let bob = format!("bob@{name}");
    let (local, back) = (scene.path("local"), scene.path("back"));
    fs::write(&local, "secret ".repeat(100_000)).unwrap();
    let (local, back) = (local.display(), back.display());
    let output = sftp(&scene, &name, &format!("put {local} \"a\\\\b c\"\nget \"a\\\\b c\" {back}\n"));
    assert!(output.status.success(), "{}", text(&output));
    scene.container.sh("chmod 700 /root").unwrap();
    assert!(!sftp(&scene, &bob, &format!("put {local} /root/mine\n")).status.success());
    let copied = format!("{}:copied", Scene::at(&bob));
    let output = scene.talk(copier(&scene, "scp").args(["-s", &local.to_string(), &copied]), b"").unwrap();
    assert!(output.status.success(), "{}", text(&output));
    scene.container.kill().unwrap();
    assert!(sftp(&scene, &name, &format!("put {local} stored\n")).status.success());
    let lines = files(&scene, 5);
    let of = |line: &Value| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| line[key].as_u64().unwrap_or(u64::MAX);
        (
            text("instance_user"),
            text("path"),
            text("direction"),
            number("bytes_in"),
            number("bytes_out"),
            text("result"),
        )
    };
    let line = |user: &str, path: &str, direction: &str, bytes: (u64, u64), result: &str| {
        (user.to_owned(), path.to_owned(), direction.to_owned(), bytes.0, bytes.1, result.to_owned())
    };
    let expected = [
        line("root", "/root/a\\b c", "write", (700_000, 0), "closed"),
        line("root", "/root/a\\b c", "read", (0, 700_000), "closed"),
        line("bob", "/root/mine", "write", (0, 0), "refused"),
        line("bob", "copied", "write", (700_000, 0), "closed"),
        line("root", "/root/stored", "write", (700_000, 0), "closed"),
    ];
    assert_eq!(lines.iter().map(of).collect::<Vec<_>>(), expected, "{}", scene.log());
    let log = fs::read_to_string(scene.path("p/ssh-audit.jsonl")).unwrap();
    assert!(!log.contains("secret"), "what a file holds is in the audit");
}

/// Fails when with `--chroot-sftp` a user sees more than his home in files, or root or a command less than everything.
#[test]
fn a_home_is_all_there_is() {
    let Some(mut scene) = Scene::start(Server::Incus6, "jail").unwrap() else { return };
    again(&mut scene, &["--chroot-sftp"]);
    let name = scene.container.name().to_owned();
    let bob = format!("bob@{name}");
    let (local, back) = (scene.path("local"), scene.path("back"));
    fs::write(&local, "bytes").unwrap();
    scene.container.sh("echo outside >/etc/outside; ln -s /etc/outside /home/bob/way").unwrap();
    let (local, back) = (local.display(), back.display());
    let output = sftp(&scene, &bob, &format!("pwd\nput {local} mine\ncd ..\npwd\nget /mine {back}\n"));
    assert!(output.status.success(), "{} {}", text(&output), scene.log());
    assert_eq!(text(&output).matches("Remote working directory: /\n").count(), 2, "{}", text(&output));
    shows(&scene, "stat -c '%u %g %a' /home/bob/mine; cat /home/bob/mine", "1000 1000 644\nbytes");
    for path in ["/etc/outside", "way", "../../etc/outside", "/home/bob/mine"] {
        let output = sftp(&scene, &bob, &format!("get {path} {back}\n"));
        assert!(!output.status.success(), "{path}: {}", text(&output));
    }
    let output = scene.talk(scene.client(&["-T"]).args([&Scene::at(&bob), "cat /etc/outside; id -G"]), b"");
    assert_eq!(text(&output.unwrap()), "outside\n1000 29\nexit status: 0");
    let output = sftp(&scene, &name, &format!("pwd\nget /etc/outside {back}\n"));
    assert!(output.status.success() && text(&output).contains("/root"), "{}", text(&output));
    // No home, no files: not everything instead.
    scene.container.sh("mv /home/bob /home/gone").unwrap();
    let output = sftp(&scene, &bob, "pwd\n");
    assert!(
        !output.status.success() && text(&output).contains("files cannot be served"),
        "{}",
        text(&output)
    );
}

/// Fails when a key's command does not run instead of whatever is asked for, SFTP too, or without the user's groups.
#[test]
fn a_forced_command_is_the_users() {
    let Some(scene) = Scene::start(Server::Incus6, "forced").unwrap() else { return };
    scene.container.sh("echo 'more:x:4242:alice,bob' >>/etc/group; mkdir -m 777 /tmp/asked").unwrap();
    let keys = scene.path("home/.ssh/authorized_keys");
    let key = fs::read_to_string(&keys).unwrap();
    let command = "echo $(id -u) $(id -G): $SSH_ORIGINAL_COMMAND | tee -a /tmp/asked/by";
    fs::write(&keys, format!("command=\"{command}\" {key}")).unwrap();
    let bob = format!("bob@{}", scene.container.name());
    let at = Scene::at(&bob);
    let output = scene.talk(scene.client(&["-T"]).args([&at, "ls -l"]), b"").unwrap();
    assert_eq!(text(&output), "1000 1000 29 4242: ls -l\nexit status: 0", "{}", scene.log());
    let output = scene.talk(scene.client(&["-T"]).arg(&at), b"").unwrap();
    assert_eq!(text(&output), "1000 1000 29 4242:\nexit status: 0");
    assert!(!sftp(&scene, &bob, "pwd\n").status.success());
    shows(&scene, "tail -n 1 /tmp/asked/by; ls /tmp/asked", "1000 1000 29 4242: sftp\nby\n");
    assert_eq!(scene.said("true").unwrap(), "0 0: true\n");
}
