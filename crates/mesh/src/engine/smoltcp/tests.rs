//! The stack by itself, between packets that are written here and descriptors that are held here. Time is passed in.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portway_sys::seqpacket::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, Shutdown, SocketType};

use super::datagrams::unix_pair;
use super::packet::{ACK, Ip, Pair, RST, SYN, Segment, TCP, UDP, bare_tcp, compose};
use super::turns::Turns;
use crate::engine::handed::{Inlet, Listener};
use crate::engine::role::{Request, SetUp};
use crate::segment::{OFFLOAD_BYTES, Offload};

const OWN: [u8; 4] = [10, 9, 0, 1];

const FIN: u8 = 1;

struct Bench {
    turns: Turns,
    tunnel: OwnedFd,
    asks: Channel,
    now: Instant,
    /// Number of the peer whose packets come.
    from: u16,
}

impl Bench {
    /// For a process that may have so many files.
    fn new(files: u64) -> Bench {
        let (tunnel, stack) = unix_pair(SocketType::SEQPACKET).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&stack, 4 << 20).unwrap();
        let (asks, answers) = Channel::pair().unwrap();
        let wanted = SetUp { mtu: 1420, addresses: vec![(OWN.into(), 24)], way: None };
        let turns = Turns::new(answers, stack, &wanted, files).unwrap();
        Bench { turns, tunnel, asks, now: Instant::now(), from: 0 }
    }

    fn ask(&mut self, request: &Request) -> Channel {
        self.asks.send(&serde_json::to_vec(request).unwrap(), &[]).unwrap();
        assert!(self.turns.on_channel(self.now).unwrap());
        let mut packet = Vec::new();
        let fds = self.asks.recv(&mut packet).unwrap().unwrap();
        assert_eq!(packet, b"0");
        let channel = Channel::from_fd(fds.into_iter().next().unwrap()).unwrap();
        channel.set_nonblocking(true).unwrap();
        channel
    }

    /// A packet comes.
    fn give(&mut self, packet: &[u8]) {
        let mut frame = Offload::default().write(0).to_vec();
        frame.extend(self.from.to_ne_bytes());
        frame.extend_from_slice(packet);
        rustix::io::write(&self.tunnel, &frame).unwrap();
        self.turns.arrived();
        self.turns.once(self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.turns.once(self.now);
    }

    /// Everything may have happened on the descriptors of connections.
    fn wake(&mut self) {
        let ids: Vec<_> = self.turns.inside.connections.keys().copied().collect();
        for id in ids {
            self.turns.inside.connections.get_mut(&id).unwrap().wake(true, true, false);
            self.turns.inside.enqueue(id);
        }
        self.pass(Duration::ZERO);
    }

    /// A peer has connected: our end, both ends, and the number of the first byte to it. Its own is 1001.
    fn connected(&mut self) -> (OwnedFd, Pair, u32) {
        let listener = Listener::Channel(self.ask(&Request::ListenTcp((OWN, 80).into())));
        let pair = Pair { local: peer(2, 5000), remote: (OWN, 80).into() };
        self.syn(pair.local);
        let number = self.sent()[0].1.sequence.wrapping_add(1);
        self.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
        let (fd, from) = listener.accept().unwrap();
        assert_eq!(from, pair.local);
        (fd, pair, number)
    }

    /// TCP packets that the stack has sent: to whom, with which flags and numbers.
    fn sent(&mut self) -> Vec<(SocketAddr, Segment)> {
        let (mut sent, mut room) = (Vec::new(), vec![0; 70_000]);
        while let Ok(length @ 1..) = rustix::io::read(&self.tunnel, &mut room[..]) {
            let packet = &room[OFFLOAD_BYTES..length];
            let ip = Ip::read(packet).unwrap();
            let transport = ip.transport(packet);
            let pair = Ip::pair(&ip, transport).unwrap();
            sent.push((pair.local, Segment::read(transport).unwrap()));
        }
        sent
    }

    fn syn(&mut self, from: SocketAddr) {
        self.give(&bare_tcp(Pair { local: from, remote: (OWN, 80).into() }, 1000, 0, SYN, 60_000));
    }
}

