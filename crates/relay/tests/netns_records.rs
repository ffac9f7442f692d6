//! Records of seqpacket sockets: `client -- worker -- service`.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::fs::File;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;

use portway_relay::wire::field;
use portway_sys::unix_path::MESSAGE_MAX_BYTES;
use portway_testkit::{Addr, MessageSocket, fds};
use rig::{Rig, in_netns, pattern};

/// Longest record that a program sends without asking the kernel for more room: `net.core.wmem_default` less 32.
const USUAL_MAX_BYTES: usize = 212_960;

/// A device, its client and the service's end.
fn pair(more: &[(&str, &str)]) -> (Rig, MessageSocket, MessageSocket) {
    let mut rig = Rig::start();
    let (target, listen) = (rig.path("target"), rig.path("listen"));
    let service = MessageSocket::listen(&Addr::unix(&target)).unwrap();
    rig.add(
        0,
        &format!("unixpacket:{}", listen.display()),
        &format!("unixpacket:{}", target.display()),
        more,
    );
    let client = MessageSocket::connect(&Addr::unix(&listen)).unwrap();
    let server = service.accept().unwrap();
    (rig, client, server)
}

/// Records of every size arrive as they were sent, in both directions, empty ones too; then each side ends in its turn.
/// Fails when: records are read as a stream, or what reads as 0 bytes counts as the end.
#[test]
fn boundaries_empty_records_and_half_close() {
    in_netns(|| {
        let (rig, client, server) = pair(&[]);
        let sizes = [0, 1, 0, 0, 4096, 65_536, USUAL_MAX_BYTES, MESSAGE_MAX_BYTES, 0, 3];
        for (from, to) in [(&client, &server), (&server, &client)] {
            for size in sizes {
                from.send(&pattern(size as u64, size)).unwrap();
                let got = to.receive().unwrap();
                assert!(got == pattern(size as u64, size), "{} bytes of {size}", got.len());
            }
            // Several wait at once.
            for text in ["one", "", "three"] {
                from.send(text.as_bytes()).unwrap();
            }
            for text in ["one", "", "three"] {
                assert_eq!(to.receive().unwrap(), text.as_bytes());
            }
        }
        client.send(b"").unwrap();
        client.send(b"last").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(server.receive().unwrap(), b"");
        assert_eq!(server.receive().unwrap(), b"last");
        assert_eq!(server.receive().unwrap(), b"", "the end");
        server.send(b"").unwrap();
        server.send(b"answer").unwrap();
        assert_eq!(client.receive().unwrap(), b"");
        assert_eq!(client.receive().unwrap(), b"answer");
        drop(server);
        assert_eq!(client.receive().unwrap(), b"", "the end");
        rig.until("it is over", |rig| rig.live(0) == 0);
        assert_eq!((rig.count(0, field::RESET), rig.count(0, field::DROPPED)), (0, 0));
        assert_eq!(rig.count(0, field::BYTES_OUT) + 4, rig.count(0, field::BYTES_IN) + 6);
    });
}

/// A reader that is slow gets every record, and the sender waits meanwhile. Fails when: what the destination does not take
/// is dropped, or cut.
#[test]
fn a_slow_reader_loses_nothing() {
    in_netns(|| {
        const COUNT: u64 = 400;
        let (_rig, client, server) = pair(&[]);
        let (told, done) = mpsc::sync_channel(1);
        let sender = std::thread::spawn(move || {
            for number in 0..COUNT {
                let size = usize::try_from(number * 7919 % 60_000).unwrap();
                client.send(&pattern(number, size)).unwrap();
            }
            told.send(()).unwrap();
            client
        });
        // 12 MB fit into no queue on the way.
        assert!(done.recv_timeout(std::time::Duration::from_millis(300)).is_err(), "the sender has to wait");
        for number in 0..COUNT {
            let size = usize::try_from(number * 7919 % 60_000).unwrap();
            assert!(server.receive().unwrap() == pattern(number, size), "record {number}");
        }
        drop(sender.join().unwrap());
        assert_eq!(server.receive().unwrap(), b"", "the end");
    });
}

