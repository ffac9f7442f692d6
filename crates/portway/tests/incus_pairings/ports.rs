//! Port lists and ranges: N to one, N to N, by position.

use std::net::SocketAddr;
use std::time::Duration;

use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{Addr, Behaviour, Rig, Service, Site, check};

use crate::PORTWAY;
use crate::place::{BOTH, Bind};

const LIMIT: Duration = Duration::from_secs(10);

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Services that say their port.
fn say(site: &Site, ports: impl Iterator<Item = u16>) -> Vec<Service> {
    let start =
        |port: u16| Service::start(site, &Addr::Tcp(local(port)), Behaviour::Say(port.to_string())).unwrap();
    ports.map(start).collect()
}

fn reached(site: &Site, port: u16) -> u16 {
    let stream = check::dial(site, &Addr::Tcp(local(port))).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    String::from_utf8(check::read_all(&stream).unwrap()).unwrap().parse().unwrap()
}

/// The n-th port listened on leads to the n-th connected to, in the order they were written; many
/// ports lead to one; and many ports to one unix socket.
///
/// Fails when: lists are sorted, or `nth` counts within a range only.
#[test]
fn lists_and_ranges_of_tcp() {
    let Some(rig) = Rig::start(PORTWAY, "ports").unwrap() else { return };
    for bind in BOTH {
        let (inside, first) = (rig.inside().unwrap(), rig.ports.run(8).unwrap());
        let (near, far) = match bind {
            Bind::Host => (rig.host().clone(), inside),
            Bind::Instance => (inside, rig.host().clone()),
        };
        let target = if bind == Bind::Host { 7000 } else { rig.ports.run(4).unwrap() };
        let _services = say(&far, target..target + 4);
        let bind = format!("bind={}", bind.name());
        // Written backwards on one side: a single port, then a range.
        let listen = format!("listen=tcp:127.0.0.1:{},{}-{}", first + 3, first, first + 2);
        let connect = format!("connect=tcp:127.0.0.1:{}-{}", target, target + 3);
        rig.add("nn", &[&listen, &connect, &bind]).unwrap();
        let listen = format!("listen=tcp:127.0.0.1:{}-{},{}", first + 4, first + 5, first + 7);
        let connect = format!("connect=tcp:127.0.0.1:{}", target + 1);
        rig.add("n1", &[&listen, &connect, &bind]).unwrap();
        let expected = [
            (first + 3, target),
            (first, target + 1),
            (first + 1, target + 2),
            (first + 2, target + 3),
            (first + 4, target + 1),
            (first + 5, target + 1),
            (first + 7, target + 1),
        ];
        for (port, service) in expected {
            assert_eq!(reached(&near, port), service, "{bind} port {port}");
        }
        // The port between belongs to nobody.
        let between = near.run(|| std::net::TcpStream::connect(local(first + 6))).unwrap();
        assert!(between.is_err());
        rig.device_ok("remove", &["nn", "n1"]).unwrap();
    }
}

/// One client socket on every port of a range reaches every target, and hears each from the port it
/// sent to; many ports to one.
///
/// Fails when: the flow table is keyed by the client alone.
#[test]
fn ranges_of_udp() {
    let Some(rig) = Rig::start(PORTWAY, "uports").unwrap() else { return };
    for bind in BOTH {
        let (inside, first) = (rig.inside().unwrap(), rig.ports.run(6).unwrap());
        let (near, far) = match bind {
            Bind::Host => (rig.host().clone(), inside),
            Bind::Instance => (inside, rig.host().clone()),
        };
        let target = if bind == Bind::Host { 7000 } else { rig.ports.run(4).unwrap() };
        let echo = |port: u16| UdpEcho::start(&far, local(port), &format!("{port} ")).unwrap();
        let _services: Vec<UdpEcho> = (target..target + 4).map(echo).collect();
        let bind = format!("bind={}", bind.name());
        let listen = format!("listen=udp:127.0.0.1:{}-{}", first, first + 3);
        let connect = format!("connect=udp:127.0.0.1:{}-{}", target, target + 3);
        rig.add("nn", &[&listen, &connect, &bind]).unwrap();
        let listen = format!("listen=udp:127.0.0.1:{}-{}", first + 4, first + 5);
        let connect = format!("connect=udp:127.0.0.1:{}", target + 2);
        rig.add("n1", &[&listen, &connect, &bind]).unwrap();
        let client = UdpClient::bind(&near, local(0)).unwrap();
        let targets = [target, target + 1, target + 2, target + 3, target + 2, target + 2];
        // Twice, so that the flows exist and are all used again.
        for round in 0..2 {
            for (port, service) in (first..).zip(targets) {
                let (answer, from) = client.exchange_with(local(port), b"x", LIMIT).unwrap().unwrap();
                assert_eq!(String::from_utf8_lossy(&answer), format!("{service} x"), "{bind} round {round}");
                assert_eq!(from, local(port));
            }
        }
        rig.device_ok("remove", &["nn", "n1"]).unwrap();
    }
}
