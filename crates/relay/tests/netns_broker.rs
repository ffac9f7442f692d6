//! Upstreams that the daemon makes: the worker asks with a ticket, and says when it is over.
//!
//! ```text
//! client ---- listener (worker) ---- socket of the test
//!                  | Dial, Over     ^ Dialed, Cut
//!                  +---- channel ---+
//! ```

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_relay::wire::{FromWorker, ToWorker, WireDevice, field};
use rig::{PATIENCE, Rig, in_netns};

/// A port that the worker asks about; its listener is the rig's.
fn brokered(rig: &mut Rig, protocol: &str, more: &[(&str, &str)]) {
    let device = WireDevice {
        brokered: true,
        ..rig::device(&format!("{protocol}:127.0.0.1:5000"), &format!("{protocol}:127.0.0.1:1"), more)
    };
    let listeners = rig::open(&device.spec);
    rig.put(0, &device, &listeners, None).unwrap();
}

fn asked(rig: &mut Rig) -> u64 {
    let (ticket, _) = rig.wait_for(|message| match message {
        FromWorker::Dial { ticket, .. } => Some(*ticket),
        _ => None,
    });
    ticket
}

/// Waits until `ticket` is over; whether it was refused.
fn over(rig: &mut Rig, ticket: u64) -> bool {
    let (refused, _) = rig.wait_for(|message| match message {
        FromWorker::Over { tickets, refused } if tickets.contains(&ticket) => Some(refused.contains(&ticket)),
        _ => None,
    });
    refused
}

fn dialed(rig: &Rig, ticket: u64, fd: BorrowedFd<'_>) {
    rig.say(&ToWorker::Dialed { ticket, error: None }, &[fd]);
}

fn client() -> TcpStream {
    let client = TcpStream::connect("127.0.0.1:5000").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client
}

/// A connected pair: what the worker gets, and the service.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (ours, listener.accept().unwrap().0)
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

/// Fails when: what a client says before its target is there is lost, its end is, or the daemon is not told of the end.
#[test]
fn a_stream_waits_for_its_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let mut client = client();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let ticket = asked(&mut rig);
        let (ours, mut service) = pair();
        dialed(&rig, ticket, ours.as_fd());
        drop(ours);
        assert_eq!(text(&service), "question");
        service.write_all(b"answer").unwrap();
        drop(service);
        assert_eq!(text(&client), "answer");
        drop(client);
        assert!(!over(&mut rig, ticket));
        assert_eq!(rig.live(0), 0);
    });
}

/// The end of a unix pair serves as well: that is what a stack without descriptors has.
#[test]
fn a_stream_goes_on_in_a_unix_pair() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let mut client = client();
        let ticket = asked(&mut rig);
        let (ours, mut service) = UnixStream::pair().unwrap();
        dialed(&rig, ticket, ours.as_fd());
        drop(ours);
        client.write_all(&vec![7; 1 << 20]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut got = Vec::new();
        service.read_to_end(&mut got).unwrap();
        assert!(got.len() == 1 << 20 && got.iter().all(|byte| *byte == 7));
        service.write_all(b"answer").unwrap();
        drop(service);
        assert_eq!(text(&client), "answer");
        assert!(!over(&mut rig, ticket));
    });
}

/// Fails when: a client whose target is not there sees a good end, hangs, or takes others with it.
#[test]
fn a_refusal_is_a_reset() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let mut client = client();
        let ticket = asked(&mut rig);
        let refused = Some(rustix::io::Errno::CONNREFUSED.raw_os_error());
        rig.say(&ToWorker::Dialed { ticket, error: refused }, &[]);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, ticket);
        assert_eq!(rig.count(0, field::DIAL_FAILED), 1);
        // An answer that comes late, or twice, or is a socket of another kind, harms nobody.
        let (ours, _service) = pair();
        dialed(&rig, ticket, ours.as_fd());
        let mut second = self::client();
        let ticket = asked(&mut rig);
        dialed(&rig, ticket, UdpSocket::bind("127.0.0.1:0").unwrap().as_fd());
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

/// Fails when: the daemon goes on looking for a target that nobody waits for.
#[test]
fn who_goes_is_told() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[("connect.timeout", "1s")]);
        let gone = client();
        let ticket = asked(&mut rig);
        rustix::net::sockopt::set_socket_linger(&gone, Some(Duration::ZERO)).unwrap();
        drop(gone);
        over(&mut rig, ticket);
        let mut patient = client();
        let ticket = asked(&mut rig);
        assert_eq!(patient.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, ticket);
    });
}

/// Fails when: connections are cut that were not named, or end as if all had been said.
#[test]
fn tickets_can_be_cut() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let open = |rig: &mut Rig| {
            let client = client();
            let ticket = asked(rig);
            let (ours, service) = pair();
            dialed(rig, ticket, ours.as_fd());
            (client, service, ticket)
        };
        let (mut one, _service, ticket) = open(&mut rig);
        let (other, mut service, _) = open(&mut rig);
        rig.say(&ToWorker::Cut { tickets: vec![ticket, 77] }, &[]);
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, ticket);
        service.write_all(b"still there").unwrap();
        drop(service);
        assert_eq!(text(&other), "still there");
    });
}

/// Fails when: datagrams that come before their target is there are lost, joined or in another order; an empty one counts
/// as none.
#[test]
fn a_flow_waits_for_its_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "udp", &[]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect("127.0.0.1:5000").unwrap();
        let service = UdpSocket::bind("127.0.0.1:0").unwrap();
        service.set_read_timeout(Some(PATIENCE)).unwrap();
        let early: [&[u8]; 4] = [b"one", b"", b"three", &[4; 60_000]];
        for datagram in early {
            client.send(datagram).unwrap();
        }
        let ticket = asked(&mut rig);
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        ours.connect(service.local_addr().unwrap()).unwrap();
        dialed(&rig, ticket, ours.as_fd());
        let mut buffer = vec![0; 65_536];
        for datagram in early {
            let (length, from) = service.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], datagram);
            service.send_to(&buffer[..length], from).unwrap();
            let length = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], datagram);
        }
        assert_eq!(rig.count(0, field::DROPPED), 0);
        // The target goes: the flow ends, and the next datagram asks again.
        drop(service);
        client.send(b"nobody").unwrap();
        assert!(over(&mut rig, ticket));
        client.send(b"again").unwrap();
        let again = asked(&mut rig);
        assert_ne!(again, ticket);
        rig.say(&ToWorker::Dialed { ticket: again, error: Some(111) }, &[]);
        over(&mut rig, again);
        assert_eq!(rig.live(0), 0);
    });
}

/// Fails when: a flow without a target keeps whatever is sent.
#[test]
fn what_waits_is_bounded() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "udp", &[]);
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect("127.0.0.1:5000").unwrap();
        (0..100).for_each(|_| assert_eq!(client.send(b"x").unwrap(), 1));
        asked(&mut rig);
        rig.until("dropped", |rig| rig.count(0, field::DROPPED) == 84);
        assert_eq!(rig.live(0), 1);
    });
}
