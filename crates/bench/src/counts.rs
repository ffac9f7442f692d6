//! What a relay worker does for one operation: instructions in user space and system calls, beside ceilings.
//!
//! Times differ from run to run, and more on a machine that does other things; these counts do not. They are
//! taken of the worker of the product, of one device, over loopback, while it is held and let go
//! ([`tracer`]); client and service are a script ([`script`]). Of some rounds the least is kept: what comes on top
//! of it is a timer that was due, and not the operation.

mod ceilings;
mod script;
mod tracer;

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path as FilePath;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, bail, ensure};
use portway_testkit::Netns;
use tempfile::TempDir;

use self::ceilings::{Ceilings, Figure};
use self::script::{Connections, Datagrams, Flood, Pair, RoundTrips, Script, Stream};
use self::tracer::{Counted, Tracer};
use crate::net::Target;
use crate::options::CountsOptions;
use crate::process::Program;
use crate::server::SMALL;
use crate::workload::Path;

/// Rounds before those that are counted: tables and buffers have grown by then.
const WARM_ROUNDS: usize = 4;

/// Rounds that are counted: until the two with the least instructions differ by no more than this share, and then on
/// while they are short.
const AGREE: f64 = 0.005;
const MOST_ROUNDS: usize = 8;
const INSTRUCTIONS: u64 = 20_000;

/// Longest time for a round.
const PATIENCE: Duration = Duration::from_secs(300);

/// Where the worker listens and where the service is.
const LISTEN: &str = "127.0.0.1:7000";
const CONNECT: &str = "127.0.0.1:7001";

/// What is counted, named as the workloads of the benchmark are. Sixteen at once are enough to share what is done once
/// for all of a turn, and a round of them is short beside the 15 s from one sweep of the worker to the next.
struct Count {
    name: &'static str,
    /// What an operation is.
    operation: &'static str,
    path: Path,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    Connections(usize),
    RoundTrips(usize),
    Stream { is_down: bool, bytes: usize },
    Datagrams(usize),
    Flood { bytes: usize },
}

impl Kind {
    fn is_stream(self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}

const fn count(name: &'static str, operation: &'static str, path: Path, kind: Kind) -> Count {
    Count { name, operation, path, kind }
}

/// Bytes of a large write: what fills a worker's buffer more than once, so that it is spliced.
const LARGE: usize = 256 << 10;

/// Sysctls of the worker's namespace: buffers of streams that hold a large write, and stay as they are.
const SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/tcp_congestion_control", "reno"),
    ("ipv4/tcp_moderate_rcvbuf", "0"),
    ("ipv4/tcp_rmem", "4096 1048576 1048576"),
    ("ipv4/tcp_wmem", "4096 1048576 1048576"),
];

/// Writes of a round of a stream, and datagrams of one that goes one way.
const WRITES: usize = 2;
const DATAGRAMS: usize = 64;

const COUNTS: &[Count] = {
    use Path::{Tcp, Udp, UnixToTcp, UnixToUnix};
    const TRIP: &str = "round trip";
    const WRITE: &str = "64 kB";
    const LARGE_WRITE: &str = "256 kB";
    &[
        count("conn", "connection", Tcp, Kind::Connections(8)),
        count("rtt-1", TRIP, Tcp, Kind::RoundTrips(1)),
        count("rtt-16", TRIP, Tcp, Kind::RoundTrips(16)),
        count("up-1", WRITE, Tcp, Kind::Stream { is_down: false, bytes: SMALL }),
        count("down-1", WRITE, Tcp, Kind::Stream { is_down: true, bytes: SMALL }),
        count("up-1-large", LARGE_WRITE, Tcp, Kind::Stream { is_down: false, bytes: LARGE }),
        count("down-1-large", LARGE_WRITE, Tcp, Kind::Stream { is_down: true, bytes: LARGE }),
        count("udp-1", TRIP, Udp, Kind::Datagrams(1)),
        count("udp-16", TRIP, Udp, Kind::Datagrams(16)),
        count("udp-flood-64", "datagram", Udp, Kind::Flood { bytes: 64 }),
        count("udp-flood-1400", "datagram", Udp, Kind::Flood { bytes: 1400 }),
        count("unix-tcp-16", TRIP, UnixToTcp, Kind::RoundTrips(16)),
        count("unix-tcp-down", WRITE, UnixToTcp, Kind::Stream { is_down: true, bytes: SMALL }),
        count("unix-unix-16", TRIP, UnixToUnix, Kind::RoundTrips(16)),
        count("unix-unix-down", WRITE, UnixToUnix, Kind::Stream { is_down: true, bytes: SMALL }),
    ]
};

