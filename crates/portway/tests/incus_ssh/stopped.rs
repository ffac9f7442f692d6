//! Instances that do not run: what somebody is told, who may start one, and their files.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Stdio;

use portway_testkit::{Server, wait_for};
use serde_json::Value;

use crate::inside::{sftp, text};
use crate::scene::Scene;

/// Lets root do everything, starts among it.
const MAY_START: &str = "[[rule]]\nusers = [\"root\"]\nallow = [\"*\"]\n";

fn write_policy(scene: &Scene, rules: &str) {
    let path = scene.path("p/ssh-policy.toml");
    fs::write(scene.path("policy"), rules).unwrap();
    fs::set_permissions(scene.path("policy"), fs::Permissions::from_mode(0o644)).unwrap();
    fs::rename(scene.path("policy"), path).unwrap();
}

/// What a command says there.
fn told(scene: &Scene, login: &str, words: &str) -> String {
    text(&scene.talk(scene.client(&["-T"]).args([&Scene::at(login), words]), b"").unwrap())
}

/// Lines of the audit that tell of starts, when the programs that were to run there are in it, as many.
fn starts(scene: &Scene, programs: usize) -> Vec<Value> {
    let is =
        |line: &Value, events: &[&str]| line["event"].as_str().is_some_and(|event| events.contains(&event));
    let lines = wait_for("the audit", || {
        let lines = scene.audit().ok()?;
        let asked = lines.iter().filter(|line| is(line, &["started", "not-started"])).count();
        (asked == programs).then_some(lines)
    });
    lines.unwrap().into_iter().filter(|line| is(line, &["instance-started"])).collect()
}

/// Fails when an instance is started though the policy does not say so, is started twice for two, or is used before it
/// runs.
#[test]
fn an_instance_is_started_for_who_may() {
    let Some(scene) = Scene::start(Server::Incus6, "start").unwrap() else { return };
    let name = scene.container.name().to_owned();
    scene.container.kill().unwrap();
    let stopped =
        format!("portway: instance {name} is not running, and `start` is not allowed there\nexit status: 3");
    assert_eq!(told(&scene, &name, "id -u"), stopped);
    assert_eq!(starts(&scene, 1).len(), 0);
    write_policy(&scene, MAY_START);
    let kinds = [(name.clone(), "0\n"), (format!("bob@{name}"), "1000\n")];
    let clients: Vec<_> = (0..6)
        .map(|number| &kinds[number % 2])
        .map(|(login, expected)| {
            let mut client = scene.client(&["-T"]);
            client.args([&Scene::at(login), "id -u"]).stdin(Stdio::null());
            client.stdout(Stdio::piped()).stderr(Stdio::piped());
            (scene.bed.netns().spawn(&mut client).unwrap(), *expected)
        })
        .collect();
    for (client, expected) in clients {
        let output = client.wait_with_output().unwrap();
        assert_eq!(text(&output), format!("{expected}exit status: 0"), "{}", scene.log());
    }
    let lines = starts(&scene, 7);
    assert!(lines.len() == 1 && lines[0]["failed"].is_null() && lines[0]["person"] == "root", "{lines:?}");
    // What somebody has stopped on purpose in another way is not touched.
    scene.container.change_state("freeze").unwrap();
    assert_eq!(told(&scene, &name, "id"), format!("portway: instance {name} is frozen\nexit status: 3"));
    scene.container.change_state("unfreeze").unwrap();
    // A user who is not there starts nothing.
    scene.container.kill().unwrap();
    let nobody = told(&scene, &format!("eve@{name}"), "id");
    assert_eq!(nobody, format!("portway: there is no user eve in {name}\nexit status: 1"));
    assert_eq!(starts(&scene, 9).len(), 1);
    assert_eq!(told(&scene, &name, "echo on"), "on\nexit status: 0");
    assert_eq!(starts(&scene, 10).len(), 2);
}

