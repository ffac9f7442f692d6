//! Both engines while much happens at once: keys change, datagrams come twice and late, strangers knock, and the kernel
//! takes no rows any more (rows 17, 18, 20 and 23).

use std::io::Read as _;
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use portway_mesh::spec::PrivateKey;
use portway_testkit::{Netns, Pattern, wait_for};

use crate::bad::{back, out};
use crate::bed::{Bed, Node, WireguardGo};
use crate::engines::Rig;
use crate::shim::{Fate, Fates, Profile, Shim};

const LENGTH: u64 = 32 << 20;

/// Sends bytes to a service that answers with all of them, and compares.
pub(crate) fn there_and_back(from: &Netns, to: &str) {
    let to: SocketAddr = to.parse().unwrap();
    let stream = from.enter(move || TcpStream::connect(to)).unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Pattern::new(9).write(LENGTH, &stream).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        Pattern::new(9).check_to_end(LENGTH, &stream).unwrap();
    });
}

/// Row 17: both sides make new keys at once, again and again, while bytes flow both ways.
///
/// Fails when: a packet is sealed with keys that the other side does not have, or both wait for each other.
pub(crate) fn keys_of_both_at_once() {
    for way in ["auto", "pair"] {
        let bed = Bed::new();
        let mut one = Node::start(&bed.place(), way);
        let mut two = Node::start(&bed.other_place(), "auto");
        assert_eq!(one.ask("serve 10.9.0.1:80 echo"), "ok");
        let (stack, mut changes, mut last) = (two.stack.clone(), 0, u64::MAX);
        std::thread::scope(|scope| {
            let carried = scope.spawn(|| (0..3).for_each(|_| there_and_back(&stack, "10.9.0.1:80")));
            while !carried.is_finished() {
                one.ask("rekey");
                two.ask("rekey");
                std::thread::sleep(Duration::from_millis(100));
                // More than fits: there are no keys yet.
                let since = one.ask("peer").rsplit(' ').next().unwrap().parse().unwrap_or(u64::MAX);
                changes += u32::from(since < last);
                last = since;
            }
        });
        let dropped = [one.ask("dropped"), two.ask("dropped")];
        println!("{}: keys changed {changes} times; dropped: {dropped:?}", one.way);
        assert!(changes >= 3, "{changes}");
        for node in [&mut one, &mut two] {
            for why in ["Forged", "Expired", "Unsent", "Undelivered"] {
                assert_eq!(node.ask(&format!("dropped {why}")), "0", "{why}");
            }
        }
    }
}

/// Row 18: nine of ten datagrams come twice, and the others late. None is taken twice, and everything arrives.
pub(crate) fn everything_comes_twice() {
    let profile = Profile { doubled: 900, passed_by: 100, ..Profile::CLEAN };
    for way in ["auto", "pair"] {
        let mut rig = Rig::new(way);
        assert_eq!(rig.node.ask("serve 10.9.0.1:3001 echo"), "ok");
        let shim = Shim::start(rig.there(), "192.0.2.2:40000", "192.0.2.2:51820", profile, &Fates::Seed(18));
        assert_eq!(rig.node.ask("endpoint 192.0.2.2:40000"), "true");
        out(&mut rig, "10.9.0.2:3000", 1 << 20);
        back(&mut rig, 1 << 20);
        let [_, inwards] = shim.record();
        let twice = inwards.iter().filter(|fate| **fate == Fate::Doubled).count();
        let replayed: usize = rig.node.ask("dropped Replayed").parse().unwrap();
        println!("{}: {} came, {twice} of them twice; {replayed} replayed", rig.node.way, inwards.len());
        assert!(twice > 300 && replayed > twice * 9 / 10 && replayed < inwards.len(), "{twice} {replayed}");
    }
}

