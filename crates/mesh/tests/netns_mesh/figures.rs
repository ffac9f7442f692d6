//! Engine K, engine S and wireguard-go over the same cable, one after the other in one run.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use portway_testkit::Netns;

use crate::bed::{Bed, WireguardGo};
use crate::engines::Rig;

/// Bytes of a run, over all its streams.
const RUN_BYTES: u64 = 256 << 20;

/// Questions of which each has an answer before the next one.
const TALKS: u32 = 2000;

/// Gb/s out and in, with one stream and with eight; microseconds of a question with its answer.
#[derive(Debug, Default)]
struct Figures {
    out: [f64; 2],
    back: [f64; 2],
    talk: f64,
}

const STREAMS: [u64; 2] = [1, 8];

fn rate(took: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    let bits = (RUN_BYTES * 8) as f64;
    bits / took.as_secs_f64() / 1e9
}

/// Reads streams to their ends, and lets them go.
fn sink(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            std::thread::spawn(move || {
                let mut room = vec![0; 256 << 10];
                while stream.read(&mut room).is_ok_and(|count| count > 0) {}
            });
        }
    });
}

fn answer(listener: TcpListener) {
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            stream.set_nodelay(true).unwrap();
            let mut room = [0; 10];
            while let Ok(count @ 1..) = stream.read(&mut room) {
                stream.write_all(&room[..count]).unwrap();
            }
        }
    });
}

/// Streams of the kernel's from one namespace.
fn pour(from: &Netns, to: &str, streams: u64) -> Duration {
    let to: SocketAddr = to.parse().unwrap();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..streams {
            scope.spawn(|| {
                let mut stream = from.enter(move || TcpStream::connect(to)).unwrap().unwrap();
                let bytes = vec![7; 64 << 10];
                for _ in 0..RUN_BYTES / streams / (64 << 10) {
                    stream.write_all(&bytes).unwrap();
                }
                stream.shutdown(Shutdown::Write).unwrap();
                stream.read_to_end(&mut Vec::new()).unwrap();
            });
        }
    });
    begin.elapsed()
}

fn of_engine(way: &str) -> Figures {
    let mut rig = Rig::new(way);
    sink(rig.listen("10.9.0.2:2000"));
    answer(rig.listen("10.9.0.2:2001"));
    assert_eq!(rig.node.ask("serve 10.9.0.1:2000 sink"), "ok");
    let mut figures = Figures::default();
    for (at, streams) in STREAMS.into_iter().enumerate() {
        let took = rig.node.ask(&format!("bulk 10.9.0.2:2000 {streams} {}", RUN_BYTES / streams));
        figures.out[at] = rate(Duration::from_micros(took.parse().unwrap()));
        figures.back[at] = rate(pour(rig.there(), "10.9.0.1:2000", streams));
    }
    let took: f64 = rig.node.ask(&format!("talk 10.9.0.2:2001 {TALKS}")).parse().unwrap();
    figures.talk = took / f64::from(TALKS);
    println!("dropped: {}; {:?}", rig.node.ask("dropped"), rig.node.totals());
    figures
}

fn of_wireguard_go() -> Figures {
    let bed = Bed::new();
    let there = bed.wireguard_go();
    let name = format!("wh{}", std::process::id());
    let here = WireguardGo::start(&bed.ours, &name, &bed.key, &["10.9.0.1/24", "fd09::1/64"]);
    let key = bed.peer.public();
    here.set(&format!(
        "listen-port 51820 peer {key} allowed-ips 10.9.0.2/32,fd09::2/128 endpoint 192.0.2.2:51820"
    ));
    let listen = |netns: &Netns, address: &str| {
        let address: SocketAddr = address.parse().unwrap();
        netns.enter(move || TcpListener::bind(address)).unwrap().unwrap()
    };
    sink(listen(&there.netns, "10.9.0.2:2000"));
    sink(listen(&here.netns, "10.9.0.1:2000"));
    answer(listen(&there.netns, "10.9.0.2:2001"));
    let mut figures = Figures::default();
    for (at, streams) in STREAMS.into_iter().enumerate() {
        figures.out[at] = rate(pour(&here.netns, "10.9.0.2:2000", streams));
        figures.back[at] = rate(pour(&there.netns, "10.9.0.1:2000", streams));
    }
    let mut stream = here.netns.enter(|| TcpStream::connect("10.9.0.2:2001")).unwrap().unwrap();
    stream.set_nodelay(true).unwrap();
    let begin = Instant::now();
    for _ in 0..TALKS {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0; 1]).unwrap();
    }
    figures.talk = begin.elapsed().as_secs_f64() * 1e6 / f64::from(TALKS);
    figures
}

/// The peer is wireguard-go in all three.
pub(crate) fn engines() {
    if let Ok(way) = std::env::var("G_WAY") {
        println!("{:?}", of_engine(&way));
        return;
    }
    let rows =
        [("kernel", of_engine("auto")), ("smoltcp", of_engine("pair")), ("wireguard-go", of_wireguard_go())];
    println!("              out 1   out 8   in 1    in 8    Gb/s; question and answer");
    for (name, it) in rows {
        println!(
            "{name:12} {:6.2}  {:6.2}  {:6.2}  {:6.2}         {:.0} us",
            it.out[0], it.out[1], it.back[0], it.back[1], it.talk
        );
    }
}
