//! Commands at the same time.

use serde_json::json;

use crate::scene::Scene;

/// Fails when two change a project at once, or one that has died keeps it.
#[test]
fn one_at_a_time() {
    let Some(scene) = Scene::open("lock") else { return };
    scene.write("services:\n  db: {image: bb, command: [sleep, '100000'], stop_grace_period: 0s}\n");
    scene.ok(&["up", "-d"]);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let hold = |start: &str| {
        let text = format!("m {} {} {start} 1", boot.trim(), std::process::id());
        let mut project = scene.all()["project"].clone();
        project["config"]["user.portway.lock"] = json!(text);
        let target = format!("/1.0/projects/{}", scene.name);
        scene.bed.incus().change("PUT", &target, Some(&project)).unwrap();
    };
    hold(&start);
    let refused = scene.run(&["stop"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.err.contains("another command changes project"), "{refused:?}");
    assert_eq!(scene.instances(), ["db-1 Running"]);
    // Nothing to be done needs no right to do it.
    scene.ok(&["up", "-d"]);
    hold("1");
    scene.ok(&["stop"]);
    assert_eq!(scene.instances(), ["db-1 Stopped"]);
    assert!(scene.all()["project"]["config"].get("user.portway.lock").is_none());
}
