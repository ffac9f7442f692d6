//! What an announced address is good for: it is judged, told on, and survives a wait.

use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use portway_relay::wire::{FromWorker, Init, Known, Slot, ToWorker, field};

use super::rig::{in_netns, until};
use super::*;

fn header(ip: &str) -> String {
    format!("PROXY TCP4 {ip} 198.51.100.2 1 2\r\n")
}

/// The socket's address decides whether a header is read; then the announced one is judged, by lists and by caps.
///
/// Fails when: the proxy's own address is judged, or counted.
#[test]
fn the_announced_address_is_judged() {
    in_netns(|| {
        let keys = [
            ("accept_proxy", "127.0.0.2"),
            ("allow", "192.0.2.0/24"),
            ("deny", "192.0.2.66"),
            ("limits.per_source", "1"),
        ];
        let (rig, service) = guarded(&keys);
        let announce = |ip: &str| {
            let mut client = client("127.0.0.2", DOOR);
            client.write_all(header(ip).as_bytes()).unwrap();
            client
        };
        let first = announce("192.0.2.1");
        let first_server = expect_service(&first, &service, "first");
        expect_reset(&announce("192.0.2.1"), "a second of the same");
        let second = announce("192.0.2.2");
        let _other = expect_service(&second, &service, "another");
        expect_reset(&announce("192.0.2.66"), "denied");
        expect_reset(&announce("127.0.0.2"), "not allowed");
        // A stranger is judged by its own address.
        expect_reset(&client("127.0.0.3", DOOR), "a stranger");
        let counts = [field::OVER_PER_SOURCE, field::DENIED, field::BAD_HEADER].map(|at| rig.count(0, at));
        assert_eq!(counts, [1, 3, 0]);
        drop((first, first_server));
        until("over", || rig.live(0) == 1);
        let again = announce("192.0.2.1");
        let _server = expect_service(&again, &service, "again");
    });
}

/// A chain: the first proxy announces in version 1, this one tells on in version 2, to tcp and to unix; a service
/// behind udp gets the bytes alone.
#[test]
fn it_is_told_on_in_either_version() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = rig::service(SERVICE);
        let path = rig.path("target");
        let target = UnixListener::bind(&path).unwrap();
        let keys = [("accept_proxy", "127.0.0.0/8"), ("proxy_protocol", "v2")];
        rig.add(0, LISTEN, SERVICE, &keys);
        rig.add(1, "tcp:127.0.0.1:1001", &format!("unix:{}", path.display()), &keys);
        let udp = std::net::UdpSocket::bind("127.0.0.1:2001").unwrap();
        udp.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(2, "tcp:127.0.0.1:1002", "udp:127.0.0.1:2001", &keys[..1]);
        let wanted = [
            &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..],
            &[192, 0, 2, 1, 198, 51, 100, 2, 0, 1, 0, 2],
            b"data",
        ];
        let bytes = [header("192.0.2.1").as_bytes(), b"data"].concat();
        assert_eq!(delivered(&client("127.0.0.1", DOOR), &service, &bytes), wanted.concat());

        let mut to_unix = client("127.0.0.1", "127.0.0.1:1001");
        to_unix.write_all(&bytes).unwrap();
        to_unix.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        target.accept().unwrap().0.read_to_end(&mut got).unwrap();
        assert_eq!(got, wanted.concat());

        let mut to_udp = client("127.0.0.1", "127.0.0.1:1002");
        to_udp.write_all(&bytes).unwrap();
        let mut datagram = [0; 100];
        let length = udp.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"data");
    });
}

/// A client that is kept while its target is away has its header read once, and it is told on once.
///
/// Fails when: the header is forgotten, or read again, when the dial is tried again.
#[test]
fn a_held_client_keeps_its_header() {
    in_netns(|| {
        let mut rig = Rig::start();
        let keys = [("accept_proxy", "127.0.0.2"), ("proxy_protocol", "v1"), ("allow", "192.0.2.1")];
        rig.add_held(0, LISTEN, SERVICE, &keys, PATIENCE);
        let clients: Vec<TcpStream> = (0..5)
            .map(|_| {
                let mut client = client("127.0.0.2", DOOR);
                client.write_all(&[header("192.0.2.1").as_bytes(), b"early"].concat()).unwrap();
                client.shutdown(Shutdown::Write).unwrap();
                client
            })
            .collect();
        until("waiting", || rig.live(0) == 5);
        let service = rig::service(SERVICE);
        for _ in &clients {
            let got = everything(&accept(&service));
            assert_eq!(got, [header("192.0.2.1").as_bytes(), b"early"].concat());
        }
    });
}

