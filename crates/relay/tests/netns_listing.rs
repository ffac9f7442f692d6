//! Live connections and flows, as a worker lists them.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use portway_relay::wire::{FromWorker, LIVE_COUNT, Live, LiveState, Slot, ToWorker};
use rig::{Rig, in_netns, until};

/// Everything that the device in `slot` has, and in how many parts it was told.
fn list(rig: &mut Rig, slot: Slot) -> (Vec<Live>, usize) {
    let (mut all, mut parts, mut from) = (Vec::new(), 0, 0);
    loop {
        let asked = 1_000_000 + from;
        rig.say(&ToWorker::Connections { seq: asked, slot, from }, &[]);
        let ((listed, next), _) = rig.wait_for(|message| match message {
            FromWorker::Connections { seq, listed, next } if *seq == asked => Some((listed.clone(), *next)),
            _ => None,
        });
        assert!(listed.len() <= LIVE_COUNT, "{} in one part", listed.len());
        all.extend(listed);
        parts += 1;
        match next {
            Some(next) => {
                assert!(next > from, "it goes on");
                from = next;
            }
            None => return (all, parts),
        }
    }
}

/// The one whose client has this port.
fn of(listed: &[Live], port: u16) -> &Live {
    listed.iter().find(|live| live.client.is_some_and(|client| client.port() == port)).unwrap()
}

/// Fails when: a stage is told as another one, an end of a side is not seen, bytes are counted for the other direction or
/// not for the connection, or a connection is listed for a device that it is not of.
#[test]
fn each_connection_is_told_with_its_stage_and_its_bytes() {
    in_netns(|| {
        let service = TcpListener::bind("127.0.0.1:2000").unwrap();
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        rig.add(1, "tcp:127.0.0.1:1001", "tcp:127.0.0.1:2000", &[]);
        rig.add_held(2, "tcp:127.0.0.1:1002", "tcp:127.0.0.1:2009", &[], Duration::from_secs(60));
        assert_eq!(list(&mut rig, Slot::new(0, 0)).0, [], "nobody is there");

        let open = || {
            let client = TcpStream::connect("127.0.0.1:1000").unwrap();
            let port = client.local_addr().unwrap().port();
            (client, service.accept().unwrap().0, port)
        };
        let (mut one, mut its_service, one_port) = open();
        one.write_all(b"question").unwrap();
        its_service.read_exact(&mut [0; 8]).unwrap();
        its_service.write_all(b"yes").unwrap();
        one.read_exact(&mut [0; 3]).unwrap();
        let (two, mut its_end, two_port) = open();
        two.shutdown(Shutdown::Write).unwrap();
        assert_eq!(its_end.read(&mut [0]).unwrap(), 0);
        let (mut three, its_other, three_port) = open();
        its_other.shutdown(Shutdown::Write).unwrap();
        assert_eq!(three.read(&mut [0]).unwrap(), 0);
        let held = TcpStream::connect("127.0.0.1:1002").unwrap();
        rig.until("the held one to come", |rig| rig.live(2) == 1);

        let (listed, _) = list(&mut rig, Slot::new(0, 0));
        assert_eq!(listed.len(), 3, "{listed:?}");
        let first = of(&listed, one_port);
        assert_eq!((first.bytes_in, first.bytes_out, first.state), (8, 3, LiveState::Open));
        assert_eq!(first.target, Some("127.0.0.1:2000".parse().unwrap()));
        assert!(first.idle_ms <= first.age_ms);
        assert_eq!(of(&listed, two_port).state, LiveState::ClientEnded);
        assert_eq!(of(&listed, three_port).state, LiveState::TargetEnded);
        assert_eq!(list(&mut rig, Slot::new(1, 0)).0, []);
        let (waiting, _) = list(&mut rig, Slot::new(2, 0));
        assert_eq!(waiting.len(), 1);
        let port = held.local_addr().unwrap().port();
        assert!(matches!(of(&waiting, port).state, LiveState::Held | LiveState::Dialling));
        assert_eq!(list(&mut rig, Slot::new(0, 7)).0, [], "of another generation there is none");
    });
}

