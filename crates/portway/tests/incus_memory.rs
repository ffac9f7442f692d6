//! What a worker costs: in use, after much use, and idle. Real containers.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::panic::resume_unwind;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::{
    Addr, Behaviour, DaemonSpec, Load, Netns, Pace, Pattern, Rig, Service, Stream, check, process, wait_for,
};
use serde_json::json;

/// What a worker may have resident with [`OPEN`] connections, and after [`MANY`].
const LIMIT_BYTES: u64 = 8_000_000;

/// Connections open at once.
const OPEN: u64 = 1000;

/// Connections one after the other.
const MANY: u64 = 100_000;

/// The first of them, which make what later ones use again.
const FIRST: u64 = 1000;

/// Descriptors of pipes that a worker may keep for the next busy connections.
const IDLE_PIPE_FDS: usize = 32;

/// Devices added to see what one costs.
const DEVICES: u64 = 100;

const TARGET: &str = "127.0.0.1:7000";

/// A device in front of an echo service.
struct Bench {
    rig: Rig,
    service: Service,
    worker: i32,
}

impl Bench {
    fn start(name: &str) -> Result<Option<Self>> {
        process::raise_nofile()?;
        let Some(rig) = Rig::apart(DaemonSpec::new(env!("CARGO_BIN_EXE_portway")), name)? else {
            return Ok(None);
        };
        let inside = rig.inside()?;
        for netns in [rig.host().network(), inside.network()] {
            frugal(netns)?;
        }
        let service = Service::start(&inside, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        rig.add(
            "bench",
            &[&format!("listen=tcp:{TARGET}"), &format!("connect=tcp:127.0.0.1:{}", service.port())],
        )?;
        let workers = rig.daemon.workers();
        ensure!(workers.len() == 1, "workers: {workers:?}");
        Ok(Some(Self { rig, service, worker: workers[0] }))
    }

    fn connect(&self, count: u64) -> Result<Vec<Stream>> {
        let connect = || {
            let client = check::dial(self.rig.host(), &Addr::tcp(TARGET))?;
            (&client).write_all(b"?")?;
            (&client).read_exact(&mut [0])?;
            anyhow::Ok(client)
        };
        let clients = (0..count).map(|_| connect()).collect::<Result<Vec<_>>>()?;
        wait_for("connections through the worker", || {
            (self.service.open() == usize::try_from(count).ok()?).then_some(())
        })?;
        Ok(clients)
    }

    /// Says what the worker has resident, and holds it to [`LIMIT_BYTES`].
    fn weigh(&self, when: &str) -> Result<u64> {
        let bytes = process::rss_bytes(self.worker)?;
        println!("worker {when}: {} kB resident, {}", bytes / 1000, kinds(self.worker)?);
        ensure!(bytes < LIMIT_BYTES, "{bytes} bytes resident {when}");
        Ok(bytes)
    }

    /// Nothing is left of any connection.
    fn expect_nothing_left(&self, fds: usize, connections: u64) -> Result<()> {
        wait_for("the end of all connections", || {
            let device = self.rig.daemon.device("bench").ok()?;
            (device["connections_now"] == 0 && process::fd_count(self.worker).ok()? <= fds).then_some(())
        })?;
        let device = self.rig.daemon.device("bench")?;
        ensure!(device["connections_total"] == connections, "{device}");
        ensure!(self.rig.daemon.workers() == [self.worker], "not the worker it was");
        ensure!(process::thread_count(self.worker)? == 2, "not the two threads of a worker");
        Ok(())
    }
}

/// Small socket buffers, so that a thousand full ones fit in any machine, and receive buffers larger than
/// send buffers, so that the worker cannot pass on all it reads; ports of closed connections come back
/// at once.
fn frugal(netns: &Netns) -> Result<()> {
    netns.sysctl("ipv4/tcp_rmem", "4096 65536 65536")?;
    netns.sysctl("ipv4/tcp_wmem", "4096 8192 16384")?;
    netns.sysctl("ipv4/ip_local_port_range", "10000 65535")?;
    netns.sysctl("ipv4/tcp_max_tw_buckets", "256")
}

/// Resident memory by kind, as `/proc` has it.
fn kinds(pid: i32) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let lines = status.lines().filter(|line| line.starts_with("Rss"));
    Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
}

