//! Connections that were led elsewhere before a change: forgotten, and nobody else's.
//!
//! The topology is drawn in `publish/town.rs`.

mod publish;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use portway_nat::{Affected, Conntrack, Led, Listen, Nat, Scope, TableName, Transport, Want};
use portway_testkit::is_root;
use publish::town::{Answerer, PATIENCE, Sender, Town, ask_tcp, ask_udp};
use publish::{publication, want};

/// Both families, one address and every one.
const PLACES: [(&str, &str, &str, &str); 4] = [
    ("192.0.2.1 53", "192.0.2.1:53", "10.0.0.2 8080", "10.0.0.3 8080"),
    ("* 53", "192.0.2.1:53", "10.0.0.2 8080", "10.0.0.3 8080"),
    ("2001:db8::1 53", "[2001:db8::1]:53", "fd00::2 8080", "fd00::3 8080"),
    ("*6 50-59", "[2001:db8::1]:53", "fd00::2 8080", "fd00::3 8080"),
];

/// Asks until the answer is from `name`; `None`: until there is none.
fn until(sender: &Sender, name: Option<&str>, case: &str) {
    let begun = Instant::now();
    loop {
        let answer = sender.ask();
        if answer.as_deref().and_then(|answer| answer.split(' ').next()) == name {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{answer:?} instead of {name:?}: {case}");
    }
}

/// A client that never stops sending is led by each change: added while it sends to nobody, changed, removed,
/// and added once more.
///
/// Fails when: nothing is deleted; only entries that were translated are (the first step); only those whose
/// publication is left are (the third).
#[test]
fn a_udp_client_that_keeps_sending_follows_every_change() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    let _two = Answerer::start(&town.two, "two", 8080);
    for (listen, to, first, second) in PLACES {
        for (who, from) in [("client", &town.client), ("host", &town.host)] {
            let case = format!("{who} to {listen}");
            let sender = Sender::new(from, to);
            let led = |target: &str| want(vec![publication("dns", "udp", listen, target)]);
            let nobody = || want(vec![]);
            for (wanted, name) in [
                (nobody(), None),
                (led(first), Some("one")),
                (led(second), Some("two")),
                (nobody(), None),
                (led(first), Some("one")),
            ] {
                let applied = town.apply_alone(&wanted);
                // The client sends between the change and the sweep too.
                let _ = sender.ask();
                town.sweep(&wanted, &applied);
                until(&sender, name, &case);
                // And does not go back.
                for _ in 0..3 {
                    until(&sender, name, &case);
                }
            }
            town.apply(&want(vec![]));
        }
    }
}

/// A client that somebody else's rule has led, and that never stops sending, stays with that rule's target when the rule
/// has gone; until it is forgotten. Who is led elsewhere, or from another port, or by us, is not.
///
/// Fails when: the sweep is all there is, or the target or the port is not looked at.
#[test]
fn who_was_led_by_a_rule_that_has_gone_is_forgotten() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    let _two = Answerer::start(&town.two, "two", 8080);
    let rules = "table ip theirs { chain p { type nat hook prerouting priority dstnat; \
                 ip daddr 192.0.2.1 udp dport 53 dnat to 10.0.0.2:8080; \
                 ip daddr 192.0.2.1 udp dport 54 dnat to 10.0.0.2:8080; }; }";
    town.host.nft(rules).unwrap();
    let [sender, beside] = [53, 54].map(|port| Sender::new(&town.client, &format!("192.0.2.1:{port}")));
    until(&sender, Some("one"), "theirs");
    until(&beside, Some("one"), "theirs, beside");
    town.host.nft("delete table ip theirs").unwrap();
    let wanted = want(vec![publication("dns", "udp", "192.0.2.1 53", "10.0.0.3 8080")]);
    town.apply(&wanted);
    until(&sender, Some("one"), "nobody has forgotten it");
    let led = |target: &str, port: u16| Led {
        scope: Scope {
            transport: Transport::Udp,
            listen: Listen::Address("192.0.2.1".parse().unwrap()),
            first: 53,
            last: 53,
        },
        targets: vec![target.parse().unwrap()],
        ports: vec![port..=port],
    };
    let forget = |led: Led| {
        town.host.enter(|| Conntrack::open(&TableName::default()).unwrap().forget(&led).unwrap()).unwrap()
    };
    assert_eq!(forget(led("10.0.0.3", 8080)) + forget(led("10.0.0.2", 8081)), 0);
    assert_eq!(forget(led("10.0.0.2", 8080)), 1);
    until(&sender, Some("two"), "led by us");
    assert_eq!(forget(led("10.0.0.3", 8080)), 0);
    until(&beside, Some("one"), "another port");
}

