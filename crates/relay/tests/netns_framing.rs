//! Datagrams in byte streams: udp to tcp and unix, and back.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::thread::JoinHandle;
use std::time::Duration;

use portway_relay::wire::field;
use portway_testkit::{Listener, Stream};
use rig::{PATIENCE, Rig, accept, connect, in_netns, pattern, service};

const LEN16: &[(&str, &str)] = &[("udp.framing", "len16")];

/// A udp client that only hears the address it talks to.
fn client(remote: &str) -> UdpSocket {
    let remote: SocketAddr = remote.parse().unwrap();
    let socket = UdpSocket::bind(if remote.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.connect(remote).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn receive(client: &UdpSocket) -> Vec<u8> {
    let mut answer = vec![0; 70_000];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&u16::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat()
}

/// The next frame; `None` at the end.
fn frame(mut stream: &Stream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    match stream.read_exact(&mut length) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
        Err(error) => panic!("no frame: {error}"),
    }
    let mut payload = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut payload).unwrap();
    Some(payload)
}

/// Answers each frame of each connection with itself; ends after `clients` of them have.
fn echo(listener: Listener, clients: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let serve = |stream: Stream| {
            while let Some(payload) = frame(&stream) {
                (&stream).write_all(&framed(&payload)).unwrap();
            }
        };
        let serving: Vec<JoinHandle<()>> = (0..clients)
            .map(|_| accept(&listener))
            .map(|stream| std::thread::spawn(move || serve(stream)))
            .collect();
        serving.into_iter().for_each(|one| one.join().unwrap());
    })
}

/// Every size both ways, over IPv4, IPv6 and a unix stream; each client has a connection of its own. Fails when: a
/// flow shares another's stream, the length counts its own two bytes, or an empty datagram is skipped.
#[test]
fn every_size_reaches_a_stream_and_comes_back() {
    in_netns(|| {
        let mut rig = Rig::start();
        let unix = format!("unix:{}", rig.path("service").display());
        for (slot, listen, target, largest) in [
            (0, "127.0.0.1:1000", "tcp:127.0.0.1:2000", 65_507),
            (1, "[::1]:1001", "tcp:[::1]:2001", 65_527),
            (2, "127.0.0.1:1002", unix.as_str(), 65_507),
        ] {
            let server = echo(service(target), 3);
            rig.add(slot, &format!("udp:{listen}"), target, LEN16);
            let clients: Vec<UdpSocket> = (0..3).map(|_| client(listen)).collect();
            for size in [12, 0, 1, 512, 16_384, largest] {
                for (number, client) in (0..).zip(&clients) {
                    let question = pattern(number * 100_000 + size as u64, size);
                    client.send(&question).unwrap();
                    assert!(receive(client) == question, "{size} bytes over {listen} to {target}");
                }
            }
            assert_eq!((rig.count(slot, field::OPENED), rig.count(slot, field::DROPPED)), (3, 0));
            rig.remove(slot, false);
            server.join().unwrap();
        }
    });
}

/// Frames that come in pieces and several at once. Fails when: what one read gives counts as a frame.
#[test]
fn frames_are_put_together_and_taken_apart() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", LEN16);
        let client = client("127.0.0.1:1000");
        client.send(b"question").unwrap();
        let server = accept(&service);
        assert_eq!(frame(&server).unwrap(), b"question");
        let answers: Vec<Vec<u8>> = [3, 0, 300, 1].iter().map(|size| pattern(*size as u64, *size)).collect();
        let stream: Vec<u8> = answers.iter().flat_map(|answer| framed(answer)).collect();
        (&server).write_all(&stream).unwrap();
        for answer in &answers {
            assert!(receive(&client) == *answer);
        }
        for byte in &stream {
            (&server).write_all(&[*byte]).unwrap();
        }
        for answer in &answers {
            assert!(receive(&client) == *answer);
        }
        // Longer than a datagram can be: left out, and what follows is right.
        (&server).write_all(&framed(&pattern(9, 65_535))).unwrap();
        (&server).write_all(&framed(&pattern(9, 65_510))).unwrap();
        (&server).write_all(&framed(b"after")).unwrap();
        assert_eq!(receive(&client), b"after");
        rig.until("they are counted", |rig| rig.count(0, field::DROPPED) == 2);
    });
}

