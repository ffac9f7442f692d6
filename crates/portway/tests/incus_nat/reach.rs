//! Everybody reaches what is published, and the service sees who it is where that can be.

use std::net::{IpAddr, SocketAddr};

use portway_testkit::{ContainerSpec, Site};

use crate::scene::{INSIDE, Scene, seen_by_tcp, seen_by_udp};

/// tcp and udp, IPv4 and IPv6, at one address and at all of them: from outside, from the host, from a
/// sibling, from the container itself, and over the host's loopback by the relay that stands beside.
///
/// Fails when the masquerade of one's own subnet is left out, and when a way is not added.
#[test]
fn from_everywhere_to_every_kind_of_listener() {
    let Some(scene) = Scene::start("natreach") else { return };
    scene.serve();
    let rig = &scene.rig;
    let sibling = rig.bed().launch("natsibling", &ContainerSpec::default()).unwrap();
    for v6 in [false, true] {
        sibling.address(v6).unwrap();
    }
    let [all, one4, one6, every4, every6, loop4, loop6] = [(); 7].map(|()| rig.ports.one().unwrap());
    let [host4, host6] = scene.hosts;
    for (protocol, nat) in [("tcp", "true"), ("udp", "auto")] {
        for (name, listen, connect) in [
            ("all", format!("[::]:{all}"), "[::]"),
            ("one4", format!("{host4}:{one4}"), "0.0.0.0"),
            ("one6", format!("[{host6}]:{one6}"), "[::]"),
            ("every4", format!("0.0.0.0:{every4}"), "0.0.0.0"),
            ("every6", format!("[::]:{every6}"), "[::]"),
        ] {
            let v6only = if name == "every6" { "v6only=true" } else { "v6only=false" };
            let keys = [
                v6only.to_owned(),
                format!("listen={protocol}:{listen}"),
                format!("connect={protocol}:{connect}:{INSIDE}"),
                format!("nat={nat}"),
            ];
            rig.add(&format!("{name}-{protocol}"), &keys.each_ref().map(String::as_str)).unwrap();
            scene.wait_until_led(&format!("{name}-{protocol}"));
        }
    }
    let inside = rig.inside().unwrap();
    let own = [false, true].map(|v6| rig.container.address(v6).unwrap());
    let siblings = [false, true].map(|v6| sibling.address(v6).unwrap());
    let sibling_site = sibling.site().unwrap();
    for (host, port) in
        [(host4, all), (host6, all), (host4, one4), (host6, one6), (host4, every4), (host6, every6)]
    {
        let target = SocketAddr::new(host, port);
        let index = usize::from(host.is_ipv6());
        let gateway = own_gateway(own[index]);
        let from: [(&str, &Site, IpAddr); 4] = [
            ("outside", &scene.client, scene.clients[index]),
            ("the host", rig.host(), host),
            // Both ends are in one subnet: the answer would go past the host, so the host asks.
            ("a sibling", &sibling_site, gateway),
            ("itself", &inside, gateway),
        ];
        for (who, site, source) in from {
            assert_eq!(seen_by_tcp(site, target), Some(source), "tcp from {who} to {target}");
            assert_eq!(seen_by_udp(site, target), Some(source), "udp from {who} to {target}");
        }
    }
    assert_ne!(siblings, own);
    let counted = scene.wait_until_counted("one4-tcp", 4);
    assert!(counted["bytes_out"].is_null(), "{counted}");
    // On the host's loopback the relay serves.
    for loopback in ["127.0.0.1", "::1"] {
        let target = SocketAddr::new(loopback.parse().unwrap(), all);
        assert!(seen_by_tcp(rig.host(), target).is_some_and(|source| source.is_loopback()), "{target}");
        assert!(seen_by_udp(rig.host(), target).is_some_and(|source| source.is_loopback()), "{target}");
    }
    loopback_is_for_the_host_alone(
        &scene,
        [loop4, loop6],
        &[&scene.client, rig.host(), &sibling_site, &inside],
    );
    rig.device_ok("remove", &["one4-tcp"]).unwrap();
    assert_eq!(seen_by_tcp(&scene.client, SocketAddr::new(host4, one4)), None);
    rig.device_ok("remove", &["one4-udp"]).unwrap();
    assert_eq!(seen_by_udp(&scene.client, SocketAddr::new(host4, one4)), None);
    assert!(seen_by_tcp(&scene.client, SocketAddr::new(host4, all)).is_some());
}

