//! `limits.*`.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use portway_relay::wire::field;

use super::rig::{in_netns, try_connect, until};
use super::*;

/// One more than the cap is refused; when one has ended the next is served.
///
/// Fails when: the cap counts all connections ever, or the refused wait in the backlog.
#[test]
fn connections() {
    in_netns(|| {
        let (rig, service) = guarded(&[("limits.connections", "2")]);
        let clients: Vec<TcpStream> = (0..2).map(|_| client("127.0.0.1", DOOR)).collect();
        let servers: Vec<Stream> =
            clients.iter().map(|client| expect_service(client, &service, "first two")).collect();
        for _ in 0..5 {
            expect_reset(&client("127.0.0.1", DOOR), "one too many");
        }
        assert_eq!(rig.count(0, field::OVER_CONNECTIONS), 5);
        expect_no_call(&service);
        drop((servers, clients));
        until("over", || rig.live(0) == 0);
        let _server = expect_service(&client("127.0.0.1", DOOR), &service, "again");
    });
}

/// Clients that owe a header count, so that those who never send it do not pile up.
///
/// Fails when: the cap is looked at only after the header.
#[test]
fn connections_whose_header_is_awaited() {
    in_netns(|| {
        let (rig, _service) = guarded(&[("limits.connections", "3"), ("accept_proxy", "127.0.0.0/8")]);
        let waiting: Vec<TcpStream> = (0..3).map(|_| client("127.0.0.1", DOOR)).collect();
        until("waiting", || rig.live(0) == 3);
        expect_reset(&client("127.0.0.1", DOOR), "one too many");
        assert_eq!(rig.count(0, field::OVER_CONNECTIONS), 1);
        drop(waiting);
    });
}

/// Unix clients have no address, but may be too many.
#[test]
fn unix_connections() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = rig::service(SERVICE);
        rig.add(0, "unix:@door", SERVICE, &[("limits.connections", "1")]);
        let first = rig::connect("unix:@door");
        (&first).write_all(b"x").unwrap();
        (&accept(&service)).read_exact(&mut [0]).unwrap();
        until("served", || rig.live(0) == 1);
        let second = try_connect("unix:@door").unwrap();
        assert!(matches!((&second).read(&mut [0]), Ok(0) | Err(_)), "one too many");
        assert_eq!(rig.count(0, field::OVER_CONNECTIONS), 1);
    });
}

/// A second's worth at once, and then as many as come in: never more, whatever the time it takes.
///
/// Fails when: the bucket is larger than a second's worth, or refused clients take tokens.
#[test]
fn rate() {
    in_netns(|| {
        let (rig, service) = guarded(&[("limits.rate", "5/s")]);
        let start = Instant::now();
        let count = 60;
        let clients: Vec<TcpStream> = (0..count).map(|_| client("127.0.0.1", DOOR)).collect();
        until("all judged", || rig.count(0, field::OPENED) + rig.count(0, field::OVER_RATE) == count);
        let (served, seconds) = (rig.count(0, field::OPENED), start.elapsed().as_secs_f64());
        let most = 5.0 + 5.0 * seconds;
        assert!(served >= 5 && f64::from(u32::try_from(served).unwrap()) <= most, "{served} in {seconds} s");
        drop(clients);
        for _ in 0..served {
            drop(accept(&service));
        }
        until("one more is let in", || {
            let refused = rig.count(0, field::OVER_RATE);
            drop(client("127.0.0.1", DOOR));
            until("judged", || {
                rig.count(0, field::OPENED) > served || rig.count(0, field::OVER_RATE) > refused
            });
            std::thread::sleep(Duration::from_millis(20));
            rig.count(0, field::OPENED) > served
        });
    });
}

