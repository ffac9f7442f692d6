use super::*;
use crate::DeviceSpec;

fn key(word: &str) -> Option<&'static str> {
    nearest(word, DeviceSpec::KEYS.iter().map(|doc| doc.name))
}

#[test]
fn mistyped_keys() {
    let cases = [
        ("Listen", Some("listen")),
        ("lisen", Some("listen")),
        ("conect", Some("connect")),
        ("connection", Some("limits.connections")),
        ("bnid", Some("bind")),
        ("securty.uid", Some("security.uid")),
        ("security_gid", Some("security.gid")),
        ("proxy-protocol", Some("proxy_protocol")),
        ("proxyprotocol", Some("proxy_protocol")),
        ("connect_timeout", Some("connect.timeout")),
        ("timeout", Some("connect.timeout")),
        ("keepalive", Some("tcp.keepalive")),
        ("udp.maxflows", Some("udp.max_flows")),
        ("max_flows", Some("udp.max_flows")),
        ("v6_only", Some("v6only")),
        ("modes", Some("mode")),
        ("fd", Some("fds")),
        ("colour", None),
        ("x", None),
        ("", None),
        ("type", None),
    ];
    for (word, expected) in cases {
        assert_eq!(key(word), expected, "{word}");
    }
}

#[test]
fn every_key_is_nearest_to_itself() {
    for doc in DeviceSpec::KEYS {
        assert_eq!(key(doc.name), Some(doc.name));
    }
}

#[test]
fn long_words_are_not_compared() {
    assert_eq!(key(&"listen".repeat(100_000)), None);
}

#[test]
fn distances() {
    let of = |a: &str, b: &str| distance(&normal(a), &normal(b));
    let cases = [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("abc", "abc", 0),
        ("abc", "acb", 1),
        ("kitten", "sitting", 3),
    ];
    for (a, b, expected) in cases {
        assert_eq!((of(a, b), of(b, a)), (expected, expected), "{a} {b}");
    }
}
