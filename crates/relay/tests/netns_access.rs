//! Records of connections and flows that are over: one each, however they end, and none lost that is not counted.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{Read, Write};
use std::net::{Shutdown, UdpSocket};

use portway_relay::wire::{AccessRecord, FromWorker, RECORDS_KEPT_MAX, ToWorker, field};
use rig::{Rig, accept, connect, in_netns, service, try_connect};

/// The next `count` records, and how many are said to be lost.
fn records(rig: &mut Rig, count: usize) -> (Vec<AccessRecord>, u64) {
    let (mut found, mut all_lost) = (Vec::new(), 0);
    while found.len() < count {
        let ((records, lost), _) = rig.wait_for(|message| match message {
            FromWorker::Access { records, lost } => Some((records.clone(), *lost)),
            _ => None,
        });
        found.extend(records);
        all_lost += lost;
    }
    (found, all_lost)
}

fn one(rig: &mut Rig) -> AccessRecord {
    let (mut found, lost) = records(rig, 1);
    assert_eq!((found.len(), lost), (1, 0), "{found:?}");
    found.remove(0)
}

/// `end`, target and bytes.
fn short(record: &AccessRecord) -> (&str, &str, u64, u64) {
    (&record.end, &record.target, record.bytes_in, record.bytes_out)
}

/// A client sends `hello` and has `hi` for an answer; both sides end.
fn talk(listen: &str, target: &portway_testkit::Listener) {
    let (client, server) = (connect(listen), accept(target));
    (&client).write_all(b"hello").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rig::expect_to_end(&server, b"hello");
    (&server).write_all(b"hi").unwrap();
    drop(server);
    rig::expect_to_end(&client, b"hi");
}

#[test]
fn one_record_in_each_pairing_of_streams() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let path = format!("unix:{}", rig.path("s").display());
        let targets = ["tcp:127.0.0.1:2000", "unix:@target", &path];
        let listens = ["tcp:127.0.0.1:1000", "unix:@in"];
        let mut slot = 0;
        for target in targets {
            let serving = service(target);
            for listen in listens {
                let listen = if listen.starts_with("unix") {
                    format!("{listen}{slot}")
                } else {
                    format!("tcp:127.0.0.1:{}", 1000 + slot)
                };
                rig.add(slot, &listen, target, &[]);
                talk(&listen, &serving);
                let record = one(&mut rig);
                assert_eq!(short(&record), ("done", target, 5, 2), "{listen}");
                assert_eq!((record.device.as_str(), record.listen.as_str()), ("netns:test/dev", &*listen));
                assert_eq!(record.client.is_some(), listen.starts_with("tcp"));
                assert!(record.dial_micros.is_some() && record.ended_millis > 1_700_000_000_000);
                assert_eq!(record.number, u64::from(slot) + 1);
                rig.until("settled", |rig| rig.count(slot, field::SETTLED) == 1);
                slot += 1;
            }
        }
    });
}

/// Fails when: a connection that ends in another way has no record, or a word that says another way.
#[test]
fn each_way_to_end_has_its_word() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        (&client).write_all(b"x").unwrap();
        (&server).read_exact(&mut [0]).unwrap();
        client.reset();
        assert_eq!(short(&one(&mut rig)), ("reset", "tcp:127.0.0.1:2000", 1, 0));
        let _ = try_connect("tcp:127.0.0.1:1001").map(|refused| (&refused).read(&mut [0]));
        let record = one(&mut rig);
        assert_eq!(short(&record), ("refused", "tcp:127.0.0.1:2001", 0, 0));
        assert_eq!(record.dial_micros, None);
        rig.add(1, "tcp:127.0.0.1:1100", "tcp:127.0.0.1:2000", &[("deny", "127.0.0.1")]);
        let _ = try_connect("tcp:127.0.0.1:1100").map(|denied| (&denied).read(&mut [0]));
        let record = one(&mut rig);
        assert_eq!((record.end.as_str(), record.client.is_some()), ("denied", true));
        rig.add(2, "tcp:127.0.0.1:1200", "tcp:127.0.0.1:2000", &[("limits.connections", "1")]);
        let (first, serving) = (connect("tcp:127.0.0.1:1200"), accept(&target));
        let _ = try_connect("tcp:127.0.0.1:1200").map(|over| (&over).read(&mut [0]));
        assert_eq!(one(&mut rig).end, "limits.connections");
        rig.remove(2, false);
        assert_eq!(one(&mut rig).end, "removed");
        drop((first, serving));
        rig.add(3, "tcp:127.0.0.1:1300", "tcp:127.0.0.1:2000", &[("accept_proxy", "127.0.0.1")]);
        let silent = connect("tcp:127.0.0.1:1300");
        (&silent).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let _ = (&silent).read(&mut [0]);
        assert_eq!(one(&mut rig).end, "bad-header");
        let looks_in = connect("tcp:127.0.0.1:1300");
        drop(looks_in);
        assert_eq!(one(&mut rig).end, "cancelled");
    });
}