/// Counts everything and compares it with the file of ceilings, or writes that file.
///
/// # Errors
/// When something cannot be counted, or is above its ceiling.
pub(crate) fn run(options: &CountsOptions, print: &dyn Fn(&str)) -> Result<()> {
    ensure!(nix::unistd::geteuid().is_root(), "counting a worker's instructions needs root");
    let mut found = Ceilings::default();
    // Each stream has a worker of its own, which has no time to find that there is something small beside it, and to
    // have its second thread carry it.
    let (streams, others): (Vec<&Count>, Vec<&Count>) =
        COUNTS.iter().partition(|count| count.kind.is_stream());
    let of = |path| others.iter().copied().filter(|count| count.path == path).collect();
    let groups: Vec<Vec<&Count>> =
        Path::ALL.into_iter().map(of).chain(streams.into_iter().map(|count| vec![count])).collect();
    for counts in groups {
        let Some(path) = counts.first().map(|count| count.path) else { continue };
        // A namespace of its own: no port is taken, and no sysctl but ours is set.
        let netns = Netns::new()?;
        for (name, value) in SYSCTLS {
            netns.sysctl(name, value)?;
        }
        let stage = Stage::open(&options.portway, &netns, path)?;
        for count in counts {
            let counted = netns.enter(|| stage.count(count))?;
            let (counted, spread) = counted.with_context(|| format!("cannot count {}", count.name))?;
            if options.verbose {
                print(&format!("{}: rounds differ by {spread:.2} %", count.name));
            }
            found.insert(count.name, counted);
        }
    }
    if options.write {
        return found.write(&options.ceilings);
    }
    let ceilings = Ceilings::read(&options.ceilings)?;
    let compared = ceilings.compare(&found, |name| {
        COUNTS.iter().find(|count| count.name == name).map_or("operation", |count| count.operation)
    });
    print(&compared.text);
    if !compared.faults.is_empty() {
        bail!("{}", compared.faults.join("\n"));
    }
    Ok(())
}

/// A worker with one device, and the service behind it.
struct Stage {
    worker: i32,
    target: Target,
    service: Service,
    _program: Program,
    _folder: TempDir,
}

enum Service {
    Listener(OwnedFd),
    Datagrams(OwnedFd),
}

impl Stage {
    fn open(portway: &FilePath, netns: &Netns, path: Path) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder")?;
        // The worker, which has no privilege, looks for the service's socket there.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        let [front, back] = ["front", "back"].map(|name| folder.path().join(name));
        let target = match path {
            Path::Tcp => Target::Tcp(LISTEN.parse()?),
            Path::Udp => Target::Udp(LISTEN.parse()?),
            Path::UnixToTcp | Path::UnixToUnix => Target::Unix(front),
        };
        let connect = match path {
            Path::Tcp | Path::UnixToTcp => format!("tcp:{CONNECT}"),
            Path::Udp => format!("udp:{CONNECT}"),
            Path::UnixToUnix => format!("unix:{}", back.display()),
        };
        let service = netns.enter(|| Service::open(path, &back))??;
        let mut command = Command::new(portway);
        command.args(["proxy", &format!("listen={target}"), &format!("connect={connect}")]);
        let log = folder.path().join("log");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(fs::File::create(&log)?);
        let mut program = Program::start(netns, &mut command)?;
        let output = program.child.stdout.take().context("portway has no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).context("cannot read from portway")?;
        ensure!(line == "ready\n", "portway proxy did not start: {}", fs::read_to_string(&log)?.trim());
        let is_worker = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "portway-relay")
        };
        let worker = program.pids().into_iter().find(is_worker).context("there is no worker")?;
        Ok(Self { worker, target, service, _program: program, _folder: folder })
    }

    /// The least of the rounds for one operation, and by how many percent the most differs from it.
    fn count(&self, count: &Count) -> Result<(Figure, f64)> {
        let mut script = self.script(count.kind)?;
        for _ in 0..WARM_ROUNDS {
            warm(script.as_mut())?;
        }
        let mut tracer = Tracer::attach(self.worker)?;
        let probe = Probe::open()?;
        let mut rounds: Vec<Counted> = Vec::new();
        while rounds.len() < MOST_ROUNDS && !is_enough(&rounds) {
            rounds.push(round(&mut tracer, script.as_mut(), &probe)?);
            rounds.sort_unstable_by_key(|round| round.instructions);
        }
        let (least, most) = (rounds.first().context("no round")?, rounds.last().context("no round")?);
        ensure!(least.instructions > 0, "it is not the worker's first thread that does it");
        let operations = script.operations() as f64;
        let figure = Figure {
            instructions: least.instructions as f64 / operations,
            syscalls: least.syscalls as f64 / operations,
        };
        Ok((figure, (most.instructions as f64 / least.instructions as f64 - 1.0) * 100.0))
    }

    fn script(&self, kind: Kind) -> Result<Box<dyn Script>> {
        let pairs = |count| match &self.service {
            Service::Listener(listener) => Pair::open(&self.target, listener, count),
            Service::Datagrams(_) => bail!("no streams"),
        };
        let socket = || match &self.service {
            Service::Listener(socket) | Service::Datagrams(socket) => {
                socket.try_clone().context("no more descriptors")
            }
        };
        let client = || self.target.connect().context("cannot connect");
        Ok(match kind {
            Kind::Connections(count) => Box::new(Connections {
                target: self.target.clone(),
                listener: socket()?,
                count,
                clients: Vec::new(),
                services: Vec::new(),
                ended: 0,
            }),
            Kind::RoundTrips(count) => Box::new(RoundTrips { pairs: pairs(count)?, returned: 0 }),
            Kind::Stream { is_down, bytes } => {
                let pair = pairs(1)?.pop().context("no connection")?;
                Box::new(Stream::new(pair, is_down, bytes, WRITES))
            }
            Kind::Datagrams(count) => {
                let clients = (0..count).map(|_| client()).collect::<Result<Vec<_>>>()?;
                Box::new(Datagrams { clients, service: socket()?, returned: 0 })
            }
            Kind::Flood { bytes } => Box::new(Flood {
                client: client()?,
                service: socket()?,
                payload: vec![0x5a; bytes],
                count: DATAGRAMS,
                received: 0,
            }),
        })
    }
}