/// Fails when a start that fails is waited for, is told on more than a line, or takes the connection with it.
#[test]
fn a_start_that_fails_is_told() {
    let Some(scene) = Scene::start(Server::Incus6, "nostart").unwrap() else { return };
    let name = scene.container.name().to_owned();
    scene.container.kill().unwrap();
    write_policy(&scene, MAY_START);
    let init = scene.container.rootfs().join("sbin/init");
    let aside = init.with_file_name("init-aside");
    fs::rename(&init, &aside).unwrap();
    let said = told(&scene, &name, "id");
    let begin = format!("portway: instance {name} does not start: ");
    assert!(said.starts_with(&begin) && said.ends_with("\nexit status: 3"), "{said}");
    assert_eq!(said.lines().count(), 2, "{said}");
    let lines = starts(&scene, 1);
    assert!(
        lines.len() == 1 && lines[0]["failed"].as_str().is_some_and(|why| why.contains("start")),
        "{lines:?}"
    );
    fs::rename(&aside, &init).unwrap();
    assert_eq!(told(&scene, &name, "echo on"), "on\nexit status: 0");
}

/// Files of an instance that does not run, through the server: root's, and from the home on.
///
/// Fails when they are had by anybody else, or a path begins elsewhere than in a running instance.
#[test]
fn files_of_a_stopped_instance_are_roots() {
    let Some(scene) = Scene::start(Server::Incus6, "stored").unwrap() else { return };
    let name = scene.container.name().to_owned();
    scene.container.kill().unwrap();
    let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
    let (local, back) = (scene.path("local"), scene.path("back"));
    fs::write(&local, &bytes).unwrap();
    let (local, back) = (local.display(), back.display());
    let script = format!(
        "pwd\nput {local} there\nget there {back}\nmkdir d\nrename there d/moved\nls -l d\nput {local} /etc/new\n\
         ln -s moved d/link\nput {local} gone\nrm gone\n"
    );
    let output = sftp(&scene, &name, &script);
    assert!(output.status.success(), "{} {}", text(&output), scene.log());
    let said = text(&output);
    assert!(said.contains("Remote working directory: /root") && said.contains("d/moved"), "{said}");
    assert!(fs::read(scene.path("back")).unwrap() == bytes, "the bytes are others");
    let root = scene.container.rootfs();
    for path in ["root/d/moved", "etc/new"] {
        assert!(fs::read(root.join(path)).unwrap() == bytes, "{path}");
    }
    let owner = |path: &str| fs::symlink_metadata(root.join(path)).unwrap().uid();
    assert_eq!(owner("root/d/moved"), owner("root"), "it is another's");
    assert_eq!(fs::read_link(root.join("root/d/link")).unwrap().as_os_str(), "moved");
    assert!(!root.join("root/gone").exists());
    let bob = sftp(&scene, &format!("bob@{name}"), "pwd\n");
    let refused = format!("portway: instance {name} is not running, and then only root has files there");
    assert!(!bob.status.success() && text(&bob).contains(&refused), "{}", text(&bob));
    let lines = wait_for("the audit", || {
        let lines = scene.audit().ok()?;
        lines.iter().any(|line| line["event"] == "not-started").then_some(lines)
    });
    let ended = lines.unwrap().into_iter().find(|line| line["event"] == "ended").unwrap();
    assert!(ended["bytes_in"].as_u64() > Some(8_000_000) && ended["status"] == 0, "{ended}");
    write_policy(&scene, "[[rule]]\nusers = [\"root\"]\nallow = [\"shell\"]\n");
    assert!(text(&sftp(&scene, &name, "pwd\n")).contains("sftp is not allowed"), "{}", scene.log());
    // Where it may be started it is, and serves its files itself.
    write_policy(&scene, MAY_START);
    let bob = sftp(&scene, &format!("bob@{name}"), "pwd\n");
    assert!(text(&bob).contains("/home/bob"), "{}", text(&bob));
}
