//! Ranges of ports through real packets: each port of a range reaches its own.
//!
//! The topology is drawn in `publish/town.rs`.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod publish;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Instant;

use portway_testkit::{Netns, is_root};
use publish::town::{Answerer, PATIENCE, QUIET, Town, ask_tcp, ask_udp};
use publish::{publication, want};

/// Sends each of `count` ports from `first` on its own number, and sees that it comes to the port as far from
/// `target`.
fn each_reaches_its_own(town: &Town, from: &Netns, (address, first): (&str, u16), target: u16, count: u16) {
    let any = |family: &str| if family.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let bind = |port: u16| UdpSocket::bind(SocketAddr::from(([0_u16; 8], port))).unwrap();
    let servers: Vec<UdpSocket> =
        town.one.enter(|| (0..count).map(|step| bind(target + step)).collect()).unwrap();
    let client = from.enter(|| UdpSocket::bind(any(address)).unwrap()).unwrap();
    let begun = Instant::now();
    for (step, server) in (0_u16..).zip(&servers) {
        let port = first + step;
        server.set_read_timeout(Some(QUIET)).unwrap();
        let mut buffer = [0; 2];
        loop {
            client.send_to(&port.to_be_bytes(), format!("{address}:{port}")).unwrap();
            if server.recv_from(&mut buffer).is_ok() {
                break;
            }
            assert!(begun.elapsed() < PATIENCE, "{address}:{port} does not come to {}", target + step);
        }
        assert_eq!(u16::from_be_bytes(buffer), port);
    }
}

/// How many elements nft lists in a map of the host's table.
fn elements(town: &Town, map: &str) -> usize {
    let text = town.host.run(Command::new("nft").args(["list", "map", "inet", "portway", map])).unwrap();
    text.lines().filter(|line| line.contains(" : ") && !line.contains("type ")).count()
}

/// The same ports, one port for all, and a thousand ports further up and down: one element each.
///
/// Fails when: the offset flag is left out (all come to the first port), or the modulus is off by one.
#[test]
fn a_thousand_shifted_ports_are_one_element() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.apply(&want(vec![
        publication("same", "udp", "192.0.2.1 4000-4009", "10.0.0.2 4000-4009"),
        publication("up", "udp", "192.0.2.1 10000-10999", "10.0.0.2 20000-20999"),
        publication("down", "udp", "* 30000-30999", "10.0.0.2 1000-1999"),
        publication("up6", "udp", "*6 10000-10999", "fd00::2 20000-20999"),
        publication("down6", "udp", "2001:db8::1 30000-30999", "fd00::2 1000-1999"),
        publication("to-one", "tcp", "192.0.2.1 6000-6099", "10.0.0.2 8080"),
        publication("to-one-udp", "udp", "192.0.2.1 6000-6099", "10.0.0.2 8080"),
    ]));
    assert_eq!(elements(&town, "address4-ranges"), 4);
    assert_eq!(elements(&town, "every4-ranges"), 1);
    assert_eq!(elements(&town, "address6-ranges"), 1);
    assert_eq!(elements(&town, "every6-ranges"), 1);
    each_reaches_its_own(&town, &town.client, ("192.0.2.1", 4000), 4000, 10);
    each_reaches_its_own(&town, &town.client, ("192.0.2.1", 10_000), 20_000, 1_000);
    each_reaches_its_own(&town, &town.other, ("198.51.100.1", 30_000), 1_000, 1_000);
    each_reaches_its_own(&town, &town.client, ("[2001:db8::1]", 10_000), 20_000, 1_000);
    each_reaches_its_own(&town, &town.client, ("[2001:db8::1]", 30_000), 1_000, 1_000);
    let _one = Answerer::start(&town.one, "one", 8080);
    for port in [6_000, 6_001, 6_098, 6_099] {
        let to = format!("192.0.2.1:{port}");
        assert_eq!(ask_tcp(&town.client, &to, PATIENCE).as_deref(), Some("one 192.0.2.100"));
        assert_eq!(ask_udp(&town.client, &to, PATIENCE).as_deref(), Some("one 192.0.2.100"));
    }
    for port in [5_999, 6_100] {
        assert_eq!(ask_tcp(&town.client, &format!("192.0.2.1:{port}"), QUIET), None);
    }
}

/// A range that no single modulus can shift is a few elements, and as exact.
#[test]
fn a_range_that_must_be_cut_is_exact_too() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.apply(&want(vec![publication("cut", "udp", "192.0.2.1 100-449", "10.0.0.2 90-439")]));
    assert_eq!(elements(&town, "address4-ranges"), 3);
    each_reaches_its_own(&town, &town.client, ("192.0.2.1", 100), 90, 350);
}
