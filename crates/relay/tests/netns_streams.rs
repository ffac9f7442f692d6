//! Byte streams in every pairing: whole, half-closed from either end, reset, refused.
//!
//! ```text
//! client ---- listener (worker) ---- service        all in one network namespace, over loopback
//! ```

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use portway_relay::wire::{FromWorker, field};
use portway_testkit::Stream;
use rig::{Rig, accept, connect, expect_to_end, in_netns, pattern, service, try_connect};

const MEGABYTES_10: usize = 10 << 20;

/// Listen, connect, further keys. `{}` is a folder.
type Pairing = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

/// Every pairing of streams.
const PAIRINGS: [Pairing; 8] = [
    ("tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]),
    ("tcp:[::1]:1000", "tcp:[::1]:2000", &[]),
    ("tcp:127.0.0.1:1000", "unix:{}/target", &[]),
    ("tcp:127.0.0.1:1000", "unix:@target", &[]),
    ("unix:{}/listen", "tcp:127.0.0.1:2000", &[]),
    ("unix:@listen", "unix:{}/target", &[]),
    ("unix:{}/listen", "unix:@target", &[]),
    ("unix:{}/listen", "unix:{}/target", &[("fds", "off")]),
];

/// Runs `test` with a connected client and service, for every pairing.
fn for_each_pairing(test: impl Fn(Stream, Stream) + Sync) {
    in_netns(|| {
        for (listen, target, keys) in PAIRINGS {
            let mut rig = Rig::start();
            let dir = rig.dir().display().to_string();
            let (listen, target) = (listen.replace("{}", &dir), target.replace("{}", &dir));
            let service = service(&target);
            rig.add(0, &listen, &target, keys);
            let client = connect(&listen);
            let server = accept(&service);
            test(client, server);
            rig.until("the connection is closed", |rig| rig.live(0) == 0);
            assert_eq!(rig.count(0, field::OPENED), 1);
        }
    });
}

/// Sends 10 MB both ways at once; both ends close after the other's end.
#[test]
fn ten_megabytes_both_ways_at_once() {
    let (one, two) = (pattern(1, MEGABYTES_10), pattern(2, MEGABYTES_10));
    for_each_pairing(|client, server| {
        std::thread::scope(|scope| {
            for (mut stream, out, into) in [(&client, &one, &two), (&server, &two, &one)] {
                scope.spawn(move || {
                    stream.write_all(out).unwrap();
                    stream.shutdown(Shutdown::Write).unwrap();
                });
                scope.spawn(move || expect_to_end(stream, into));
            }
        });
    });
}

/// One end sends all and shuts its write side; only then does the other one answer. Fails when the end of one direction
/// ends the other, or is not passed on.
fn half_close(first: &Stream, second: &Stream) {
    let (one, two) = (pattern(3, MEGABYTES_10), pattern(4, MEGABYTES_10));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            (&*first).write_all(&one).unwrap();
            first.shutdown(Shutdown::Write).unwrap();
        });
        scope.spawn(|| {
            expect_to_end(second, &one);
            (&*second).write_all(&two).unwrap();
            second.shutdown(Shutdown::Write).unwrap();
        });
        expect_to_end(first, &two);
    });
}

#[test]
fn half_close_by_the_client() {
    for_each_pairing(|client, server| half_close(&client, &server));
}

#[test]
fn half_close_by_the_service() {
    for_each_pairing(|client, server| half_close(&server, &client));
}

/// A slow reader holds up the sender, not the worker's memory, and gets everything.
#[test]
fn a_slow_reader_gets_everything() {
    let bytes = pattern(5, MEGABYTES_10);
    for_each_pairing(|client, server| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                (&server).write_all(&bytes).unwrap();
                server.shutdown(Shutdown::Both).unwrap();
            });
            std::thread::sleep(Duration::from_millis(300));
            expect_to_end(&client, &bytes);
        });
    });
}

/// Small messages go back and forth; none is delayed or joined with what is not there yet.
#[test]
fn one_byte_at_a_time() {
    for_each_pairing(|client, server| {
        let start = Instant::now();
        for number in 0..2000_u32 {
            let byte = [u8::try_from(number % 256).unwrap()];
            let mut got = [0];
            (&client).write_all(&byte).unwrap();
            (&server).read_exact(&mut got).unwrap();
            assert_eq!(got, byte);
            (&server).write_all(&byte).unwrap();
            (&client).read_exact(&mut got).unwrap();
            assert_eq!(got, byte);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "2,000 round trips took {:?}", start.elapsed());
    });
}

