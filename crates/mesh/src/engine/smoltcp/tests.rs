//! The stack by itself, between packets that are written here and descriptors that are held here. Time is passed in.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use portway_sys::seqpacket::Channel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{RecvFlags, SocketType};

use super::datagrams::unix_pair;
use super::packet::{ACK, Ip, Pair, RST, SYN, Segment, UDP, bare_tcp, compose};
use super::turns::Turns;
use crate::engine::handed::{Inlet, Listener};
use crate::engine::role::{Request, SetUp};
use crate::segment::{OFFLOAD_BYTES, Offload};

const OWN: [u8; 4] = [10, 9, 0, 1];

struct Bench {
    turns: Turns,
    tunnel: OwnedFd,
    asks: Channel,
    now: Instant,
}

impl Bench {
    /// For a process that may have so many files.
    fn new(files: u64) -> Bench {
        let (tunnel, stack) = unix_pair(SocketType::SEQPACKET).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&stack, 4 << 20).unwrap();
        let (asks, answers) = Channel::pair().unwrap();
        let wanted = SetUp { mtu: 1420, addresses: vec![(OWN.into(), 24)], way: None };
        let turns = Turns::new(answers, stack, &wanted, files).unwrap();
        Bench { turns, tunnel, asks, now: Instant::now() }
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
        frame.extend_from_slice(packet);
        rustix::io::write(&self.tunnel, &frame).unwrap();
        self.turns.arrived();
        self.turns.once(self.now);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.turns.once(self.now);
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
    for port in 1..=2000 {
        bench.syn(peer(2, port));
    }
    let answered = bench.sent().into_iter().filter(|(to, _)| to.ip() == peer(2, 0).ip()).count();
    assert!((1..=128).contains(&answered), "{answered}");
    bench.syn(peer(3, 1));
    let sent = bench.sent();
    let (to, segment) = sent.last().unwrap();
    assert_eq!((*to, segment.flags & (SYN | ACK)), (peer(3, 1), SYN | ACK));
    // With many sources, too, who comes last is let in.
    for last in 4..=250 {
        for port in 1..=16 {
            bench.syn(peer(last, port));
        }
    }
    bench.sent();
    bench.syn(peer(251, 1));
    assert_eq!(bench.sent().last().unwrap().0, peer(251, 1));
}

/// Fails when: a peer that has gone without a word keeps its connection for ever, or one that is there and has nothing to
/// say loses it.
#[test]
fn a_peer_that_is_gone_is_noticed() {
    for answers in [true, false] {
        let mut bench = Bench::new(1 << 20);
        let listener = Listener::Channel(bench.ask(&Request::ListenTcp((OWN, 80).into())));
        let pair = Pair { local: peer(2, 5000), remote: (OWN, 80).into() };
        bench.syn(pair.local);
        let number = bench.sent()[0].1.sequence.wrapping_add(1);
        bench.give(&bare_tcp(pair, 1001, number, ACK, 60_000));
        let (fd, from) = listener.accept().unwrap();
        assert_eq!(from, pair.local);
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
    bench.give(&datagram(peer(3, 1), b""));
    let quiet = inlet.accept().unwrap().0;
    assert_eq!(rustix::net::recv(&quiet, &mut [0; 8][..], RecvFlags::DONTWAIT).unwrap().1, 0);
    for port in 1..=200 {
        bench.pass(Duration::from_millis(1));
        bench.give(&datagram(peer(2, port), b"x"));
        held.push(inlet.accept().unwrap().0);
    }
    let over = held.iter().filter(|fd| has_hung_up(fd)).count();
    assert_eq!(over, 200 - 63);
    assert!(has_hung_up(&held[0]) && !has_hung_up(&held[199]) && !has_hung_up(&quiet));
    // Who gives one up ends it.
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