/// The end of the stream, or a reset, ends the flow, and the next datagram calls anew. Fails when: the flow stays in the
/// table without a stream.
#[test]
fn a_stream_that_ends_is_called_anew() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", LEN16);
        let client = client("127.0.0.1:1000");
        for (round, resets) in [(0_u64, false), (1, true), (2, false)] {
            client.send(b"question").unwrap();
            let server = accept(&service);
            assert_eq!(frame(&server).unwrap(), b"question");
            (&server).write_all(&framed(b"answer")).unwrap();
            assert_eq!(receive(&client), b"answer");
            if resets {
                // Closing with something unread resets.
                client.send(b"unread").unwrap();
                rig.until("it is on its way", |rig| rig.count(0, field::BYTES_IN) == 8 * (round + 1) + 6);
            } else {
                server.shutdown(Shutdown::Write).unwrap();
            }
            drop(server);
            rig.until("the flow is over", |rig| rig.live(0) == 0);
            assert_eq!(rig.count(0, field::OPENED), round + 1);
        }
    });
}

/// A service that is not there, and then is: datagrams are lost and counted meanwhile, and the same client goes on.
#[test]
fn a_target_that_comes_back_serves_the_same_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", LEN16);
        let client = client("127.0.0.1:1000");
        for count in 1..=3 {
            client.send(b"lost").unwrap();
            rig.until("the loss is counted", |rig| {
                rig.count(0, field::DIAL_FAILED) == count && rig.live(0) == 0
            });
        }
        assert_eq!(rig.count(0, field::DROPPED), 3);
        let server = echo(service("tcp:127.0.0.1:2000"), 1);
        client.send(b"here").unwrap();
        assert_eq!(receive(&client), b"here");
        rig.remove(0, false);
        server.join().unwrap();
    });
}

/// A service that does not read: datagrams beyond what its queue and ours hold are dropped and counted, none is cut, and
/// memory does not grow. Fails when: what the stream does not take is appended without a bound, or a frame is
/// left half sent.
#[test]
fn a_full_stream_drops_whole_datagrams() {
    in_netns(|| {
        const COUNT: u32 = 2_000;
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", LEN16);
        let client = client("127.0.0.1:1000");
        client.send(&0_u32.to_be_bytes()).unwrap();
        let server = accept(&service);
        for number in 1..COUNT {
            let mut datagram = pattern(number.into(), 20_000);
            datagram[..4].copy_from_slice(&number.to_be_bytes());
            client.send(&datagram).unwrap();
            rig.until("it is taken", |rig| rig.count(0, field::BYTES_IN) == 4 + 20_000 * u64::from(number));
        }
        let dropped = rig.count(0, field::DROPPED);
        assert!(dropped > 100, "{dropped} dropped of 40 MB");
        let mut last = None;
        for _ in 0..u64::from(COUNT) - dropped {
            let payload = frame(&server).unwrap();
            let number = u32::from_be_bytes(payload[..4].try_into().unwrap());
            assert!(last < Some(number), "{number} after {last:?}");
            assert!(payload[4..] == pattern(number.into(), payload.len())[4..], "datagram {number}");
            last = Some(number);
        }
        client.send(b"more").unwrap();
        assert_eq!(frame(&server).unwrap(), b"more");
    });
}

/// A service that never answers the call holds up nobody, and the flow ends after `connect.timeout`.
#[test]
fn a_call_that_nobody_takes_is_given_up() {
    in_netns(|| {
        let mut rig = Rig::start();
        let silent = portway_testkit::Addr::tcp("127.0.0.1:2000").listen_with_backlog(0).unwrap();
        let filler: Vec<_> = (0..2)
            .map(|_| portway_testkit::Addr::tcp("127.0.0.1:2000").connect(Duration::from_millis(200)))
            .collect();
        let server = echo(service("tcp:127.0.0.1:2001"), 1);
        rig.add(
            0,
            "udp:127.0.0.1:1000,1001",
            "tcp:127.0.0.1:2000,2001",
            &[LEN16[0], ("connect.timeout", "300ms")],
        );
        let (lost, served) = (client("127.0.0.1:1000"), client("127.0.0.1:1001"));
        lost.send(b"lost").unwrap();
        served.send(b"served").unwrap();
        assert_eq!(receive(&served), b"served");
        rig.until("the call is given up", |rig| rig.count(0, field::DIAL_FAILED) == 1);
        assert_eq!((rig.live(0), rig.count(0, field::DROPPED)), (1, 1));
        drop((silent, filler));
        rig.remove(0, false);
        server.join().unwrap();
    });
}