/// Each address has its own count; the addresses of an IPv6 network share one.
///
/// Fails when: one client's connections are counted for another, or are not given back.
#[test]
fn per_source() {
    in_netns(|| {
        for address in ["fd00:0:0:1::1/128", "fd00:0:0:1:ffff::2/128", "fd00:0:0:2::1/128"] {
            let mut ip = std::process::Command::new("ip");
            assert!(ip.args(["addr", "add", address, "dev", "lo", "nodad"]).status().unwrap().success());
        }
        let mut rig = Rig::start();
        let service = rig::service(SERVICE);
        rig.add(0, "tcp:[::]:1000", SERVICE, &[("limits.per_source", "2")]);
        let serve = |from: &str, to: &str| {
            let client = client(from, to);
            let server = expect_service(&client, &service, from);
            (client, server)
        };
        let six = "[::1]:1000";
        let mut live = vec![serve("127.0.0.2", DOOR), serve("127.0.0.2", DOOR), serve("127.0.0.3", DOOR)];
        live.extend([
            serve("fd00:0:0:1::1", six),
            serve("fd00:0:0:1:ffff::2", six),
            serve("fd00:0:0:2::1", six),
        ]);
        expect_reset(&client("127.0.0.2", DOOR), "the third of one address");
        expect_reset(&client("fd00:0:0:1::1", six), "the third of one network");
        assert_eq!(rig.count(0, field::OVER_PER_SOURCE), 2);
        drop(live.remove(0));
        until("over", || rig.live(0) == 5);
        live.push(serve("127.0.0.2", DOOR));
        expect_reset(&client("127.0.0.2", DOOR), "the third again");
    });
}

/// A cap that is set later counts those who are there.
///
/// Fails when: connections from before the change are nobody's.
#[test]
fn per_source_counts_those_from_before() {
    in_netns(|| {
        let (mut rig, service) = guarded(&[]);
        let first = client("127.0.0.2", DOOR);
        let server = expect_service(&first, &service, "before");
        let keys = [("limits.per_source", "1")];
        rig.change(0, LISTEN, SERVICE, &keys);
        expect_reset(&client("127.0.0.2", DOOR), "one too many");
        rig.change(0, LISTEN, SERVICE, &[("limits.per_source", "1"), ("hold", "1s")]);
        expect_reset(&client("127.0.0.2", DOOR), "still");
        drop((first, server));
        until("over", || rig.live(0) == 0);
        let _again = expect_service(&client("127.0.0.2", DOOR), &service, "again");
    });
}

/// Flows: a cap refuses the new, while `udp.max_flows` ends the old; what is refused is dropped.
///
/// Fails when: a flow that ends is not given back, or a refused one ends another.
#[test]
fn flows() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = UdpSocket::bind("127.0.0.1:2000").unwrap();
        target.set_read_timeout(Some(PATIENCE)).unwrap();
        let socket = |ip: &str| UdpSocket::bind(format!("{ip}:0")).unwrap();
        let (mut buffer, listen) = ([0; 9], "udp:127.0.0.1:1000");
        for (slot, keys, counter) in [
            (0, [("limits.connections", "2"), ("udp.idle", "2s")], field::OVER_CONNECTIONS),
            (1, [("limits.per_source", "2"), ("udp.idle", "2s")], field::OVER_PER_SOURCE),
        ] {
            rig.add(slot, listen, "udp:127.0.0.1:2000", &keys);
            let flows = [socket("127.0.0.2"), socket("127.0.0.2"), socket("127.0.0.2")];
            for flow in &flows {
                flow.send_to(b"x", DOOR).unwrap();
            }
            until("refused", || rig.count(slot, counter) == 1);
            assert_eq!((rig.live(slot), rig.count(slot, field::EVICTED)), (2, 0));
            until("idle", || rig.live(slot) == 0);
            flows[2].send_to(b"y", DOOR).unwrap();
            for _ in 0..3 {
                target.recv_from(&mut buffer).unwrap();
            }
            assert_eq!(buffer[0], b'y');
            rig.remove(slot, false);
        }
        rig.add(2, listen, "udp:127.0.0.1:2000", &[("limits.rate", "1")]);
        let flows: Vec<UdpSocket> = (0..50).map(|_| socket("127.0.0.4")).collect();
        for flow in &flows {
            flow.send_to(b"x", DOOR).unwrap();
        }
        until("judged", || rig.count(2, field::OPENED) + rig.count(2, field::OVER_RATE) == 50);
        assert!(rig.count(2, field::OVER_RATE) > 0 && rig.count(2, field::OPENED) > 0);
    });
}
