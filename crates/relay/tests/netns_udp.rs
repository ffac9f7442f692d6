//! Datagrams.
//!
//! ```text
//! client sockets ---- listener (worker) ---- one connected socket per flow ---- echo service
//! ```

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portway_relay::wire::field;
use portway_testkit::{Netns, segments};
use rig::{PATIENCE, Rig, connect, in_netns, pattern};

/// Sends every datagram back where it came from, until dropped; `tag` is put in front of it.
struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    received: Arc<AtomicU64>,
}

impl Echo {
    fn start(address: &str, tag: &str) -> Echo {
        let socket = UdpSocket::bind(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, tag) = (Arc::clone(&stop), Arc::clone(&received), tag.as_bytes().to_vec());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; 70_000];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    counted.fetch_add(1, Ordering::Relaxed);
                    let answer = [&tag, &buffer[..length]].concat();
                    let _ = socket.send_to(&answer, from);
                }
            }
        });
        Echo { stop, thread: Some(thread), received }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// A client that only hears the address it talks to.
fn client(local: &str, remote: &str) -> UdpSocket {
    let socket = UdpSocket::bind(local).unwrap();
    socket.connect(remote).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    let mut answer = vec![0; 70_000];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

#[test]
fn every_size_arrives_whole() {
    in_netns(|| {
        let mut rig = Rig::start();
        for (slot, local, listen, target, largest) in [
            (0, "127.0.0.1:0", "127.0.0.1:1000", "127.0.0.1:2000", 65_507),
            (1, "[::1]:0", "[::1]:1000", "[::1]:2000", 65_527),
        ] {
            let _echo = Echo::start(target, "");
            rig.add(slot, &format!("udp:{listen}"), &format!("udp:{target}"), &[]);
            let client = client(local, listen);
            for size in [0, 1, 1472, 32_769, 65_507, largest] {
                let question = pattern(size as u64, size);
                assert!(ask(&client, &question) == question, "{size} bytes over {listen}");
            }
            assert_eq!(rig.count(slot, field::OPENED), 1);
            assert_eq!(rig.count(slot, field::DROPPED), 0);
            assert_eq!(rig.count(slot, field::BYTES_IN), rig.count(slot, field::BYTES_OUT));
        }
    });
}

/// One client on all ports of a range reaches all targets, and answers come from the port it asked.
#[test]
fn ports_of_a_range_are_flows_of_their_own() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _services: Vec<Echo> =
            (2000..2004).map(|port| Echo::start(&format!("127.0.0.1:{port}"), &format!("{port} "))).collect();
        rig.add(0, "udp:127.0.0.1:1000-1003", "udp:127.0.0.1:2000-2003", &[]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        for round in 0..3 {
            for port in 1000..1004_u16 {
                client.send_to(format!("{round}").as_bytes(), ("127.0.0.1", port)).unwrap();
                let mut answer = [0; 64];
                let (length, from) = client.recv_from(&mut answer).unwrap();
                assert_eq!(from.port(), port);
                assert_eq!(answer[..length], *format!("{} {round}", port + 1000).as_bytes());
            }
        }
        assert_eq!(rig.count(0, field::OPENED), 4);
    });
}

/// A target that restarts: the same client, from the same port, goes on at once. Fails when an error of the network ends
/// the flow or is held against the next datagram.
#[test]
fn a_target_that_restarts_loses_no_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let clients: Vec<UdpSocket> = (0..8).map(|_| client("127.0.0.1:0", "127.0.0.1:1000")).collect();
        for round in 1..=3 {
            let echo = Echo::start("127.0.0.1:2000", "");
            for client in &clients {
                assert_eq!(ask(client, b"hello"), b"hello");
            }
            drop(echo);
            for client in &clients[..4] {
                client.send(b"lost").unwrap();
            }
            rig.until("the loss is noticed", |rig| rig.count(0, field::DIAL_FAILED) == round * 4);
        }
        assert_eq!(rig.count(0, field::OPENED), 8);
    });
}

/// The very first datagram after the restart arrives, though the network's error about the last one before is
/// still pending at the flow.
#[test]
fn the_first_datagram_after_a_restart_arrives() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let client = client("127.0.0.1:0", "127.0.0.1:1000");
        for _ in 0..50 {
            client.send(b"into the void").unwrap();
            // In one go: the error is there before the worker can have looked.
            let echo = Echo::start("127.0.0.1:2000", "");
            let mut answer = ask(&client, b"after");
            if answer == b"into the void" {
                // It was not lost after all.
                answer = vec![0; 100];
                let length = client.recv(&mut answer).unwrap();
                answer.truncate(length);
            }
            assert_eq!(answer, b"after");
            drop(echo);
        }
    });
}

