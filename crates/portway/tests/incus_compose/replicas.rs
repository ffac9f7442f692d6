//! More and fewer instances: replicas, and services that have left the files.

use crate::scene::Scene;

const SLEEPER: &str = "image: bb, command: [sleep, '100000'], stop_grace_period: 0s";

/// Fails when an instance that stays is touched, or one goes that nobody asked to go.
#[test]
fn scaled_up_and_down_and_orphans() {
    let Some(scene) = Scene::open("scale") else { return };
    scene.write(&format!("services:\n  web: {{{SLEEPER}}}\n  old: {{{SLEEPER}}}\n"));
    scene.ok(&["up", "-d", "--scale", "web=3"]);
    assert_eq!(scene.instances(), ["old-1 Running", "web-1 Running", "web-2 Running", "web-3 Running"]);
    let first = scene.pid("web-1");
    assert_eq!(scene.ok(&["ps", "-q", "web"]).out, "web-1\nweb-2\nweb-3\n");
    let refused = scene.run(&["up", "-d", "--scale", "wep=3"]);
    assert_eq!(refused.code, Some(4), "{refused:?}");
    scene.ok(&["scale", "web=2"]);
    assert_eq!(scene.instances(), ["old-1 Running", "web-1 Running", "web-2 Running"]);
    scene.write(&format!("services:\n  web: {{{SLEEPER}, scale: 2}}\n"));
    let kept = scene.ok(&["up", "-d"]);
    assert!(kept.err.contains("no longer in the files stay: old-1"), "{kept:?}");
    assert_eq!(scene.instances().len(), 3);
    scene.ok(&["up", "-d", "--remove-orphans"]);
    assert_eq!(scene.instances(), ["web-1 Running", "web-2 Running"]);
    assert_eq!(scene.pid("web-1"), first);
    // Two replicas cannot have one port, and nothing is done before that is seen.
    let before = scene.all();
    scene.write(&format!("services:\n  web: {{{SLEEPER}, scale: 2, ports: ['8080:80']}}\n"));
    let twice = scene.run(&["up", "-d"]);
    assert_ne!(twice.code, Some(0), "{twice:?}");
    assert_eq!(scene.all(), before);
}
