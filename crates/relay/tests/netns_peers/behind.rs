//! Behind a device: whose address HAProxy and nginx were told.

use std::io::Write;

use super::rig::{Rig, connect, in_netns};
use super::*;

/// HAProxy is asked by HTTP. nginx answers whoever comes, and would reset who has said something.
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// The targets, with the versions that may be sent there.
fn targets(dir: &Path, ports: u16, socket: &str) -> Vec<(String, &'static [&'static str])> {
    vec![
        (format!("tcp:127.0.0.1:{ports}"), &["v1", "v2"]),
        (format!("tcp:[::1]:{}", ports + 1), &["v1", "v2"]),
        (format!("unix:{}", dir.join(socket).display()), &["v2"]),
    ]
}

/// Every kind of client to every kind of target: the answer names the client and whom it called.
fn check(rig: &mut Rig, targets: &[(String, &[&str])], request: &[u8]) {
    let mut slot = 0;
    for (target, versions) in targets {
        for version in *versions {
            let keys = [("proxy_protocol", *version)];
            let path = rig.path(&format!("listen{slot}"));
            rig.add(slot, "tcp:[::]:1000", target, &keys);
            rig.add(slot + 1, &format!("unix:{}", path.display()), target, &keys);
            for (from, to) in [("127.0.0.7", "127.0.0.1:1000"), ("::1", "[::1]:1000")] {
                let client = client(from, to);
                let (own, called) = ends(&client);
                (&client).write_all(request).unwrap();
                let said = everything(&client);
                let wanted = format!("[{} {} {} {}]", own.ip(), own.port(), called.ip(), called.port());
                assert!(said.contains(&wanted), "{version} to {target}: {said:?}, not {wanted}");
            }
            // A unix client has no address to tell; its header is taken all the same.
            let client = connect(&format!("unix:{}", path.display()));
            (&client).write_all(request).unwrap();
            let said = everything(&client);
            assert!(said.contains('[') && said.contains(']'), "{version} of unix to {target}: {said:?}");
            rig.remove(slot, false);
            rig.remove(slot + 1, false);
            slot += 2;
        }
    }
}

/// HAProxy takes both versions at listeners of every kind, and sees the client that connected to the device.
///
/// Fails when: a port or an address of the header is another one, or a family does not fit.
#[test]
fn haproxy_sees_the_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().to_owned();
        let config = format!(
            "frontend told\n  mode http\n  bind 127.0.0.1:3000 accept-proxy\n  bind [::1]:3001 accept-proxy\n  \
             bind unix@{}/haproxy.sock accept-proxy\n  http-request return status 200 content-type text/plain \
             lf-string \"[%[src] %[src_port] %[dst] %[dst_port]]\"\n",
            dir.display()
        );
        let Some(peer) = Peer::haproxy(&dir, &config) else { return };
        let targets = targets(&dir, 3000, "haproxy.sock");
        peer.ready(&targets.iter().map(|(target, _)| target.as_str()).collect::<Vec<_>>());
        check(&mut rig, &targets, REQUEST);
    });
}

/// nginx, too.
#[test]
fn nginx_sees_the_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let dir = rig.dir().to_owned();
        let config = format!(
            "server {{ listen 127.0.0.1:3000 proxy_protocol; listen [::1]:3001 proxy_protocol;\n\
             listen unix:{}/nginx.sock proxy_protocol;\nreturn \"[$proxy_protocol_addr $proxy_protocol_port \
             $proxy_protocol_server_addr $proxy_protocol_server_port]\"; }}\n",
            dir.display()
        );
        let Some(peer) = Peer::nginx(&dir, &config) else { return };
        let targets = targets(&dir, 3000, "nginx.sock");
        peer.ready(&targets.iter().map(|(target, _)| target.as_str()).collect::<Vec<_>>());
        check(&mut rig, &targets, b"");
    });
}