/// Connected clients get answers from the address they asked, through wildcard listeners.
#[test]
fn answers_come_from_the_address_that_was_asked() {
    if !portway_testkit::is_root() {
        return;
    }
    // Through a veth as well: on loopback everything is everybody's.
    let (near, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    let here = ["10.7.0.1/24", "10.7.0.9/24", "fd07::1/64", "fd07::9/64", "fe80::1/64"];
    near.veth("a", &here, &far, "b", &["10.7.0.2/24", "fd07::2/64", "fe80::2/64"]).unwrap();
    near.enter(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2000", "");
        rig.add(0, "udp:[::]:1000", "udp:127.0.0.1:2000", &[]);
        rig.add(1, "udp:0.0.0.0:1001", "udp:127.0.0.1:2000", &[]);
        rig.add(2, "udp:[::]:1002", "udp:127.0.0.1:2000", &[("v6only", "true")]);
        far.enter(|| {
            std::thread::sleep(Duration::from_millis(100));
            for (local, remote) in [
                ("0.0.0.0:0", "10.7.0.1:1000"),
                ("0.0.0.0:0", "10.7.0.9:1000"),
                ("0.0.0.0:0", "10.7.0.9:1001"),
                ("[::]:0", "[fd07::1]:1000"),
                ("[::]:0", "[fd07::9]:1000"),
                ("[::]:0", "[fd07::9]:1002"),
                ("[::]:0", "[fe80::1%b]:1000"),
            ] {
                let socket = UdpSocket::bind(local).unwrap();
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
                socket.connect(scoped(remote)).unwrap_or_else(|error| panic!("{remote}: {error}"));
                assert_eq!(ask(&socket, b"who"), b"who", "{remote}");
            }
        })
        .unwrap();
        for (local, remote) in [("127.0.0.1:0", "127.0.0.7:1000"), ("[::1]:0", "[::1]:1000")] {
            assert_eq!(ask(&client(local, remote), b"here"), b"here", "{remote}");
        }
    })
    .unwrap();
}

/// The standard library reads no zone names.
fn scoped(address: &str) -> SocketAddr {
    match address.split_once('%') {
        None => address.parse().unwrap(),
        Some((ip, rest)) => {
            let (zone, port) = rest.split_once("]:").unwrap();
            let scope = portway_sys::interface::index(zone).unwrap();
            format!("{ip}%{scope}]:{port}").parse().unwrap()
        }
    }
}

/// A target on a link-local address is reached through the interface it names.
#[test]
fn a_link_local_target_is_reached() {
    if !portway_testkit::is_root() {
        return;
    }
    let (near, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    near.veth("a", &["fe80::1/64"], &far, "b", &["fe80::2/64"]).unwrap();
    let _echo = far.enter(|| {
        let port = scoped("[fe80::2%b]:2000");
        let socket = UdpSocket::bind(port).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 100];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
        })
    });
    near.enter(|| {
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1000", "udp:[fe80::2%a]:2000", &[]);
        assert_eq!(ask(&client("127.0.0.1:0", "127.0.0.1:1000"), b"there"), b"there");
        let error = rig.try_add(1, "udp:127.0.0.1:1001", "udp:[fe80::2%none]:2000", &[], None).unwrap_err();
        assert_eq!(error, "no interface none for the target address");
    })
    .unwrap();
}

/// Listeners at a link-local address, tcp and udp, serve clients of that link, and answer them there; a tcp target is
/// called through the interface it names. Fails when: the interface of a client is lost on the way back.
#[test]
fn link_local_listeners_serve_their_link() {
    if !portway_testkit::is_root() {
        return;
    }
    let (near, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    near.veth("a", &["fe80::1/64"], &far, "b", &["fe80::2/64"]).unwrap();
    // The same address on another link.
    let other = Netns::new().unwrap();
    near.veth("c", &["fe80::9/64"], &other, "d", &["fe80::2/64"]).unwrap();
    let target = far.enter(|| TcpListener::bind(scoped("[fe80::2%b]:2000")).unwrap()).unwrap();
    near.enter(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2001", "");
        rig.add(0, "tcp:[fe80::1%a]:1000", "tcp:[fe80::2%a]:2000", &[]);
        rig.add(1, "udp:[fe80::1%a]:1001", "udp:127.0.0.1:2001", &[]);
        let clients = || {
            let tcp = TcpStream::connect(scoped("[fe80::1%b]:1000")).unwrap();
            let udp = UdpSocket::bind("[::]:0").unwrap();
            udp.connect(scoped("[fe80::1%b]:1001")).unwrap();
            udp.set_read_timeout(Some(PATIENCE)).unwrap();
            (tcp, udp)
        };
        let (mut tcp, udp) = far.enter(clients).unwrap();
        tcp.write_all(b"over the link").unwrap();
        let (mut server, from) = target.accept().unwrap();
        assert_eq!(from.ip(), "fe80::1".parse::<IpAddr>().unwrap());
        let mut got = [0; 13];
        server.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"over the link");
        assert_eq!(ask(&udp, b"datagram"), b"datagram");
    })
    .unwrap();
}

