//! Real sockets on loopback.

use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::*;

fn pair() -> (UdpSocket, UdpSocket) {
    let one = UdpSocket::bind("127.0.0.1:0").unwrap();
    let two = UdpSocket::bind("127.0.0.1:0").unwrap();
    one.connect(two.local_addr().unwrap()).unwrap();
    two.connect(one.local_addr().unwrap()).unwrap();
    (one, two)
}

#[test]
fn every_size_arrives_whole() {
    let (one, two) = pair();
    let mut batch = Batch::new();
    for size in [0, 1, 1472, 32_769, 65_507] {
        let sent: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
        one.send(&sent).unwrap();
        assert_eq!(batch.receive_connected(two.as_fd(), 3).unwrap(), 1);
        assert_eq!(batch.bytes(3), sent);
        assert_eq!(batch.send_connected(two.as_fd(), 3..4).unwrap(), 1);
        let mut back = vec![0; 70_000];
        let length = one.recv(&mut back).unwrap();
        assert_eq!(back.get(..length), Some(&sent[..]));
    }
    assert_eq!(batch.receive_connected(two.as_fd(), 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn many_at_once_keep_their_order() {
    let (one, two) = pair();
    let mut batch = Batch::new();
    for number in 0..40_u8 {
        one.send(&[number; 3]).unwrap();
    }
    assert_eq!(batch.receive_connected(two.as_fd(), 0).unwrap(), BATCH);
    assert!((0..BATCH).all(|slot| batch.bytes(slot) == [u8::try_from(slot).unwrap(); 3]));
    assert_eq!(batch.receive_connected(two.as_fd(), 0).unwrap(), 8);
    assert_eq!(batch.receive_connected(two.as_fd(), BATCH).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

#[test]
fn reply_leaves_from_the_address_that_was_asked() {
    for (listen, client, asked) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.7"),
        ("[::]:0", "127.0.0.1:0", "127.0.0.7"),
        ("[::]:0", "[::1]:0", "::1"),
    ] {
        let listener = crate::listen::udp(listen.parse().unwrap(), crate::listen::V6Only::No).unwrap();
        let port = crate::listen::local_addr(listener.as_fd()).unwrap().port();
        let client = UdpSocket::bind(client).unwrap();
        // A connected client hears only the address it talks to.
        client.connect((asked, port)).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        client.send(b"question").unwrap();
        let mut batch = Batch::new();
        assert_eq!(batch.receive_named(listener.as_fd()).unwrap(), 1);
        let local = batch.local(0).unwrap();
        assert_eq!(local.ip.to_canonical(), asked.parse::<IpAddr>().unwrap());
        let peer = batch.peer(0).unwrap();
        assert_eq!(peer.port(), client.local_addr().unwrap().port());
        batch.address(0, peer, Some(LocalAddr { interface: 0, ..local }), usize::MAX);
        assert_eq!(batch.send_addressed(listener.as_fd(), 0..1).unwrap().count, 1);
        let mut answer = [0; 16];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(answer.get(..length), Some(&b"question"[..]), "{listen} {asked}");
    }
}

#[test]
fn names_and_local_addresses_survive_writing_and_reading() {
    for address in ["1.2.3.4:5", "[2001:db8::1]:65535", "[::ffff:9.8.7.6]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let mut name = [0; NAME_BYTES];
        assert!(write_name(&mut name, address) <= NAME_BYTES);
        assert_eq!(read_name(&name), Some(address));
        let local = LocalAddr { ip: address.ip(), interface: 7 };
        let mut control = [0; CONTROL_BYTES];
        let length = write_local(&mut control, local);
        assert_eq!(read_local(control.get(..length).unwrap()).map(|read| read.interface), Some(7));
    }
    assert_eq!(read_name(&[0xff; NAME_BYTES]), None);
}

#[test]
fn malformed_control_messages_end_the_search() {
    assert_eq!(read_local(&[]), None);
    assert_eq!(read_local(&[0xff; 40]), None);
    assert_eq!(read_local(&[0; CONTROL_BYTES]), None);
}

/// Rows of every shape arrive as the datagrams they are made of, in their order, and a batch that has sent some sends
/// single ones as before.
///
/// Fails when: a row goes on after a shorter datagram, takes an empty one, or its headers stay as they were.
#[test]
fn rows_arrive_as_the_datagrams_they_are_made_of() {
    let (one, two) = pair();
    two.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let mut batch = Batch::new();
    for sizes in [
        &[100; BATCH][..],
        &[100, 100, 60, 100, 100, 100, 101, 101, 7, 7, 7],
        &[0, 0, 9, 9, 0, 9, 9, 8, 8, 0],
        &[30_000, 30_000, 20_000, 10_000],
        &[1; 5],
    ] {
        let datagram = |at: usize| vec![u8::try_from(at).unwrap(); sizes[at]];
        for at in 0..sizes.len() {
            assert!(batch.fill(at, &datagram(at)));
        }
        let (mut slots, mut longest) = (0..sizes.len(), usize::MAX);
        let mut calls = 0;
        let mut back = vec![0; 70_000];
        while !slots.is_empty() {
            let first = slots.start;
            slots.start += batch.send_rows(one.as_fd(), slots.clone(), &mut longest).unwrap();
            for at in first..slots.start {
                let length = two.recv(&mut back).unwrap();
                assert_eq!(back.get(..length), Some(&datagram(at)[..]), "{at} of {sizes:?}");
            }
            calls += 1;
        }
        assert_eq!((calls, longest), (1, usize::MAX));
        assert_eq!(batch.send_connected(one.as_fd(), 0..sizes.len()).unwrap(), sizes.len());
        for size in sizes {
            assert_eq!(two.recv(&mut back).unwrap(), *size);
        }
    }
}

/// Replies to several clients from several addresses: rows of one client, from the address that it asked, in their order.
///
/// Fails when: a row has another's name or address, or what was said of a slot is lost when its row is put together.
#[test]
fn replies_go_in_rows_of_one_client() {
    for (listen, asked) in [("0.0.0.0:0", ["127.0.0.7", "127.0.0.8"]), ("[::]:0", ["127.0.0.7", "::1"])] {
        let listener = crate::listen::udp(listen.parse().unwrap(), crate::listen::V6Only::No).unwrap();
        let port = crate::listen::local_addr(listener.as_fd()).unwrap().port();
        let mut batch = Batch::new();
        let clients = asked.map(|asked| {
            let any = if asked.contains(':') { "[::1]:0" } else { "127.0.0.1:0" };
            let client = UdpSocket::bind(any).unwrap();
            client.connect((asked, port)).unwrap();
            client.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
            client.send(b"question").unwrap();
            assert_eq!(batch.receive_named(listener.as_fd()).unwrap(), 1);
            let from = LocalAddr { interface: 0, ..batch.local(0).unwrap() };
            (client, batch.peer(0).unwrap(), from)
        });
        // To whom, and how long.
        let replies =
            [(0, 9), (0, 9), (0, 9), (1, 9), (0, 5), (1, 7), (1, 7), (1, 3), (1, 3), (1, 8), (0, 8), (0, 8)];
        let datagram = |at: usize| vec![u8::try_from(at).unwrap(); replies[at].1];
        for (at, (to, _)) in replies.into_iter().enumerate() {
            assert!(batch.fill(at, &datagram(at)));
            batch.address(at, clients[to].1, Some(clients[to].2), usize::MAX);
        }
        // What is put together for one call is not left for the next.
        for slots in [0..2, 0..replies.len(), 4..replies.len()] {
            let sent = batch.send_addressed(listener.as_fd(), slots.clone()).unwrap();
            assert_eq!(sent, Sent { count: slots.len(), refused: None });
            for at in slots {
                let mut got = [0; 16];
                let length = clients[replies[at].0].0.recv(&mut got).unwrap();
                assert_eq!(got.get(..length), Some(&datagram(at)[..]), "{at} of {listen}");
            }
        }
    }
}
