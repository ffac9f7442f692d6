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
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_relay::wire::{Direct, FromWorker, Known, ToWorker, WireDevice, field};
use rig::{PATIENCE, Rig, in_netns};
use rustix::net::SocketType;
use rustix::process::{Resource, Rlimit};

const TARGET: u64 = 0xbeef;

/// A port that the worker asks about; its listener is the rig's.
fn brokered(rig: &mut Rig, protocol: &str, more: &[(&str, &str)]) {
    let device = WireDevice {
        brokered: true,
        ..rig::device(&format!("{protocol}:127.0.0.1:5000"), &format!("{protocol}:127.0.0.1:1"), more)
    };
    let listeners = rig::open(&device.spec);
    rig.put(0, &device, &listeners, None).unwrap();
}

/// A port with one target, which is called without asking while there are no more than `most` connections.
fn direct(rig: &mut Rig, to: SocketAddr, from_stock: bool, most: Option<u32>) {
    let direct = Some(Direct { target: TARGET, line: Some(1000), from_stock, most });
    let device = WireDevice {
        brokered: true,
        direct,
        ..rig::device("tcp:127.0.0.1:5000", &format!("tcp:{to}"), &[("connect.timeout", "1s")])
    };
    let listeners = rig::open(&device.spec);
    rig.put(0, &device, &listeners, None).unwrap();
}

/// Waits until connections of [`TARGET`] are told of.
fn began(rig: &mut Rig) -> Vec<(u64, Option<SocketAddr>)> {
    let (tickets, _) = rig.wait_for(|message| match message {
        FromWorker::Began { target: TARGET, tickets, .. } => Some(tickets.clone()),
        _ => None,
    });
    tickets
}

fn asked(rig: &mut Rig) -> u64 {
    asked_for(rig).0
}

/// The number of the request, and for whom it is.
fn asked_for(rig: &mut Rig) -> (u64, Option<SocketAddr>) {
    let (asked, _) = rig.wait_for(|message| match message {
        FromWorker::Dial { ticket, client, .. } => Some((*ticket, *client)),
        _ => None,
    });
    asked
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
    rig.say(&ToWorker::Dialed { ticket, error: None, line: None }, &[fd]);
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
        let (ticket, from) = asked_for(&mut rig);
        assert_eq!(from, client.local_addr().ok());
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

/// A client that is handed over may bring a mark, which comes back with the question for its target, and both ends of its
/// connection, which its pair does not say.
///
/// Fails when: a target that was chosen for one client goes to another, or the header names nobody.
#[test]
fn a_client_brings_what_is_known_of_it() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[("proxy_protocol", "v1")]);
        let (theirs, mut client) = UnixStream::pair().unwrap();
        let known =
            Known { mark: Some(7), ends: Some((([10, 9, 0, 2], 5).into(), ([10, 9, 0, 1], 80).into())) };
        rig.say(&ToWorker::Client { slot: rig.slot(0), index: 0, known }, &[theirs.as_fd()]);
        drop(theirs);
        let ((ticket, from), _) = rig.wait_for(|message| match message {
            FromWorker::Dial { ticket, mark: Some(7), client, .. } => Some((*ticket, *client)),
            _ => None,
        });
        assert_eq!(from, known.ends.map(|(client, _)| client));
        let (ours, service) = pair();
        dialed(&rig, ticket, ours.as_fd());
        drop(ours);
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&service), "PROXY TCP4 10.9.0.2 10.9.0.1 5 80\r\nquestion");
        drop(service);
        assert_eq!(text(&client), "");
        assert!(!over(&mut rig, ticket));
    });
}

/// A pair that is closed without an end before is a connection of a stack that was reset, and the other way round; an end
/// that comes first is one. Both at once, after an end of ours, look like an end.
///
/// Fails when: what was cut short arrives as if it were whole.
#[test]
fn a_pair_that_hangs_up_is_a_reset() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let open = |rig: &mut Rig| {
            let client = client();
            let ticket = asked(rig);
            let (ours, service) = UnixStream::pair().unwrap();
            dialed(rig, ticket, ours.as_fd());
            (client, service, ticket)
        };
        let is_reset = |mut client: &TcpStream| matches!(client.read(&mut [0]), Err(error) if error.kind() == ErrorKind::ConnectionReset);
        // Half of an answer, and then a reset; the same after the end of the network's side.
        let (client, mut service, ticket) = open(&mut rig);
        service.write_all(b"half").unwrap();
        (&client).read_exact(&mut [0; 4]).unwrap();
        drop(service);
        assert!(is_reset(&client));
        over(&mut rig, ticket);
        let (client, service, ticket) = open(&mut rig);
        service.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&client), "");
        drop(service);
        over(&mut rig, ticket);
        rig.until("resets", |rig| rig.count(0, field::RESET) == 2);
        // An end is one.
        let (mut client, service, ticket) = open(&mut rig);
        service.shutdown(Shutdown::Write).unwrap();
        assert_eq!(text(&client), "");
        client.write_all(b"more").unwrap();
        drop(client);
        assert_eq!(text(&service), "more");
        over(&mut rig, ticket);
        // A client that resets is seen as one that is closed before the end of the answer.
        let (client, mut service, ticket) = open(&mut rig);
        rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        over(&mut rig, ticket);
        assert!(service.write_all(b"x").is_err());
        assert_eq!(rig.count(0, field::RESET), 3);
    });
}

