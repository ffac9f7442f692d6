//! Files of wg-quick: what is read, what is refused and where. `tests/wg_tools` holds them against `wg`.

use std::time::Duration;

use super::super::memory::{Memory, OTHER, PEER as FIRST, refusal};
use super::super::{Mtu, Spec};

const FULL: &str = "\
# a comment
[Interface]
Address = 10.9.0.1/24, fd09::1/64   # two
address=10.9.1.1
PrivateKey = <KEY>
ListenPort = 51820
MTU = 1400
DNS = 10.9.0.53, mesh.example
PostUp = iptables -A FORWARD -i %i -j ACCEPT; echo [x] = y
Table = off
PostUp = echo again

[Peer]
PublicKey = <PEER>
PresharedKey = <SHARED>
AllowedIPs = 10.9.0.2/32, fd09::2/128
AllowedIPs = 10.10.0.7/16
Endpoint = Peer.Example:51820
PersistentKeepalive = 25

[PEER]
publickey=<OTHER>
allowedips=
endpoint=[2001:db8::1]:7
persistentkeepalive=off
";

fn spec(text: &str) -> Spec {
    Memory::default().file("wg0.conf", text).load("wg0.conf").unwrap()
}

#[test]
fn every_key_is_read() {
    let spec = spec(FULL);
    let network = &spec.network;
    let addresses: Vec<String> = network.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.9.0.1/24", "fd09::1/64", "10.9.1.1/32"]);
    assert_eq!(network.listen_port.unwrap().get(), 51820);
    assert_eq!(network.mtu.bytes(), 1400);
    assert_eq!(network.dns.servers, ["10.9.0.53".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(network.dns.search[0].as_str(), "mesh.example");
    let [one, two] = network.peers.as_slice() else { panic!("two peers") };
    assert_eq!(one.public_key.to_string(), FIRST);
    assert!(one.preshared_key.is_some());
    let allowed: Vec<String> = one.allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["10.9.0.2/32", "fd09::2/128", "10.10.0.0/16"]);
    assert_eq!(one.endpoint.as_ref().unwrap().to_string(), "peer.example:51820");
    assert_eq!(one.keepalive, Some(Duration::from_secs(25)));
    assert_eq!(two.public_key.to_string(), OTHER);
    assert_eq!((two.allowed_ips.len(), two.keepalive, &two.preshared_key), (0, None, &None));
    assert_eq!(two.endpoint.as_ref().unwrap().to_string(), "[2001:db8::1]:7");
    let warnings: Vec<String> = spec.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "wg0.conf:9:10: PostUp, Table are ignored: there is no interface of the host",
            "wg0.conf:17:14: 10.10.0.7/16 has host bits set, 10.10.0.0/16 is meant",
        ]
    );
}

#[test]
fn lines_may_end_as_elsewhere_and_sections_may_be_split() {
    assert_eq!(spec(&FULL.replace('\n', "\r\n")).network, spec(FULL).network);
    assert_eq!(spec(FULL.trim_end()).network, spec(FULL).network);
    let split = "[Interface]\nPrivateKey=<KEY>\n[Peer]\nPublicKey=<PEER>\n[Interface]\nAddress=10.0.0.1\nListenPort=0";
    let network = spec(split).network;
    assert_eq!((network.addresses.len(), network.peers.len(), network.listen_port), (1, 1, None));
    assert_eq!(network.mtu, Mtu::DEFAULT);
}

