//! Connections that were led elsewhere before a change: forgotten, and nobody else's.
//!
//! The topology is drawn in `publish/town.rs`.

mod publish;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use portway_nat::{Affected, Conntrack, TableName, Want};
use portway_testkit::is_root;
use publish::town::{Answerer, PATIENCE, Sender, Town, ask_udp};
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
