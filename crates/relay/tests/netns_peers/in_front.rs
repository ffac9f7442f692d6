//! In front of a device: whose address the device was told, and told on.

use std::io::Write;

use portway_relay::wire::field;

use super::rig::{PATIENCE, Rig, accept, in_netns, service};
use super::*;

const SERVICE: &str = "tcp:127.0.0.1:2000";

/// What comes from here is announced; what comes from anywhere else is not.
const KEYS: &[(&str, &str)] = &[("accept_proxy", "127.0.0.2"), ("proxy_protocol", "v1")];

/// The proxy's listeners, and which of the device's sources each uses.
struct Front {
    /// Address to call.
    door: &'static str,
    /// Address to call from.
    from: &'static str,
    /// The proxy calls from a trusted address.
    trusted: bool,
}

const fn front(door: &'static str, from: &'static str, trusted: bool) -> Front {
    Front { door, from, trusted }
}

/// Through each of `fronts`: from the trusted address the service is told of the client, from the other one of the
/// proxy, and gets the proxy's header as the payload it is.
fn check(rig: &Rig, fronts: &[Front], peer: &Peer) {
    let service = service(SERVICE);
    for Front { door, from, trusted } in fronts {
        let client = client(from, door);
        let (own, called) = ends(&client);
        (&client).write_all(b"hello").unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let server =
            service.accept_within(PATIENCE).unwrap_or_else(|error| panic!("{error}: {}", peer.said()));
        server.set_timeout(PATIENCE).unwrap();
        let got = everything(&server);
        let family = if own.is_ipv4() { "TCP4" } else { "TCP6" };
        let told =
            format!("PROXY {family} {} {} {} {}\r\nhello", own.ip(), called.ip(), own.port(), called.port());
        if *trusted {
            assert_eq!(got, told, "{door}");
        } else {
            assert!(got.starts_with("PROXY TCP4 127.0.0.3 127.0.0.1 "), "{door}: {got:?}");
            assert!(got.ends_with(&told), "{door}: {got:?}");
        }
    }
    assert_eq!(rig.count(0, field::BAD_HEADER), 0);
}

/// HAProxy in both versions, with the checksum of its binary header; its own checks are `LOCAL`.
///
/// Fails when: the checksum is computed otherwise; a header from another address is believed.
#[test]
fn haproxy_tells_the_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().to_owned();
        let config = "\
listen v1\n  mode tcp\n  bind 127.0.0.1:3000\n  bind [::1]:3000\n  server s 127.0.0.1:1000 source 127.0.0.2 send-proxy\n\
listen v2\n  mode tcp\n  bind 127.0.0.1:3001\n  bind [::1]:3001\n  server s 127.0.0.1:1000 source 127.0.0.2 send-proxy-v2\n\
listen crc\n  mode tcp\n  bind 127.0.0.1:3002\n  bind [::1]:3002\n  server s 127.0.0.1:1000 source 127.0.0.2 send-proxy-v2 proxy-v2-options crc32c\n\
listen stranger\n  mode tcp\n  bind 127.0.0.1:3003\n  server s 127.0.0.1:1000 source 127.0.0.3 send-proxy\n";
        rig.add(0, "tcp:127.0.0.1:1000", SERVICE, KEYS);
        let Some(peer) = Peer::haproxy(&dir, config) else { return };
        peer.wait_for_listener(3003);
        let fronts = [
            front("127.0.0.1:3000", "127.0.0.7", true),
            front("[::1]:3000", "::1", true),
            front("127.0.0.1:3001", "127.0.0.7", true),
            front("[::1]:3001", "::1", true),
            front("127.0.0.1:3002", "127.0.0.7", true),
            front("[::1]:3002", "::1", true),
            front("127.0.0.1:3003", "127.0.0.7", false),
        ];
        check(&rig, &fronts, &peer);
    });
}

/// nginx, which sends version 1.
#[test]
fn nginx_tells_the_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().to_owned();
        let config = "\
server { listen 127.0.0.1:3000; listen [::1]:3000; proxy_pass 127.0.0.1:1000; proxy_bind 127.0.0.2; proxy_protocol on; }\n\
server { listen 127.0.0.1:3001; proxy_pass 127.0.0.1:1000; proxy_bind 127.0.0.3; proxy_protocol on; }\n";
        rig.add(0, "tcp:127.0.0.1:1000", SERVICE, KEYS);
        let Some(peer) = Peer::nginx(&dir, config) else { return };
        peer.wait_for_listener(3001);
        let fronts = [
            front("127.0.0.1:3000", "127.0.0.7", true),
            front("[::1]:3000", "::1", true),
            front("127.0.0.1:3001", "127.0.0.7", false),
        ];
        check(&rig, &fronts, &peer);
    });
}

/// What comes before a check's `hello` and with it, or before its reset.
fn told(mut check: &Stream) -> String {
    let (mut got, mut bytes) = (String::new(), [0; 200]);
    while let Ok(count @ 1..) = check.read(&mut bytes) {
        got.push_str(str::from_utf8(&bytes[..count]).unwrap());
        if got.ends_with("hello") {
            break;
        }
    }
    got
}

/// A check of HAProxy announces nobody (`LOCAL`), and is served as what it is: a connection of the proxy.
#[test]
fn checks_of_haproxy_are_its_own() {
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().to_owned();
        let config = "\
listen v2\n  mode tcp\n  option tcp-check\n  tcp-check send hello\n  bind 127.0.0.1:3000\n  \
server s 127.0.0.1:1000 source 127.0.0.2 send-proxy-v2 check-send-proxy check inter 100\n";
        rig.add(0, "tcp:127.0.0.1:1000", SERVICE, KEYS);
        let service = service(SERVICE);
        let Some(_peer) = Peer::haproxy(&dir, config) else { return };
        // A check ends with a reset, which may overtake what was sent: then the next one tells.
        let mut checks = (0..100).map(|_| told(&accept(&service)));
        let got = checks.find(|got| got.ends_with("hello")).unwrap();
        assert!(got.starts_with("PROXY TCP4 127.0.0.2 127.0.0.1 ") && got.ends_with("\r\nhello"), "{got:?}");
        assert_eq!(rig.count(0, field::BAD_HEADER), 0);
    });
}