fn tcp_pair() -> (Rig, Stream, Stream) {
    let mut rig = Rig::start();
    let service = service("tcp:127.0.0.1:2000");
    rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
    let client = connect("tcp:127.0.0.1:1000");
    let server = accept(&service);
    (rig, client, server)
}

/// Reads until an error or the end.
fn read_error(mut stream: &Stream) -> Option<ErrorKind> {
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(_) => {}
            Err(error) => return Some(error.kind()),
        }
    }
}

/// A reset arrives as a reset, from either side, before and after bytes, half-closed or not.
#[test]
fn tcp_resets_go_through() {
    in_netns(|| {
        for (from_client, bytes, half_closed) in [
            (true, false, false),
            (false, false, false),
            (true, true, false),
            (false, true, false),
            (true, true, true),
            (false, true, true),
        ] {
            let (rig, client, server) = tcp_pair();
            let (actor, other) = if from_client { (client, server) } else { (server, client) };
            if bytes {
                (&actor).write_all(b"something").unwrap();
                let mut got = [0; 9];
                (&other).read_exact(&mut got).unwrap();
            }
            if half_closed {
                actor.shutdown(Shutdown::Write).unwrap();
                assert_eq!((&other).read(&mut [0]).unwrap(), 0);
            }
            actor.reset();
            if half_closed {
                // The end of the stream was seen; the reset shows at the next write, and as an error event.
                rig.until("the reset is seen", |rig| rig.live(0) == 0);
                let error = loop {
                    if let Err(error) = (&other).write_all(b"more") {
                        break error.kind();
                    }
                    std::thread::sleep(Duration::from_millis(1));
                };
                assert!(matches!(error, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
            } else {
                assert_eq!(read_error(&other), Some(ErrorKind::ConnectionReset));
            }
            rig.until("closed", |rig| rig.live(0) == 0);
            // A service may reset before the worker has seen that it is connected.
            let seen = rig.count(0, field::RESET) + rig.count(0, field::DIAL_FAILED);
            assert_eq!(seen, 1, "client {from_client} bytes {bytes} half-closed {half_closed}");
        }
    });
}

/// A service that answers and closes without reading the request: the answer arrives.
#[test]
fn an_answer_before_a_reset_arrives() {
    in_netns(|| {
        let (_rig, client, server) = tcp_pair();
        (&client).write_all(&[7; 200_000]).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        (&server).write_all(b"413 too large").unwrap();
        // Unread bytes make the kernel send a reset.
        drop(server);
        let mut got = Vec::new();
        let end = (&client).read_to_end(&mut got);
        assert_eq!(got, b"413 too large");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// Towards a unix socket a reset is the end of the stream, after everything that came before it.
#[test]
fn a_reset_towards_unix_is_the_end() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("unix:@target");
        rig.add(0, "tcp:127.0.0.1:1000", "unix:@target", &[]);
        let client = connect("tcp:127.0.0.1:1000");
        let server = accept(&service);
        (&client).write_all(b"last words").unwrap();
        rig.until("they arrive", |rig| rig.count(0, field::BYTES_IN) == 10);
        client.reset();
        let mut got = Vec::new();
        (&server).read_to_end(&mut got).unwrap();
        assert_eq!(got, b"last words");
        rig.until("closed", |rig| rig.live(0) == 0);
    });
}

/// A refused client is told at once: reset for tcp, end for unix. One report a second says why.
#[test]
fn a_refused_target_is_told_at_once() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        rig.add(1, "unix:@listen", "unix:@nobody", &[]);
        let start = Instant::now();
        for _ in 0..20 {
            // The reset may come before the call to connect has returned.
            let told = try_connect("tcp:127.0.0.1:1000")
                .map_or_else(|error| Some(error.kind()), |client| read_error(&client));
            assert_eq!(told, Some(ErrorKind::ConnectionReset));
        }
        // The kernel reports a reset by close with bytes unread as one, too, for unix.
        let end = read_error(&connect("unix:@listen"));
        assert!(matches!(end, None | Some(ErrorKind::ConnectionReset)), "{end:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
        assert_eq!(rig.count(0, field::DIAL_FAILED), 20);
        let ((count, text), _) = rig.wait_for(|message| match message {
            FromWorker::Failure { slot, count, text } if slot.index == 0 => Some((*count, text.clone())),
            _ => None,
        });
        assert_eq!((count, text.as_str()), (1, "cannot connect to tcp:127.0.0.1:2000: connection refused"));
        let (count, _) = rig.wait_for(|message| match message {
            FromWorker::Failure { slot, count, .. } if slot.index == 0 => Some(*count),
            _ => None,
        });
        assert_eq!(count, 19);
        let (text, _) = rig.wait_for(|message| match message {
            FromWorker::Failure { slot, text, .. } if slot.index == 1 => Some(text.clone()),
            _ => None,
        });
        assert_eq!(text, "cannot connect to unix:@nobody: connection refused");
    });
}

