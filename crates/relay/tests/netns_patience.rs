//! Who is dead and who only waits: keepalive, user timeout, closed windows.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use portway_relay::wire::field;
use portway_testkit::{Addr, MessageSocket, Netns, Stream};
use rig::{PATIENCE, Rig, accept, connect, expect_to_end, in_netns, pattern, service};
use rustix::net::{getpeername, getsockname, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

const SHORT: [(&str, &str); 2] = [("tcp.timeout", "1s"), ("tcp.keepalive", "1s")];

/// A reader that pauses for longer than the limit loses nothing: it is alive, its kernel says so. Fails when the limit
/// for unacknowledged bytes stays on while the peer's window is closed.
#[test]
fn a_paused_reader_is_not_dead() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &SHORT);
        let bytes = pattern(1, 20 << 20);
        let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        let (upload, sink) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        std::thread::scope(|scope| {
            for mut from in [&server, &upload] {
                let bytes = &bytes;
                scope.spawn(move || {
                    from.write_all(bytes).unwrap();
                    from.shutdown(Shutdown::Write).unwrap();
                });
            }
            std::thread::sleep(Duration::from_millis(4500));
            expect_to_end(&client, &bytes);
            expect_to_end(&sink, &bytes);
        });
        assert_eq!(rig.count(0, field::RESET), 0);
    });
}

/// A peer that has gone without a word is found, with bytes on their way and without.
#[test]
fn a_dead_peer_is_found() {
    if !portway_testkit::is_root() {
        return;
    }
    let (near, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    near.veth("a", &["10.7.0.1/24"], &far, "b", &["10.7.0.2/24"]).unwrap();
    near.enter(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:10.7.0.1:1000", "tcp:127.0.0.1:2000", &SHORT);
        let idle = far.enter(|| connect("tcp:10.7.0.1:1000")).unwrap();
        let idle_server = accept(&target);
        let busy = far.enter(|| connect("tcp:10.7.0.1:1000")).unwrap();
        let busy_server = accept(&target);
        std::thread::sleep(Duration::from_millis(700));
        near.ip("link set dev a down").unwrap();
        (&busy_server).write_all(b"anybody there?").unwrap();
        let start = Instant::now();
        for server in [&busy_server, &idle_server] {
            let mut server = server;
            assert_eq!(server.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        drop((idle, busy));
    })
    .unwrap();
}

/// A peer that has gone without a word after one side of its connection has ended is found, too: a client that waited
/// for its answer, and a target that had none to give. Fails when: the end of what a side sends ends the watch over it.
#[test]
fn a_dead_peer_of_a_half_closed_connection_is_found() {
    if !portway_testkit::is_root() {
        return;
    }
    let (near, far) = (Netns::new().unwrap(), Netns::new().unwrap());
    near.veth("a", &["10.7.0.1/24"], &far, "b", &["10.7.0.2/24"]).unwrap();
    let far_target = far.enter(|| service("tcp:10.7.0.2:2000")).unwrap();
    near.enter(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:10.7.0.1:1000", "tcp:127.0.0.1:2000", &SHORT);
        rig.add(1, "tcp:127.0.0.1:1001", "tcp:10.7.0.2:2000", &SHORT);
        // The client has sent all it has; its service is silent, and then answers.
        let asker = || far.enter(|| connect("tcp:10.7.0.1:1000")).unwrap();
        let asked = [asker(), asker()].map(|client| {
            client.shutdown(Shutdown::Write).unwrap();
            let server = accept(&target);
            expect_to_end(&server, b"");
            (client, server)
        });
        // The service has sent all it has; its client is silent, and then goes on.
        let told = [(); 2].map(|()| {
            let (client, server) = (connect("tcp:127.0.0.1:1001"), accept(&far_target));
            server.shutdown(Shutdown::Write).unwrap();
            expect_to_end(&client, b"");
            (client, server)
        });
        // The keepalive of a leg is set when its connection has lasted for a while.
        std::thread::sleep(Duration::from_millis(700));
        assert_eq!((rig.live(0), rig.live(1)), (2, 2), "half a connection is one");
        near.ip("link set dev a down").unwrap();
        (&asked[1].1).write_all(b"the answer").unwrap();
        (&told[1].0).write_all(b"more").unwrap();
        rig.until("all are found", |rig| rig.live(0) + rig.live(1) == 0);
        for (mut alive, read) in
            [(&asked[0].1, false), (&asked[1].1, false), (&told[0].0, true), (&told[1].0, true)]
        {
            // Who has read the end already is told by the next write, or the one after.
            let lost = (0..1000).any(|_| {
                std::thread::sleep(Duration::from_millis(2));
                alive.write(b"x").is_err()
            });
            assert!(lost, "told (read: {read})");
        }
    })
    .unwrap();
}

/// Fills a connection until nothing more goes in.
fn fill(from: &Stream) {
    fill_with(from, &vec![1; 1 << 20]);
}

/// The same, by `chunk`.
fn fill_with(from: impl AsFd, chunk: &[u8]) {
    rustix::io::ioctl_fionbio(&from, true).unwrap();
    let mut idle = Instant::now();
    while idle.elapsed() < Duration::from_millis(300) {
        if rustix::io::write(&from, chunk).is_ok() {
            idle = Instant::now();
        }
    }
}

/// A client that resets while its target does not read: what it sent has its time to be taken, then the connection
/// ends.
#[test]
fn a_reset_does_not_wait_for_ever() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("tcp.timeout", "1s")]);
        let (client, _server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        fill(&client);
        client.reset();
        let start = Instant::now();
        rig.until("it ends", |rig| rig.live(0) == 0);
        let took = start.elapsed();
        assert!(took > Duration::from_millis(800) && took < Duration::from_secs(5), "{took:?}");
        assert_eq!(rig.count(0, field::RESET), 1);
    });
}

