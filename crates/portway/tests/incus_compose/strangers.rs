//! What somebody else has made, or copied.

use serde_json::{Value, json};

use crate::scene::Scene;

const DB: &str = "services:\n  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}\n";

/// Fails when a project of the server's that somebody uses is taken over.
#[test]
fn a_project_of_somebody_is_left_alone() {
    let Some(scene) = Scene::open("taken") else { return };
    scene.write(DB);
    let change = |method: &str, target: &str, body: Option<Value>| {
        scene.bed.incus().change(method, target, body.as_ref()).unwrap();
    };
    let volumes = "/1.0/storage-pools/default/volumes/custom";
    change("POST", "/1.0/projects", Some(json!({"name": scene.name, "config": {}})));
    change("POST", &format!("{volumes}?project={}", scene.name), Some(json!({"name": "mine"})));
    let before = scene.all();
    let refused = scene.run(&["up", "-d"]);
    assert!(refused.code == Some(1) && refused.err.contains("was not made for this project"), "{refused:?}");
    assert_eq!(scene.all(), before);
    change("DELETE", &format!("{volumes}/mine?project={}", scene.name), None);
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.instances(), ["db-1 Running"]);
    assert_eq!(scene.all()["project"]["config"]["user.portway.project"], scene.name.as_str());
}

/// Fails when a backup by copying goes with the next `up` or `down`.
#[test]
fn a_copy_stays() {
    let Some(scene) = Scene::open("copy") else { return };
    scene.write(DB);
    scene.ok(&["up", "-d"]);
    let change = |method: &str, target: &str, body: Option<Value>| {
        scene.bed.incus().change(method, target, body.as_ref()).unwrap();
    };
    let copy = json!({"name": "backup", "devices": {"eth0": {"type": "none"}},
        "source": {"type": "copy", "source": "db-1", "project": scene.name}});
    change("POST", &format!("/1.0/instances?project={}", scene.name), Some(copy));
    let label = &scene.instance("backup").unwrap()["config"]["user.portway.service"];
    assert_eq!(label, "db", "a copy without labels proves nothing");
    let before = scene.all();
    let again = scene.ok(&["up", "-d", "--remove-orphans"]);
    assert!(again.err.contains("instance backup was copied or renamed from db-1"), "{again:?}");
    assert_eq!(scene.all(), before);
    scene.ok(&["down", "-v"]);
    assert_eq!(scene.instances(), ["backup Stopped"]);
    change("DELETE", &format!("/1.0/instances/backup?project={}", scene.name), None);
}
