//! What is counted of devices that the kernel carries.

use crate::scene::{Scene, seen_by_tcp};

/// Counts go on when the device, and when its instance, gets another name. Bytes are nobody's count while the
/// kernel carries it: no number in the list, no line in the metrics.
///
/// Fails when: a new name is a new device for the table's keeper, or what is not counted is shown as 0.
#[test]
fn counts_go_on_under_another_name() {
    let Some(mut scene) = Scene::start("natcount") else { return };
    scene.serve();
    let target = scene.publish("web", "tcp", scene.rig.ports.one().unwrap());
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
    let device = scene.wait_until_counted("web", 1);
    assert!(device["bytes_in"].is_null() && device["bytes_out"].is_null(), "{device}");
    let metrics = scene.metrics();
    let line = |name: &str, device: &str| {
        let stem = format!("portway_device_{name}{{instance=");
        metrics.lines().any(|line| line.starts_with(&stem) && line.contains(&format!("device=\"{device}\"")))
    };
    assert!(line("connections_total", "web") && !line("in_bytes_total", "web"), "{metrics}");
    scene.rig.device_ok("rename", &["web", "www"]).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
    scene.wait_until_counted("www", 2);
    let name = format!("{}-new", scene.rig.container.name());
    scene.rig.container.stop().unwrap();
    scene.rig.container.rename(&name).unwrap();
    scene.rig.container.start().unwrap();
    scene.rig.container.address(false).unwrap();
    scene.serve();
    assert!(seen_by_tcp(&scene.client, target).is_some(), "relayed, as the first of a new run is");
    scene.wait_until_led("www");
    assert_eq!(scene.device("www")["instance"], format!("incus:default/{name}"));
    assert_eq!(seen_by_tcp(&scene.client, target), Some(scene.clients[0]));
    scene.wait_until_counted("www", 4);
    scene.rig.device_ok("set", &["www", "nat=false"]).unwrap();
    let device = scene.wait_until_counted("www", 4);
    // What the relay has carried.
    assert_eq!(device["bytes_out"], "127.0.0.1".len(), "{device}");
}
