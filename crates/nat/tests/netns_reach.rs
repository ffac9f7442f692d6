//! Who reaches what by NAT, with which source address, and who does not.
//!
//! The topology is drawn in `publish/town.rs`.

mod publish;

use portway_nat::{
    BridgeError, Conntrack, Family, InterfaceName, Nat, TableName, Want, allow_hairpin, bridged_packets_pass,
};
use portway_testkit::{Netns, is_root};
use publish::town::{Answerer, PATIENCE, QUIET, Town, ask_tcp, ask_udp};
use publish::{publication, want};

type Ask = fn(&Netns, &str, std::time::Duration) -> Option<String>;

const TRANSPORTS: [(&str, Ask); 2] = [("tcp", ask_tcp), ("udp", ask_udp)];

/// A port on the outside address, one on the bridge's, one on every address, of both families and
/// transports, all to the first instance.
fn everything() -> Want {
    let mut publications = Vec::new();
    for transport in ["tcp", "udp"] {
        for (name, listen, target) in [
            ("outside", "192.0.2.1 80", "10.0.0.2 8080"),
            ("bridge", "10.0.0.1 81", "10.0.0.2 8080"),
            ("every", "* 82", "10.0.0.2 8080"),
            ("outside6", "2001:db8::1 80", "fd00::2 8080"),
            ("bridge6", "fd00::1 81", "fd00::2 8080"),
            ("every6", "*6 82", "fd00::2 8080"),
        ] {
            publications.push(publication(&format!("{name}-{transport}"), transport, listen, target));
        }
    }
    want(publications)
}

/// Every client reaches what it should; the source address is kept wherever the target's answer comes back
/// through the host by itself.
///
/// Fails when: `published` is left out for bridges, or the masquerade for either of the two instances.
#[test]
fn clients_reach_every_kind_of_publication() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    town.apply(&everything());
    let cases: &[(&str, &Netns, &str, &str)] = &[
        ("client", &town.client, "192.0.2.1:80", "192.0.2.100"),
        ("client", &town.client, "192.0.2.1:82", "192.0.2.100"),
        ("client", &town.client, "[2001:db8::1]:80", "2001:db8::100"),
        ("client", &town.client, "[2001:db8::1]:82", "2001:db8::100"),
        ("other", &town.other, "198.51.100.1:82", "198.51.100.100"),
        ("other", &town.other, "192.0.2.1:82", "198.51.100.100"),
        ("other", &town.other, "[2001:db8:1::1]:82", "2001:db8:1::100"),
        ("host", &town.host, "192.0.2.1:80", "192.0.2.1"),
        ("host", &town.host, "10.0.0.1:81", "10.0.0.1"),
        ("host", &town.host, "198.51.100.1:82", "198.51.100.1"),
        ("host", &town.host, "[2001:db8::1]:80", "2001:db8::1"),
        ("host", &town.host, "[fd00::1]:81", "fd00::1"),
        ("host", &town.host, "[2001:db8:1::1]:82", "2001:db8:1::1"),
        ("sibling", &town.two, "192.0.2.1:80", "10.0.0.1"),
        ("sibling", &town.two, "10.0.0.1:81", "10.0.0.1"),
        ("sibling", &town.two, "10.0.0.1:82", "10.0.0.1"),
        ("sibling", &town.two, "[2001:db8::1]:80", "fd00::1"),
        ("sibling", &town.two, "[fd00::1]:82", "fd00::1"),
        ("itself", &town.one, "192.0.2.1:80", "10.0.0.1"),
        ("itself", &town.one, "10.0.0.1:82", "10.0.0.1"),
        ("itself", &town.one, "[2001:db8::1]:80", "fd00::1"),
        ("itself", &town.one, "[fd00::1]:82", "fd00::1"),
    ];
    for bridged in [false, true] {
        town.bridged_packets_pass_rules(bridged);
        for (name, netns, to, source) in cases {
            for (transport, ask) in TRANSPORTS {
                let answer = ask(netns, to, PATIENCE);
                let expected = format!("one {source}");
                assert_eq!(answer, Some(expected), "{name} to {transport}:{to}, bridged packets: {bridged}");
            }
        }
    }
}

