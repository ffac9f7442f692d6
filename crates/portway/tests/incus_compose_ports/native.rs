//! The server's own devices.

use std::net::{Ipv4Addr, TcpStream};

use serde_json::{Value, json};

use crate::outside::{Outside, ask};
use crate::scene::Scene;
use crate::server;

fn file(port: u16, key: &str) -> String {
    format!("services:\n  web:\n    {}    ports: ['{port}:80']\n{key}", server("hello"))
}

const LED: &str = "    x-incus: {nat-proxy: true}\n";

const UP: [&str; 4] = ["up", "-d", "--proxy-engine", "incus"];

/// Devices of `web-1` of a type.
fn devices(scene: &Scene, kind: &str) -> Value {
    let devices = scene.instance("web-1").unwrap()["devices"].as_object().unwrap().clone();
    devices.into_iter().filter(|(_, device)| device["type"] == kind).collect::<serde_json::Map<_, _>>().into()
}

fn address(scene: &Scene) -> String {
    devices(scene, "nic")["eth0"]["ipv4.address"].as_str().unwrap().to_owned()
}

/// What leads at an address of the host.
fn leads(scene: &Scene, host: Ipv4Addr, port: u16) -> Option<Value> {
    let listen = format!("tcp:{host}:{port}");
    let devices = devices(scene, "proxy");
    devices.as_object().unwrap().values().find(|device| device["listen"] == listen.as_str()).cloned()
}

/// From the file to the kernel, and through what happens to it later: clients see one port all the time.
///
/// Fails when a device leads elsewhere, when what relays is touched, when a new address of the host, a restart by hand or
/// a reservation that was removed ends it, or when any of that makes the instance anew.
#[test]
fn nat_on_gives_nat_devices_to_the_containers_address() {
    let Some(scene) = Scene::open("nat") else { return };
    let outside = Outside::beside(scene.bed);
    let port = outside.ports.one().unwrap();
    scene.write(&file(port, LED));
    let up = scene.ok(&UP);
    assert!(!up.err.contains("is relayed"), "{up:?}");
    let address = address(&scene);
    let led = json!({
        "type": "proxy", "nat": "true", "listen": format!("tcp:{}:{port}", outside.host),
        "connect": format!("tcp:{address}:80"),
    });
    assert_eq!(leads(&scene, outside.host, port), Some(led.clone()));
    assert_eq!(outside.fetch(outside.host, port), "hello");
    assert!(outside.is_led(port, &address), "{:?}", outside.tracked(port));
    assert_eq!(scene.fetch(port, "/"), "hello\n", "by loopback, relayed");
    assert!(
        scene.ok(&["ps"]).out.contains(&format!("  0.0.0.0:{port}->80/tcp")),
        "{}",
        scene.ok(&["ps"]).out
    );
    assert_eq!(scene.ok(&["port", "web", "80"]).out, format!("0.0.0.0:{port}\n"));

    let born = scene.instance("web-1").unwrap()["created_at"].clone();
    let another = Ipv4Addr::new(198, 19, 255 - outside.host.octets()[2], outside.host.octets()[3]);
    outside.give(another);
    scene.ok(&UP);
    assert!(leads(&scene, another, port).is_some(), "{}", devices(&scene, "proxy"));
    assert_eq!(outside.fetch(another, port), "hello");

    let client = |args: &[&str]| {
        let args: Vec<&str> = args.iter().copied().chain(["--project", &scene.name]).collect();
        let output = scene.bed.client_output(&args).unwrap();
        assert!(output.status.success(), "{args:?}: {output:?}");
    };
    client(&["restart", "--force", "web-1"]);
    assert_eq!(outside.fetch(outside.host, port), "hello", "restarted by hand");

    scene.ok(&["stop"]);
    client(&["config", "device", "unset", "web-1", "eth0", "ipv4.address"]);
    scene.ok(&UP);
    assert_eq!(leads(&scene, outside.host, port), Some(led));
    assert_eq!(outside.fetch(outside.host, port), "hello", "reserved again");
    assert_eq!(scene.instance("web-1").unwrap()["created_at"], born);
}

/// Fails when a file without the key has other devices because of it, before it, after it, or made anew; or when what
/// relays is another process after it.
#[test]
fn unchanged_files_give_identical_configs() {
    let Some(scene) = Scene::open("same") else { return };
    let port = scene.free_port();
    scene.write(&file(port, ""));
    scene.ok(&UP);
    let plain = json!({
        format!("proxy-{port}"): {"type": "proxy", "listen": format!("tcp:0.0.0.0:{port}"), "connect": "tcp:127.0.0.1:80"},
    });
    assert_eq!(devices(&scene, "proxy"), plain);
    let (nic, pid) = (devices(&scene, "nic"), scene.pid("web-1"));
    assert_eq!(scene.fetch(port, "/"), "hello\n");
    let open = scene.bed.netns().enter(|| TcpStream::connect(("127.0.0.1", port))).unwrap().unwrap();
    scene.write(&file(port, LED));
    scene.ok(&UP);
    assert!(devices(&scene, "proxy").as_object().unwrap().len() > 1);
    scene.write(&file(port, ""));
    let up = scene.ok(&UP);
    assert_eq!((devices(&scene, "proxy"), devices(&scene, "nic")), (plain.clone(), nic.clone()), "{up:?}");
    assert_eq!(scene.pid("web-1"), pid);
    assert_eq!(ask(open).unwrap(), "hello", "a connection from before the key");
    scene.write(&file(port, LED));
    scene.ok(&UP);
    scene.write(&file(port, ""));
    scene.ok(&["up", "-d", "--recreate"]);
    assert_eq!((devices(&scene, "proxy"), devices(&scene, "nic")), (plain, nic));
    assert_eq!(scene.fetch(port, "/"), "hello\n");
}