fn peer(last: u8, port: u16) -> SocketAddr {
    (IpAddr::from([10, 9, 0, last]), port).into()
}

fn is_over(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::RDHUP)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
}

/// Fails when: one peer that begins handshakes and never ends them keeps every other peer out.
#[test]
fn a_flood_of_one_peer_leaves_room_for_others() {
    let mut bench = Bench::new(1 << 20);
    let _listener = bench.ask(&Request::ListenTcp((OWN, 80).into()));
    // Whatever addresses it has.
    for port in 1..=1000 {
        bench.syn(peer(2, port));
        bench.syn(peer(3, port));
    }
    let answered = bench.sent().len();
    assert!((1..=128).contains(&answered), "{answered}");
    bench.from = 1;
    bench.syn(peer(4, 1));
    let sent = bench.sent();
    let (to, segment) = sent.last().unwrap();
    assert_eq!((*to, segment.flags & (SYN | ACK)), (peer(4, 1), SYN | ACK));
    // With many peers, too, who comes last is let in.
    for last in 5..=250 {
        bench.from = last.into();
        for port in 1..=16 {
            bench.syn(peer(last, port));
        }
    }
    bench.sent();
    bench.from = 251;
    bench.syn(peer(251, 1));
    assert_eq!(bench.sent().last().unwrap().0, peer(251, 1));
}

/// Fails when: a peer that has gone without a word keeps its connection for ever, or one that is there and has nothing to
/// say loses it.
#[test]
fn a_peer_that_is_gone_is_noticed() {
    for answers in [true, false] {
        let mut bench = Bench::new(1 << 20);
        let (fd, pair, number) = bench.connected();
        let (mut asked, mut reset) = (0, false);
        for _ in 0..40 {
            bench.pass(Duration::from_secs(10));
            for (_, segment) in bench.sent() {
                reset |= segment.flags & RST != 0;
                asked += usize::from(segment.flags & RST == 0);
                if answers {
                    bench.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
                }
            }
        }
        assert_eq!((reset, is_over(&fd)), (!answers, !answers), "answers: {answers}");
        assert!(asked >= 4, "{asked}");
    }
}

/// Fails when: what has come is lost because it is read more than ten seconds after the end, or is waited for busily.
#[test]
fn who_reads_late_reads_all() {
    const CHUNK: [u8; 1000] = [7; 1000];
    const CHUNKS: u32 = 600;
    let mut bench = Bench::new(1 << 20);
    let (fd, pair, number) = bench.connected();
    rustix::net::shutdown(&fd, Shutdown::Write).unwrap();
    bench.wake();
    assert!(bench.sent().iter().any(|(_, segment)| segment.flags & FIN != 0));
    let number = number.wrapping_add(1);
    for chunk in 0..CHUNKS {
        let mut header = bare_tcp(pair, 1001 + 1000 * chunk, number, ACK, 60_000).split_off(20);
        header[16..18].fill(0);
        bench.give(&compose(pair.local.ip(), OWN.into(), TCP, &[&header, &CHUNK], 16));
    }
    bench.give(&bare_tcp(pair, 1001 + 1000 * CHUNKS, number, ACK | FIN, 60_000));
    assert_eq!(bench.sent().last().unwrap().1.acknowledged, 1002 + 1000 * CHUNKS);
    assert!(bench.turns.inside.timers.is_empty());
    for _ in 0..4 {
        bench.pass(Duration::from_secs(11));
        bench.wake();
    }
    let (mut read, mut room) = (0, vec![0; 1 << 16]);
    for _ in 0..10_000 {
        match rustix::net::recv(&fd, &mut room[..], RecvFlags::DONTWAIT) {
            Ok((_, 0)) => break,
            Ok((_, count)) => read += count,
            Err(_) => bench.wake(),
        }
    }
    assert_eq!(read, 1000 * CHUNKS as usize);
    assert!(is_over(&fd) && bench.turns.inside.connections.is_empty());
}