/// A socket of the host that a client asked before the publication answers after the sweep. What the client goes on
/// sending would belong to that answer's entry: the next sweep forgets it, and the client is led.
///
/// Fails when: an entry that begins with an answer is left alone.
#[test]
fn a_client_that_is_answered_late_is_led() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    for (listen, to, target, _) in PLACES {
        let held = town.host.enter(|| UdpSocket::bind(to).unwrap()).unwrap();
        let sender = Sender::new(&town.client, to);
        let _ = sender.ask();
        let (_, asker) = held.recv_from(&mut [0; 64]).unwrap();
        let wanted = want(vec![publication("dns", "udp", listen, target)]);
        let applied = town.apply_alone(&wanted);
        town.sweep(&wanted, &applied);
        held.send_to(b"late", asker).unwrap();
        assert_eq!(town.sweep(&wanted, &applied).deleted, 1, "{listen}");
        until(&sender, Some("one"), listen);
        town.apply(&want(vec![]));
    }
}

/// A TCP connection whose target is no more is ended: its client hears of it at its next bytes, and does not
/// wait for a target that is somewhere else.
///
/// Fails when: nothing is deleted.
#[test]
fn a_tcp_client_of_a_target_that_changed_is_told() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.bridged_packets_pass_rules(false);
    let listener = town.one.enter(|| TcpListener::bind("10.0.0.2:8080").unwrap()).unwrap();
    let _two = Answerer::start(&town.two, "two", 8080);
    let led = |target: &str| want(vec![publication("web", "tcp", "192.0.2.1 80", target)]);
    town.apply(&led("10.0.0.2 8080"));
    let mut client = town.client.enter(|| TcpStream::connect("192.0.2.1:80").unwrap()).unwrap();
    let _server = listener.accept().unwrap().0;
    let (_, swept) = town.apply(&led("10.0.0.3 8080"));
    assert_eq!(swept.deleted, 1);
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"?").unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// A sweep of everything leaves alone who is led rightly, and what is not ours: a client of a socket of the
/// host, a TCP connection to the host that was there before the publication, a flow through the host.
///
/// Fails when: entries to other hosts' ports are taken for ours, or TCP connections of the host are not
/// spared.
#[test]
fn nobody_elses_connection_is_forgotten() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.bridged_packets_pass_rules(false);
    // Connections are tracked from the start, as on every host of instances.
    town.host
        .nft("table inet theirs { chain c { type filter hook input priority 0; ct state new counter; }; }")
        .unwrap();
    let _one = Answerer::start(&town.one, "one", 8080);
    let _outside = Answerer::start(&town.client, "outside", 53);
    let _host = Answerer::start(&town.host, "host", 7000);
    let listener = town.host.enter(|| TcpListener::bind("0.0.0.0:53").unwrap()).unwrap();
    let mut client = town.client.enter(|| TcpStream::connect("192.0.2.1:53").unwrap()).unwrap();
    let mut server = listener.accept().unwrap().0;
    assert_eq!(ask_udp(&town.client, "192.0.2.1:7000", PATIENCE).as_deref(), Some("host 192.0.2.100"));
    assert_eq!(ask_udp(&town.two, "192.0.2.100:53", PATIENCE).as_deref(), Some("outside 10.0.0.3"));
    let both = want(vec![
        publication("tcp", "tcp", "* 53", "10.0.0.2 8080"),
        publication("udp", "udp", "* 53", "10.0.0.2 8080"),
    ]);
    let (_, swept) = town.apply(&both);
    assert_eq!(swept.deleted, 0);
    assert_eq!(ask_udp(&town.client, "192.0.2.1:53", PATIENCE).as_deref(), Some("one 192.0.2.100"));
    let everything = |want: &Want| {
        let sweep = || {
            let mut conntrack = Conntrack::open(&TableName::default()).unwrap();
            let checked = want.check().unwrap();
            let swept = conntrack.sweep(&checked, &Affected::Everything).unwrap();
            (swept, conntrack.live(&checked).unwrap())
        };
        town.host.enter(sweep).unwrap()
    };
    let (swept, live) = everything(&both);
    assert!(swept.seen >= 4, "{swept:?}");
    assert_eq!(swept.deleted, 0);
    assert_eq!(live.get("udp"), Some(&1));
    assert_eq!(live.get("tcp"), None);
    client.write_all(b"?").unwrap();
    server.read_exact(&mut [0]).unwrap();
    // The last publication goes, and with it what was led by it, that alone.
    town.apply_alone(&want(vec![]));
    let (swept, live) = everything(&want(vec![]));
    assert_eq!(swept.deleted, 1);
    assert!(live.is_empty());
}

/// A connection that carries our mark and was not led by us stays: one that nobody led, and one in a zone of
/// its own, as virtual switches have them.
///
/// Fails when: the mark alone makes a connection ours.
#[test]
fn a_connection_with_our_mark_that_is_not_ours_is_not_forgotten() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    town.host
        .nft(
            "table inet theirs {
                chain zones { type filter hook prerouting priority -300; udp dport 7001 ct zone set 5; }
                chain lead {
                    type nat hook prerouting priority -100;
                    meta nfproto ipv4 udp dport 7001 ct label set 112 dnat ip to 10.0.0.2:8080
                }
                chain marks { type filter hook input priority 0; udp dport 7000 ct label set 112; }
            }",
        )
        .unwrap();
    let _host = Answerer::start(&town.host, "host", 7000);
    assert!(ask_udp(&town.client, "192.0.2.1:7000", PATIENCE).is_some());
    // What answers it is in no zone, so nobody hears of it.
    let _ = Sender::new(&town.client, "192.0.2.1:7001").ask();
    town.apply_alone(&want(vec![]));
    let swept = town.sweep_everything(&TableName::default(), &want(vec![]));
    assert!(swept.seen >= 2, "{swept:?}");
    assert_eq!(swept.deleted, 0);
}

