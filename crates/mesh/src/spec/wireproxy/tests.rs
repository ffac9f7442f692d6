//! Files of wireproxy.

use std::net::Ipv4Addr;

use super::super::Spec;
use super::super::memory::{Memory, SHARED, refusal};
use super::*;

const FULL: &str = "\
[Interface]
Address = 10.200.200.2/32
PrivateKey = $NODE_KEY
DNS = 10.200.200.1
CheckAlive = 1.1.1.1
CheckAliveInterval = 3

; everything goes there
[Peer]
PublicKey = <PEER>
Endpoint = my.ddns.example.com:51820

[TCPClientTunnel]
BindAddress = 127.0.0.1:25565
Target = play.example.net:25565

[tcpservertunnel]
ListenPort = 3422
Target = localhost:25545

[UDPProxyTunnel]
BindAddress = :5353
Target = 10.200.200.1:53
InactivityTimeout = 30

[Socks5]
BindAddress = localhost:25344
Username = me ; not a part of it
Password = $$cret#1

[http]
BindAddress = [::1]:25345
";

fn spec(text: &str) -> Spec {
    let memory = Memory::default().file("w.conf", text).variable("NODE_KEY", "<KEY>");
    memory.load("w.conf").unwrap()
}

#[test]
fn every_section_is_taken_over() {
    let spec = spec(FULL);
    let rules: Vec<String> =
        spec.rules.iter().map(|entry| format!("{} {}", entry.rule.direction(), entry.rule)).collect();
    assert_eq!(
        rules,
        [
            "egress tcp:127.0.0.1:25565:play.example.net:25565",
            "ingress tcp:3422:localhost:25545",
            "egress udp:5353:10.200.200.1:53",
        ]
    );
    let allowed: Vec<String> = spec.network.peers[0].allowed_ips.iter().map(ToString::to_string).collect();
    assert_eq!(allowed, ["0.0.0.0/0", "::/0"], "a peer without any has everything");
    let [socks, http] = spec.proxies.as_slice() else { panic!("two proxies") };
    assert_eq!((socks.kind, socks.address), (ProxyKind::Socks5, Some(Ipv4Addr::LOCALHOST.into())));
    let login = socks.login.as_ref().unwrap();
    assert_eq!((login.user.as_str(), login.password.as_str()), ("me", "$cret#1"));
    assert!(!format!("{:?}", spec.proxies).contains("cret"), "a password is not printed");
    assert_eq!((http.kind, http.port.get(), http.login.is_none()), (ProxyKind::Http, 25345, true));
    let warnings: Vec<String> = spec.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "w.conf:5:14: CheckAlive, CheckAliveInterval are ignored: there is no interface of the host",
            "w.conf:24:21: InactivityTimeout is ignored: flows end as those of every rule do",
        ]
    );
}

#[test]
fn the_network_may_be_in_another_file() {
    let wg =
        "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <KEY>\n[Peer]\nPublicKey = <PEER>\nEndpoint = a:1\n";
    let text = "WGConfig = wg0.conf\n[TCPServerTunnel]\nListenPort = 80\nTarget = localhost:80\n";
    let memory = Memory::default().file("/etc/w.conf", text).file("/etc/wg0.conf", wg);
    let spec = memory.load("/etc/w.conf").unwrap();
    assert_eq!((spec.network.peers.len(), spec.rules.iter().count()), (1, 1));
    let both = format!("WGConfig = wg0.conf\n{wg}");
    let message = Memory::default().file("w.conf", &both).load("w.conf").unwrap_err().to_string();
    assert_eq!(message, "w.conf:1:12: WGConfig names the network, and this file has one too");
}

#[test]
fn every_refusal_names_what_and_where() {
    let cases = [
        (
            "[STDIOTunnel]\nTarget = a:22",
            "w.conf:1:1: [STDIOTunnel] is not taken over: standard input and output belong to no service",
        ),
        ("[SNI]\nBindAddress = :443", "w.conf:1:1: [SNI] is not taken over"),
        ("WGConfig=x\n[Sock5]", "w.conf:2:1: unknown section `Sock5`"),
        ("x = 1\n[http]", "w.conf:1:5: `x` stands before the first section"),
        ("[http]\nBindAddress = :80\nCertFile = x", "w.conf:3:12: a proxy with TLS is not taken over"),
        ("[Socks5]\nBindAdress = :80", "w.conf:2:14: unknown key `BindAdress` in [Socks5]"),
        ("[Socks5]", "w.conf:1:1: [Socks5] without BindAddress"),
        (
            "[Socks5]\nBindAddress = :80\nUsername = a",
            "w.conf:3:12: Username and Password stand together or not at all",
        ),
        (
            "[Socks5]\nBindAddress = host:80",
            "w.conf:2:15: BindAddress `host:80` is not an address and a port",
        ),
        ("[Socks5]\nBindAddress = 127.0.0.1", "w.conf:2:15: BindAddress `127.0.0.1` has no port"),
        ("[Socks5]\nBindAddress = :0", "w.conf:2:15: BindAddress `:0`: port is not from 1 to 65535"),
        ("[TCPClientTunnel]\nBindAddress = :80", "w.conf:1:1: [TCPClientTunnel] without Target"),
        ("[TCPServerTunnel]\nTarget = a:80", "w.conf:1:1: [TCPServerTunnel] without ListenPort"),
        ("[http]\nBindAddress = $NOWHERE", "w.conf:2:15: BindAddress: no variable `NOWHERE` is set"),
        (
            "[Interface]\nAddress = 10.0.0.1\nPrivateKey = <KEY>\n[TCPServerTunnel]\nListenPort = 0\nTarget = a:80",
            "w.conf:4:1: ingress rule `tcp:0:a:80`: column 5: listen port: port 0 is not allowed",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(refusal("w.conf", text).0, message, "{text}");
    }
    assert_eq!(refusal("w.conf", "WGConfig=x\n[Sock5]").1.unwrap(), "did you mean [Socks5]?");
    assert!(refusal("w.conf", "[STDIOTunnel]").1.unwrap().contains("[TCPClientTunnel]"));
}

#[test]
fn a_secret_of_the_environment_is_not_one_of_the_file() {
    let text = FULL.replace(
        "[Socks5]\nBindAddress = localhost:25344\nUsername = me ; not a part of it\nPassword = $$cret#1\n",
        "",
    );
    let memory = Memory::default().file("w.conf", &text).open("w.conf").variable("NODE_KEY", "<KEY>");
    assert!(memory.load("w.conf").is_ok());
    let memory = Memory::default().file("w.conf", FULL).open("w.conf").variable("NODE_KEY", SHARED);
    let message = memory.load("w.conf").unwrap_err().to_string();
    assert_eq!(message, "w.conf has a secret in it and can be read by others (mode 0644)");
}