/// A thousand open connections, all with traffic in both directions, and then a few at a time with
/// much of it: the worker stays below 8 MB, and is below it when they have gone.
///
/// Fails when a connection has a buffer of its own (64 KiB each are 64 MB), or when buffers or pipes
/// stay with a connection that is idle.
#[test]
fn a_thousand_connections_with_traffic_fit_in_8_mb() -> Result<()> {
    const ROUND_BYTES: usize = 16_000;
    let Some(bench) = Bench::start("memory")? else { return Ok(()) };
    let fds = process::fd_count(bench.worker)?;
    bench.weigh("without connections")?;
    let clients = bench.connect(OPEN)?;
    bench.weigh("with 1,000 connections")?;
    for round in 0..3 {
        let payload = Pattern::new(round).bytes(ROUND_BYTES);
        let mut back = vec![0; ROUND_BYTES];
        for mut client in &clients {
            client.write_all(&payload)?;
        }
        bench.weigh("with 1,000 connections and 16 kB on its way in each")?;
        for mut client in &clients {
            client.read_exact(&mut back)?;
            ensure!(back == payload, "wrong bytes");
        }
    }
    // Bulk, by eight at a time, to the end of each.
    std::thread::scope(|scope| {
        let bulks = clients.chunks(clients.len() / 8).map(|clients| {
            scope.spawn(|| clients.iter().try_for_each(|client| check::echo(client, 500_000, 7)))
        });
        let bulks: Vec<_> = bulks.collect();
        while bulks.iter().any(|bulk| !bulk.is_finished()) {
            ensure!(process::rss_bytes(bench.worker)? < LIMIT_BYTES, "too much with bulk traffic");
            std::thread::sleep(Duration::from_millis(20));
        }
        bulks.into_iter().try_for_each(|bulk| bulk.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    bench.weigh("after 500 kB each way in each")?;
    drop(clients);
    bench.expect_nothing_left(fds + IDLE_PIPE_FDS, OPEN)?;
    bench.weigh("when they have gone").map(drop)
}

/// A thousand clients that send as much as they can and do not read: every buffer on the way is full.
/// The worker stays below 8 MB; when they read at last, every byte is there.
///
/// Fails when what cannot be passed on is kept in memory without a common bound.
#[test]
fn a_thousand_clients_that_do_not_read_fit_in_8_mb() -> Result<()> {
    let Some(bench) = Bench::start("stalled")? else { return Ok(()) };
    let fds = process::fd_count(bench.worker)?;
    let clients = bench.connect(OPEN)?;
    let pattern = Pattern::new(5).bytes(1 << 20);
    let mut sent = vec![0; clients.len()];
    // The worker is stopped while they send, so that it finds full buffers each time. What one pass does
    // not get rid of the next may, until all are stuck.
    for _ in 0..200 {
        signal(bench.worker, Signal::SIGSTOP)?;
        let mut moved = false;
        for (client, sent) in clients.iter().zip(&mut sent) {
            moved |= push(client, &pattern, sent)?;
        }
        signal(bench.worker, Signal::SIGCONT)?;
        bench.settle("while they send")?;
        if !moved {
            break;
        }
    }
    bench.weigh("with 1,000 clients that do not read")?;
    println!("{} kB on their way", sent.iter().sum::<usize>() / 1000);
    ensure!(sent.iter().all(|sent| *sent < pattern.len()), "not stuck");
    // Many at a time: with windows this small each of them waits for timers of the kernel.
    let all: Vec<(&Stream, usize)> = clients.iter().zip(sent).collect();
    std::thread::scope(|scope| {
        let readers = all.chunks(all.len() / 40).map(|some| {
            scope.spawn(|| some.iter().try_for_each(|(client, sent)| drain(client, &pattern[..*sent])))
        });
        let readers: Vec<_> = readers.collect();
        readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })?;
    drop(clients);
    bench.expect_nothing_left(fds + IDLE_PIPE_FDS, OPEN)?;
    bench.weigh("when they have gone").map(drop)
}

impl Bench {
    /// Waits until the worker has nothing to do for a while.
    fn settle(&self, when: &str) -> Result<()> {
        let (mut ticks, mut quiet) = (process::cpu_ticks(self.worker)?, 0);
        wait_for("a worker that rests", || {
            let bytes = process::rss_bytes(self.worker).ok()?;
            if bytes >= LIMIT_BYTES {
                return Some(Err(anyhow::anyhow!("{bytes} bytes resident {when}")));
            }
            let now = process::cpu_ticks(self.worker).ok()?;
            quiet = if now == ticks { quiet + 1 } else { 0 };
            ticks = now;
            (quiet == 10).then_some(Ok(()))
        })?
    }
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    kill(Pid::from_raw(pid), signal).context("cannot signal the worker")
}

/// Reads at last what comes back, all of it.
fn drain(mut client: &Stream, wanted: &[u8]) -> Result<()> {
    client.shutdown(Shutdown::Write)?;
    let mut back = Vec::with_capacity(wanted.len());
    client.read_to_end(&mut back).context("a client that reads at last")?;
    ensure!(back == wanted, "{} bytes came back, {} were sent", back.len(), wanted.len());
    Ok(())
}

/// Sends what the socket takes; whether it took any.
fn push(mut client: &Stream, pattern: &[u8], sent: &mut usize) -> Result<bool> {
    use rustix::net::{SendFlags, send};
    let before = *sent;
    loop {
        match send(client, &pattern[*sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
            Ok(count) if count > 0 => *sent += count,
            Ok(_) | Err(rustix::io::Errno::AGAIN) => break,
            Err(error) => return Err(error).context("cannot send"),
        }
    }
    client.flush()?;
    Ok(*sent > before)
}

/// 100,000 connections, one after the other, 32 at a time, none of them refused: the worker has no
/// descriptor more than after the first thousand, few more than before them, and stays below 8 MB.
///
/// Fails when anything of a connection outlives it: a descriptor, an entry, a timer.
#[test]
fn a_hundred_thousand_connections_leave_nothing_behind() -> Result<()> {
    let Some(bench) = Bench::start("many")? else { return Ok(()) };
    let load = |count| {
        let report = Load::new(&Addr::tcp(TARGET), Pace::InFlight(32)).total(count).run(bench.rig.host())?;
        ensure!(report.failures() == 0, "{report}");
        anyhow::Ok(report)
    };
    let fresh = process::fd_count(bench.worker)?;
    load(FIRST)?;
    bench.expect_nothing_left(fresh + IDLE_PIPE_FDS, FIRST)?;
    let (fds, bytes) = (process::fd_count(bench.worker)?, bench.weigh("after 1,000 connections")?);
    println!("{}", load(MANY - FIRST)?);
    bench.expect_nothing_left(fds, MANY)?;
    let after = bench.weigh("after 100,000 connections")?;
    // Room for the allocator's moods, not for ten bytes of each connection.
    ensure!(after < bytes + 1_000_000, "{bytes} bytes before, {after} after");
    Ok(())
}

/// What another device costs that nobody uses, and what the three processes have resident; for the
/// figures, and an upper bound that only a process per device would break.
#[test]
fn an_idle_device_costs_little() -> Result<()> {
    let Some(bench) = Bench::start("idle")? else { return Ok(()) };
    let (daemon, keepers) = (bench.rig.daemon.pid()?, bench.rig.daemon.keepers());
    ensure!(keepers.len() == 1, "keepers: {keepers:?}");
    let all = [("daemon", daemon), ("keeper", keepers[0]), ("worker", bench.worker)];
    let weigh = || all.iter().map(|(_, pid)| process::rss_bytes(*pid)).sum::<Result<u64>>();
    for (name, pid) in all {
        println!("{name} with one device: {} kB resident", process::rss_bytes(pid)? / 1000);
    }
    let before = weigh()?;
    let instance = bench.rig.daemon.device("bench")?["instance"].clone();
    for number in 0..DEVICES {
        let keys =
            json!({"listen": format!("tcp:127.0.0.1:{}", 8000 + number), "connect": "tcp:127.0.0.1:1"});
        let body = json!({"instance": instance, "name": format!("idle{number}"), "keys": keys});
        let answer =
            bench.rig.daemon.api().call("POST", "/1.0/devices", Some(&body), Duration::from_secs(20))?;
        ensure!(answer.status == 200, "{}", answer.body);
    }
    ensure!(bench.rig.daemon.workers() == [bench.worker], "more than one worker");
    let after = weigh()?;
    let each = after.saturating_sub(before) / DEVICES;
    println!("each of {DEVICES} more: {} kB in all three ({before} -> {after} bytes)", each / 1000);
    ensure!(each < 100_000, "{each} bytes for a device");
    bench.weigh("with 101 devices").map(drop)
}