/// Fails when: a peer that is there and takes nothing for ten minutes is given up, or what waits for it is not sent then.
#[test]
fn a_closed_window_is_waited_for() {
    let mut bench = Bench::new(1 << 20);
    let (fd, pair, number) = bench.connected();
    let closed = bare_tcp(pair, 1001, number, ACK, 0);
    bench.give(&closed);
    rustix::io::write(&fd, &[7; 100]).unwrap();
    bench.wake();
    for _ in 0..60 {
        bench.pass(Duration::from_secs(10));
        for (_, segment) in bench.sent() {
            assert_eq!(segment.flags & RST, 0);
            bench.give(&closed);
        }
    }
    assert!(!is_over(&fd));
    bench.sent();
    bench.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
    let last = bench.sent().last().unwrap().1;
    assert_eq!((last.sequence.wrapping_add(last.takes), last.takes > 1), (number.wrapping_add(100), true));
}

/// Fails when: the second timer in a row sends nothing, or all, or a packet that was overtaken keeps the first from it.
#[test]
fn each_timer_sends_one_packet_again() {
    for overtaken in [false, true] {
        let mut bench = Bench::new(1 << 20);
        let (fd, pair, number) = bench.connected();
        rustix::io::write(&fd, &[7; 100]).unwrap();
        bench.wake();
        bench.pass(Duration::from_millis(10));
        let first = number.wrapping_add(100);
        bench.give(&bare_tcp(pair, 1001, first, ACK, 60_000));
        rustix::io::write(&fd, &[7; 3000]).unwrap();
        bench.wake();
        if overtaken {
            bench.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
        }
        bench.sent();
        for millis in [200, 400, 800, 900, 900] {
            bench.pass(Duration::from_millis(millis));
            let sent: Vec<_> = bench.sent().into_iter().map(|(_, it)| (it.sequence, it.takes)).collect();
            assert_eq!(sent.len(), 1, "{millis} {overtaken} {sent:?}");
            assert!(sent[0].0 == first && (1..=1380).contains(&sent[0].1), "{millis} {overtaken} {sent:?}");
        }
    }
}

/// Fails when: a connection that could not be handed over waits until something else happens in it.
#[test]
fn handing_over_is_tried_again_in_a_moment() {
    let mut bench = Bench::new(1 << 20);
    let listener = bench.ask(&Request::ListenTcp((OWN, 80).into()));
    bench.syn(peer(2, 5000));
    let number = bench.sent()[0].1.sequence.wrapping_add(1);
    // Not noticed yet.
    drop(listener);
    let pair = Pair { local: peer(2, 5000), remote: (OWN, 80).into() };
    bench.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
    bench.pass(Duration::ZERO);
    for _ in 0..3 {
        let (due, _) = *bench.turns.inside.timers.first().unwrap();
        assert!(due - bench.now <= Duration::from_millis(100));
        bench.pass(Duration::from_millis(100));
    }
}

fn datagram(from: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap().to_be_bytes();
    let ports = [from.port().to_be_bytes(), 53_u16.to_be_bytes()];
    compose(from.ip(), OWN.into(), UDP, &[&ports[0], &ports[1], &length, &[0, 0], payload], 6)
}