/// The same between unix sockets, however what passes is carried. Fails when: such a connection waits for room and for
/// nothing else.
#[test]
fn what_a_gone_unix_peer_sent_does_not_wait_for_ever() {
    in_netns(|| {
        let mut rig = Rig::start();
        let cases = [("unix", "off"), ("unix", "on"), ("unixpacket", "off"), ("unixpacket", "on")];
        let mut pairs = Vec::new();
        for (slot, (protocol, fds)) in (0..).zip(cases) {
            let [listen, target] = ["listen", "target"].map(|name| format!("{name}-{slot}"));
            let keys = [("tcp.timeout", "1s"), ("fds", fds)];
            let (at, to) = (Addr::Abstract(listen.clone()), Addr::Abstract(target.clone()));
            let mut add =
                || rig.add(slot, &format!("{protocol}:@{listen}"), &format!("{protocol}:@{target}"), &keys);
            let pair: [Box<dyn AsFd>; 2] = if protocol == "unix" {
                let service = to.listen().unwrap();
                add();
                [Box::new(at.connect(PATIENCE).unwrap()), Box::new(accept(&service))]
            } else {
                let service = MessageSocket::listen(&to).unwrap();
                add();
                [Box::new(MessageSocket::connect(&at).unwrap()), Box::new(service.accept().unwrap())]
            };
            // A peer that is closed with something unread is lost; one that has read everything has ended.
            rustix::io::write(&pair[0], b"unread").unwrap();
            rig.until("it is there", |rig| rig.count(slot, field::BYTES_IN) > 0);
            fill_with(&pair[1], &[1; 8192]);
            pairs.push(pair);
        }
        let start = Instant::now();
        let _clients: Vec<Box<dyn AsFd>> = pairs.into_iter().map(|[client, _]| client).collect();
        rig.until("all end", |rig| (0..4).all(|slot| rig.live(slot) == 0));
        assert!(start.elapsed() > Duration::from_millis(800), "{:?}", start.elapsed());
        assert_eq!([0, 1, 2, 3].map(|slot| rig.count(slot, field::RESET)), [1; 4]);
    });
}

/// A unix peer that shut its write side and then went: nothing can reach it, so the connection ends though the target says
/// nothing.
#[test]
fn a_unix_peer_that_is_gone_is_noticed() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "unix:@listen", "tcp:127.0.0.1:2000", &[]);
        let (client, server) = (connect("unix:@listen"), accept(&target));
        (&client).write_all(b"done").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        expect_to_end(&server, b"done");
        assert_eq!(rig.live(0), 1, "the answer may still come");
        drop(client);
        rig.until("noticed", |rig| rig.live(0) == 0);
    });
}

/// The sockets of the worker, which is a thread of this process: of the client's leg and of the service's.
fn legs(client: &Stream, server: &Stream) -> [OwnedFd; 2] {
    let (Stream::Tcp(client), Stream::Tcp(server)) = (client, server) else { panic!("not tcp") };
    // Each end of ours has its counterpart there.
    let wanted = [client, server].map(|ours| (ours.peer_addr().unwrap(), ours.local_addr().unwrap()));
    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir("/proc/self/fd").unwrap();
    let numbers: Vec<i32> =
        numbers.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect();
    wanted.map(|(local, peer)| {
        let found = numbers.iter().find_map(|number| {
            let fd = pidfd_getfd(&pidfd, *number, PidfdGetfdFlags::empty()).ok()?;
            let here = SocketAddr::try_from(getsockname(&fd).ok()?).ok()?;
            let there = SocketAddr::try_from(getpeername(&fd).ok()??).ok()?;
            (here == local && there == peer).then_some(fd)
        });
        found.expect("the worker's socket")
    })
}

/// Keepalive and user timeout are on both legs, as the keys say: the client's leg has them from its listener, the
/// other gets them when it lives long enough. A change is for those who come after it.
///
/// Fails when: one leg is forgotten, or a listener keeps the options of former keys.
#[test]
fn both_legs_have_their_limits() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        for (keepalive, timeout, interval, count) in [(1, 33, 1, 33), (9, 12, 3, 4)] {
            let (idle, limit) = (format!("{keepalive}s"), format!("{timeout}s"));
            let keys = [("tcp.keepalive", idle.as_str()), ("tcp.timeout", limit.as_str())];
            rig.change(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &keys);
            let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
            let legs = legs(&client, &server);
            let options = |leg: &OwnedFd| {
                (
                    sockopt::socket_keepalive(leg).unwrap(),
                    sockopt::tcp_keepidle(leg).unwrap().as_secs(),
                    sockopt::tcp_keepintvl(leg).unwrap().as_secs(),
                    sockopt::tcp_keepcnt(leg).unwrap(),
                    sockopt::tcp_user_timeout(leg).unwrap(),
                )
            };
            let wanted = (true, keepalive, interval, count, timeout * 1000);
            rig::until("the client's leg", || options(&legs[0]) == wanted);
            rig::until("the service's leg", || options(&legs[1]) == wanted);
        }
    });
}