/// What one datagram is to a client or a service stays one, though it sends many in one call and has the kernel join what
/// comes. Fails when: the relay joins what it receives and does not take it apart.
#[test]
fn segments_are_datagrams_of_their_own() {
    const SIZE: u16 = 1000;
    in_netns(|| {
        let mut rig = Rig::start();
        let service = UdpSocket::bind("127.0.0.1:2000").unwrap();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let asker = client("127.0.0.1:0", "127.0.0.1:1000");
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        for socket in [&service, &asker] {
            segments::join(socket).unwrap();
        }
        // 30 whole ones and a shorter one.
        let sent = pattern(1, 30 * usize::from(SIZE) + 500);
        let wanted: Vec<&[u8]> = sent.chunks(usize::from(SIZE)).collect();
        let take = |socket: &UdpSocket| {
            let (mut all, mut from) = (Vec::new(), None);
            while all.len() < wanted.len() {
                let (some, sender) = segments::receive(socket).unwrap();
                all.extend(some);
                from = sender;
            }
            (all, from)
        };
        for round in 0..10 {
            segments::send(&asker, &sent, SIZE, "127.0.0.1:1000".parse().unwrap()).unwrap();
            let (got, flow) = take(&service);
            assert!(got == wanted, "up, round {round}");
            segments::send(&service, &sent, SIZE, flow.unwrap()).unwrap();
            assert!(take(&asker).0 == wanted, "down, round {round}");
        }
        assert_eq!((rig.count(0, field::DROPPED), rig.count(0, field::OPENED)), (0, 1));
    });
}

/// An unreachable target costs nothing but its datagrams: they are counted, others are served.
#[test]
fn a_target_that_cannot_be_called_costs_its_datagrams() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2000", "");
        rig.add(0, "udp:127.0.0.1:1000", "udp:192.0.2.1:2000", &[]);
        rig.add(1, "udp:127.0.0.1:1001", "udp:127.0.0.1:2000", &[]);
        let lost = client("127.0.0.1:0", "127.0.0.1:1000");
        for _ in 0..10 {
            lost.send(b"x").unwrap();
        }
        rig.until("they are counted", |rig| rig.count(0, field::DROPPED) == 10);
        assert_eq!(rig.live(0), 0);
        assert_eq!(ask(&client("127.0.0.1:0", "127.0.0.1:1001"), b"ok"), b"ok");
    });
}

/// Many sources: the table stays within its limit, conversations go on, and another device does not notice.
#[test]
fn a_flood_of_sources_displaces_itself() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2000", "");
        let _other = Echo::start("127.0.0.1:2001", "");
        // The flood's target never answers: spoofed sources do not converse.
        let _silent = UdpSocket::bind("127.0.0.1:2002").unwrap();
        rig.add(0, "udp:127.0.0.1:1000-1001", "udp:127.0.0.1:2000,2002", &[("udp.max_flows", "300")]);
        rig.add(1, "udp:127.0.0.1:1100", "udp:127.0.0.1:2001", &[]);
        let talkers: Vec<UdpSocket> = (0..20).map(|_| client("127.0.0.1:0", "127.0.0.1:1000")).collect();
        let neighbour = client("127.0.0.1:0", "127.0.0.1:1100");
        let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
        let mut most = before;
        for talker in talkers.iter().chain([&neighbour]) {
            ask(talker, b"begin");
        }
        for round in 0..100_u32 {
            for host in 0..50_u32 {
                let source = format!("127.1.{}.{}:0", round % 250, host + 1);
                let spoofed = UdpSocket::bind(source).unwrap();
                spoofed.send_to(b"flood", "127.0.0.1:1001").unwrap();
            }
            let talker = &talkers[round as usize % talkers.len()];
            assert_eq!(ask(talker, b"still here"), b"still here");
            assert_eq!(ask(&neighbour, b"and me"), b"and me");
            most = most.max(std::fs::read_dir("/proc/self/fd").unwrap().count());
        }
        rig.until("all are counted", |rig| rig.count(0, field::OPENED) == 5020);
        assert_eq!(rig.live(0), 300);
        assert_eq!(rig.count(0, field::EVICTED), 5020 - 300);
        assert!(most <= before + 300 + 30, "{most} descriptors, {before} before");
        assert_eq!(rig.count(1, field::EVICTED), 0);
        assert_eq!(rig.count(1, field::OPENED), 1);
    });
}

