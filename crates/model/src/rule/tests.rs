//! The grammar, the refusals, what is the same and what is in the way of what.

use proptest::prelude::*;

use super::*;
use crate::address::Protocol;

fn rule(text: &str) -> MeshRule {
    MeshRule::parse(Direction::Ingress, text).unwrap()
}

#[test]
fn rules_are_read_and_printed() {
    let cases = [
        ("tcp:443:127.0.0.1:8443", "tcp:443:127.0.0.1:8443"),
        ("TCP:0443:LocalHost:08443", "tcp:443:localhost:8443"),
        ("Udp:4243:[::1]:4242", "udp:4243:[::1]:4242"),
        ("udp:4243:[0:0::1]:4242", "udp:4243:[::1]:4242"),
        ("tcp:10.0.0.1:80:db.example:80", "tcp:10.0.0.1:80:db.example:80"),
        ("tcp:[FD00::1]:80:db:80", "tcp:[fd00::1]:80:db:80"),
        ("tcp:[::ffff:10.0.0.1]:80:db:80", "tcp:10.0.0.1:80:db:80"),
        ("tcp:0.0.0.0:80:db:80", "tcp:0.0.0.0:80:db:80"),
        ("tcp:[::]:80:db:80", "tcp:[::]:80:db:80"),
        ("tcp:1:[fe80::1%eth0]:65535", "tcp:1:[fe80::1%eth0]:65535"),
        ("tcp:80:db:080+proxy_protocol=V2", "tcp:80:db:80+proxy_protocol=v2"),
        ("tcp:80:db:80+proxy_protocol=v1", "tcp:80:db:80+proxy_protocol=v1"),
    ];
    for (text, canonical) in cases {
        assert_eq!(rule(text).to_string(), canonical);
        assert_eq!(rule(canonical), rule(text));
    }
    let one = MeshRule::parse(Direction::Egress, "tcp:80:a:80").unwrap();
    assert_ne!(one, rule("tcp:80:a:80"), "the direction is part of a rule");
}

#[test]
fn every_refusal_names_what_and_where() {
    let fields = "fields, expected protocol:[address:]port:destination:port";
    let cases = [
        ("", "column 1: rule is empty, expected protocol:[address:]port:destination:port".to_owned()),
        ("tcp", format!("column 4: rule has 1 of at least 4 {fields}")),
        ("tcp:80", format!("column 7: rule has 2 of at least 4 {fields}")),
        ("tcp:80:a", format!("column 9: rule has 3 of at least 4 {fields}")),
        ("tcp:1.1.1.1:80:a:80:b", format!("column 21: rule has more than 5 {fields}")),
        ("tpc:80:a:80", "column 1: unknown protocol `tpc`, expected tcp or udp".to_owned()),
        (":80:a:80", "column 1: unknown protocol ``, expected tcp or udp".to_owned()),
        (" tcp:80:a:80", "column 1: unknown protocol ` tcp`, expected tcp or udp".to_owned()),
        ("tcp::a:80", "column 5: listen port: port missing".to_owned()),
        ("tcp:0:a:80", "column 5: listen port: port 0 is not allowed".to_owned()),
        ("tcp:65536:a:80", "column 5: listen port: port 65536 is above 65535".to_owned()),
        ("tcp:+80:a:80", "column 5: listen port: unexpected `+` in a port".to_owned()),
        ("tcp: 80:a:80", "column 5: listen port: unexpected ` ` in a port".to_owned()),
        ("tcp:80-81:a:80", "column 7: listen port: unexpected `-` in a port".to_owned()),
        ("tcp:$43:a:80", "column 5: listen port: unexpected `$` in a port".to_owned()),
        ("tcp:80::80", "column 8: destination: host is empty".to_owned()),
        ("tcp:80:a:", "column 10: destination port: port missing".to_owned()),
        ("tcp:80:a:0", "column 10: destination port: port 0 is not allowed".to_owned()),
        ("tcp:80:a:99999", "column 10: destination port: port 99999 is above 65535".to_owned()),
        ("tcp:80:a:80+80", "column 12: destination port: unexpected `+` in a port".to_owned()),
        (
            "tcp:80:a:80+proxy=v2",
            "column 12: unknown option `+proxy=v2`, expected +proxy_protocol=v1 or v2".to_owned(),
        ),
        (
            "tcp:80:a:80+proxy_protocol=v2+proxy_protocol=v2",
            "column 12: unknown option `+proxy_protocol=v2+proxy_protocol=v2`, expected +proxy_protocol=v1 or v2"
                .to_owned(),
        ),
        ("udp:80:a:80+proxy_protocol=v2", "column 12: a udp rule sends no PROXY header".to_owned()),
        ("tcp:80:a:http", "column 10: destination port: unexpected `h` in a port".to_owned()),
        ("tcp:80:::1:80", "column 12: destination: IPv6 address needs brackets, as in [::1]:80".to_owned()),
        ("tcp:80:[::1:80", "column 8: closing bracket missing".to_owned()),
        ("tcp:80:[::1]80", format!("column 15: rule has 3 of at least 4 {fields}")),
        ("tcp:80:[1.1.1.1]:80", "column 9: destination: brackets are for IPv6 addresses only".to_owned()),
        (
            "tcp:80:[fe80::1]:80",
            "column 16: destination: link-local address needs a zone, as in [fe80::1%eth0]".to_owned(),
        ),
        ("tcp:80:1.1.1:80", "column 8: destination: expected 4 parts in an IPv4 address, found 3".to_owned()),
        ("tcp:80:a b:80", "column 9: destination: unexpected ` ` in a name".to_owned()),
        ("tcp:80:0.0.0.0:80", "column 8: destination `0.0.0.0` is no single host's address".to_owned()),
        ("tcp:80:[::]:80", "column 8: destination `[::]` is no single host's address".to_owned()),
        ("tcp:80:224.0.0.1:80", "column 8: destination `224.0.0.1` is no single host's address".to_owned()),
        (
            "tcp:80:255.255.255.255:80",
            "column 8: destination `255.255.255.255` is no single host's address".to_owned(),
        ),
        (
            "tcp:::80:a:80",
            format!("column 12: {}", "destination: IPv6 address needs brackets, as in [::1]:80"),
        ),
        ("tcp::80:a:80", "column 5: listen address: host is empty".to_owned()),
        ("tcp:lo:80:a:80", "column 5: listen address `lo` is a name, expected an IP address".to_owned()),
        ("tcp:224.0.0.1:80:a:80", "column 5: listen address `224.0.0.1` is no host's".to_owned()),
        ("tcp:[fe80::1%e]:80:a:80", "column 5: listen address `[fe80::1%e]` is no host's".to_owned()),
        (
            "tcp:1.2.3.400:80:a:80",
            "column 11: listen address: IPv4 address part `400` is above 255".to_owned(),
        ),
    ];
    for (text, message) in cases {
        for direction in [Direction::Ingress, Direction::Egress] {
            assert_eq!(MeshRule::parse(direction, text).unwrap_err().to_string(), message, "{text}");
        }
    }
}