impl Service {
    fn open(path: Path, socket: &FilePath) -> Result<Self> {
        let listener: OwnedFd = match path {
            Path::Tcp | Path::UnixToTcp => TcpListener::bind(CONNECT).context("cannot listen")?.into(),
            Path::Udp => return Ok(Self::Datagrams(UdpSocket::bind(CONNECT).context("cannot bind")?.into())),
            Path::UnixToUnix => {
                let listener = UnixListener::bind(socket).context("cannot listen")?;
                fs::set_permissions(socket, fs::Permissions::from_mode(0o666))?;
                listener.into()
            }
        };
        crate::net::unblock(&listener)?;
        Ok(Self::Listener(listener))
    }
}

/// A round beside a worker that nobody holds.
fn warm(script: &mut dyn Script) -> Result<()> {
    let begin = Instant::now();
    script.begin()?;
    while !script.is_over() {
        if !script.go_on()? {
            ensure!(begin.elapsed() < PATIENCE, "a round does not end");
            thread::sleep(Duration::from_micros(50));
        }
    }
    Ok(())
}

/// Whether these rounds, the least first, need no other beside them.
fn is_enough(rounds: &[Counted]) -> bool {
    let [least, second, ..] = rounds else { return false };
    let all: u64 = rounds.iter().map(|round| round.instructions).sum();
    second.instructions as f64 <= least.instructions as f64 * (1.0 + AGREE) && all >= INSTRUCTIONS
}

/// A round, counted.
fn round(tracer: &mut Tracer, script: &mut dyn Script, probe: &Probe) -> Result<Counted> {
    let mut counted = Counted::default();
    let begin = Instant::now();
    script.begin()?;
    loop {
        ensure!(begin.elapsed() < PATIENCE, "a round does not end");
        let moved = script.go_on()?;
        probe.settle()?;
        if tracer.has_work(Duration::ZERO)? {
            let turn = tracer.turn()?;
            counted.instructions += turn.instructions;
            counted.syscalls += turn.syscalls;
            probe.settle()?;
        } else if script.is_over() && !moved {
            return Ok(counted);
        }
    }
}

/// A socket that hears itself. What a processor has sent over loopback waits in one queue, and on a busy machine for
/// its turn: when the probe is back, all that was sent before it has arrived.
struct Probe {
    socket: UdpSocket,
}

impl Probe {
    fn open() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("cannot bind")?;
        socket.connect(socket.local_addr()?).context("cannot connect")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Twice: what arrives is answered, and the answers arrive too.
    fn settle(&self) -> Result<()> {
        for _ in 0..2 {
            self.socket.send(&[0]).context("cannot send")?;
            self.socket.recv(&mut [0]).context("loopback is silent")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a round in which more happened than the operation is taken for one without.
    #[test]
    fn rounds_are_counted_until_two_agree() {
        let rounds = |all: &[u64]| -> Vec<Counted> {
            all.iter().map(|count| Counted { instructions: *count, syscalls: 1 }).collect()
        };
        for (all, enough) in [
            (&[][..], false),
            (&[100_000], false),
            (&[100_000, 101_000], false),
            (&[100_000, 101_000, 200_000], false),
            (&[100_000, 100_400, 200_000], true),
            (&[1000, 1000], false),
        ] {
            assert_eq!(is_enough(&rounds(all)), enough, "{all:?}");
        }
    }
}