/// Descriptors stay with their record, one of no bytes too; folders do not cross. Fails when: `may_pass` lets
/// everything through.
#[test]
fn descriptors_cross_with_their_record() {
    in_netns(|| {
        let (rig, client, server) = pair(&[]);
        let (one, two) = (fds::memfd(b"one").unwrap(), fds::memfd(b"two").unwrap());
        let folder = File::open("/").unwrap();
        client.send_with(b"plain", &[]).unwrap();
        client.send_with(b"first", &[one.as_fd(), folder.as_fd(), two.as_fd()]).unwrap();
        client.send_with(b"", &[two.as_fd()]).unwrap();
        let (bytes, got) = server.receive_with().unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"plain"[..], 0));
        let (bytes, got) = server.receive_with().unwrap();
        let got: Vec<Vec<u8>> = got.into_iter().map(|one| fds::content(one).unwrap()).collect();
        assert_eq!((bytes.as_slice(), got), (&b"first"[..], vec![b"one".to_vec(), b"two".to_vec()]));
        let (bytes, got) = server.receive_with().unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b""[..], 1));
        rig.until("the folder is counted", |rig| rig.count(0, field::DROPPED) == 1);
        let many: Vec<OwnedFd> = (0..253).map(|_| one.try_clone().unwrap()).collect();
        server.send_with(b"many", &many.iter().map(AsFd::as_fd).collect::<Vec<_>>()).unwrap();
        assert_eq!(client.receive_with().unwrap().1.len(), 253);
    });
}

#[test]
fn descriptors_do_not_cross_where_they_are_off() {
    in_netns(|| {
        let (rig, client, server) = pair(&[("fds", "off")]);
        let one = fds::memfd(b"one").unwrap();
        client.send_with(b"first", &[one.as_fd(), one.as_fd()]).unwrap();
        let (bytes, got) = server.receive_with().unwrap();
        assert_eq!((bytes.as_slice(), got.len()), (&b"first"[..], 0));
        rig.until("they are counted", |rig| rig.count(0, field::DROPPED) == 2);
    });
}

/// A record that is too long ends the connection, and what came before it arrives. Fails when: it is cut, or left out.
#[test]
fn a_record_too_long_ends_the_connection() {
    in_netns(|| {
        let (rig, client, server) = pair(&[]);
        client.send(b"before").unwrap();
        client.send(&pattern(1, MESSAGE_MAX_BYTES + 1)).unwrap();
        assert_eq!(server.receive().unwrap(), b"before");
        assert_eq!(server.receive().unwrap(), b"", "the end");
        rig.until("it is over", |rig| rig.live(0) == 0);
        assert_eq!(rig.count(0, field::RESET), 1);
    });
}

/// A client that goes without reading: what it had sent arrives. Fails when: the error that the kernel reports first
/// ends the direction.
#[test]
fn what_was_sent_before_a_rude_end_arrives() {
    in_netns(|| {
        let (rig, client, server) = pair(&[]);
        server.send(b"never read").unwrap();
        rig.until("it is under way", |rig| rig.count(0, field::BYTES_OUT) == 10);
        for number in 0..20_u8 {
            client.send(&[number]).unwrap();
        }
        drop(client);
        for number in 0..20 {
            assert_eq!(server.receive().unwrap(), [number]);
        }
        assert_eq!(server.receive().unwrap(), b"", "the end");
        drop(server);
        rig.until("it is over", |rig| rig.live(0) == 0);
    });
}

/// A service that is not there: the client sees its end, and the next one is served.
#[test]
fn a_refused_client_sees_its_end() {
    in_netns(|| {
        let mut rig = Rig::start();
        rig.add(0, "unixpacket:@listen", "unixpacket:@target", &[]);
        let listen = Addr::Abstract("listen".into());
        let client = MessageSocket::connect(&listen).unwrap();
        assert_eq!(client.receive().unwrap(), b"");
        assert_eq!(rig.count(0, field::DIAL_FAILED), 1);
        let service = MessageSocket::listen(&Addr::Abstract("target".into())).unwrap();
        let client = MessageSocket::connect(&listen).unwrap();
        client.send(b"hello").unwrap();
        assert_eq!(service.accept().unwrap().receive().unwrap(), b"hello");
    });
}