/// Without framing a datagram is a write, and what one read gives is a datagram.
#[test]
fn raw_writes_and_reads() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("udp.framing", "raw")]);
        let client = client("127.0.0.1:1000");
        client.send(b"one").unwrap();
        client.send(b"").unwrap();
        client.send(b"two").unwrap();
        let server = accept(&service);
        let mut got = [0; 6];
        (&server).read_exact(&mut got).unwrap();
        assert_eq!(&got, b"onetwo");
        rig.until("the empty one is counted", |rig| rig.count(0, field::DROPPED) == 1);
        (&server).write_all(b"answer").unwrap();
        assert_eq!(receive(&client), b"answer");
    });
}

/// The header comes once, before the first frame, and names the client and the address it sent to.
#[test]
fn a_header_names_the_udp_client() {
    in_netns(|| {
        let mut rig = Rig::start();
        let unix = format!("unix:{}", rig.path("service").display());
        let targets = [("tcp:127.0.0.1:2000", 0), (unix.as_str(), 1)];
        for (target, slot) in targets {
            let service = service(target);
            let listen = format!("127.0.0.1:{}", 1000 + slot);
            rig.add(slot, &format!("udp:{listen}"), target, &[LEN16[0], ("proxy_protocol", "v2")]);
            let client = client(&listen);
            client.send(b"one").unwrap();
            client.send(b"two").unwrap();
            let server = accept(&service);
            let mut header = [0; 28];
            (&server).read_exact(&mut header).unwrap();
            assert_eq!(&header[..16], b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c");
            assert_eq!(&header[16..24], [127, 0, 0, 1, 127, 0, 0, 1]);
            assert_eq!(header[24..26], client.local_addr().unwrap().port().to_be_bytes());
            assert_eq!(u32::from(u16::from_be_bytes([header[26], header[27]])), 1000 + slot);
            assert_eq!(frame(&server).unwrap(), b"one");
            assert_eq!(frame(&server).unwrap(), b"two");
        }
    });
}

/// The other way: each frame of a stream is a datagram and each datagram comes back as a frame, however the
/// stream is cut. Fails when: a read counts as a datagram.
#[test]
fn frames_of_a_stream_become_datagrams() {
    in_netns(|| {
        let mut rig = Rig::start();
        let server = UdpSocket::bind("127.0.0.1:2000").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        let unix = format!("unix:{}", rig.path("listen").display());
        for (slot, listen) in [(0, "tcp:127.0.0.1:1000"), (1, unix.as_str())] {
            rig.add(slot, listen, "udp:127.0.0.1:2000", &[LEN16[0], ("udp.idle", "300ms")]);
            let client = connect(listen);
            let sizes = [5_usize, 0, 1, 40_000, 65_507];
            let questions: Vec<Vec<u8>> = sizes.iter().map(|size| pattern(*size as u64, *size)).collect();
            let stream: Vec<u8> = questions.iter().flat_map(|question| framed(question)).collect();
            // All at once, in odd pieces, and the small ones byte by byte.
            for piece in [stream.len(), 7_777, 1] {
                let end = if piece == 1 { 2 + 5 + 2 + 2 + 1 } else { stream.len() };
                for part in stream[..end].chunks(piece) {
                    (&client).write_all(part).unwrap();
                }
                let count = if piece == 1 { 3 } else { questions.len() };
                for question in &questions[..count] {
                    let mut got = vec![0; 70_000];
                    let (length, from) = server.recv_from(&mut got).unwrap();
                    assert!(got[..length] == *question, "{length} bytes of {}", question.len());
                    server.send_to(&got[..length], from).unwrap();
                    assert!(frame(&client).unwrap() == *question);
                }
            }
            // Longer than a datagram: left out. The beginning of a frame at the end: left out, too.
            (&client).write_all(&framed(&pattern(1, 65_535))).unwrap();
            (&client).write_all(&framed(b"last")).unwrap();
            (&client).write_all(b"\0\x09cut").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut got = [0; 16];
            let (length, _) = server.recv_from(&mut got).unwrap();
            assert_eq!(&got[..length], b"last");
            rig.until("they are counted", |rig| rig.count(slot, field::DROPPED) == 2);
            assert_eq!(frame(&client), None);
        }
    });
}

/// Streams that each send the beginning of a long frame and no more keep memory up to a bound, past which they are
/// ended; others go on. Fails when: `FrameMemory` never says no.
#[test]
fn beginnings_of_frames_take_bounded_memory() {
    in_netns(|| {
        let mut rig = Rig::start();
        let server = UdpSocket::bind("127.0.0.1:2000").unwrap();
        server.set_read_timeout(Some(PATIENCE)).unwrap();
        rig.add(0, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[LEN16[0], ("udp.idle", "200ms")]);
        let greedy = greedy_clients(300);
        rig.until("some are ended", |rig| rig.count(0, field::RESET) > 0);
        let modest = connect("tcp:127.0.0.1:1000");
        (&modest).write_all(&framed(b"hello")).unwrap();
        let mut got = [0; 16];
        let (length, _) = server.recv_from(&mut got).unwrap();
        assert_eq!(&got[..length], b"hello");
        drop(greedy);
        rig.until("they are gone", |rig| rig.live(0) == 1);
    });
}

/// Clients that begin a long frame and do not end it.
fn greedy_clients(count: usize) -> Vec<Stream> {
    let part = [&b"\xff\xff"[..], &[7; 60_000]].concat();
    let begin = |()| {
        let client = connect("tcp:127.0.0.1:1000");
        // It may be ended while it still sends.
        let _ = (&client).write_all(&part);
        client
    };
    vec![(); count].into_iter().map(begin).collect()
}

/// A change of the target moves flows that nobody has answered at once, and those that are answered when their
/// stream ends.
#[test]
fn a_new_target_gets_the_next_stream() {
    in_netns(|| {
        let mut rig = Rig::start();
        let one = service("tcp:127.0.0.1:2000");
        let two = echo(service("tcp:127.0.0.1:2001"), 1);
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", LEN16);
        let client = client("127.0.0.1:1000");
        client.send(b"first").unwrap();
        let server = accept(&one);
        assert_eq!(frame(&server).unwrap(), b"first");
        (&server).write_all(&framed(b"answer")).unwrap();
        assert_eq!(receive(&client), b"answer");
        rig.change(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2001", LEN16);
        client.send(b"second").unwrap();
        assert_eq!(frame(&server).unwrap(), b"second");
        drop(server);
        rig.until("the flow is over", |rig| rig.live(0) == 0);
        client.send(b"third").unwrap();
        assert_eq!(receive(&client), b"third");
        rig.remove(0, false);
        two.join().unwrap();
    });
}

/// Idle flows end with their streams; when there are too many the one idle longest goes.
#[test]
fn idle_and_surplus_flows_close_their_streams() {
    in_netns(|| {
        let mut rig = Rig::start();
        let listener = TcpListener::bind("127.0.0.1:2000").unwrap();
        rig.add(
            0,
            "udp:127.0.0.1:1000",
            "tcp:127.0.0.1:2000",
            &[LEN16[0], ("udp.idle", "500ms"), ("udp.max_flows", "2")],
        );
        let clients: Vec<UdpSocket> = (0..3).map(|_| client("127.0.0.1:1000")).collect();
        let mut servers = Vec::new();
        for client in &clients {
            client.send(b"hello").unwrap();
            let (server, _) = listener.accept().unwrap();
            server.set_read_timeout(Some(PATIENCE)).unwrap();
            servers.push(server);
        }
        for mut server in servers {
            let mut got = Vec::new();
            server.read_to_end(&mut got).unwrap();
            assert_eq!(got, b"\0\x05hello");
        }
        assert_eq!((rig.live(0), rig.count(0, field::EVICTED)), (0, 1));
    });
}

/// Clients of device `slot` begin frames of 40,000 bytes, all at once, and end them: each is carried.
fn carries_what_comes_in_parts(rig: &Rig, slot: u32, listen: &str, server: &UdpSocket) {
    const COUNT: usize = 20;
    let frames: Vec<Vec<u8>> = (0..COUNT).map(|number| framed(&pattern(number as u64, 40_000))).collect();
    let clients: Vec<Stream> = frames
        .iter()
        .map(|frame| {
            let client = connect(listen);
            (&client).write_all(&frame[..20_000]).unwrap();
            client
        })
        .collect();
    rig.until("all have begun", |rig| rig.count(slot, field::BYTES_IN) == 20_000 * COUNT as u64);
    for (client, frame) in clients.iter().zip(&frames) {
        (&*client).write_all(&frame[20_000..]).unwrap();
        let mut got = vec![0; 70_000];
        let length = server.recv(&mut got).unwrap();
        assert!(got[..length] == frame[2..]);
    }
    assert_eq!((rig.count(slot, field::RESET), rig.count(slot, field::DROPPED)), (0, 0));
}

fn udp_service(address: &str) -> UdpSocket {
    let server = UdpSocket::bind(address).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    server
}

/// Sends datagrams until the target, which takes none, is full and one is dropped.
fn send_until_full(rig: &Rig, slot: u32, client: &UdpSocket) {
    let before = rig.count(slot, field::DROPPED);
    while rig.count(slot, field::DROPPED) == before {
        let taken = rig.count(slot, field::BYTES_IN);
        client.send(&[7; 60_000]).unwrap();
        rig.until("it is taken", |rig| rig.count(slot, field::BYTES_IN) == taken + 60_000);
    }
}

/// Clients of one device that begin as many frames as they may take nothing from another device. Fails when: the devices
/// draw on one account.
#[test]
fn unfinished_frames_are_at_the_cost_of_their_device() {
    in_netns(|| {
        let mut rig = Rig::start();
        let (_first, second) = (udp_service("127.0.0.1:2000"), udp_service("127.0.0.1:2001"));
        rig.add(0, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", LEN16);
        rig.add(1, "tcp:127.0.0.1:1001", "udp:127.0.0.1:2001", LEN16);
        let greedy = greedy_clients(200);
        rig.until("some are ended", |rig| rig.count(0, field::RESET) > 0);
        carries_what_comes_in_parts(&rig, 1, "tcp:127.0.0.1:1001", &second);
        drop(greedy);
    });
}

/// So does a target that takes no call, with a datagram waiting for it in each flow. Fails when: the same.
#[test]
fn a_stalled_target_is_at_the_cost_of_its_device() {
    const CLIENTS: u64 = 300;
    in_netns(|| {
        let mut rig = Rig::start();
        let second = udp_service("127.0.0.1:2001");
        let address = portway_testkit::Addr::tcp("127.0.0.1:2000");
        let silent = address.listen_with_backlog(0).unwrap();
        let filler = [(); 2].map(|()| address.connect(Duration::from_millis(200)));
        let keys = [LEN16[0], ("connect.timeout", "10m")];
        rig.add(0, "udp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &keys);
        rig.add(1, "tcp:127.0.0.1:1001", "udp:127.0.0.1:2001", LEN16);
        let clients: Vec<UdpSocket> = (0..CLIENTS)
            .map(|_| {
                let client = client("127.0.0.1:1000");
                send_until_full(&rig, 0, &client);
                client
            })
            .collect();
        carries_what_comes_in_parts(&rig, 1, "tcp:127.0.0.1:1001", &second);
        drop((clients, silent, filler));
    });
}

/// What a client or a target leaves unfinished for half a minute ends the connection, and is counted; one byte more
/// buys as much time again. Fails when: a connection with the beginning of a frame is forgotten, or one that waits
/// for its target.
#[test]
fn what_stays_unfinished_is_ended() {
    in_netns(|| {
        let mut rig = Rig::start();
        let server = udp_service("127.0.0.1:2000");
        let half = service("tcp:127.0.0.1:2001");
        let target = rig.path("stalled");
        let stalled = portway_testkit::Addr::unix(&target).listen_with_backlog(10).unwrap();
        rig.add(0, "tcp:127.0.0.1:1000", "udp:127.0.0.1:2000", LEN16);
        rig.add(1, "udp:127.0.0.1:1001", "tcp:127.0.0.1:2001", LEN16);
        rig.add(2, "udp:127.0.0.1:1002", &format!("unix:{}", target.display()), LEN16);
        let (silent, slow) = (connect("tcp:127.0.0.1:1000"), connect("tcp:127.0.0.1:1000"));
        (&silent).write_all(b"\0\x09cut").unwrap();
        (&slow).write_all(b"\0\x64").unwrap();
        let asker = client("127.0.0.1:1001");
        asker.send(b"question").unwrap();
        let answerer = accept(&half);
        (&answerer).write_all(b"\0\x02ok\0\x09cut").unwrap();
        assert_eq!(receive(&asker), b"ok");
        let filler = client("127.0.0.1:1002");
        send_until_full(&rig, 2, &filler);
        let over = |rig: &Rig| (0..3).all(|slot| rig.count(slot, field::RESET) == 1);
        for number in 0..100 {
            if over(&rig) {
                break;
            }
            if number % 10 == 0 {
                (&slow).write_all(b"x").unwrap();
                // Its flow is not idle.
                filler.send(b"x").unwrap();
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        assert!(over(&rig));
        assert_eq!((&silent).read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!([0, 1].map(|slot| rig.live(slot)), [1, 0]);
        assert_eq!([0, 1].map(|slot| rig.count(slot, field::DROPPED)), [1, 1]);
        // The slow one has 100 bytes to send.
        (&slow).write_all(&[b'x'; 100]).unwrap();
        assert_eq!(server.recv(&mut [0; 200]).unwrap(), 100);
        // And the client of the stream that was ended goes on.
        asker.send(b"again").unwrap();
        assert_eq!(frame(&accept(&half)).unwrap(), b"again");
        drop(stalled);
    });
}