/// The client may send and end before the target has answered; the target may speak first.
#[test]
fn what_the_client_sent_before_the_connection_stands() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        for round in 0..50 {
            let client = connect("tcp:127.0.0.1:1000");
            (&client).write_all(b"early").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let server = accept(&service);
            if round % 2 == 0 {
                (&server).write_all(b"welcome").unwrap();
            }
            let mut got = String::new();
            (&server).read_to_string(&mut got).unwrap();
            assert_eq!(got, "early");
            drop(server);
            let mut got = String::new();
            (&client).read_to_string(&mut got).unwrap();
            assert_eq!(got, if round % 2 == 0 { "welcome" } else { "" });
        }
    });
}

/// Ports of a range go to the port at the same place, or all to one.
#[test]
fn ranges_map_by_position() {
    in_netns(|| {
        let mut rig = Rig::start();
        let services: Vec<_> =
            [2003, 2001, 2002].map(|port| service(&format!("tcp:127.0.0.1:{port}"))).into();
        rig.add(0, "tcp:127.0.0.1:1000-1002", "tcp:127.0.0.1:2003,2001-2002", &[]);
        rig.add(1, "tcp:127.0.0.1:1100-1102", "tcp:127.0.0.1:2001", &[]);
        for (port, service) in (1000..).zip(&services) {
            let client = connect(&format!("tcp:127.0.0.1:{port}"));
            (&accept(service)).write_all(b"here").unwrap();
            let mut got = [0; 4];
            (&client).read_exact(&mut got).unwrap();
        }
        for port in 1100..=1102 {
            let _client = connect(&format!("tcp:127.0.0.1:{port}"));
            accept(&services[1]);
        }
        assert!(try_connect("tcp:127.0.0.1:1003").is_err());
    });
}

/// Changing the target keeps the listener and the live connections; removing with drain keeps them, too.
#[test]
fn live_connections_survive_a_change_of_the_target() {
    in_netns(|| {
        let (mut rig, client, server) = tcp_pair();
        let second = service("tcp:127.0.0.1:2001");
        rig.change(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2001", &[]);
        let echo = |client: &Stream, server: &Stream| {
            let (mut client, mut server, mut got) = (client, server, [0; 2]);
            client.write_all(b"hi").unwrap();
            server.read_exact(&mut got).unwrap();
            assert_eq!(&got, b"hi");
        };
        echo(&client, &server);
        let client_two = connect("tcp:127.0.0.1:1000");
        let server_two = accept(&second);
        echo(&client_two, &server_two);
        rig.remove(0, true);
        assert!(try_connect("tcp:127.0.0.1:1000").is_err(), "nobody listens");
        echo(&client, &server);
        echo(&client_two, &server_two);
        // The slot's next device begins at zero, and the old one does not count in it.
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2001", &[]);
        echo(&client, &server);
        assert_eq!(rig.count(0, field::BYTES_IN), 0);
        rig.remove(0, false);
        echo(&client, &server);
    });
}

/// Removed without drain, connections end at once, with a reset: they were cut.
#[test]
fn removed_at_once_is_a_reset() {
    in_netns(|| {
        let (mut rig, client, server) = tcp_pair();
        rig.remove(0, false);
        assert_eq!(read_error(&client), Some(ErrorKind::ConnectionReset));
        assert_eq!(read_error(&server), Some(ErrorKind::ConnectionReset));
    });
}