#[test]
fn a_client_that_a_proxy_announces_is_named_with_the_proxy() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[("accept_proxy", "127.0.0.1")]);
        let client = connect("tcp:127.0.0.1:1000");
        (&client).write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 4000 80\r\nx").unwrap();
        let server = accept(&target);
        (&server).read_exact(&mut [0]).unwrap();
        drop((client, server));
        let record = one(&mut rig);
        assert_eq!(record.client, "192.0.2.7:4000".parse().ok());
        assert!(record.via.is_some_and(|via| via.ip().is_loopback()));
        assert_eq!(record.bytes_in, 1, "the header is no payload");
    });
}

#[test]
fn a_flow_has_its_record_when_it_is_idle_or_evicted() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let target = UdpSocket::bind("127.0.0.1:2000").unwrap();
        let more = [("udp.max_flows", "1"), ("udp.idle", "1s")];
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &more);
        let client = |bytes: &[u8]| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.send_to(bytes, "127.0.0.1:1000").unwrap();
            let (count, from) = target.recv_from(&mut [0; 16]).unwrap();
            target.send_to(&vec![b'y'; count + 1], from).unwrap();
            client.recv_from(&mut [0; 16]).unwrap();
            client
        };
        let first = client(b"abc");
        let second = client(b"abcde");
        let record = one(&mut rig);
        assert_eq!(short(&record), ("evicted", "udp:127.0.0.1:2000", 3, 4));
        assert_eq!(record.client, first.local_addr().ok());
        let record = one(&mut rig);
        assert_eq!(short(&record), ("idle", "udp:127.0.0.1:2000", 5, 6));
        assert_eq!(record.client, second.local_addr().ok());
    });
}

/// Fails when: without being asked a worker makes records, or goes on to when it is told that they are not wanted.
#[test]
fn nothing_is_told_to_who_did_not_ask() {
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        talk("tcp:127.0.0.1:1000", &target);
        rig.until("over", |rig| rig.live(0) == 0);
        assert_eq!(rig.count(0, field::SETTLED), 0);
        rig.say(&ToWorker::Access { on: true }, &[]);
        talk("tcp:127.0.0.1:1000", &target);
        assert_eq!(one(&mut rig).number, 1);
        rig.until("both are settled", |rig| rig.count(0, field::SETTLED) == 2);
        rig.say(&ToWorker::Access { on: false }, &[]);
        talk("tcp:127.0.0.1:1000", &target);
        rig.until("over", |rig| rig.count(0, field::CLOSED) == 3);
        rig.say(&ToWorker::Access { on: true }, &[]);
        talk("tcp:127.0.0.1:1000", &target);
        assert_eq!(one(&mut rig).number, 2);
    });
}

/// Fails when: what ends while no daemon is there is forgotten, kept without a bound, or not counted.
#[test]
fn records_wait_for_the_next_daemon_up_to_a_bound() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        rig.add(0, "unix:@in", "unix:@nobody", &[]);
        rig.lose_channel();
        let extra = 7;
        let all = RECORDS_KEPT_MAX + extra;
        for _ in 0..all {
            let client = connect("unix:@in");
            let _ = (&client).read(&mut [0]);
        }
        rig.until("over", |rig| rig.count(0, field::CLOSED) == all as u64);
        rig.adopt();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let (found, lost) = records(&mut rig, RECORDS_KEPT_MAX);
        assert_eq!((found.len(), lost), (RECORDS_KEPT_MAX, extra as u64));
        assert!(found.iter().all(|record| record.end == "refused"));
        rig.until("settled", |rig| rig.count(0, field::SETTLED) == all as u64);
    });
}

/// Fails when: a worker that ends by itself keeps to itself what it has cut.
#[test]
fn what_is_cut_by_the_end_is_recorded() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.say(&ToWorker::Access { on: true }, &[]);
        let target = service("tcp:127.0.0.1:2000");
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let (client, server) = (connect("tcp:127.0.0.1:1000"), accept(&target));
        (&client).write_all(b"x").unwrap();
        (&server).read_exact(&mut [0]).unwrap();
        rig.say(&ToWorker::Exit, &[]);
        assert_eq!(one(&mut rig).end, "stopped");
        rig.join().unwrap();
        rig.lose_channel();
    });
}