#[test]
fn what_is_local_is_dialled_by_ingress_alone() {
    for host in ["127.0.0.1", "[::1]", "localhost", "db.localhost", "169.254.169.254", "[fe80::1%eth0]"] {
        let text = format!("tcp:80:{host}:80");
        assert!(MeshRule::parse(Direction::Ingress, &text).is_ok(), "{text}");
        let message = MeshRule::parse(Direction::Egress, &text).unwrap_err().to_string();
        let wanted = format!(
            "column 8: destination `{host}` is not in the network: an egress rule dials through the tunnel"
        );
        assert_eq!(message, wanted);
    }
}

#[test]
fn what_is_in_the_way_of_what() {
    let cases = [
        ("tcp:80", "tcp:80", false),
        ("tcp:80", "udp:80", false),
        ("tcp:80", "tcp:81", false),
        ("tcp:80", "tcp:127.0.0.1:80", true),
        ("tcp:80", "tcp:0.0.0.0:80", true),
        ("tcp:0.0.0.0:80", "tcp:127.0.0.1:80", true),
        ("tcp:0.0.0.0:80", "tcp:[::1]:80", false),
        ("tcp:0.0.0.0:80", "tcp:[::]:80", false),
        ("tcp:[::]:80", "tcp:[::1]:80", true),
        ("tcp:127.0.0.1:80", "tcp:127.0.0.2:80", false),
    ];
    for (one, two, conflict) in cases {
        let listen = |text: &str| rule(&format!("{text}:a:1")).listen();
        assert_eq!(listen(one).conflicts(&listen(two)), conflict, "{one} {two}");
        assert_eq!(listen(two).conflicts(&listen(one)), conflict, "{two} {one}");
        assert_eq!(listen(one).to_string(), one);
    }
    let egress = MeshRule::parse(Direction::Egress, "tcp:80:a:1").unwrap().listen();
    assert!(!egress.conflicts(&rule("tcp:1.1.1.1:80:a:1").listen()), "two sides");
}

#[test]
fn words_are_those_of_devices() {
    assert_eq!(Transport::Tcp.to_string(), Protocol::Tcp.to_string());
    assert_eq!(Transport::Udp.to_string(), Protocol::Udp.to_string());
}

proptest! {
    /// Whatever is read prints as a text that is read as the same.
    #[test]
    fn texts_are_canonical(text in "(tcp|UDP|x):([0-9.]{0,9}:|\\[[0-9a-f:]{0,6}\\]:)?[0-9]{0,6}:[a-zA-Z0-9._\\[\\]:%-]{0,20}:[0-9]{1,5}") {
        for direction in [Direction::Ingress, Direction::Egress] {
            if let Ok(rule) = MeshRule::parse(direction, &text) {
                let canonical = rule.to_string();
                let again = MeshRule::parse(direction, &canonical);
                prop_assert_eq!(again.as_ref(), Ok(&rule));
                prop_assert_eq!(again.map(|rule| rule.to_string()), Ok(canonical));
            }
        }
    }
}
