//! A peer that sends what no honest one does, while another one is served: on both engines (reliability rows 82 and 83,
//! row 18).

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portway_testkit::Netns;
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType};

use crate::bed::{Bed, Node, WireguardGo};
use crate::engines::Rig;
use crate::peers::{Second, meet, name};
use crate::shim::{Fate, Fates, Profile, Shim};

/// A socket that whole packets are sent by.
fn raw(netns: &Netns, family: AddressFamily) -> OwnedFd {
    // IPPROTO_RAW: the header comes with the packet, raw(7).
    let protocol = Some(Protocol::from_raw(255.try_into().unwrap()));
    netns
        .enter(move || rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol))
        .unwrap()
        .unwrap()
}

/// A TCP packet that calls port 80 of `to`.
fn call(from: Ipv4Addr, port: u16, to: Ipv4Addr, number: u32) -> Vec<u8> {
    // The kernel fills in the length and the checksum of this header, raw(7).
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
    packet.extend(from.octets().into_iter().chain(to.octets()));
    let [p0, p1] = port.to_be_bytes();
    let [n0, n1, n2, n3] = number.to_be_bytes();
    packet.extend([p0, p1, 0, 80, n0, n1, n2, n3, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    seal(&mut packet);
    packet
}

/// Writes the checksum of a TCP packet, if there is room for one.
fn seal(packet: &mut [u8]) {
    if packet.len() < 40 {
        return;
    }
    packet[36..38].copy_from_slice(&[0, 0]);
    let length = u16::try_from(packet.len() - 20).unwrap().to_be_bytes();
    let all = [&packet[12..20], &[0, 6], &length, &packet[20..]].concat();
    let sum: u32 = all.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
}

/// A node with two peers, one of which is about to be rude; the other has 10.1.0.1.
struct Hall {
    node: Node,
    rude: WireguardGo,
    honest: Second,
    _bed: Bed,
}

impl Hall {
    fn new(way: &str) -> Hall {
        let bed = Bed::new();
        let rude = bed.wireguard_go();
        let honest = Second::new(&bed, &name());
        let mut node = Node::start(&bed.place(), way);
        meet(&mut node);
        assert_eq!(node.ask(&honest.put("10.1.0.0/16")), "true");
        assert_eq!(node.ask("serve 10.9.0.1:80 echo"), "ok");
        let hall = Hall { node, rude, honest, _bed: bed };
        hall.served();
        hall
    }

    /// One question of the honest peer; how long it took.
    fn served(&self) -> Duration {
        let begin = Instant::now();
        let to: SocketAddr = "10.9.0.1:80".parse().unwrap();
        let connect = move || TcpStream::connect_timeout(&to, Duration::from_secs(20));
        let mut stream = self.honest.peer.netns.enter(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(b"question").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "question");
        begin.elapsed()
    }
}

/// Bytes of memory that a process has.
fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
}

/// Row 82: chains of a thousand extension headers, with a call behind them, with nothing, and cut short.
///
/// Fails when: the engine ends, is busy with them, or serves nobody else.
pub(crate) fn chains_of_a_thousand(way: &str) {
    let hall = Hall::new(way);
    let device = &hall.rude.name;
    hall.rude.netns.ip(&format!("link set {device} mtu 9000")).unwrap();
    let socket = raw(&hall.rude.netns, AddressFamily::INET6);
    let (from, to): (Ipv6Addr, Ipv6Addr) = ("fd09::2".parse().unwrap(), "fd09::1".parse().unwrap());
    let begin = Instant::now();
    // Hop by hop, destination and routing options, and pieces that are whole.
    for (kind, last) in [(60, 6), (60, 59), (0, 6), (43, 6), (44, 6), (60, 60), (60, 58)] {
        let mut packet = vec![0x60, 0, 0, 0];
        let mut payload = Vec::new();
        for number in 0..1000 {
            let next = if number == 999 { last } else { kind };
            // One padding option of four bytes; a fragment header reads it as its number.
            payload.extend([
                next,
                0,
                if kind == 44 { 0 } else { 1 },
                if kind == 44 { 0 } else { 4 },
                0,
                0,
                0,
                0,
            ]);
        }
        payload.extend([0x13, 0x88, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
        packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
        packet.extend([kind, 64]);
        packet.extend(from.octets().into_iter().chain(to.octets()).chain(payload));
        for _ in 0..100 {
            let address = SocketAddrV6::new(to, 0, 0, 0);
            rustix::net::sendto(&socket, &packet, SendFlags::empty(), &address).unwrap();
        }
        hall.served();
    }
    println!("{}: 700 chains and 7 questions in {:?}", hall.node.way, begin.elapsed());
}

/// Row 83: a wrong checksum, flags that do not go together, options without a length, headers that do not fit, a call cut short,
/// a piece of one whose rest never comes. Whatever comes of it, who calls rightly is served.
pub(crate) fn calls_that_are_none(way: &str) {
    let hall = Hall::new(way);
    let socket = raw(&hall.rude.netns, AddressFamily::INET);
    let (from, to): (Ipv4Addr, Ipv4Addr) = ([10, 9, 0, 2].into(), [10, 9, 0, 1].into());
    let spoils: [fn(&mut Vec<u8>); 10] = [
        |packet| packet[36] ^= 1,
        |packet| packet[33] = 3,
        |packet| packet[33] = 6,
        |packet| packet[33] = 0,
        |packet| packet[33] = 0x3f,
        |packet| packet[32] = 0x10,
        |packet| packet[32] = 0xf0,
        |packet| {
            packet[32] = 0x60;
            packet.extend([2, 0, 5, 0]);
        },
        |packet| packet.truncate(27),
        |packet| packet[6] |= 0x20,
    ];
    for (number, spoil) in (0..).zip(spoils) {
        for port in 0..50 {
            let mut packet = call(from, 2000 + number * 50 + port, to, 7);
            spoil(&mut packet);
            if number > 0 {
                seal(&mut packet);
            }
            let address = SocketAddrV4::new(to, 0);
            rustix::net::sendto(&socket, &packet, SendFlags::empty(), &address).unwrap();
        }
        hall.served();
    }
    println!("{}: served behind each of {} kinds", hall.node.way, spoils.len());
}

/// Questions that are to be answered during a flood, at least.
const ENOUGH: u64 = 3;

/// Row 83: calls to one port that nobody goes on with, from as many ports as there are; another peer is served all the
/// while, and memory is bounded.
fn calls(way: &str, count: u64, patience: Duration) {
    let hall = Hall::new(way);
    let before = [hall.node.main_pid(), hall.node.pid].map(resident);
    // Who called does not say that it has not.
    hall.rude
        .netns
        .nft("table ip t { chain c { type filter hook prerouting priority -300; tcp sport 80 drop; }; }")
        .unwrap();
    let (from, to): (Ipv4Addr, Ipv4Addr) = ([10, 9, 0, 2].into(), [10, 9, 0, 1].into());
    let (sent, answered, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let (begin, mut times) = (Instant::now(), Vec::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let socket = raw(&hall.rude.netns, AddressFamily::INET);
            // On a busy machine all calls may be over before the other peer has asked.
            let is_enough =
                || sent.load(Ordering::Relaxed) >= count && answered.load(Ordering::Relaxed) >= ENOUGH;
            while !is_enough() && begin.elapsed() < patience {
                let number = u32::try_from(sent.load(Ordering::Relaxed)).unwrap();
                let port = u16::try_from(1024 + number % 64_000).unwrap();
                let packet = call(from, port, to, number);
                // A queue that is full is one packet less.
                if rustix::net::sendto(&socket, &packet, SendFlags::empty(), &SocketAddrV4::new(to, 0))
                    .is_ok()
                {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            }
            over.store(true, Ordering::Relaxed);
        });
        while !over.load(Ordering::Relaxed) {
            times.push(hall.served());
            answered.fetch_add(1, Ordering::Relaxed);
        }
    });
    let grown = [hall.node.main_pid(), hall.node.pid].map(resident).into_iter().zip(before);
    let grown: Vec<u64> = grown.map(|(now, before)| now.saturating_sub(before) >> 20).collect();
    times.sort();
    println!(
        "{}: {} calls in {:?}; meanwhile {} questions, {:?} in the middle, {:?} at most; {grown:?} MiB more",
        hall.node.way,
        sent.load(Ordering::Relaxed),
        begin.elapsed(),
        times.len(),
        times.get(times.len() / 2),
        times.last(),
    );
    assert!(
        times.len() as u64 >= ENOUGH && times.last().is_some_and(|last| *last < Duration::from_secs(8)),
        "{times:?}"
    );
    assert!(grown.iter().all(|grown| *grown < 128), "{grown:?}");
    hall.served();
}

/// In a few seconds.
pub(crate) fn many_calls(way: &str) {
    calls(way, 30_000, Duration::from_secs(3));
}

/// The whole, for as long as a minute.
pub(crate) fn a_million_calls(way: &str) {
    calls(way, 1_000_000, Duration::from_secs(60));
}

/// Row 18: some datagrams are passed by two thousand others, which is less than what is remembered, and then by nine thousand,
/// which is more. Those are dropped and counted, and nothing else is.
///
/// Fails when: what is late is taken for new or for old where it is not, or the tunnel is in disorder after it.
pub(crate) fn very_late(way: &str) {
    for (by, is_too_late) in [(2000, false), (9000, true)] {
        let mut rig = Rig::new(way);
        assert_eq!(rig.node.ask("serve 10.9.0.1:80 echo"), "ok");
        let profile = Profile { passed_by: 10, by: (by, by), ..Profile::CLEAN };
        let shim = Shim::start(rig.there(), "192.0.2.2:40000", "192.0.2.2:51820", profile, &Fates::Seed(18));
        assert_eq!(rig.node.ask("endpoint 192.0.2.2:40000"), "true");
        // wireguard-go answers where it was last spoken to from.
        assert_eq!(rig.node.ask("dial 10.9.0.2:1 echo 0"), "ConnectionRefused");
        let socket = rig.there().enter(|| UdpSocket::bind("10.9.0.2:5000")).unwrap().unwrap();
        for number in 0..14_000_u32 {
            socket.send_to(&number.to_be_bytes(), "10.9.0.1:9").unwrap();
            if number % 32 == 31 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        // Some may have been lost before they came to the shim. All that came have gone on when no more come.
        let mut before = 0;
        let is_quiet = || {
            std::thread::sleep(Duration::from_millis(200));
            let count = shim.record()[1].len();
            Some(()).filter(|()| std::mem::replace(&mut before, count) == count && count > 11_000)
        };
        portway_testkit::wait_for("datagrams", is_quiet).unwrap();
        let [_, inwards] = shim.record();
        let end = inwards.len();
        let late = (0..)
            .zip(&inwards)
            .filter(|(at, fate)| **fate == Fate::Late(by) && at + by < end_of(end))
            .count();
        let wanted = if is_too_late { late.to_string() } else { "0".to_owned() };
        rig.node.wait("dropped Replayed", |count| count == wanted);
        let dropped = rig.node.ask("dropped");
        println!("{}: {late} of {end} came behind {by} others; dropped: {dropped}", rig.node.way,);
        assert!(late > 10, "{late}");
        for why in ["Forged", "Form", "NoSession", "Inner", "Source", "Undelivered"] {
            assert_eq!(rig.node.ask(&format!("dropped {why}")), "0", "{why}");
        }
        drop(shim);
        assert_eq!(rig.node.ask("endpoint 192.0.2.2:51820"), "true");
        // wireguard-go still has the shim's address, until it is spoken to from here.
        assert_eq!(rig.node.ask("dial 10.9.0.2:1 echo 0"), "ConnectionRefused");
        crate::pressure::there_and_back(&rig.there().clone(), "10.9.0.1:80");
    }
}

/// The number that the shim has come to.
fn end_of(count: usize) -> u32 {
    u32::try_from(count).unwrap()
}
