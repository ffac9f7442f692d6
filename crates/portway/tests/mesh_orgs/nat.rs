//! What a device sees of the NAT before it, by asking the registrar at two ports.

use std::net::UdpSocket;

use portway_testkit::{is_root, wait_for};
use serde_json::{Value, json};

use crate::network::{Field, HOSTS, Running, Way};
use crate::place::Place;

/// An organization of this field, and a token of it.
fn organization(field: &Field) -> String {
    field.owner("mesh org create acme --network 10.77.0.0/24");
    field.owner("mesh key create --org acme --uses 10")
}

/// A member that finds out where it is, and what it has found.
fn member(field: &Field, host: usize, registrar: &str, token: &str) -> (Running, Value) {
    let words = format!(
        "proxy --join https://{registrar}:51821 --key {token} --device {} --listen-port 51820",
        HOSTS[host].0
    );
    let running = field.member(host, "smoltcp", &words);
    let outside = || {
        let outside = field.status(host)["organization"]["outside"].clone();
        outside.as_array().is_some_and(|seen| !seen.is_empty()).then_some(outside)
    };
    (running, wait_for("what is seen from outside", outside).unwrap())
}

fn text(field: &Field, host: usize) -> String {
    field.hosts[host].run(&mut field.command(HOSTS[host].0, "mesh status")).unwrap()
}

/// The second host behind its router speaks IPv6, too, which the router translates in the same way.
fn lead_six(field: &Field) {
    let (host, router) = (&field.hosts[1], &field.routers[1]);
    field.registrar.ip("addr add 2001:db8::fe/64 dev two nodad").unwrap();
    router.ip("addr add 2001:db8::1/64 dev wan nodad").unwrap();
    router.ip("addr add fd01::1/64 dev lan nodad").unwrap();
    router.sysctl("ipv6/conf/all/forwarding", "1").unwrap();
    host.ip("addr add fd01::2/64 dev cable nodad").unwrap();
    host.ip("route add default via fd01::1").unwrap();
    let rules = "add table ip6 r; add chain ip6 r p { type nat hook postrouting priority 100; }; \
        add rule ip6 r p oifname wan masquerade fully-random";
    router.nft(rules).unwrap();
}

/// Fails when: a NAT that takes another port for each destination is not seen in either family, is not said with what helps
/// against it, or a hub that is there is not named.
#[test]
fn a_symmetric_nat_is_seen() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Symmetric);
    lead_six(&field);
    let _registrar = field.registrar_on("[::]:51821");
    let token = organization(&field);
    let (one, seen) = member(&field, 0, HOSTS[0].2, &token);
    assert_eq!(seen[0]["mapping"], "symmetric");
    assert!(seen[0]["address"].as_str().unwrap().starts_with("192.0.2.1:"), "{seen}");
    one.hear("symmetric NAT: the registrar sees 192.0.2.1:");
    let said = text(&field, 0);
    assert!(
        said.contains(
            "\nsymmetric NAT: members behind routers are reached through a hub, and there is none\n"
        )
    );
    assert!(said.contains("hint: `portway mesh device set-hub DEVICE --org acme`"), "{said}");

    let (_two, seen) = member(&field, 1, "[2001:db8::fe]", &token);
    assert_eq!(seen[0]["mapping"], "symmetric");
    assert!(seen[0]["address"].as_str().unwrap().starts_with("[2001:db8::1]:"), "{seen}");

    // Nobody translates what it sends.
    let (_three, seen) = member(&field, 2, HOSTS[2].2, &token);
    assert_eq!(seen, json!([{ "address": "203.0.113.1:51820", "mapping": "same" }]));
    field.owner("mesh device set-hub three --org acme");
    let named = || text(&field, 0).contains("are reached through a hub: three\n").then_some(());
    wait_for("the hub", named).unwrap();
}

/// Fails when: a NAT that takes one port for all destinations is taken for another one.
#[test]
fn a_plain_nat_is_none_that_needs_a_hub() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Translated);
    let _registrar = field.registrar();
    let token = organization(&field);
    let (_one, seen) = member(&field, 0, HOSTS[0].2, &token);
    assert_eq!(seen, json!([{ "address": "192.0.2.1:51820", "mapping": "same" }]));
    let said = text(&field, 0);
    assert!(said.contains("outside: the registrar sees 192.0.2.1:51820, the same for everybody\n"), "{said}");
    assert!(!said.contains("symmetric"), "{said}");
}

/// Fails when: a second port that is taken keeps a registrar from running or is not said; or something is claimed of a NAT
/// by a device that is told of no second port, or hears nothing from there.
#[test]
fn one_port_says_nothing_of_a_nat() {
    if !is_root() {
        return;
    }
    let field = Field::new(Way::Symmetric);
    let taken = field.registrar.enter(|| UdpSocket::bind("0.0.0.0:51822")).unwrap().unwrap();
    let registrar = field.registrar_on("0.0.0.0:51821 --second-port 51822");
    registrar.hear("no second UDP port: devices do not see whether their NAT is symmetric");
    let token = organization(&field);
    let (_one, seen) = member(&field, 0, HOSTS[0].2, &token);
    assert_eq!(seen[0]["mapping"], "unknown");
    drop((registrar, taken));

    // Whoever stands before it leads one port on to it.
    let rules = "add table ip f; add chain ip f i { type filter hook input priority 0; }; \
        add rule ip f i udp dport 51900 drop";
    field.registrar.nft(rules).unwrap();
    let _registrar = field.registrar_on("0.0.0.0:51821 --second-port 51900");
    let (_two, seen) = member(&field, 1, HOSTS[1].2, &token);
    assert_eq!(seen[0]["mapping"], "unknown");
    assert!(!text(&field, 1).contains("symmetric"));
}

#[test]
fn the_second_port_is_another_one() {
    let place = Place::new();
    let same = ["mesh", "registrar", "--listen", "127.0.0.1:51821", "--second-port", "51821"];
    let said = place.refused("registrar", &same);
    assert!(said.contains("--second-port 51821 is the port of --listen"), "{said}");
    assert!(said.ends_with("[exit 2]"), "{said}");
    let none = ["mesh", "registrar", "--second-port", "0"];
    assert!(place.refused("registrar", &none).ends_with("[exit 2]"));
}