/// Fails when: a part has no bound, a place is left out between two parts, or one is told twice.
#[test]
fn many_connections_are_told_in_parts() {
    in_netns(|| {
        let service = TcpListener::bind("127.0.0.1:2000").unwrap();
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        rig.add(1, "tcp:127.0.0.1:1001", "tcp:127.0.0.1:2000", &[]);
        let mut kept = Vec::new();
        for at in 0..3 * LIVE_COUNT {
            // Others lie between them.
            for port in [1000, 1001] {
                let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
                kept.push((client, service.accept().unwrap().0));
            }
            rig.until("all to be taken in", |rig| rig.live(0) == u64::try_from(at).unwrap() + 1);
        }
        let (listed, parts) = list(&mut rig, Slot::new(0, 0));
        assert!(parts >= 3, "{parts} parts");
        let numbers: BTreeSet<u64> = listed.iter().map(|live| live.id).collect();
        assert_eq!((listed.len(), numbers.len()), (3 * LIVE_COUNT, 3 * LIVE_COUNT));
        let clients: BTreeSet<u16> = listed.iter().filter_map(|live| Some(live.client?.port())).collect();
        let mine = kept.iter().step_by(2).map(|(client, _)| client.local_addr().unwrap().port());
        assert_eq!(clients, mine.collect());
    });
}

/// Fails when: flows are not listed behind the streams, or their datagrams are not counted for them.
#[test]
fn flows_are_told_with_what_they_have_carried() {
    in_netns(|| {
        let service = UdpSocket::bind("127.0.0.1:2000").unwrap();
        let mut rig = Rig::start();
        rig.add(0, "udp:127.0.0.1:1000", "udp:127.0.0.1:2000", &[]);
        let clients: Vec<UdpSocket> = (0..2).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for client in &clients {
            client.connect("127.0.0.1:1000").unwrap();
            client.send(b"12345").unwrap();
            let (_, from) = service.recv_from(&mut [0; 16]).unwrap();
            service.send_to(b"123", from).unwrap();
            client.recv(&mut [0; 16]).unwrap();
        }
        let (listed, _) = list(&mut rig, Slot::new(0, 0));
        assert_eq!(listed.len(), 2);
        for client in clients {
            let live = of(&listed, client.local_addr().unwrap().port());
            assert_eq!((live.bytes_in, live.bytes_out, live.state), (5, 3, LiveState::Flow));
            assert_eq!(live.target, Some("127.0.0.1:2000".parse().unwrap()));
        }
    });
}

/// Those that the second thread carries, too.
///
/// Fails when: what is lent counts as having carried nothing, or stays at what it had then.
#[test]
fn what_is_lent_is_told_with_its_bytes() {
    in_netns(|| {
        let service = TcpListener::bind("127.0.0.1:2000").unwrap();
        let mut rig = Rig::start();
        rig.add(0, "tcp:127.0.0.1:1000", "tcp:127.0.0.1:2000", &[]);
        let open = || {
            let client = TcpStream::connect("127.0.0.1:1000").unwrap();
            (client, service.accept().unwrap().0)
        };
        let (mut heavy, mut sink) = open();
        let port = heavy.local_addr().unwrap().port();
        let (mut small, mut echo) = open();
        let total: u64 = 64 << 20;
        let reader = std::thread::spawn(move || {
            let (mut left, mut buffer) = (total, vec![0; 1 << 18]);
            while left > 0 {
                left -= u64::try_from(sink.read(&mut buffer).unwrap()).unwrap();
            }
            sink
        });
        let chunk = vec![0; 1 << 18];
        for _ in 0..total >> 18 {
            heavy.write_all(&chunk).unwrap();
            // Something small beside it.
            small.write_all(b"x").unwrap();
            echo.read_exact(&mut [0]).unwrap();
        }
        let _sink = reader.join().unwrap();
        let rig = std::cell::RefCell::new(rig);
        let counted = || of(&list(&mut rig.borrow_mut(), Slot::new(0, 0)).0, port).bytes_in;
        until("all to be counted", || counted() == total);
    });
}