/// Fails when: whoever carries a flow is not told that it is over, a source with many takes the places of the others, or
/// an empty datagram is taken for an end.
#[test]
fn flows_that_give_way_are_given_up() {
    let mut bench = Bench::new(8 * 64);
    let inlet = Inlet::Flows(bench.ask(&Request::BindUdp((OWN, 53).into())));
    let mut held = Vec::new();
    bench.from = 3;
    bench.give(&datagram(peer(3, 1), b""));
    let quiet = inlet.accept().unwrap().0;
    assert_eq!(rustix::net::recv(&quiet, &mut [0; 8][..], RecvFlags::DONTWAIT).unwrap().1, 0);
    bench.from = 2;
    for port in 1..=200 {
        bench.pass(Duration::from_millis(1));
        bench.give(&datagram(peer(2, port), b"x"));
        held.push(inlet.accept().unwrap().0);
    }
    let over = held.iter().filter(|fd| has_hung_up(fd)).count();
    assert_eq!(over, 200 - 63);
    assert!(has_hung_up(&held[0]) && !has_hung_up(&held[199]) && !has_hung_up(&quiet));
    // Who gives one up ends it.
    bench.from = 3;
    bench.give(&datagram(peer(3, 1), b"again"));
    assert_eq!(rustix::net::recv(&quiet, &mut [0; 8][..], RecvFlags::DONTWAIT).unwrap().1, 5);
    drop(quiet);
    bench.give(&datagram(peer(3, 1), b"gone"));
    bench.give(&datagram(peer(3, 1), b"new"));
    assert_eq!(inlet.accept().unwrap().1, peer(3, 1));
}

fn has_hung_up(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap();
    fds[0].revents().contains(PollFlags::HUP)
}

/// What is wrong with a packet.
type Spoil = fn(&mut Vec<u8>);

/// Rows 82 and 83 of what may come over the wire, inside.
///
/// Fails when: a length or a checksum is believed, something that is no packet is answered, or the next good one is not.
#[test]
fn what_no_peer_should_send_changes_nothing() {
    let mut bench = Bench::new(1 << 20);
    let _listener = bench.ask(&Request::ListenTcp((OWN, 80).into()));
    let call = |port, flags| {
        bare_tcp(Pair { local: peer(2, port), remote: (OWN, 80).into() }, 1000, 0, flags, 60_000)
    };
    let spoils: [Spoil; 14] = [
        |packet| packet[0] = 0x05,
        |packet| packet[0] = 0x55,
        |packet| packet[0] = 0x41,
        |packet| packet[0] = 0x4f,
        |packet| packet[2..4].copy_from_slice(&[0x7f, 0xff]),
        |packet| packet[2..4].copy_from_slice(&[0, 19]),
        // A first part whose others never come.
        |packet| packet[6] |= 0x20,
        // Not for this node.
        |packet| packet[19] = 77,
        |packet| packet[20 + 16] ^= 1,
        |packet| packet[20 + 12] = 0x10,
        |packet| packet[20 + 12] = 0xf0,
        |packet| packet.truncate(20),
        |packet| packet.truncate(7),
        Vec::clear,
    ];
    for (number, spoil) in spoils.iter().enumerate() {
        let mut packet = call(u16::try_from(number).unwrap() + 1, SYN);
        spoil(&mut packet);
        bench.give(&packet);
        assert!(bench.sent().is_empty(), "{number}");
    }
    // Flags that do not go together, options without a length: whatever comes of it, the next call is answered.
    for (port, flags) in [(100, SYN | 1), (101, SYN | RST), (102, 0), (103, 0x3f)] {
        bench.give(&call(port, flags));
    }
    let from = peer(2, 104).ip();
    let ports = [[0, 104], [0, 80]].concat();
    let head =
        [&ports[..], &[0, 0, 3, 232, 0, 0, 0, 0, 0x60, SYN, 0xea, 0x60, 0, 0, 0, 0, 2, 0, 5, 0]].concat();
    bench.give(&compose(from, OWN.into(), 6, &[&head], 16));
    bench.sent();
    bench.syn(peer(3, 1));
    let (to, segment) = bench.sent().last().map(|(to, segment)| (*to, segment.flags)).unwrap();
    assert_eq!((to, segment & (SYN | ACK)), (peer(3, 1), SYN | ACK));
}
