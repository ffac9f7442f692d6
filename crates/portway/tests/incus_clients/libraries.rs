//! Clients that are libraries: asyncssh and paramiko, each with a driver of ours in Python, and libssh2 in curl.

use portway_testkit::{Image, client};

use crate::{driver, run, scene_of};

const ASYNCSSH: &str = include_str!("drivers/asyncssh_client.py");
const PARAMIKO: &str = include_str!("drivers/paramiko_client.py");
const LOAD: &str = include_str!("drivers/load.py");
const STALLS: &str = include_str!("drivers/stalls.py");

/// Fails when one of the 256 statuses, a signal, a byte, or one of a hundred channels of a connection is lost.
#[test]
fn asyncssh_is_served() {
    let Some(scene) = scene_of(Image::Busybox, "asyncssh") else { return };
    let said = run(&scene, &mut driver(&scene, ASYNCSSH, scene.container.name()));
    assert_eq!(said, "done\n", "{}", scene.log());
}

/// Fails when one output waits for the other, or a second key is not asked for.
#[test]
fn paramiko_is_served() {
    let Some(scene) = scene_of(Image::Busybox, "paramiko") else { return };
    let said = run(&scene, &mut driver(&scene, PARAMIKO, scene.container.name()));
    assert_eq!(said, "done\n", "{}", scene.log());
}

/// Fails when sessions beside each other lose a byte, or one of them its place.
#[test]
fn two_hundred_sessions_echo_at_once() {
    let Some(scene) = scene_of(Image::Busybox, "load") else { return };
    let mut load = driver(&scene, LOAD, scene.container.name());
    assert_eq!(run(&scene, load.args(["200", "1000000"])), "done\n", "{}", scene.log());
}

/// One of a hundred channels has a program that does not read, and the others go on. Another client sends more than it may.
///
/// Fails when a channel waits for another one's program, or a client that ignores its window is kept, or is not alone in
/// being ended.
#[test]
fn a_stall_is_its_channels_and_greed_its_connections() {
    let Some(scene) = scene_of(Image::Busybox, "stalls") else { return };
    let said = run(&scene, &mut driver(&scene, STALLS, scene.container.name()));
    assert_eq!(said, "done\n", "{}", scene.log());
    assert!(scene.log().contains("the client sends more than its window"), "{}", scene.log());
}

/// Fails when what is offered to clients has a name that a checker of algorithms warns of.
#[test]
fn ssh_audit_finds_nothing_old() {
    let Some(scene) = scene_of(Image::Busybox, "audit") else { return };
    let mut audit = client("ssh-audit");
    audit.args(["--json", "--skip-rate-test", "-p", &scene.port.to_string(), "127.0.0.1"]);
    let output = scene.talk(&mut audit, b"").unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["cves"], serde_json::json!([]), "{report}");
    for kind in ["kex", "key", "enc", "mac"] {
        let listed = report[kind].as_array().unwrap();
        assert!(!listed.is_empty(), "{report}");
        for algorithm in listed {
            let name = algorithm["algorithm"].as_str().unwrap();
            let notes = &algorithm["notes"];
            assert!(notes.get("fail").is_none(), "{kind} {name}: {notes}");
            let warnings = notes["warn"].as_array().cloned().unwrap_or_default();
            let expected = |warning: &serde_json::Value| {
                kind == "kex" && warning.as_str().is_some_and(|text| text.contains("post-quantum"))
            };
            assert!(warnings.iter().all(expected), "{kind} {name}: {notes}");
        }
    }
    let first = report["kex"][0]["algorithm"].as_str().unwrap();
    assert!(first.starts_with("mlkem768x25519"), "{first}");
}