/// What listens at a loopback address has its clients there, by the relay, and none that come by another address.
fn loopback_is_for_the_host_alone(scene: &Scene, [four, six]: [u16; 2], sites: &[&Site]) {
    for (name, listen, connect, nat) in [
        ("loop4", format!("127.0.0.1:{four}"), "0.0.0.0", "nat=true"),
        ("loop6", format!("[::1]:{six}"), "[::]", "nat=auto"),
    ] {
        let keys =
            [format!("listen=tcp:{listen}"), format!("connect=tcp:{connect}:{INSIDE}"), nat.to_owned()];
        scene.rig.add(name, &keys.each_ref().map(String::as_str)).unwrap();
        let device = scene.device(name);
        assert_eq!((&device["mode"], &device["state"]), (&"relay".into(), &"active".into()), "{device}");
        let target: SocketAddr = listen.parse().unwrap();
        assert!(seen_by_tcp(scene.rig.host(), target).is_some_and(|source| source.is_loopback()), "{target}");
        let target =
            SocketAddr::new(if target.is_ipv4() { scene.hosts[0] } else { scene.hosts[1] }, target.port());
        for site in sites {
            assert_eq!(seen_by_tcp(site, target), None, "{target}");
        }
    }
}

/// The bridge's address in the subnet of `address`: the bed's networks have 1 as their host.
fn own_gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            IpAddr::from([a, b, c, 1])
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 1])
        }
    }
}

/// A range that is shifted is one element for the kernel, and every port leads to its own.
#[test]
fn a_shifted_range_leads_each_port_to_its_own() {
    let Some(scene) = Scene::start("natrange") else { return };
    let rig = &scene.rig;
    let first = rig.ports.one().unwrap();
    let inside = rig.inside().unwrap();
    let last = first + 3;
    let keys = [
        format!("listen=tcp:0.0.0.0:{first}-{last}"),
        "connect=tcp:0.0.0.0:81-84".into(),
        "nat=true".to_owned(),
    ];
    rig.add("range", &keys.each_ref().map(String::as_str)).unwrap();
    scene.wait_until_led("range");
    for step in 0..4_u16 {
        let listener = inside.run(|| std::net::TcpListener::bind(("0.0.0.0", 81 + step))).unwrap().unwrap();
        let target = SocketAddr::new(scene.hosts[0], first + step);
        let stream = scene.client.run(|| std::net::TcpStream::connect(target)).unwrap();
        assert!(stream.is_ok(), "port {step}");
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer.ip(), scene.clients[0], "port {step}");
    }
    scene.wait_until_counted("range", 4);
}

/// A thousand ports, shifted, are one element; the first, the middle and the last lead where they should, and
/// so do their neighbours outside: nowhere.
///
/// Fails when: a range is made of its ports, or its ends are off by one.
#[test]
fn a_thousand_shifted_ports_are_one_element() {
    let Some(scene) = Scene::start("natmany") else { return };
    let rig = &scene.rig;
    let inside = rig.inside().unwrap();
    let host = scene.hosts[0];
    for protocol in ["tcp", "udp"] {
        // Of an address that is this test's alone.
        let keys = [
            format!("listen={protocol}:{host}:4000-4999"),
            format!("connect={protocol}:0.0.0.0:14000-14999"),
            "nat=true".to_owned(),
        ];
        rig.add(protocol, &keys.each_ref().map(String::as_str)).unwrap();
        scene.wait_until_led(protocol);
        let element = format!("{host} . {protocol} . 4000-4999 ");
        // Where it leads, and the last port there.
        assert_eq!(scene.tables().matches(&element).count(), 2, "{}", scene.tables());
    }
    for step in [0, 499, 999_u16] {
        let listener =
            inside.run(|| std::net::TcpListener::bind(("0.0.0.0", 14_000 + step))).unwrap().unwrap();
        let target = SocketAddr::new(host, 4000 + step);
        scene.client.run(|| std::net::TcpStream::connect(target)).unwrap().unwrap();
        assert_eq!(listener.accept().unwrap().1.ip(), scene.clients[0], "tcp {step}");
        let socket = inside.run(|| std::net::UdpSocket::bind(("0.0.0.0", 14_000 + step))).unwrap().unwrap();
        let client = scene.client.run(|| std::net::UdpSocket::bind(("0.0.0.0", 0))).unwrap().unwrap();
        client.send_to(b"who", target).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(socket.recv_from(&mut [0; 8]).unwrap().1.ip(), scene.clients[0], "udp {step}");
    }
    for port in [3999, 5000] {
        assert_eq!(seen_by_tcp(&scene.client, SocketAddr::new(host, port)), None);
    }
}

