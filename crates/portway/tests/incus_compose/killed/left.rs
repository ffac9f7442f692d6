//! What a server that was killed itself has left behind.

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use crate::scene::Scene;

/// Fails when a name service that the server has lost is a failure that nobody understands, or `up` does not go on without it.
#[test]
fn who_has_the_address_of_a_network_is_looked_for() {
    let Some(scene) = Scene::open("lost") else { return };
    scene.write(
        "services: {web: {image: bb, command: [sleep, '100000'], networks: [front], stop_grace_period: 0s}}
networks: {front: {ipam: {config: [{subnet: 10.214.9.0/24}]}}}
",
    );
    let lost = || {
        let name_service =
            socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
        // Like dnsmasq's, of an address that no interface has any more.
        setsockopt(&name_service, sockopt::IpFreebind, &true).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&name_service), &SockaddrIn::new(10, 214, 9, 1, 53)).unwrap();
        name_service
    };
    let lost = scene.bed.netns().enter(lost).unwrap();
    let up = scene.run(&["up", "-d"]);
    assert_eq!(up.code, Some(1), "{up:?}");
    let line = up.err.lines().find(|line| line.starts_with("error: network ")).expect("one line");
    assert!(line.contains("another program has its address") && line.contains("`ss -lntup`"), "{up:?}");
    assert!(scene.networks().is_empty(), "{:#}", scene.all());
    drop(lost);
    scene.ok(&["up", "-d"]);
    assert_eq!(scene.instances(), ["web-1 Running"]);
    scene.ok(&["down", "-v"]);
    assert!(scene.is_gone(), "{:#}", scene.all());
}