/// Flows end when nothing has passed for the idle time, and only then.
#[test]
fn idle_flows_end() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2000", "");
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[("udp.idle", "300ms")]);
        let (quiet, busy) =
            (client("127.0.0.1:0", "127.0.0.1:1000"), client("127.0.0.1:0", "127.0.0.1:1000"));
        ask(&quiet, b"once");
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(600) {
            ask(&busy, b"again");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!((rig.count(0, field::OPENED), rig.live(0)), (2, 1));
        rig.until("the other ends, too", |rig| rig.live(0) == 0);
        assert_eq!(rig.count(0, field::EVICTED), 0);
        assert_eq!(ask(&quiet, b"back"), b"back");
    });
}

/// A flow that nobody has answered ends after half a minute, one that was answered after `udp.idle`. Fails when: the
/// timer, which is set for the flow that has two minutes, is not set anew for the one that has less.
#[test]
fn a_flow_that_nobody_answers_ends_first() {
    in_netns(|| {
        let mut rig = Rig::start();
        let _echo = Echo::start("127.0.0.1:2000", "");
        let _silent = UdpSocket::bind("127.0.0.1:2001").unwrap();
        rig.add(0, "udp:127.0.0.1:1000-1001", "udp:127.0.0.1:2000-2001", &[]);
        assert_eq!(ask(&client("127.0.0.1:0", "127.0.0.1:1000"), b"hello"), b"hello");
        // Has the timer set for what is there.
        let keys = [("udp.max_flows", "100")];
        rig.change(0, "udp:127.0.0.1:1000-1001", "udp:127.0.0.1:2000-2001", &keys);
        client("127.0.0.1:0", "127.0.0.1:1001").send(b"hello").unwrap();
        rig.until("both are there", |rig| rig.live(0) == 2);
        let start = Instant::now();
        while rig.live(0) == 2 && start.elapsed() < Duration::from_secs(100) {
            std::thread::sleep(Duration::from_millis(500));
        }
        assert_eq!((rig.live(0), rig.count(0, field::EVICTED)), (1, 0));
    });
}

/// After a change of the target a one-way flow goes to the new one; a conversation stays until its target is gone.
#[test]
fn a_changed_target_gets_the_next_datagram() {
    in_netns(|| {
        let mut rig = Rig::start();
        let first = Echo::start("127.0.0.1:2000", "first ");
        let silent = UdpSocket::bind("127.0.0.1:2005").unwrap();
        let _second = Echo::start("127.0.0.1:2001", "second ");
        rig.add(0, "udp:127.0.0.1:1000-1001", "udp:127.0.0.1:2000,2005", &[]);
        let (talker, sender) =
            (client("127.0.0.1:0", "127.0.0.1:1000"), client("127.0.0.1:0", "127.0.0.1:1001"));
        assert_eq!(ask(&talker, b"x"), b"first x");
        sender.send(b"log line").unwrap();
        silent.recv(&mut [0; 20]).unwrap();
        rig.change(0, "udp:127.0.0.1:1000-1001", "udp:127.0.0.1:2001", &[]);
        assert_eq!(ask(&talker, b"y"), b"first y");
        assert_eq!(ask(&sender, b"log line"), b"second log line");
        drop(first);
        talker.send(b"lost").unwrap();
        rig.until("the old target is found gone", |rig| rig.count(0, field::DIAL_FAILED) > 0);
        assert_eq!(ask(&talker, b"z"), b"second z");
    });
}