/// Fails when: bytes of a target are counted for nobody, or for another one.
#[test]
fn bytes_are_counted_for_their_target() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        for (line, count) in [(1000, 5), (1001, 7), (4000, 1)] {
            let mut client = client();
            let ticket = asked(&mut rig);
            let (ours, mut service) = pair();
            rig.say(&ToWorker::Dialed { ticket, error: None, line: Some(line) }, &[ours.as_fd()]);
            drop(ours);
            client.write_all(&vec![1; count]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(text(&service).len(), count);
            service.write_all(&vec![1; 2 * count]).unwrap();
            drop(service);
            assert_eq!(text(&client).len(), 2 * count);
            over(&mut rig, ticket);
        }
        for (line, up, down) in [(1000, 5, 10), (1001, 7, 14), (0, 13, 26)] {
            assert_eq!((rig.count(line, field::BYTES_IN), rig.count(line, field::BYTES_OUT)), (up, down));
        }
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
        rig.say(&ToWorker::Dialed { ticket, error: refused, line: None }, &[]);
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
        rig.say(&ToWorker::Cut { tickets: vec![ticket, 77], targets: Vec::new() }, &[]);
        assert_eq!(one.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, ticket);
        service.write_all(b"still there").unwrap();
        drop(service);
        assert_eq!(text(&other), "still there");
    });
}

/// Fails when: somebody is asked where there is nothing to choose, or a connection is not told of, or its bytes are nobody's.
#[test]
fn one_target_is_called_without_asking() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        direct(&mut rig, service.local_addr().unwrap(), false, None);
        for _ in 0..3 {
            let mut client = client();
            client.write_all(b"question").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let (mut served, _) = service.accept().unwrap();
            assert_eq!(text(&served), "question");
            let [(ticket, from)] = began(&mut rig)[..] else { panic!("one ticket") };
            assert_eq!(from, Some(client.local_addr().unwrap()));
            served.write_all(b"answer").unwrap();
            drop(served);
            assert_eq!(text(&client), "answer");
            drop(client);
            assert!(!over(&mut rig, ticket));
        }
        assert_eq!((rig.count(1000, field::BYTES_IN), rig.count(1000, field::BYTES_OUT)), (24, 18));
        assert_eq!(rig.live(0), 0);
    });
}

/// Fails when: a client is given up before the daemon was asked, or what did not come about counts as a connection.
#[test]
fn a_target_that_does_not_answer_is_asked_for() {
    in_netns(|| {
        let mut rig = Rig::start();
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        direct(&mut rig, nobody, false, None);
        let client = client();
        let ticket = asked(&mut rig);
        let (ours, mut service) = pair();
        dialed(&rig, ticket, ours.as_fd());
        drop(ours);
        service.write_all(b"from elsewhere").unwrap();
        drop(service);
        assert_eq!(text(&client), "from elsewhere");
        drop(client);
        over(&mut rig, ticket);
        assert_eq!((rig.live(0), rig.count(0, field::DIAL_FAILED)), (0, 0));
        let mut refused = self::client();
        let ticket = asked(&mut rig);
        rig.say(&ToWorker::Dialed { ticket, error: Some(111), line: None }, &[]);
        assert_eq!(refused.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(rig.count(0, field::DIAL_FAILED), 1);
    });
}

/// Fails when: a client waits for the stock, sockets are taken that are not of its family, more are asked for than once, or
/// what was called by a target outlives it.
#[test]
fn sockets_of_a_stock_are_used() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        direct(&mut rig, service.local_addr().unwrap(), true, None);
        let mut first = client();
        let ticket = asked(&mut rig);
        let ((), _) =
            rig.wait_for(|message| matches!(message, FromWorker::Wants { v4: true, .. }).then_some(()));
        let socket =
            || rustix::net::socket(rustix::net::AddressFamily::INET, SocketType::STREAM, None).unwrap();
        let sockets = [socket(), socket()];
        rustix::net::bind(&sockets[1], &"127.0.0.2:0".parse::<SocketAddr>().unwrap()).unwrap();
        rig.say(&ToWorker::Stock { v4: true }, &sockets.each_ref().map(AsFd::as_fd));
        drop(sockets);
        rig.say(&ToWorker::Dialed { ticket, error: Some(111), line: None }, &[]);
        assert_eq!(first.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut second = client();
        let (mut served, from) = service.accept().unwrap();
        assert_eq!(from.ip().to_string(), "127.0.0.2", "it was the stock's");
        let tickets = began(&mut rig);
        let [(_, end)] = tickets[..] else { panic!("one ticket") };
        assert_eq!(end, Some(service.local_addr().unwrap()));
        served.write_all(b"x").unwrap();
        second.read_exact(&mut [0]).unwrap();
        rig.say(&ToWorker::Cut { tickets: Vec::new(), targets: vec![1, TARGET] }, &[]);
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert!(!over(&mut rig, tickets[0].0));
    });
}

