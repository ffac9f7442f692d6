//! The same with a rule at each end: a client on one host, the relay, the tunnel, the relay, a service on the other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use portway_testkit::{Netns, wait_for};

use super::ends::{Talk, answer, listen, pour, sink};
use super::{Figures, STREAMS, add_run, number, span, talks};
use crate::bed::{Bed, Node};
use crate::proxy::{Proxy, Wanted, connect};

/// Clients at a time.
const CLIENTS: usize = 32;

/// Connections that idle.
const IDLE: usize = 1000;

const EGRESS: &[&str] = &["tcp:9000:10.9.0.2:2000", "tcp:9001:10.9.0.2:2001", "tcp:9002:10.9.0.2:2002"];
const BACK: &[&str] = &["tcp:9000:10.9.0.1:2000", "tcp:9001:10.9.0.1:2001"];
const INGRESS: &[&str] = &["tcp:2000:127.0.0.1:2000", "tcp:2001:127.0.0.1:2001", "tcp:2002:127.0.0.1:2002"];

/// Networks on both sides, each with its rules.
fn start(engine: &'static str) -> (Bed, [Proxy; 2]) {
    let bed = Bed::new();
    for netns in [&bed.ours, &bed.theirs] {
        netns.ip("link set lo up").ok();
    }
    let wanted = Wanted { ingress: INGRESS, egress: EGRESS, engine, ..Wanted::default() };
    let near = Proxy::start(&bed, &wanted);
    let far = Proxy::start(&bed.mirrored(), &Wanted { egress: BACK, ..wanted });
    (bed, [near, far])
}

pub(super) fn measure(figures: &mut Figures, row: &str, engine: &'static str) {
    let (bed, proxies) = start(engine);
    let pids: Vec<i32> = proxies.iter().flat_map(Proxy::pids).collect();
    for netns in [&bed.ours, &bed.theirs] {
        sink(listen(netns, "127.0.0.1:2000"));
    }
    answer(listen(&bed.theirs, "127.0.0.1:2001"));
    serve_once(listen(&bed.theirs, "127.0.0.1:2002"));
    let mut talk = Talk::begin(&bed.ours, "127.0.0.1:9001");
    talk.once();
    for streams in STREAMS {
        let [out, back] = if streams == 1 { ["out 1", "in 1"] } else { ["out 8", "in 8"] };
        add_run(figures, row, out, &pids, || pour(&bed.ours, "127.0.0.1:9000", streams));
        add_run(figures, row, back, &pids, || pour(&bed.theirs, "127.0.0.1:9000", streams));
    }
    talks(figures, row, || talk.once());
    figures.add(row, "connections", connections(&bed.ours, "127.0.0.1:9002"));
}

/// Connections in a second by one egress rule, to a service whose socket is in the tunnel's other end.
pub(super) fn by_one_rule(engine: &'static str) -> f64 {
    let bed = Bed::new();
    bed.ours.ip("link set lo up").ok();
    let far = Node::start(&bed.other_place(), "auto");
    let _near = Proxy::start(&bed, &Wanted { egress: EGRESS, engine, ..Wanted::default() });
    serve_once(listen(&far.stack, "10.9.0.2:2002"));
    // A handshake.
    connect(&bed.ours, "127.0.0.1:9002").write_all(b"x").unwrap();
    connections(&bed.ours, "127.0.0.1:9002")
}

/// Takes a byte of each client, answers by one, and ends; as many at a time as there are clients.
fn serve_once(listener: TcpListener) {
    for _ in 0..CLIENTS {
        let listener = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut byte = [0; 1];
                if stream.read_exact(&mut byte).is_ok() {
                    stream.write_all(&byte).ok();
                }
            }
        });
    }
}

/// Connections in a second, each with a byte there and back.
fn connections(from: &Netns, to: &str) -> f64 {
    let to: SocketAddr = to.parse().unwrap();
    for (name, value) in [("ipv4/ip_local_port_range", "2050 65000"), ("ipv4/tcp_max_tw_buckets", "1000")] {
        from.sysctl(name, value).unwrap();
    }
    let count = AtomicU64::new(0);
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let once = || {
                let mut stream = TcpStream::connect(to)?;
                stream.set_nodelay(true)?;
                stream.write_all(b"x")?;
                stream.read_exact(&mut [0; 1])
            };
            let count = &count;
            scope.spawn(move || {
                from.enter(|| {
                    while begin.elapsed() < span() {
                        count.fetch_add(u64::from(once().is_ok()), Ordering::Relaxed);
                    }
                })
                .unwrap();
            });
        }
    });
    number(count.load(Ordering::Relaxed)) / begin.elapsed().as_secs_f64()
}

/// The same through a device of the program itself, without a tunnel; `None` where the program is not said.
pub(super) fn relay_alone() -> Option<f64> {
    let portway = std::env::var_os("PORTWAY_MESH_PROGRAM")?;
    let netns = Netns::new().unwrap();
    netns.ip("link set lo up").ok();
    serve_once(listen(&netns, "127.0.0.1:2002"));
    let mut command = Command::new(portway);
    command.args(["proxy", "listen=tcp:127.0.0.1:9002", "connect=tcp:127.0.0.1:2002"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = netns.spawn(&mut command).unwrap();
    let to: SocketAddr = "127.0.0.1:9002".parse().unwrap();
    wait_for("a device", || netns.enter(move || TcpStream::connect(to)).unwrap().ok()).unwrap();
    let rate = connections(&netns, "127.0.0.1:9002");
    child.kill().ok();
    child.wait().ok();
    Some(rate)
}

/// Megabytes in memory of the network with all its processes, before and with connections that idle.
pub(super) fn idle(engine: &'static str) -> [f64; 2] {
    let (bed, [near, _far]) = start(engine);
    let service = listen(&bed.theirs, "127.0.0.1:2000");
    let taken = std::thread::spawn(move || {
        (0..IDLE).map(|_| service.accept().unwrap().0).collect::<Vec<TcpStream>>()
    });
    let before = memory(&near);
    let clients: Vec<TcpStream> = (0..IDLE)
        .map(|_| {
            let mut stream = connect(&bed.ours, "127.0.0.1:9000");
            stream.write_all(b"x").unwrap();
            stream
        })
        .collect();
    let streams = taken.join().unwrap();
    for mut stream in &streams {
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    let after = memory(&near);
    drop(clients);
    [before, after]
}

fn memory(proxy: &Proxy) -> f64 {
    let of = |pid: i32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let kilobytes =
            text.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse().ok());
        kilobytes.unwrap_or(0.0) / 1000.0
    };
    proxy.pids().into_iter().map(of).sum()
}
