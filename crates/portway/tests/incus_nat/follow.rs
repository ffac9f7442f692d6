//! A container that comes back with another address, and clients that keep asking.

use std::net::UdpSocket;
use std::time::Instant;

use portway_testkit::wait_for;

use crate::scene::{Scene, seen_by_tcp, seen_on};

/// The container is stopped, gets another address of its server and starts: it is reached there, by new
/// clients and by a datagram client that has not stopped asking. While it is down the relay holds the port.
///
/// Fails when the target is not looked for again, or when tracked flows are not forgotten.
#[test]
fn another_address_is_led_to() {
    let Some(mut scene) = Scene::start("natfollow") else { return };
    let port = scene.rig.ports.one().unwrap();
    let [target, _] = ["tcp", "udp"].map(|protocol| scene.publish(protocol, protocol, port));
    scene.serve();
    let client = scene.client.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    assert_eq!(seen_on(&client, target), Some(scene.clients[0]));
    let before = scene.rig.container.address(false).unwrap();
    let name = scene.rig.container.name().to_owned();
    for last in [201, 202] {
        scene.rig.container.stop().unwrap();
        let down = || (scene.device("tcp")["mode"] == "relay").then_some(());
        wait_for("the way to be taken back", down).unwrap();
        let mut octets = match before {
            std::net::IpAddr::V4(ip) => ip.octets(),
            std::net::IpAddr::V6(_) => unreachable!("an IPv4 address was asked for"),
        };
        octets[3] = last;
        let address = std::net::Ipv4Addr::from(octets).to_string();
        let verb = if last == 201 { "override" } else { "set" };
        let words = ["config", "device", verb, &name, "eth0", &format!("ipv4.address={address}")];
        let output = scene.rig.bed().client_output(&words).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        scene.forget_neighbour(address.parse().unwrap());
        scene.rig.container.start().unwrap();
        let has = || (scene.rig.container.address(false).ok()?.to_string() == address).then_some(());
        wait_for("the address", has).unwrap();
        scene.serve();
        let began = Instant::now();
        let reached = || (seen_on(&client, target) == Some(scene.clients[0])).then_some(());
        wait_for("the same client to be answered", reached).unwrap();
        wait_for("a new one", || {
            (seen_by_tcp(&scene.client, target) == Some(scene.clients[0])).then_some(())
        })
        .unwrap();
        println!("reached at {address} after {:?}", began.elapsed());
        let shown = scene.device("tcp")["mode_reason"].clone();
        assert!(shown.as_str().unwrap().contains(&address), "{shown}");
    }
    scene.rig.daemon.terminate().unwrap();
}
