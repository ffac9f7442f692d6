//! Ports of the host that the file leaves open.

use portway_testkit::DaemonSpec;

use crate::scene::Scene;
use crate::{PORTWAY, server};

/// Where `port` says that a replica is.
fn told(scene: &Scene, index: &str) -> u16 {
    let out = scene.ok(&["port", "--index", index, "web", "80"]).out;
    out.trim_end().rsplit_once(':').unwrap().1.parse().unwrap()
}

fn open(scene: &Scene) {
    scene.write(&format!("services:\n  web:\n    {}    ports: ['80']\n", server("hello")));
    scene.ok(&["up", "-d", "--scale", "web=2"]);
    let ports = [told(scene, "1"), told(scene, "2")];
    assert!(ports[0] != ports[1] && ports.iter().all(|port| *port >= 61_000), "{ports:?}");
    let ps = scene.ok(&["ps"]).out;
    for port in ports {
        assert_eq!(scene.fetch(port, "/"), "hello\n");
        assert!(ps.contains(&format!("0.0.0.0:{port}->80/tcp")), "{ps}");
    }
    assert_eq!(scene.ok(&["up", "-d", "--scale", "web=2"]).err, "", "they stay");
    assert_eq!([told(scene, "1"), told(scene, "2")], ports);
}

/// Fails when a port that nobody has named is not told, is not open, or changes.
#[test]
fn a_port_that_nobody_named_is_chosen_and_told() {
    let Some(scene) = Scene::open("open") else { return };
    open(&scene);
}

#[test]
fn the_same_with_a_daemon() {
    let Some(scene) = Scene::open("opend") else { return };
    let daemon = DaemonSpec::new(PORTWAY).on(scene.bed).start().unwrap();
    open(&scene.with_daemon(&daemon.dir()));
}