/// Clients that an earlier worker has let in are not judged again, and their header is still there; nor are those
/// who owe none judged at the door.
///
/// Fails when: an instance's restart costs its clients their place because of a rate or a cap.
#[test]
fn returned_clients_are_not_judged_again() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = rig::service(SERVICE);
        let keys = [
            ("accept_proxy", "127.0.0.2"),
            ("proxy_protocol", "v1"),
            ("limits.rate", "1"),
            ("limits.connections", "2"),
        ];
        rig.add(0, LISTEN, SERVICE, &keys);
        let outside = rig::service("tcp:127.0.0.1:1009");
        for _ in 0..5 {
            let mut client = client("127.0.0.2", "127.0.0.1:1009");
            let accepted = accept(&outside);
            rig.say(
                &ToWorker::Client { slot: Slot::new(0, 0), index: 0, known: Known::default() },
                &[accepted.as_fd()],
            );
            client.write_all(header("192.0.2.1").as_bytes()).unwrap();
            let server = accept(&service);
            let mut got = vec![0; header("192.0.2.1").len()];
            (&server).read_exact(&mut got).unwrap();
            assert_eq!(String::from_utf8(got).unwrap(), header("192.0.2.1"));
        }
        assert_eq!(rig.count(0, field::OVER_RATE) + rig.count(0, field::OVER_CONNECTIONS), 0);
        rig.add(1, "tcp:127.0.0.1:1002", SERVICE, &[("limits.rate", "1"), ("limits.connections", "2")]);
        let mut live = Vec::new();
        for _ in 0..5 {
            let client = client("127.0.0.3", "127.0.0.1:1009");
            let accepted = accept(&outside);
            rig.say(
                &ToWorker::Client { slot: Slot::new(1, 0), index: 0, known: Known::default() },
                &[accepted.as_fd()],
            );
            let server = expect_service(&client, &service, "without a header");
            live.push((client, server));
        }
        assert_eq!(rig.count(1, field::OVER_RATE) + rig.count(1, field::OVER_CONNECTIONS), 0);
    });
}

/// When the instance dies, a client that still owes its header is reset: nobody has judged it. One that was judged is
/// handed over.
///
/// Fails when: every client without a target is handed over, and with it one that the next worker takes as let in.
#[test]
fn a_client_that_owes_its_header_is_not_handed_over() {
    in_netns(|| {
        let mut instance = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = i32::try_from(instance.id()).unwrap();
        let pidfd = portway_sys::pidfd::open(pid).unwrap();
        let init = Init { has_pidfd: true, init_pid: Some(pid), ..rig::init() };
        let mut rig = Rig::start_with(init, &[pidfd.as_fd()]);
        rig.add_held(0, LISTEN, SERVICE, &[("accept_proxy", "127.0.0.2"), ("deny", "192.0.2.66")], PATIENCE);
        let owing = client("127.0.0.2", DOOR);
        let mut begun = client("127.0.0.2", DOOR);
        begun.write_all(b"PROXY TCP4 192.0.2.66").unwrap();
        let mut judged = client("127.0.0.2", DOOR);
        judged.write_all(header("192.0.2.1").as_bytes()).unwrap();
        let mut denied = client("127.0.0.2", DOOR);
        denied.write_all(header("192.0.2.66").as_bytes()).unwrap();
        expect_reset(&denied, "denied");
        until("they are in", || rig.live(0) == 3);
        instance.kill().unwrap();
        instance.wait().unwrap();
        expect_reset(&owing, "no header");
        expect_reset(&begun, "half a header");
        rig.wait_for(|message| (*message == FromWorker::InstanceGone).then_some(()));
        let orphan = |message: &FromWorker| matches!(message, FromWorker::Orphan { .. }).then_some(());
        let (_, fds) = rig.wait_for(orphan);
        let peers: Vec<SocketAddr> =
            fds.into_iter().map(|fd| TcpStream::from(fd).peer_addr().unwrap()).collect();
        assert_eq!(peers, [judged.local_addr().unwrap()]);
        while let Some((message, _)) = rig.hear() {
            assert_eq!(orphan(&message), None);
        }
        rig.lose_channel();
        rig.join().unwrap();
    });
}
