//! The same on Incus 7.0 and LXD: a short walk.

use std::net::SocketAddr;

use portway_testkit::{ContainerSpec, Server};

use crate::scene::{INSIDE, Scene, seen_by_tcp, seen_by_udp};

/// tcp and udp, both families, over a restart of the container and of the daemon; nothing is left, and the
/// server's own table is as before.
fn walk(server: Server) {
    let Some(mut scene) = Scene::on(server, "natwalk", &ContainerSpec::default()) else { return };
    scene.serve();
    let own = scene.rig.container.name().to_owned();
    // Of Incus 7.0's rules the host's nft may die.
    let others = |scene: &Scene| (server == Server::Lxd).then(|| scene.chains_of(&own, true));
    let before = others(&scene);
    assert!(before.as_ref().is_none_or(|chains| chains.contains("br0")), "{before:?}");
    let port = scene.rig.ports.one().unwrap();
    for protocol in ["tcp", "udp"] {
        let keys = [
            format!("listen={protocol}:[::]:{port}"),
            format!("connect={protocol}:[::]:{INSIDE}"),
            "nat=true".to_owned(),
        ];
        scene.rig.add(protocol, &keys.each_ref().map(String::as_str)).unwrap();
        scene.wait_until_led(protocol);
    }
    let reached = |scene: &Scene| {
        for (host, client) in scene.hosts.into_iter().zip(scene.clients) {
            let target = SocketAddr::new(host, port);
            assert_eq!(seen_by_tcp(&scene.client, target), Some(client), "{target}");
            assert_eq!(seen_by_udp(&scene.client, target), Some(client), "{target}");
        }
    };
    reached(&scene);
    assert_eq!(others(&scene), before);
    scene.rig.container.restart_by_force().unwrap();
    for v6 in [false, true] {
        scene.rig.container.address(v6).unwrap();
    }
    scene.serve();
    scene.rig.daemon.kill().unwrap();
    scene.rig.daemon.launch().unwrap();
    for protocol in ["tcp", "udp"] {
        scene.wait_until_led_everywhere(protocol);
    }
    reached(&scene);
    for protocol in ["tcp", "udp"] {
        scene.rig.device_ok("remove", &[protocol]).unwrap();
    }
    assert_eq!(seen_by_tcp(&scene.client, SocketAddr::new(scene.hosts[0], port)), None);
}

#[test]
fn on_incus7() {
    walk(Server::Incus7);
}

#[test]
fn on_lxd() {
    walk(Server::Lxd);
}
