//! Addresses that change inside a container that runs on.

use std::net::UdpSocket;

use portway_testkit::wait_for;

use crate::claims::free;
use crate::scene::{Scene, seen_by_tcp, seen_on};

/// A container leaves the address it has leased, and its neighbour takes it: who asks at the container's ports is led
/// to its new address, and no more to the neighbour. Back again the same, without any lease that changes.
///
/// Fails when: nobody hears that an address has changed inside, and it is found at the next ordinary look half a
/// minute later.
#[test]
fn who_leaves_an_address_is_followed_at_once() {
    let Some(mut scene) = Scene::start("natleave") else { return };
    let port = scene.rig.ports.one().unwrap();
    let [target, _] = ["tcp", "udp"].map(|protocol| scene.publish(protocol, protocol, port));
    let neighbour = scene.rig.bed().container("natheir").unwrap();
    let leased = scene.rig.container.address(false).unwrap();
    let new = free(&scene, 1)[0];
    let gateway = new.to_string().rsplit_once('.').map(|(stem, _)| format!("{stem}.1")).unwrap();
    scene.forget_neighbour(new);
    // Its client for leases would take the address again when it renews.
    scene.rig.container.sh("killall udhcpc").unwrap();
    scene.serve();
    let client = scene.client.run(|| UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
    assert_eq!(seen_on(&client, target), Some(scene.clients[0]));
    for (from, to, said) in [(leased, new, ", configured inside)"), (new, leased, ")")] {
        let script = format!(
            "ip addr del {from}/24 dev eth0; ip addr add {to}/24 dev eth0; ip route replace default via {gateway}"
        );
        scene.rig.container.sh(&script).unwrap();
        let taken = if from == leased { "add" } else { "del" };
        neighbour.sh(&format!("ip addr {taken} {leased}/24 dev eth0")).unwrap();
        let is_led = || {
            let reason = scene.device("tcp")["mode_reason"].as_str()?.to_owned();
            (reason.contains(&format!("to {to} (")) && reason.ends_with(said)).then_some(())
        };
        wait_for("its other address", is_led).unwrap();
        let reached = || (seen_by_tcp(&scene.client, target) == Some(scene.clients[0])).then_some(());
        wait_for("a new client to reach it", reached).unwrap();
        wait_for("the client that was there", || {
            (seen_on(&client, target) == Some(scene.clients[0])).then_some(())
        })
        .unwrap();
    }
    scene.rig.daemon.terminate().unwrap();
}
