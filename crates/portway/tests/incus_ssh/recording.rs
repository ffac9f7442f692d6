//! What the policy has recorded: files that hold what was shown, whatever becomes of the gateway, and what happens when
//! one cannot be written.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;
use portway_testkit::{Server, wait_for};
use serde_json::Value;

use crate::inside::text;
use crate::scene::Scene;

fn policy(scene: &Scene, record: &str) {
    let rules = format!("[[rule]]\nusers = [\"root\"]\nallow = [\"*\"]\nrecord = \"{record}\"\n");
    fs::write(scene.path("p/ssh-policy.toml"), rules).unwrap();
}

/// What is listed, the oldest first.
fn listed(scene: &Scene) -> Vec<Value> {
    serde_json::from_str(&scene.portway(&["ssh", "recordings", "--format", "json"]).unwrap()).unwrap()
}

fn audited(scene: &Scene, event: &str, count: usize) -> Vec<Value> {
    let lines = || {
        let lines: Vec<Value> =
            scene.audit().ok()?.into_iter().filter(|line| line["event"] == event).collect();
        (lines.len() == count).then_some(lines)
    };
    wait_for("the audit log", lines).unwrap()
}

/// Fails when what is shown on a terminal is not in the recording, what is not to be recorded is, the file can be read by
/// others, or a gateway that is killed ends the recording.
#[test]
fn what_is_shown_is_recorded() {
    let Some(mut scene) = Scene::start(Server::Incus6, "record").unwrap() else { return };
    policy(&scene, "terminals");
    let at = Scene::at(&format!("bob@{}", scene.container.name()));
    let output = scene.talk(scene.client(&["-T"]).args([&at, "echo plain"]), b"").unwrap();
    assert_eq!(text(&output), "plain\nexit status: 0");
    assert_eq!(listed(&scene), Vec::<Value>::new());
    let typed = b"printf 'h\\303\\251llo \\033]52;c;eA==\\007there\\n'; exit 7\n";
    let output = scene.talk(scene.client(&["-tt"]).arg(&at), typed).unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    let whole = audited(&scene, "recorded", 1);
    assert_eq!((&whole[0]["end"], &whole[0]["person"]), (&"whole".into(), &"root".into()));
    let list = listed(&scene);
    let name = list[0]["name"].as_str().unwrap();
    assert!(list.len() == 1 && list[0]["title"].as_str().unwrap().starts_with("root: bob@"), "{list:?}");
    let started = audited(&scene, "started", 2);
    assert_eq!((started[0].get("recording"), &started[1]["recording"]), (None, &name.into()));
    let file = scene.path("p/recordings").join(name);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    // What was shown, and nothing that the terminal of whoever looks would do.
    let shown = scene.portway(&["ssh", "replay", name]).unwrap();
    assert!(shown.contains("héllo there\r\n") && !shown.contains('\u{7}'), "{shown:?}");
    let raw = scene.portway(&["ssh", "replay", "--raw", &file.display().to_string()]).unwrap();
    assert!(raw.contains("\u{1b}]52;c;eA==\u{7}there"), "{raw:?}");

    policy(&scene, "all");
    let output = scene.talk(scene.client(&["-T"]).args([&at, "echo out; echo err >&2"]), b"").unwrap();
    assert!(output.status.success(), "{}", text(&output));
    audited(&scene, "recorded", 2);
    let name = listed(&scene)[1]["name"].as_str().unwrap().to_owned();
    let shown = scene.portway(&["ssh", "replay", &name]).unwrap();
    assert!(shown.contains("out\n") && shown.contains("err\n"), "{shown:?}");

    // Nobody but the process of the connection is needed.
    let mut client = scene.client(&["-tt"]);
    client.arg(&at).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut client = scene.bed.netns().spawn(&mut client).unwrap();
    let mut typed = client.stdin.take().unwrap();
    typed.write_all(b"echo begun $((40 + 1))\n").unwrap();
    let last = |scene: &Scene, words: &str| {
        let name = listed(scene).get(2)?["name"].as_str()?.to_owned();
        scene.portway(&["ssh", "replay", &name]).unwrap().contains(words).then_some(())
    };
    wait_for("what is shown", || last(&scene, "begun 41")).unwrap();
    scene.stop(Signal::SIGKILL).unwrap();
    typed.write_all(b"echo with $((40 + 2))out it; exit\n").unwrap();
    assert!(client.wait().unwrap().success());
    last(&scene, "with 42out it").unwrap();
}

/// Fails when a session goes on that is to be recorded and cannot be, or ends where it may go on without.
#[test]
fn what_cannot_be_recorded_ends_or_goes_on() {
    let Some(mut scene) = Scene::start(Server::Incus6, "full").unwrap() else { return };
    policy(&scene, "all");
    let at = Scene::at(scene.container.name());
    let flood = "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done";
    let mut tries = 0;
    let mut with = |scene: &mut Scene, words: &[&str]| {
        tries += 1;
        scene.stop(Signal::SIGTERM).unwrap();
        scene.arguments =
            ["--recording-max", "1"].iter().chain(words).map(|word| (*word).to_owned()).collect();
        scene.launch().unwrap();
        scene.talk(scene.client(&["-T"]).args([&at, flood]), b"").unwrap()
    };
    let output = with(&mut scene, &[]);
    assert_eq!(output.status.code(), Some(255));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said, "portway: the session ends: its recording is as long as it may be\n");
    assert!(output.stdout.len() < 1 << 20);
    assert_eq!(audited(&scene, "recorded", 1)[0]["end"], "full");
    let output = with(&mut scene, &["--recording-failure", "go-on"]);
    assert!(output.status.success() && output.stdout.ends_with(b"\ndone\n"), "{}", output.status);
    assert_eq!(audited(&scene, "recorded", 2)[1]["end"], "full");
    let list = listed(&scene);
    assert!(list.iter().all(|one| one["bytes"].as_u64().unwrap() < (1 << 20) + 1024), "{list:?}");
    let name = list.last().unwrap()["name"].as_str().unwrap();
    assert!(scene.portway(&["ssh", "replay", name]).unwrap().contains("-- not recorded from here on"));

    // No folder can be made in a file.
    let file = scene.path("file");
    fs::write(&file, "").unwrap();
    let folder = file.join("x").display().to_string();
    let output = with(&mut scene, &["--recordings", &folder]);
    assert_eq!(text(&output), "portway: it is to be recorded, and cannot be\nexit status: 255");
    let output = with(&mut scene, &["--recordings", &folder, "--recording-failure", "go-on"]);
    assert!(output.status.success() && output.stdout.ends_with(b"\ndone\n"), "{}", output.status);
}