/// What the kernel cannot carry is refused with what to do instead, or relayed, and says why.
#[test]
fn what_the_kernel_cannot_carry_is_said() {
    let Some(scene) = Scene::start("natcannot") else { return };
    scene.serve();
    let rig = &scene.rig;
    let port = rig.ports.one().unwrap();
    let tcp = format!("listen=tcp:0.0.0.0:{port}");
    for (keys, said) in [
        ([tcp.as_str(), "connect=tcp:127.0.0.1:7", ""], "loopback"),
        ([tcp.as_str(), "connect=tcp:[fd00::1]:7", ""], "IPv4 to IPv4"),
        (["listen=tcp:[fe80::1%br0]:7", "connect=tcp:[::]:7", ""], "link-local"),
        ([tcp.as_str(), "connect=udp:0.0.0.0:7", ""], "not tcp to udp"),
        ([tcp.as_str(), "connect=unix:/run/s", ""], "not tcp to unix"),
        ([tcp.as_str(), "connect=tcp:0.0.0.0:7", "bind=instance"], "bind must be host"),
        ([tcp.as_str(), "connect=tcp:0.0.0.0:7", "proxy_protocol=v2"], "proxy_protocol"),
        ([tcp.as_str(), "connect=tcp:0.0.0.0:7", "allow=192.0.2.0/24"], "allow"),
    ] {
        let keys: Vec<&str> =
            ["web", "nat=true"].into_iter().chain(keys.into_iter().filter(|key| !key.is_empty())).collect();
        let output = rig.device("add", &keys).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{keys:?}: {error}");
        assert!(error.starts_with("error: nat: ") && error.contains(said), "{keys:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    assert!(rig.daemon.devices().unwrap().is_empty());
    // An address that is the container's own word, or another's: never led to.
    let gateway = own_gateway(rig.container.address(false).unwrap());
    for address in [gateway.to_string(), "192.0.2.9".into()] {
        rig.add("web", &[&tcp, &format!("connect=tcp:{address}:7"), "nat=true"]).unwrap();
        let device = scene.device("web");
        assert_eq!(device["mode"], "relay", "{device}");
        assert_eq!(device["state"], "degraded", "{device}");
        assert!(
            device["reason"].as_str().unwrap().contains("is not an address the server has assigned"),
            "{device}"
        );
        rig.device_ok("remove", &["web"]).unwrap();
    }
    for (keys, said) in [
        (["connect=tcp:127.0.0.1:7", "deny=192.0.2.0/24"], "only the relay can honour deny"),
        (["connect=tcp:127.0.0.1:7", "nat=auto"], "loopback"),
    ] {
        rig.add(
            "web",
            &[&[tcp.as_str(), "nat=auto"][..], &keys[..1 + usize::from(keys[1].starts_with("deny"))]]
                .concat(),
        )
        .unwrap();
        let device = scene.device("web");
        assert_eq!((&device["mode"], &device["state"]), (&"relay".into(), &"active".into()), "{device}");
        assert!(device["mode_reason"].as_str().unwrap().contains(said), "{device}");
        assert!(seen_by_tcp(&scene.client, SocketAddr::new(scene.hosts[0], port)).is_some());
        rig.device_ok("remove", &["web"]).unwrap();
    }
}
