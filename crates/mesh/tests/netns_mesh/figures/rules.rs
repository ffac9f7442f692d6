//! The same with a rule at each end: a client on one host, the relay, the tunnel, the relay, a service on the other.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use portway_testkit::{Netns, wait_for};

use super::ends::{Ends, Kind, Talk, answer, listen, pour, sink};
use super::{Figures, STREAMS, add_run, number, run_bytes, span, talks};
use crate::bed::{Bed, Node};
use crate::proxy::{Proxy, Wanted, connect};

/// Clients at a time.
const CLIENTS: usize = 32;

/// Connections that idle.
const IDLE: usize = 1000;

const EGRESS: &[&str] = &[
    "tcp:9000:10.9.0.2:2000",
    "tcp:9001:10.9.0.2:2001",
    "tcp:9002:10.9.0.2:2002",
    "tcp:9003:10.9.0.2:2003",
    "tcp:9003:10.9.0.2:2004",
];
const BACK: &[&str] = &["tcp:9000:10.9.0.1:2000", "tcp:9001:10.9.0.1:2001"];
const INGRESS: &[&str] = &[
    "tcp:2000:127.0.0.1:2000",
    "tcp:2001:127.0.0.1:2001",
    "tcp:2002:127.0.0.1:2002",
    "tcp:2003:127.0.0.1:2002",
    "tcp:2003:127.0.0.1:2003",
    "tcp:2004:127.0.0.1:2002",
    "tcp:2004:127.0.0.1:2003",
];

/// Ports of egress rules to a service for one connection each: with one rule on the way in and one on the way out, and with
/// two of each, between which is chosen for every connection.
pub(super) const ONE_EACH: &str = "127.0.0.1:9002";
pub(super) const TWO_EACH: &str = "127.0.0.1:9003";

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
        add_run(figures, row, out, &pids, run_bytes(), || pour(&bed.ours, "127.0.0.1:9000", streams));
        add_run(figures, row, back, &pids, run_bytes(), || pour(&bed.theirs, "127.0.0.1:9000", streams));
    }
    talks(figures, row, || talk.once());
    figures.add(row, "connections", rate(&bed.ours, ONE_EACH));
}

/// Connections in a second by rules at both ends.
pub(super) fn by_rules(engine: &'static str, to: &str) -> f64 {
    let (bed, _proxies) = start(engine);
    for port in [2002, 2003] {
        serve_once(listen(&bed.theirs, &format!("127.0.0.1:{port}")));
    }
    // A handshake.
    connect(&bed.ours, to).write_all(b"x").unwrap();
    rate(&bed.ours, to)
}

/// Connections in a second by one egress rule, to a service whose socket is in the tunnel's other end.
pub(super) fn by_one_rule(engine: &'static str) -> f64 {
    let bed = Bed::new();
    bed.ours.ip("link set lo up").ok();
    let far = Node::start(&bed.other_place(), "auto");
    let _near = Proxy::start(&bed, &Wanted { egress: EGRESS, engine, ..Wanted::default() });
    serve_once(listen(&far.stack, "10.9.0.2:2002"));
    // A handshake.
    connect(&bed.ours, ONE_EACH).write_all(b"x").unwrap();
    rate(&bed.ours, ONE_EACH)
}

/// Round trips by rules at both ends.
pub(super) fn talk_by_rules(figures: &mut Figures, row: &str, engine: &'static str) {
    let (bed, _proxies) = start(engine);
    answer(listen(&bed.theirs, "127.0.0.1:2001"));
    let mut talk = Talk::begin(&bed.ours, "127.0.0.1:9001");
    talk.once();
    talks(figures, row, || talk.once());
}

/// Takes a byte of each client, answers by one, and ends; as many at a time as there are clients.
pub(super) fn serve_once(listener: TcpListener) {
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
pub(super) fn rate(from: &Netns, to: &str) -> f64 {
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

/// A device of the program itself, which ends with this.
struct Device(Child);

impl Drop for Device {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Device {
    /// `None` where the program is not said.
    fn start(netns: &Netns, listen: &str, connect: &str) -> Option<Device> {
        let mut command = Command::new(std::env::var_os("PORTWAY_MESH_PROGRAM")?);
        command.args(["proxy", &format!("listen=tcp:{listen}"), &format!("connect=tcp:{connect}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let device = Device(netns.spawn(&mut command).unwrap());
        let to: SocketAddr = listen.parse().unwrap();
        wait_for("a device", || netns.enter(move || TcpStream::connect(to)).unwrap().ok()).unwrap();
        Some(device)
    }
}

/// The same through a device of the program itself, without a tunnel; `None` where the program is not said.
pub(super) fn relay_alone() -> Option<f64> {
    let netns = Netns::new().unwrap();
    netns.ip("link set lo up").ok();
    serve_once(listen(&netns, "127.0.0.1:2002"));
    let _device = Device::start(&netns, "127.0.0.1:9002", "127.0.0.1:2002")?;
    Some(rate(&netns, "127.0.0.1:9002"))
}

/// Round trips and connections by wireguard-go with such a device at each end, which is what two rules are beside it.
pub(super) fn devices_at_both_ends(figures: &mut Figures, row: &str) {
    let ends = Ends::start(Kind::Go, Kind::Go);
    let (Some(near), Some(far)) = (ends.near.inside(), ends.far.inside()) else { return };
    for netns in [near, far] {
        netns.ip("link set lo up").ok();
    }
    answer(listen(far, "127.0.0.1:2001"));
    serve_once(listen(far, "127.0.0.1:2002"));
    let devices = [
        (far, "10.9.0.2:9001", "127.0.0.1:2001"),
        (far, "10.9.0.2:9002", "127.0.0.1:2002"),
        (near, "127.0.0.1:9001", "10.9.0.2:9001"),
        (near, "127.0.0.1:9002", "10.9.0.2:9002"),
    ];
    let devices = devices.map(|(netns, from, to)| Device::start(netns, from, to));
    if devices.iter().any(Option::is_none) {
        return;
    }
    let mut talk = Talk::begin(near, "127.0.0.1:9001");
    talk.once();
    talks(figures, row, || talk.once());
    figures.add(row, "connections", rate(near, "127.0.0.1:9002"));
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