/// Where bridged packets pass the rules, an instance reaches itself once its port may send back, and not
/// before.
///
/// Fails when: the option of another port is set, or another option.
#[test]
fn an_instance_reaches_itself_where_bridged_packets_pass_rules() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let one = Answerer::start(&town.one, "one", 8080);
    town.apply(&everything());
    town.bridged_packets_pass_rules(true);
    if !town.host.enter(|| bridged_packets_pass(Family::V4) && bridged_packets_pass(Family::V6)).unwrap() {
        println!("this kernel has no br_netfilter");
        return;
    }
    town.host.ip("link set dev veth1 type bridge_slave hairpin off").unwrap();
    assert_eq!(ask_tcp(&town.one, "192.0.2.1:80", QUIET), None);
    let allow = |name: &str| allow_hairpin(&InterfaceName::new(name).unwrap());
    let outcomes = town.host.enter(|| (allow("veth1"), allow("eth0"), allow("gone0"))).unwrap();
    outcomes.0.unwrap();
    let refused = outcomes.1.unwrap_err();
    assert_eq!(refused.to_string(), "cannot let the bridge send back by its port eth0");
    assert!(matches!(outcomes.2.unwrap_err(), BridgeError::Missing(..)));
    assert_eq!(ask_tcp(&town.one, "192.0.2.1:80", PATIENCE).as_deref(), Some("one 10.0.0.1"));
    assert_eq!(ask_udp(&town.one, "[2001:db8::1]:80", PATIENCE).as_deref(), Some("one fd00::1"));
    assert!(one.asked() >= 2);
    town.bridged_packets_pass_rules(false);
    assert!(!town.host.enter(|| bridged_packets_pass(Family::V4)).unwrap());
}

/// A publication of one address is not reached from another network by a route through the host, and none
/// is by a loopback address, wherever it comes from.
///
/// Fails when: the interface is left out of the question to the routing table, or the loopback addresses
/// out of the first rules.
#[test]
fn other_networks_do_not_reach_an_address_of_this_one() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let one = Answerer::start(&town.one, "one", 8080);
    // The host takes what others would drop as impossible, and still nothing may come through.
    for name in ["all", "eth0", "eth1", "br0"] {
        town.host.sysctl(&format!("ipv4/conf/{name}/route_localnet"), "1").unwrap();
        town.host.sysctl(&format!("ipv4/conf/{name}/rp_filter"), "0").unwrap();
    }
    for netns in [&town.client, &town.other, &town.two] {
        netns.ip("addr del 127.0.0.1/8 dev lo").unwrap();
        netns.sysctl("ipv4/conf/eth0/route_localnet", "1").unwrap();
        // The table of local addresses is asked first.
        netns.ip("route del table local local 127.0.0.0/8 dev lo").ok();
    }
    town.client.ip("route add 127.0.0.0/8 via 192.0.2.1").unwrap();
    town.other.ip("route add 127.0.0.0/8 via 198.51.100.1").unwrap();
    town.two.ip("route add 127.0.0.0/8 via 10.0.0.1").unwrap();
    for (netns, gateway) in
        [(&town.client, "2001:db8::1"), (&town.other, "2001:db8:1::1"), (&town.two, "fd00::1")]
    {
        netns.ip("-6 addr del ::1/128 dev lo").unwrap();
        netns.ip(&format!("-6 route add ::1/128 via {gateway} dev eth0")).unwrap();
    }
    town.apply(&everything());
    let cases: &[(&str, &Netns, &str)] = &[
        ("other", &town.other, "192.0.2.1:80"),
        ("other", &town.other, "[2001:db8::1]:80"),
        ("other", &town.other, "10.0.0.1:81"),
        ("client", &town.client, "10.0.0.1:81"),
        ("client", &town.client, "[fd00::1]:81"),
        ("client", &town.client, "127.0.0.1:82"),
        ("other", &town.other, "127.0.0.1:82"),
        ("sibling", &town.two, "127.0.0.1:82"),
        ("client", &town.client, "[::1]:82"),
        ("other", &town.other, "[::1]:82"),
        ("sibling", &town.two, "[::1]:82"),
        ("host", &town.host, "127.0.0.1:82"),
        ("host", &town.host, "[::1]:82"),
    ];
    for (name, netns, to) in cases {
        for (transport, ask) in TRANSPORTS {
            assert_eq!(ask(netns, to, QUIET), None, "{name} to {transport}:{to}");
        }
    }
    assert_eq!(one.asked(), 0);
    portway_testkit::faults::figure(
        "R27",
        "ways to an address of another network or of the loopback",
        cases.len() * 2,
        "ways",
    );
    portway_testkit::faults::figure("R27", "connections or datagrams that came through", 0, "");
    // The way itself is open.
    assert!(ask_tcp(&town.client, "192.0.2.1:80", PATIENCE).is_some());
    assert!(ask_tcp(&town.other, "192.0.2.1:82", PATIENCE).is_some());
}

