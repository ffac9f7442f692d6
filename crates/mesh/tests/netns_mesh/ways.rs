//! Ways between the node and its peer that take less than the tunnel, or become others while it runs (rows 16 and 22).

use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use portway_testkit::{Netns, wait_for};

use crate::bad::{Run, out};
use crate::bed::Bed;
use crate::engines::Rig;

/// What a router does with what is too long for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Router {
    /// It tells who has sent it.
    Says,
    /// Nobody hears of it.
    IsSilent,
}

const SILENCE: &str = "table ip silence { chain out { type filter hook output priority 0; \
                       icmp type destination-unreachable drop; }; }";

const LENGTH: u64 = 8 << 20;

/// The greatest segment that the kernel of `netns` sends to a port.
fn mss(netns: &Netns, port: u16) -> u32 {
    let shown = || {
        let filter = format!("dport = :{port}");
        let shown = netns.run(Command::new("ss").args(["-Htin", "state", "established", &filter])).ok()?;
        shown.split_whitespace().find_map(|word| word.strip_prefix("mss:")?.parse().ok())
    };
    wait_for("a connection", shown).unwrap()
}

/// Sends datagrams of these lengths to the peer, which sends them back.
fn datagrams(rig: &mut Rig, to: &str, lengths: &str) {
    let socket = rig.udp(to);
    let server = std::thread::spawn(move || {
        let mut room = vec![0; 70_000];
        while let Ok((count, from)) = socket.recv_from(&mut room) {
            socket.send_to(&room[..count], from).unwrap();
        }
    });
    assert_eq!(rig.node.ask(&format!("send {to} {lengths}")), lengths);
    server.join().unwrap();
}

/// Row 22: beyond the router packets have 1,280 bytes. Everything arrives, nothing stands still for three seconds, new
/// connections ask for less, and datagrams are divided.
pub(crate) fn narrow(router: Router) {
    for way in ["auto", "pair"] {
        let (bed, between) = Bed::routed(1280);
        if router == Router::IsSilent {
            between.nft(SILENCE).unwrap();
        }
        let mut rig = Rig::on(bed, way);
        assert_eq!(rig.node.ask("longest"), "1420");
        for to in ["10.9.0.2:3000", "[fd09::2]:3000"] {
            let Run { stall, .. } = out(&mut rig, to, LENGTH);
            println!("{router:?}, {}: to {to} longest stall {stall:?}", rig.node.way);
            assert!(stall < Duration::from_secs(3), "{stall:?}");
            assert_eq!(rig.node.ask("longest"), "1220");
        }
        for (to, most) in [("10.9.0.1:80", 1180), ("[fd09::1]:80", 1160)] {
            assert_eq!(rig.node.ask(&format!("serve {to} ending")), "ok");
            let mut stream = rig.connect(to);
            stream.write_all(b"x").unwrap();
            let mss = mss(rig.there(), 80);
            assert!(mss <= most, "{to}: {mss}");
            println!("{to}: segments of {mss} bytes");
            drop(stream);
            rig.node.wait("seen", |seen| seen != "nothing");
        }
        for to in ["10.9.0.2:54", "[fd09::2]:54"] {
            datagrams(&mut rig, to, "0,1000,1192,1193,1300,1392,8000,65507");
        }
        println!("dropped: {}; {:?}", rig.node.ask("dropped"), rig.node.totals());
        let trace =
            rig.node.wait("trace", |trace| trace.contains("\"event\":\"way\",\"longest_packet\":1220"));
        assert!(trace.contains("\"event\":\"keys\"") && !trace.contains(rig.key().as_str()), "{trace}");
        assert_eq!(rig.node.ask("dropped Outsize"), "0");
    }
}

/// A way becomes narrow while bytes flow, and nobody says so.
pub(crate) fn becomes_narrow() {
    for way in ["auto", "pair"] {
        let (bed, router) = Bed::routed(1500);
        router.nft(SILENCE).unwrap();
        let mut rig = Rig::on(bed, way);
        let there = rig.there().clone();
        out(&mut rig, "10.9.0.2:3000", LENGTH);
        assert_eq!(rig.node.ask("longest"), "1420");
        // So slow that it goes on for a while.
        router
            .run(Command::new("tc").args([
                "qdisc", "add", "dev", "far", "root", "tbf", "rate", "100mbit", "burst", "64kb", "latency",
                "50ms",
            ]))
            .unwrap();
        let narrower = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            router.ip("link set far mtu 1280").unwrap();
            there.ip("link set cable mtu 1280").unwrap();
            router
        });
        let Run { stall, .. } = out(&mut rig, "10.9.0.2:3001", 4 * LENGTH);
        narrower.join().unwrap();
        println!("{}: longest stall {stall:?}", rig.node.way);
        assert_eq!(rig.node.ask("longest"), "1220");
        assert!(stall < Duration::from_secs(3), "{stall:?}");
    }
}

/// What a router does that says `source` for the node.
fn translation(source: &str) -> String {
    let (ip, port) = source.split_once(':').unwrap();
    format!(
        "table ip translation {{ chain both {{ type filter hook prerouting priority -300; \
         iifname near udp sport 51820 ip saddr set {ip} udp sport set {port} notrack; \
         iifname far ip daddr {ip} udp dport {port} udp dport set 51820 ip daddr set 192.0.2.1 notrack; }}; }}"
    )
}

/// Row 16: a router between the two gives the node another address and port in the midst of a stream.
pub(crate) fn translated_anew() {
    const SOURCES: [&str; 2] = ["203.0.113.10:40000", "203.0.113.77:41000"];
    for way in ["auto", "pair"] {
        let (bed, router) = Bed::routed(1500);
        router.nft(&translation(SOURCES[0])).unwrap();
        let mut rig = Rig::on(bed, way);
        assert_eq!(rig.peer.shown(2), SOURCES[0]);
        let anew = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            router.nft(&format!("delete table ip translation; {}", translation(SOURCES[1]))).unwrap();
            router
        });
        let Run { stall, .. } = out(&mut rig, "10.9.0.2:3000", 16 * LENGTH);
        let _router = anew.join().unwrap();
        println!("{}: longest stall {stall:?}", rig.node.way);
        assert_eq!(rig.peer.shown(2), SOURCES[1]);
        let trace = rig.node.ask("trace");
        assert!(trace.contains("\"endpoint\":\"198.51.100.2:51820\""), "{trace}");
        // And back: what the peer begins arrives.
        assert_eq!(rig.node.ask("serve 10.9.0.1:80 from"), "ok");
        drop(rig.connect("10.9.0.1:80"));
        assert_eq!(rig.node.wait("seen", |seen| seen != "nothing"), "10.9.0.2");
    }
}