/// An initiation of somebody who knows the node's key and is no peer of it.
fn strange_initiation(bed: &Bed) -> Vec<u8> {
    let name = format!("ws{}", std::process::id());
    let key = PrivateKey::generate().unwrap();
    let stranger = WireguardGo::start(&bed.theirs, &name, &key, &["10.8.0.1/24"]);
    let socket = bed.theirs.enter(|| UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let (node, to) = (bed.key.public(), socket.local_addr().unwrap());
    stranger.set(&format!("peer {node} allowed-ips 10.8.0.2/32 endpoint {to} persistent-keepalive 1"));
    let mut room = [0; 200];
    let count = socket.recv(&mut room).unwrap();
    assert_eq!((count, room[0]), (148, 1));
    room[..count].to_vec()
}

/// Row 20: strangers knock as fast as one thread can. They are asked for cookies, and who is known is served.
pub(crate) fn strangers_knock() {
    const ASKED: usize = 1000;
    for way in ["auto", "pair"] {
        let bed = Bed::new();
        let peer = bed.wireguard_go();
        let mut node = Node::start(&bed.place(), way);
        assert_eq!(node.ask("dial 10.9.0.2:1 echo 0"), "ConnectionRefused");
        assert_eq!(node.ask("reflect 10.9.0.1:53"), "ok");
        let knock = strange_initiation(&bed);
        let (stop, knocks) = (AtomicBool::new(false), AtomicU64::new(0));
        let answered = std::thread::scope(|scope| {
            scope.spawn(|| {
                let sockets: Vec<UdpSocket> = (0..64)
                    .map(|_| bed.theirs.enter(|| UdpSocket::bind("192.0.2.2:0")).unwrap().unwrap())
                    .collect();
                for socket in sockets.iter().cycle() {
                    socket.send_to(&knock, "192.0.2.1:51820").ok();
                    knocks.fetch_add(1, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            });
            wait_for("a flood", || (knocks.load(Ordering::Relaxed) > 5000).then_some(())).unwrap();
            let socket = peer.netns.enter(|| UdpSocket::bind("10.9.0.2:0")).unwrap().unwrap();
            socket.connect("10.9.0.1:53").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            let mut answered = 0;
            for number in 0..ASKED {
                socket.send(&number.to_le_bytes()).unwrap();
                answered += usize::from(socket.recv(&mut [0; 8]).is_ok());
            }
            stop.store(true, Ordering::Relaxed);
            answered
        });
        let [load, stranger] =
            ["Load", "Stranger"].map(|why| node.ask(&format!("dropped {why}")).parse::<u64>().unwrap());
        println!(
            "{}: {} knocks, {load} asked for a cookie or sent away, {stranger} looked into; {answered} of {ASKED} answered",
            node.way,
            knocks.load(Ordering::Relaxed)
        );
        assert!(answered >= ASKED * 9 / 10, "{answered}");
        assert!(load > 10 * stranger.max(1), "{load} {stranger}");
    }
}

/// Row 23: in the midst of a stream the kernel refuses a row of datagrams, and no more are tried; everything arrives.
pub(crate) fn rows_are_refused_later() {
    for way in ["auto", "pair"] {
        let mut rig = Rig::new(way);
        out(&mut rig, "10.9.0.2:3000", 16 << 20);
        let [_, before, rows, .., refused] = rig.node.totals();
        assert!(refused == 0 && before > 2 * rows, "{refused} {before} {rows}");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-e", "trace=sendmmsg", "-e", "inject=sendmmsg:error=EIO:when=20..60"]);
        strace.args(["-o", "/dev/null", "-p", &rig.node.main_pid().to_string()]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
        // It says when it is there.
        assert!(strace.stderr.as_mut().unwrap().read(&mut [0; 100]).unwrap() > 0);
        out(&mut rig, "10.9.0.2:3001", 16 << 20);
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(strace.id().try_into().unwrap()).unwrap(),
            rustix::process::Signal::INT,
        )
        .unwrap();
        strace.wait().unwrap();
        let [_, messages, more, .., refused] = rig.node.totals();
        println!("{}: {messages} messages in {more} rows, {refused} refused", rig.node.way);
        assert!(refused > 0);
        let [_, last, rows, ..] = {
            out(&mut rig, "10.9.0.2:3002", 4 << 20);
            rig.node.totals()
        };
        // Only what is short still goes in rows.
        assert!(rows - more > (last - messages) * 9 / 10, "{rows} {more} {last} {messages}");
    }
}