/// What passes through the host to somebody else is not ours, whatever its port; nor is the source of
/// others' translations changed.
///
/// Fails when: the first rule of `prerouting` is left out, or the label out of `postrouting`.
#[test]
fn what_is_not_ours_passes_untouched() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.bridged_packets_pass_rules(false);
    let _one = Answerer::start(&town.one, "one", 8080);
    let _client = Answerer::start(&town.client, "client", 82);
    town.apply(&everything());
    for (transport, ask) in TRANSPORTS {
        // From an instance to a server outside, on a port that is published on every address.
        let answer = ask(&town.two, "192.0.2.100:82", PATIENCE);
        assert_eq!(answer.as_deref(), Some("client 10.0.0.3"), "{transport}");
        // An instance to its sibling, past the host.
        let answer = ask(&town.two, "10.0.0.2:8080", PATIENCE);
        assert_eq!(answer.as_deref(), Some("one 10.0.0.3"), "{transport}");
    }
    // Somebody else leads a port of this host to an instance, and the client sees its answers come from the
    // wrong address, because nobody masquerades: that is theirs to mend.
    town.host
        .nft(
            "table ip theirs { chain incoming { type nat hook prerouting priority -110; \
             tcp dport 90 dnat to 10.0.0.2:8080; }; }",
        )
        .unwrap();
    assert_eq!(ask_tcp(&town.client, "192.0.2.1:90", PATIENCE).as_deref(), Some("one 192.0.2.100"));
    assert_eq!(ask_tcp(&town.two, "10.0.0.1:90", QUIET), None);
}

/// A client with a link-local address, whose packets nobody passes on, has the host's own listener.
///
/// Fails when: it is led to the instance.
#[test]
fn a_link_local_client_is_left_to_the_host() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let (_one, _host) = (Answerer::start(&town.one, "one", 8080), Answerer::start(&town.host, "host", 80));
    town.host.ip("addr add fe80::1/64 dev eth0 nodad").unwrap();
    town.client.ip("addr add fe80::100/64 dev eth0 nodad").unwrap();
    let publications =
        TRANSPORTS.map(|(transport, _)| publication(transport, transport, "*6 80", "fd00::2 8080"));
    town.apply(&want(publications.to_vec()));
    let links =
        town.client.enter(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6")).unwrap().unwrap();
    // Of each address: itself, the number of its interface, and what else there is to say.
    let own = links.lines().find(|line| line.starts_with("fe800000000000000000000000000100")).unwrap();
    let link = u32::from_str_radix(own.split_whitespace().nth(1).unwrap(), 16).unwrap();
    for (transport, ask) in TRANSPORTS {
        let answer = ask(&town.client, &format!("[fe80::1%{link}]:80"), PATIENCE).unwrap();
        assert!(answer.starts_with("host fe80::"), "{transport}: {answer}");
        let answer = ask(&town.client, "[2001:db8::1]:80", PATIENCE);
        assert_eq!(answer.as_deref(), Some("one 2001:db8::100"), "{transport}");
    }
}

/// One address goes before all addresses, and single ports before ranges of the other kind.
#[test]
fn one_address_goes_before_every_address() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    let _two = Answerer::start(&town.two, "two", 8080);
    let want = want(vec![
        publication("all", "tcp", "* 80-89", "10.0.0.3 8080"),
        publication("this", "tcp", "192.0.2.1 80", "10.0.0.2 8080"),
        publication("range", "tcp", "192.0.2.1 84-85", "10.0.0.2 8080"),
        publication("six", "tcp", "*6 80", "fd00::3 8080"),
    ]);
    town.apply(&want);
    for (netns, to, name) in [
        (&town.client, "192.0.2.1:80", "one"),
        (&town.client, "192.0.2.1:81", "two"),
        (&town.client, "192.0.2.1:85", "one"),
        (&town.client, "192.0.2.1:86", "two"),
        (&town.other, "198.51.100.1:80", "two"),
        (&town.client, "[2001:db8::1]:80", "two"),
    ] {
        let answer = ask_tcp(netns, to, PATIENCE).unwrap();
        assert_eq!(answer.split(' ').next(), Some(name), "{to}");
    }
    let (counts, live) = town
        .host
        .enter(|| {
            let mut nat = Nat::open(TableName::default()).unwrap();
            let live = Conntrack::open(&TableName::default()).unwrap().live(&want.check().unwrap()).unwrap();
            (nat.counts(&want).unwrap(), live)
        })
        .unwrap();
    let counts: Vec<_> = counts.iter().map(|(device, count)| (device.as_str(), count.connections)).collect();
    assert_eq!(counts, [("all", 3), ("range", 1), ("six", 1), ("this", 1)]);
    // All of them were closed by the server.
    assert!(live.values().all(|count| *count <= 3), "{live:?}");
}