/// Fails when: what is called as a port gets another target is told of as that one's, or without its client.
#[test]
fn a_call_is_its_targets_whatever_comes_after() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        // One that nobody takes fills it: calls are not answered.
        rustix::net::listen(&service, 0).unwrap();
        let to = service.local_addr().unwrap();
        let filler = TcpStream::connect(to).unwrap();
        direct(&mut rig, to, false, None);
        let client = client();
        rig.until("it is called", |rig| rig.live(0) == 1);
        let other =
            WireDevice { brokered: true, ..rig::device("tcp:127.0.0.1:5000", "tcp:127.0.0.1:1", &[]) };
        rig.change_to(0, &other);
        drop((service.accept().unwrap(), filler));
        let (mut served, _) = service.accept().unwrap();
        let [(ticket, end)] = began(&mut rig)[..] else { panic!("one ticket") };
        assert_eq!(end, Some(client.local_addr().unwrap()));
        served.write_all(b"answer").unwrap();
        drop(served);
        assert_eq!(text(&client), "answer");
        drop(client);
        assert!(!over(&mut rig, ticket));
    });
}

/// Fails when: nobody is asked although there are as many connections as may be made so, or for ever after.
#[test]
fn of_many_connections_it_is_asked() {
    in_netns(|| {
        let mut rig = Rig::start();
        let service = TcpListener::bind("127.0.0.1:0").unwrap();
        direct(&mut rig, service.local_addr().unwrap(), false, Some(1));
        let first = client();
        let [(ticket, _)] = began(&mut rig)[..] else { panic!("one ticket") };
        let mut second = client();
        let asked = asked(&mut rig);
        rig.say(&ToWorker::Dialed { ticket: asked, error: Some(111), line: None }, &[]);
        assert_eq!(second.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, asked);
        drop((first, service.accept().unwrap()));
        over(&mut rig, ticket);
        let _third = client();
        assert_eq!(began(&mut rig).len(), 1);
    });
}

/// Fails when: a client waits for an answer whose socket did not fit.
#[test]
fn an_answer_without_room_for_its_socket_is_one() {
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "tcp", &[]);
        let mut hungry = client();
        let ticket = asked(&mut rig);
        let (ours, _service) = pair();
        let before = rustix::process::getrlimit(Resource::Nofile);
        let none = Rlimit { current: Some(0), ..before };
        rustix::process::setrlimit(Resource::Nofile, none).unwrap();
        dialed(&rig, ticket, ours.as_fd());
        let read = hungry.read(&mut [0]);
        rustix::process::setrlimit(Resource::Nofile, before).unwrap();
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
        over(&mut rig, ticket);
        let client = client();
        let ticket = asked(&mut rig);
        let (ours, mut service) = pair();
        dialed(&rig, ticket, ours.as_fd());
        service.write_all(b"again").unwrap();
        drop((ours, service));
        assert_eq!(text(&client), "again");
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
        let (ticket, from) = asked_for(&mut rig);
        assert_eq!(from, client.local_addr().ok());
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
        rig.say(&ToWorker::Dialed { ticket: again, error: Some(111), line: None }, &[]);
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

/// Many flows without a target hold no more together than one port has for them, and what they held is there again.
///
/// Fails when: each flow has memory of its own and nobody counts the flows.
#[test]
fn what_waits_is_bounded_for_all_together() {
    const FLOWS: usize = 200;
    const BYTES: usize = 60_000;
    in_netns(|| {
        let mut rig = Rig::start();
        brokered(&mut rig, "udp", &[]);
        for turn in 1..=2 {
            let mut tickets = Vec::new();
            let mut clients = Vec::new();
            for _ in 0..FLOWS {
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                client.connect("127.0.0.1:5000").unwrap();
                client.send(&[1; BYTES]).unwrap();
                tickets.push(asked(&mut rig));
                clients.push(client);
            }
            // 8 MiB of it are kept.
            let most = FLOWS - (8 << 20) / (BYTES + 64);
            let dropped = u64::try_from(most * turn + (FLOWS - most) * (turn - 1)).unwrap();
            rig.until("dropped", |rig| rig.count(0, field::DROPPED) >= dropped);
            assert_eq!(rig.count(0, field::DROPPED), dropped);
            for ticket in tickets {
                rig.say(&ToWorker::Dialed { ticket, error: Some(111), line: None }, &[]);
                over(&mut rig, ticket);
            }
            let all = u64::try_from(FLOWS * turn).unwrap();
            rig.until("dropped", |rig| rig.count(0, field::DROPPED) == all);
        }
    });
}
