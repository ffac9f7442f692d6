//! How an image says that it is stopped and its health told, where the file does not; and health after `up`.

use portway_testkit::{DaemonSpec, OciImage, wait_for};
use serde_json::{Value, json};

use crate::PORTWAY;
use crate::registry::Shop;

/// Ends by its own signal alone, and says who asks for its health.
const APP: OciImage<'_> = OciImage {
    user: "5:7",
    entrypoint: &[
        "/bin/sh",
        "-c",
        "trap '' TERM; trap 'exit 3' INT; echo begun; while :; do sleep 0.05; done",
    ],
    command: &[],
    environment: &["PATH=/bin:/sbin:/usr/bin", "WORD=image"],
    working_dir: "/srv/new",
    archive: None,
};

fn health(shop: &Shop) -> Option<String> {
    let all: Value = serde_json::from_str(&shop.scene.ok(&["ps", "--format", "json"]).out).unwrap();
    all[0]["health"].as_str().map(str::to_owned)
}

/// Fails when an image's stop signal or test of health does not count, a file's own does not win, the test is run as somebody
/// else, or the registry is asked when nothing new is needed.
#[test]
fn an_image_says_how_it_ends_and_how_it_is() {
    let Some(mut shop) = Shop::open("own") else { return };
    let says = json!({
        "StopSignal": "SIGINT",
        "Healthcheck": {
            "Test": ["CMD-SHELL", "echo $(id -u):$(id -g) $(pwd) $WORD >/tmp/who; test ! -e /tmp/ill"],
            "Interval": 100_000_000, "Retries": 2,
        },
    });
    shop.registry.push_with("app:1", &APP, &says);
    let daemon = DaemonSpec::new(PORTWAY).on(shop.scene.bed).start().unwrap();
    let (scene, registry) = (shop.scene, shop.registry);
    shop = Shop { scene: scene.with_daemon(&daemon.dir()), registry };
    shop.write("services: {app: {image: 'REGISTRY/app:1'}}");
    shop.scene.ok(&["up", "-d", "--wait"]);
    assert_eq!(health(&shop).as_deref(), Some("healthy"));
    assert_eq!(shop.said("app-1", "cat /tmp/who"), "5:7 /srv/new image\n");
    shop.said("app-1", "touch /tmp/ill");
    wait_for("its illness", || (health(&shop).as_deref() == Some("unhealthy")).then_some(())).unwrap();
    shop.scene.ok(&["stop", "-t", "60"]);
    assert_eq!(shop.scene.waited("app"), (Some(3), "3\n".to_owned()), "by its own signal");

    shop.registry.close();
    let again = shop.scene.ok(&["up", "-d"]);
    assert!(!again.err.contains("registry"), "{again:?}");
    shop.write("services: {app: {image: 'REGISTRY/app:1', stop_signal: KILL, healthcheck: {disable: true}}}");
    shop.scene.ok(&["up", "-d"]);
    assert_eq!(health(&shop), None);
    shop.scene.ok(&["stop", "-t", "60"]);
    assert_eq!(shop.scene.waited("app"), (Some(137), "137\n".to_owned()));
}