#[test]
fn every_refusal_names_what_and_where() {
    let cases = [
        ("", "w.conf: no private key"),
        ("[Interface]\nPrivateKey = <KEY>", "w.conf: no address of this node in the network"),
        ("Address = 1.1.1.1", "w.conf:1:11: `Address` stands before the first section"),
        ("[Interfce]", "w.conf:1:1: unknown section `Interfce`, expected [Interface] or [Peer]"),
        ("[Interface", "w.conf:1:1: section without `]` at its end"),
        ("[Interface]\nAddress", "w.conf:2:1: neither a [section] nor KEY = VALUE"),
        ("[Interface]\n  Adress = 1.1.1.1", "w.conf:2:12: unknown key `Adress` in [Interface]"),
        ("[Interface]\nPublicKey = x", "w.conf:2:13: unknown key `PublicKey` in [Interface]"),
        ("[Peer]\nMTU = 1", "w.conf:2:7: unknown key `MTU` in [Peer]"),
        ("[Interface]\nPrivateKey = abc", "w.conf:2:14: private key: a key has 44 characters, this has 3"),
        (
            "[Interface]\nPrivateKey = <KEY>\nPrivateKey = <KEY>",
            "w.conf:3:14: PrivateKey stands twice, first at w.conf:2:14",
        ),
        ("<I>MTU = 575", "w.conf:4:7: MTU `575` is not from 576 to 65475"),
        ("<I>MTU = 65476", "w.conf:4:7: MTU `65476` is not from 576 to 65475"),
        ("<I>MTU = +1400", "w.conf:4:7: MTU `+1400` is not from 576 to 65475"),
        (
            "<I>Address = fd09::1\nMTU = 1279",
            "w.conf:5:7: MTU 1279 is below 1280, which the IPv6 address fd09::1 needs",
        ),
        ("<I>ListenPort = 65536", "w.conf:4:14: listen port `65536` is not from 0 to 65535"),
        ("<I>Address = 10.0.0.1/33", "w.conf:4:11: prefix `33` of 10.0.0.1 is not from 0 to 32"),
        ("<I>Address = 10.0.0.2, 10.0.0", "w.conf:4:21: `10.0.0` is no IP address"),
        ("<I>Address = 0.0.0.0", "w.conf:4:11: 0.0.0.0 cannot be an address of this node"),
        ("<I>Address = 127.0.0.1/8", "w.conf:4:11: 127.0.0.1 cannot be an address of this node"),
        ("<I>Address = ff02::1", "w.conf:4:11: ff02::1 cannot be an address of this node"),
        ("<I>Address = 10.0.0.1/8", "w.conf:4:11: address 10.0.0.1 stands twice, first at w.conf:3:11"),
        (
            "<I>DNS = 10.0.0.300",
            "w.conf:4:7: DNS `10.0.0.300`: `10.0.0.300` is neither a name nor an IPv4 address",
        ),
        ("<I>[Peer]\nAllowedIPs = 10.0.0.2", "w.conf:4:1: peer without a public key"),
        ("<I>[Peer]\nPublicKey = <OWN>", "w.conf:5:13: this peer has the key of this node"),
        ("<P>[Peer]\nPublicKey = <PEER>", "w.conf:7:13: peer <PEER> stands twice, first at w.conf:5:13"),
        ("<P>PresharedKey = 0", "w.conf:6:16: preshared key: a key has 44 characters, this has 1"),
        ("<P>AllowedIPs = 0.0.0.0/33", "w.conf:6:14: prefix `33` of 0.0.0.0 is not from 0 to 32"),
        ("<P>AllowedIPs = 1.1.1.1/+8", "w.conf:6:14: prefix `+8` of 1.1.1.1 is not from 0 to 32"),
        ("<P>AllowedIPs = ::/129", "w.conf:6:14: prefix `129` of :: is not from 0 to 128"),
        ("<P>AllowedIPs = db/32", "w.conf:6:14: `db` is no IP address"),
        (
            "<P>AllowedIPs = 10.0.0.0/8\n[Peer]\nPublicKey = <OTHER>\nAllowedIPs = 10.9.9.9/8",
            "w.conf:9:14: allowed IPs 10.0.0.0/8 belong to the peer at w.conf:4:1 already",
        ),
        ("<P>Endpoint = db", "w.conf:6:12: endpoint `db` has no port, expected HOST:PORT"),
        ("<P>Endpoint = [::1]", "w.conf:6:12: endpoint `[::1]` has no port, expected HOST:PORT"),
        (
            "<P>Endpoint = ::1:80",
            "w.conf:6:12: endpoint `::1:80`: IPv6 address needs brackets, as in [::1]:80",
        ),
        ("<P>Endpoint = db:0", "w.conf:6:12: endpoint `db:0`: port `0` is not from 1 to 65535"),
        ("<P>Endpoint = :80", "w.conf:6:12: endpoint `:80`: host is empty"),
        ("<P>Endpoint = 0.0.0.0:80", "w.conf:6:12: endpoint `0.0.0.0:80` is no host's address"),
        (
            "<P>PersistentKeepalive = 65536",
            "w.conf:6:23: keepalive `65536` is neither off nor from 0 to 65535",
        ),
        ("<P>Endpoint = a:1\nEndpoint = b:2", "w.conf:7:12: Endpoint stands twice, first at w.conf:6:12"),
    ];
    let interface = "[Interface]\nPrivateKey = <KEY>\nAddress = 10.0.0.1\n";
    let peer = format!("{interface}[Peer]\nPublicKey = <PEER>\n");
    for (text, message) in cases {
        let text = text.replace("<I>", interface).replace("<P>", &peer);
        assert_eq!(refusal("w.conf", &text).0, message.replace("<PEER>", FIRST), "{text}");
    }
}

#[test]
fn unknown_keys_have_hints() {
    let hint = |text: &str| refusal("w.conf", text).1.unwrap();
    assert_eq!(hint("[Interface]\nAdress = 1.1.1.1"), "did you mean Address?");
    assert_eq!(hint("[Peer]\nAllowdIP = 1.1.1.1"), "did you mean AllowedIPs?");
    assert_eq!(hint("[Peer]\nprivatekey = x"), "PrivateKey stands in [Interface]");
    assert_eq!(hint("[Interface]\nEndpoint = x"), "Endpoint stands in [Peer]");
}

#[test]
fn a_pair_that_cannot_meet_is_warned_of() {
    let text = "[Interface]\nPrivateKey = <KEY>\nAddress = 10.0.0.1\n[Peer]\nPublicKey = <PEER>";
    let [warning] = spec(text).warnings.try_into().unwrap();
    let wanted = format!(
        "wg0.conf:4:1: peer {FIRST} has no endpoint, and this node has no listen port: neither can find the other"
    );
    assert_eq!(warning.to_string(), wanted);
}

#[test]
fn a_secret_is_in_no_message() {
    for text in [
        "[Interface]\nPrivateKey = <KEY>x",
        "[Interface]\nPrivateKey = <KEY>\n[Peer]\nPresharedKey = <SHARED>y\nPublicKey = <PEER>",
    ] {
        let message = refusal("w.conf", &format!("{text}\n[Interface]\nAddress = 1.1.1.1")).0;
        assert!(!message.contains("yAnz5TF") && !message.contains("UwcSPg"), "{message}");
    }
}
