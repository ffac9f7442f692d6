//! Files of our own.

use super::super::Rows;
use super::super::memory::{Memory, refusal};

const FULL: &str = r#"
private_key_file = "node.key"
addresses = ["10.9.0.1/24", "fd09::1/64"]
listen_port = 51820
mtu = 1280
udp_gso = "off"
dns = ["10.9.0.53"]
ingress = ["tcp:443:127.0.0.1:8443", "tcp:443:127.0.0.1:8444"]
egress = ["udp:127.0.0.1:53:10.9.0.2:53"]

[[peers]]
public_key = "<PEER>"
preshared_key_file = "/run/secrets/psk"
allowed_ips = ["10.9.0.2/32"]
endpoint = "b.example:51820"
keepalive = 25

[[peers]]
public_key = "<OTHER>"
allowed_ips = []
keepalive = "off"
"#;

#[test]
fn every_key_is_read() {
    let memory = Memory::default()
        .file("/etc/mesh.toml", FULL)
        .file("/etc/node.key", "<KEY>\n")
        .file("/run/secrets/psk", "  <SHARED>\n");
    let spec = memory.load("/etc/mesh.toml").unwrap();
    assert_eq!(spec.network.addresses.len(), 2);
    assert_eq!((spec.network.mtu.bytes(), spec.network.rows), (1280, Rows::Off));
    assert_eq!(spec.network.peers.len(), 2);
    assert!(spec.network.peers[0].preshared_key.is_some());
    assert_eq!(spec.network.peers[1].keepalive, None);
    // Keys come in the order of the alphabet.
    let [egress, ingress] = spec.rules.listeners() else { panic!("two ports") };
    assert_eq!((ingress.rules.len(), egress.rules.len()), (2, 1), "two rules share a port");
    assert_eq!(ingress.rules[1].place.to_string(), "/etc/mesh.toml:8:38");
    assert_eq!(spec.warnings, []);
}

#[test]
fn every_refusal_names_what_and_where() {
    let cases = [
        ("a = ", "m.toml:1:5: string values must be quoted, expected literal string"),
        ("adresses = []", "m.toml:1:1: unknown key `adresses`"),
        ("[[peers]]\npubkey = \"\"", "m.toml:2:1: unknown key `pubkey`"),
        ("[[peers]]\nmtu = 3", "m.toml:2:1: unknown key `mtu`"),
        ("public_key = \"\"", "m.toml:1:1: unknown key `public_key`"),
        ("addresses = \"10.0.0.1\"", "m.toml:1:13: addresses is a list of texts, written [\"...\"]"),
        ("addresses = [[]]", "m.toml:1:14: addresses is a list of texts"),
        ("mtu = [1]", "m.toml:1:7: mtu is one value"),
        (
            "mtu = 1.5",
            "m.toml:1:7: invalid type: floating point `1.5`, expected a text, a number, a list or a table",
        ),
        ("peers = 1", "m.toml:1:9: peers are written as [[peers]]"),
        ("peers = [1]", "m.toml:1:10: peers are written as [[peers]]"),
        ("private_key = \"<KEY>\"\nprivate_key_file = \"x\"", "x does not exist"),
        ("mtu = 1\nmtu = 2", "m.toml:2:1: duplicate key"),
        (
            "private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\nudp_gso = \"on\"",
            "m.toml:3:11: udp_gso is auto or off, not `on`",
        ),
        (
            "private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\nmtu = -1",
            "m.toml:3:7: MTU `-1` is not from 576 to 65475",
        ),
        (
            "private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\ningress = [\"tcp:0:a:1\"]",
            "m.toml:3:12: ingress rule `tcp:0:a:1`: column 5: listen port: port 0 is not allowed",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal("m.toml", text).0, message, "{text}");
    }
    assert_eq!(refusal("m.toml", "adresses = []").1.unwrap(), "did you mean addresses?");
    assert_eq!(refusal("m.toml", "[[peers]]\nend_point = 1").1.unwrap(), "did you mean endpoint?");
}

#[test]
fn a_key_stands_here_or_in_its_file() {
    let text = "private_key = \"<KEY>\"\nprivate_key_file = \"x\"";
    let memory = Memory::default().file("m.toml", text).file("x", "<KEY>");
    let message = memory.load("m.toml").unwrap_err().to_string();
    assert_eq!(message, "x: private_key stands twice, first at m.toml:1:15");
}

#[test]
fn a_rule_may_be_a_table() {
    let text = "private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\n\
                ingress = [\"tcp:80:a:80\", { rule = \"TCP:81:a:80\", proxy_protocol = \"v2\" }, { rule = \"tcp:82:a:80\" }]";
    let spec = Memory::default().file("m.toml", text).load("m.toml").unwrap();
    let rules: Vec<String> = spec.rules.iter().map(|entry| entry.rule.to_string()).collect();
    assert_eq!(rules, ["tcp:80:a:80", "tcp:81:a:80+proxy_protocol=v2", "tcp:82:a:80"]);
    let head = "private_key = \"<KEY>\"\naddresses = [\"10.0.0.1\"]\n";
    for (rule, message) in [
        ("ingress = [{ proxy_protocol = \"v2\" }]", "m.toml:3:12: a rule without its text: rule = \"...\""),
        ("ingress = [{ rule = [] }]", "m.toml:3:21: `rule` is one value"),
        ("egress = [{ rule = \"tcp:1:a:1\", proxy = \"v2\" }]", "m.toml:3:33: unknown key `proxy`"),
        (
            "ingress = [{ rule = \"tcp:1:a:1\", proxy_protocol = \"v3\" }]",
            "m.toml:3:12: ingress rule `tcp:1:a:1+proxy_protocol=v3`: column 10: unknown option `+proxy_protocol=v3`, \
             expected +proxy_protocol=v1 or v2",
        ),
        ("dns = [{ rule = \"x\" }]", "m.toml:3:8: dns is a list of texts"),
    ] {
        assert_eq!(refusal("m.toml", &format!("{head}{rule}")).0, message, "{rule}");
    }
}
