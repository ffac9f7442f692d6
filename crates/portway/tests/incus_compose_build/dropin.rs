//! What scripts for incus-compose call.

use portway_testkit::Server;
use serde_json::{Value, json};

use crate::scene::Scene;

/// Fails when a command, a flag or a variable of incus-compose means another thing here.
#[test]
fn scripts_for_incus_compose_go_on() {
    let Some(scene) = Scene::on(Server::Incus6, "dropin") else { return };
    scene.write(
        "services:
  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, volumes: ['data:/data']}
  web: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s, depends_on: [db]}
  other: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}
volumes: {data: {}}
",
    );
    let mut up = scene.command(&["-E", "--image-cache", "x", "--workers", "2", "--ansi", "never", "up"]);
    let up = scene.end(up.env("INCUS_COMPOSE_UP_DETACH", "true"));
    assert!(up.code == Some(0) && up.err.contains("--image-cache is not needed"), "{up:?}");

    let version = scene.ok(&["version", "--short"]);
    assert_eq!(version.out.trim_end(), env!("CARGO_PKG_VERSION"));
    let healthd = scene.ok(&["healthd", "up", "--scope", "project"]);
    assert!(healthd.out.contains("healthd up --scope project: not needed"), "{healthd:?}");

    let list: Value = serde_json::from_str(&scene.ok(&["list", "--format", "json"]).out).unwrap();
    let seen: Vec<String> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            format!(
                "{} {} {}",
                row["kind"].as_str().unwrap(),
                row["name"].as_str().unwrap(),
                row["status"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        seen,
        [
            "network default Exists",
            "volume vol-data Exists",
            "instance db Running",
            "instance other Running",
            "instance web Running",
        ]
    );
    assert!(scene.ok(&["list"]).out.starts_with("KIND"), "a table");
    let names = scene.ok(&["incus", "list", "--format", "csv", "-c", "n"]);
    assert_eq!(names.out, "db-1\nother-1\nweb-1\n");

    scene.ok(&["stop", "--with-deps", "web"]);
    assert_eq!(scene.ok(&["ps", "-q"]).out, "other-1\n");
    scene.ok(&["start", "web", "--with-deps"]);
    assert_eq!(scene.ok(&["ps", "-q", "--with-deps", "web"]).out, "db-1\nweb-1\n");

    // What removes is typed, never said by a variable.
    let mut down = scene.command(&["down", "--no-networks"]);
    let down =
        scene.end(down.env("INCUS_COMPOSE_DOWN_VOLUMES", "true").env("INCUS_COMPOSE_DOWN_PROJECT", "true"));
    assert_eq!(down.code, Some(0), "{down:?}");
    let list = scene.ok(&["list"]);
    assert!(list.out.contains("vol-data") && list.out.contains("network"), "{list:?}");

    let strange = json!({"name": "strange", "source": {"type": "none"},
        "devices": {"root": {"type": "disk", "path": "/", "pool": "default"}}});
    let target = format!("/1.0/instances?project={}", scene.name);
    scene.bed.incus().change("POST", &target, Some(&strange)).unwrap();
    scene.ok(&["down", "-v"]);
    assert!(scene.instance("strange").is_some(), "somebody else's");
    scene.ok(&["down", "--project"]);
    assert!(scene.bed.incus().find(&format!("/1.0/projects/{}", scene.name)).unwrap().is_none());
}
