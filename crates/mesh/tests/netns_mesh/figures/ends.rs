//! Two ends of a tunnel, of any kind, and what passes between them without a rule.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use portway_testkit::Netns;

use super::run_bytes;
use crate::bed::{Bed, Node, WireguardGo, wireguard_go_program};

/// What an end is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Kernel,
    Smoltcp,
    Go,
}

/// One that runs.
pub(super) enum End {
    Node(Node),
    Go(WireguardGo),
}

/// Both, and where they are.
pub(super) struct Ends {
    pub(super) near: End,
    pub(super) far: End,
    _bed: Bed,
}

/// Reads streams to their ends, and lets them go.
pub(super) fn sink(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut room = vec![0; 256 << 10];
                while stream.read(&mut room).is_ok_and(|count| count > 0) {}
            });
        }
    });
}

/// Answers each byte by one.
pub(super) fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                stream.set_nodelay(true).unwrap();
                let mut room = [0; 10];
                while let Ok(count @ 1..) = stream.read(&mut room) {
                    stream.write_all(&room[..count]).unwrap();
                }
            });
        }
    });
}

pub(super) fn listen(netns: &Netns, address: &str) -> TcpListener {
    let address: SocketAddr = address.parse().unwrap();
    netns.enter(move || TcpListener::bind(address)).unwrap().unwrap()
}

/// Streams of the kernel's from one namespace, each until the other side has seen its end.
pub(super) fn pour(from: &Netns, to: &str, streams: u64) -> Duration {
    let to: SocketAddr = to.parse().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let mut stream = from.enter(move || TcpStream::connect(to)).unwrap().unwrap();
                let bytes = vec![7; 64 << 10];
                for _ in 0..run_bytes() / streams / (64 << 10) {
                    stream.write_all(&bytes).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
        }
    });
    begin.elapsed()
}

/// One byte there and back.
pub(super) struct Talk(TcpStream);

impl Talk {
    pub(super) fn begin(from: &Netns, to: &str) -> Talk {
        let to: SocketAddr = to.parse().unwrap();
        let stream = from.enter(move || TcpStream::connect(to)).unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Talk(stream)
    }

    pub(super) fn once(&mut self) {
        self.0.write_all(b"x").unwrap();
        self.0.read_exact(&mut [0; 1]).unwrap();
    }
}

impl End {
    /// What is measured, with its version.
    pub(super) fn versions() -> String {
        let said = Command::new(wireguard_go_program()).arg("--version").output().unwrap();
        let text = String::from_utf8_lossy(&said.stdout).into_owned();
        text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// The namespace whose kernel has the inside of the tunnel, if it is a kernel's.
    pub(super) fn inside(&self) -> Option<&Netns> {
        match self {
            End::Node(node) => (node.way != "Pair").then_some(&node.stack),
            End::Go(go) => Some(&go.netns),
        }
    }

    pub(super) fn sink(&mut self, address: &str) {
        if let Some(netns) = self.inside() {
            return sink(listen(netns, address));
        }
        if let End::Node(node) = self {
            assert_eq!(node.ask(&format!("serve {address} sink")), "ok");
        }
    }

    pub(super) fn pour(&mut self, to: &str, streams: u64) -> Duration {
        if let Some(netns) = self.inside() {
            return pour(netns, to, streams);
        }
        let End::Node(node) = self else { return Duration::ZERO };
        let took = node.ask(&format!("bulk {to} {streams} {}", run_bytes() / streams));
        Duration::from_micros(took.parse().unwrap())
    }

    fn pids(&self) -> Vec<i32> {
        match self {
            End::Node(node) => vec![node.main_pid(), node.pid],
            End::Go(go) => vec![go.pid()],
        }
    }
}

impl Ends {
    pub(super) fn start(near: Kind, far: Kind) -> Ends {
        let bed = Bed::new();
        let far_end = match far {
            Kind::Go => End::Go(bed.wireguard_go()),
            _ => End::Node(Node::start(&bed.other_place(), way(far))),
        };
        let near_end = match near {
            Kind::Go => {
                let here = WireguardGo::start(
                    &bed.ours,
                    &format!("wh{}", std::process::id()),
                    &bed.key,
                    &["10.9.0.1/24", "fd09::1/64"],
                );
                let key = bed.peer.public();
                here.set(&format!(
                    "listen-port 51820 peer {key} allowed-ips 10.9.0.2/32,fd09::2/128 endpoint 192.0.2.2:51820"
                ));
                End::Go(here)
            }
            _ => End::Node(Node::start(&bed.place(), way(near))),
        };
        let mut ends = Ends { near: near_end, far: far_end, _bed: bed };
        ends.meet();
        ends
    }

    /// A handshake, so that nothing measured waits for one.
    fn meet(&mut self) {
        let to: SocketAddr = "10.9.0.2:1".parse().unwrap();
        let called = self.near.inside().map(|netns| netns.enter(move || TcpStream::connect(to)).unwrap());
        let refused = match (called, &mut self.near) {
            (Some(called), _) => called.is_err(),
            (None, End::Node(node)) => node.ask("dial 10.9.0.2:1 echo 0") == "ConnectionRefused",
            (None, End::Go(_)) => false,
        };
        assert!(refused, "nobody listens there");
    }

    /// Processes of both.
    pub(super) fn pids(&self) -> Vec<i32> {
        [self.near.pids(), self.far.pids()].concat()
    }

    /// Bytes to and fro, where the kernel has both insides.
    pub(super) fn talk(&self) -> Option<Talk> {
        let (near, far) = (self.near.inside()?, self.far.inside()?);
        answer(listen(far, "10.9.0.2:2001"));
        Some(Talk::begin(near, "10.9.0.2:2001"))
    }
}

fn way(kind: Kind) -> &'static str {
    if kind == Kind::Smoltcp { "pair" } else { "auto" }
}