/// Who translates an address of the host has its connections, whether its rules or ours came first, and no sweep
/// forgets them.
///
/// Fails when: our chains stand where others stand, so that the last one there goes first, or what others translate
/// counts as led elsewhere.
#[test]
fn what_others_translate_stays_theirs() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let (_one, _two) = (Answerer::start(&town.one, "one", 8080), Answerer::start(&town.two, "two", 8080));
    let own = want(vec![publication("all", "tcp", "* 7000", "10.0.0.2 8080")]);
    let theirs = "table inet theirs { chain lead { type nat hook prerouting priority -100;
        ip daddr 192.0.2.1 tcp dport 7000 dnat ip to 10.0.0.3:8080; }; }";
    let asked = |case: &str| {
        let answer = ask_tcp(&town.client, "192.0.2.1:7000", PATIENCE);
        assert_eq!(answer.as_deref(), Some("two 192.0.2.100"), "{case}");
        let answer = ask_tcp(&town.other, "198.51.100.1:7000", PATIENCE);
        assert_eq!(answer.as_deref(), Some("one 198.51.100.100"), "{case}");
    };
    town.apply(&own);
    town.host.nft(theirs).unwrap();
    asked("ours was first");
    town.apply(&want(vec![]));
    town.host.nft("delete table inet portway").ok();
    let (_, swept) = town.apply(&own);
    assert_eq!(swept.deleted, 0);
    asked("theirs was first");
    let swept = town.sweep_everything(&TableName::default(), &own);
    assert!(swept.seen >= 2, "{swept:?}");
    assert_eq!(swept.deleted, 0);
}

/// Two tables whose names come to the same mark: each forgets what it has led itself.
///
/// Fails when: the mark is taken for the table.
#[test]
fn a_table_with_the_same_mark_keeps_its_connections() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let _one = Answerer::start(&town.one, "one", 8080);
    let [own, other] = ["portway_00000000", "portway_0000000f"].map(|name| TableName::new(name).unwrap());
    let apply = |table: &TableName, want: &Want| {
        town.host.enter(|| Nat::open(table.clone()).unwrap().apply(want).unwrap()).unwrap()
    };
    let led = |port| want(vec![publication("dns", "udp", &format!("* {port}"), "10.0.0.2 8080")]);
    apply(&own, &led(53));
    apply(&other, &led(54));
    for port in [53, 54] {
        assert!(ask_udp(&town.client, &format!("192.0.2.1:{port}"), PATIENCE).is_some());
    }
    assert_eq!(town.sweep_everything(&own, &led(53)).deleted, 0);
    apply(&own, &want(vec![]));
    assert_eq!(town.sweep_everything(&own, &want(vec![])).deleted, 1);
    let live = |table: &TableName, want: &Want| {
        let live = || Conntrack::open(table).unwrap().live(&want.check().unwrap()).unwrap();
        town.host.enter(live).unwrap()
    };
    assert_eq!(live(&other, &led(54)).get("dns"), Some(&1));
    apply(&other, &want(vec![]));
    assert_eq!(town.sweep_everything(&other, &want(vec![])).deleted, 1);
}

/// One client port to two addresses of the host: the kernel leads the second to the next port of the range. Both
/// live on whatever else changes, and both are forgotten when their range does.
///
/// Fails when: only the port of the same place in the range is right; or any port of the range is, also after a
/// change.
#[test]
fn a_flow_on_another_port_of_its_range_lives_on() {
    if !is_root() {
        return;
    }
    let town = Town::new();
    let range = |to: &str| publication("range", "udp", "* 6000-6009", &format!("10.0.0.2 {to}"));
    let more = |to: &str| want(vec![range(to), publication("more", "udp", "* 6100-6109", "10.0.0.3 80-89")]);
    let alone = want(vec![range("7000-7009")]);
    town.apply(&alone);
    let servers = [7_005, 7_006].map(|port| Answerer::start(&town.one, "one", port));
    let client = town.client.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap()).unwrap();
    let begun = Instant::now();
    for (to, server) in ["192.0.2.1:6005", "198.51.100.1:6005"].iter().zip(&servers) {
        while server.asked() == 0 {
            assert!(begun.elapsed() < PATIENCE, "{to} does not come to its port");
            client.send_to(b"?", to).unwrap();
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    assert_eq!(town.sweep_everything(&TableName::default(), &alone).deleted, 0);
    let live = || Conntrack::open(&TableName::default()).unwrap().live(&alone.check().unwrap()).unwrap();
    assert_eq!(town.host.enter(live).unwrap().get("range"), Some(&2));
    assert_eq!(town.apply(&more("7000-7009")).1.deleted, 0);
    assert_eq!(town.apply(&more("7003-7012")).1.deleted, 2);
}
