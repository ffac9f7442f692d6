//! `allow` and `deny`.

use std::net::UdpSocket;
use std::process::Command;

use portway_relay::wire::field;

use super::rig::{in_netns, until};
use super::*;

/// Another address of the loopback interface.
fn add_address(address: &str) {
    let status = Command::new("ip").args(["addr", "add", address, "dev", "lo", "nodad"]).status().unwrap();
    assert!(status.success(), "{address}");
}

/// Keys, addresses that are served with them, addresses that are not.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str], &'a [&'a str]);

/// Who is served, by lists; through a listener for both families, so that IPv4 clients are mapped ones there.
///
/// Fails when: a mapped address is looked up as it is; `allow` goes before `deny`; the target is dialled first.
#[test]
fn clients_by_address() {
    in_netns(|| {
        add_address("fd00::1/128");
        let cases: &[Case<'_>] = &[
            (&[("allow", "127.0.0.2")], &["127.0.0.2"], &["127.0.0.3", "::1"]),
            (&[("deny", "127.0.0.2,::1")], &["127.0.0.3", "fd00::1"], &["127.0.0.2", "::1"]),
            (&[("allow", "127.0.0.0/8"), ("deny", "127.0.0.2")], &["127.0.0.3"], &["127.0.0.2", "::1"]),
            (&[("allow", "::/0")], &["::1", "fd00::1"], &["127.0.0.1"]),
            (&[("deny", "0.0.0.0/0")], &["::1"], &["127.0.0.1"]),
            (&[("allow", "fd00::/64"), ("deny", "fd00::/8")], &[], &["fd00::1"]),
        ];
        let mut rig = Rig::start();
        let service = rig::service(SERVICE);
        let door = |ip: &str| if ip.contains(':') { "[::1]:1000" } else { DOOR };
        for (slot, (keys, served, refused)) in (0..).zip(cases) {
            rig.add(slot, "tcp:[::]:1000", SERVICE, keys);
            for ip in *served {
                let _server = expect_service(&client(ip, door(ip)), &service, ip);
            }
            for ip in *refused {
                expect_reset(&client(ip, door(ip)), ip);
            }
            expect_no_call(&service);
            until("counted", || rig.count(slot, field::DENIED) == u64::try_from(refused.len()).unwrap());
            assert_eq!(rig.count(slot, field::OPENED), u64::try_from(served.len()).unwrap());
            rig.remove(slot, false);
        }
    });
}

/// Datagrams of those who are not served are dropped and counted; the others' flows go on.
#[test]
fn datagrams_by_address() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = UdpSocket::bind("127.0.0.1:2000").unwrap();
        target.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[("deny", "127.0.0.2")]);
        let (bad, good) = (UdpSocket::bind("127.0.0.2:0").unwrap(), UdpSocket::bind("127.0.0.3:0").unwrap());
        for _ in 0..10 {
            bad.send_to(b"bad", DOOR).unwrap();
        }
        until("dropped", || rig.count(0, field::DENIED) == 10);
        good.send_to(b"good", DOOR).unwrap();
        let mut datagram = [0; 9];
        let (length, _) = target.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"good");
        let counts = [field::OPENED, field::DROPPED, field::DENIED].map(|at| rig.count(0, at));
        assert_eq!(counts, [1, 10, 10]);
    });
}

/// New lists judge new clients. Connections and flows that are open go on, and the listener stays.
///
/// Fails when: a change of these keys ends what is there.
#[test]
fn lists_change_under_live_connections() {
    in_netns(|| {
        let (mut rig, service) = guarded(&[]);
        let live = client("127.0.0.2", DOOR);
        let server = expect_service(&live, &service, "before");
        rig.change(0, LISTEN, SERVICE, &[("deny", "127.0.0.0/8")]);
        expect_reset(&client("127.0.0.2", DOOR), "after");
        (&server).write_all(b"still").unwrap();
        (&live).read_exact(&mut [0; 5]).unwrap();
        rig.change(0, LISTEN, SERVICE, &[]);
        let _again = expect_service(&client("127.0.0.2", DOOR), &service, "again");
        (&live).write_all(b"end").unwrap();
        (&server).read_exact(&mut [0; 3]).unwrap();
    });
}