/// Listeners that are sent again (an adoption by a daemon that lost its table) keep their flows when they are the same
/// sockets, and end them when they are not.
#[test]
fn the_same_listener_again_keeps_its_flows() {
    in_netns(|| {
        let mut rig = Rig::start();
        let echo = Echo::start("127.0.0.1:2000", "");
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let client_socket = client("127.0.0.1:0", "127.0.0.1:1000");
        ask(&client_socket, b"x");
        let device = rig::device("udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let kept = std::mem::take(&mut rig.kept);
        rig.put(0, &device, &kept[0].1, None).unwrap();
        assert_eq!(ask(&client_socket, b"y"), b"y");
        assert_eq!(rig.count(0, field::OPENED), 1);
        let device = rig::device("udp:127.0.0.1:1001", "udp:127.0.0.1:2000", &[]);
        rig.put(0, &device, &rig::open(&device.spec), None).unwrap();
        assert_eq!(rig.live(0), 0);
        drop(kept);
        assert_eq!(ask(&client("127.0.0.1:0", "127.0.0.1:1001"), b"z"), b"z");
        assert!(echo.received.load(Ordering::Relaxed) >= 3);
    });
}

/// Bursts: order within a flow is kept, and what is lost is counted.
#[test]
fn a_burst_keeps_its_order() {
    in_netns(|| {
        let mut rig = Rig::start();
        let sink = UdpSocket::bind("127.0.0.1:2000").unwrap();
        sink.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let client = client("127.0.0.1:0", "127.0.0.1:1000");
        let reader = std::thread::spawn(move || {
            let (mut last, mut seen) = (None, HashSet::new());
            let mut buffer = [0; 16];
            loop {
                match sink.recv(&mut buffer) {
                    Ok(4) => {
                        let number = u32::from_le_bytes(buffer[..4].try_into().unwrap());
                        assert!(last.is_none_or(|last| number > last), "{number} after {last:?}");
                        assert!(seen.insert(number), "{number} twice");
                        last = Some(number);
                    }
                    Ok(length) => panic!("{length} bytes"),
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                        return seen.len();
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        });
        for number in 0..20_000_u32 {
            client.send(&number.to_le_bytes()).unwrap();
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(reader.join().unwrap() > 10_000);
    });
}

/// A stream in front of datagrams: one read is one datagram, answers are appended, and after the client's end the stream
/// lasts until no answer has come for the idle time.
#[test]
fn streams_become_datagrams() {
    in_netns(|| {
        let mut rig = Rig::start();
        let echo = Echo::start("127.0.0.1:2000", "");
        let unix = format!("unix:{}", rig.path("listen").display());
        for (slot, listen) in [(0, "tcp:127.0.0.1:1000"), (1, unix.as_str())] {
            rig.add(slot, listen, "udp:127.0.0.1:2000", &[("udp.idle", "300ms")]);
            let stream = connect(listen);
            let before = echo.received.load(Ordering::Relaxed);
            for size in [1, 1472, 30_000] {
                let question = pattern(9, size);
                (&stream).write_all(&question).unwrap();
                let mut answer = vec![0; size];
                (&stream).read_exact(&mut answer).unwrap();
                assert!(answer == question, "{size} bytes");
            }
            assert_eq!(echo.received.load(Ordering::Relaxed) - before, 3);
            (&stream).write_all(b"last").unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let (start, mut answer) = (Instant::now(), Vec::new());
            (&stream).read_to_end(&mut answer).unwrap();
            assert_eq!(answer, b"last");
            assert!(start.elapsed() >= Duration::from_millis(280), "{:?}", start.elapsed());
            rig.until("closed", |rig| rig.live(slot) == 0);
        }
    });
}

/// A stream of 100,000 bytes is cut into datagrams that fit, and nothing is lost while the target keeps up.
#[test]
fn a_large_write_fits_into_datagrams() {
    in_netns(|| {
        let mut rig = Rig::start();
        let sink = UdpSocket::bind("127.0.0.1:2000").unwrap();
        sink.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let stream = connect("tcp:127.0.0.1:1000");
        let bytes = pattern(3, 100_000);
        (&stream).write_all(&bytes).unwrap();
        let mut got = Vec::new();
        while got.len() < bytes.len() {
            let mut datagram = vec![0; 70_000];
            let length = sink.recv(&mut datagram).unwrap();
            assert!(length <= 65_507);
            got.extend_from_slice(&datagram[..length]);
        }
        assert!(got == bytes);
    });
}

/// A stream to a datagram target that is not there: the stream goes on, and works once the target is.
#[test]
fn a_stream_outlives_its_datagram_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let stream = connect("tcp:127.0.0.1:1000");
        (&stream).write_all(b"void").unwrap();
        rig.until("sent", |rig| rig.count(0, field::BYTES_IN) == 4);
        let _echo = Echo::start("127.0.0.1:2000", "");
        (&stream).write_all(b"there").unwrap();
        let mut answer = [0; 5];
        (&stream).read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"there");
    });
}
