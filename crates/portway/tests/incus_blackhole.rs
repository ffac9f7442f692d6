//! A target that never answers: its own clients wait, and are told when they have waited long enough;
//! nobody else notices. A real container, one worker.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{
    Addr, Behaviour, DaemonSpec, Load, Outcome, Pace, Report, Rig, RunningLoad, Service, Site, check,
    wait_for,
};

/// Where devices listen.
const ADDRESS: &str = "127.0.0.1";

/// Ports of the devices.
const GOOD: u16 = 7001;
const BAD: u16 = 7002;

/// Clients that hang at the same time.
const HANGING: u32 = 50;

/// Patience of each of them: then it goes and another one comes, so that calls begin all the time.
const HANG: Duration = Duration::from_millis(400);

/// Connections of one measurement.
const SAMPLE: u64 = 1000;

/// Pairs of measurements, at most. Other work on the machine spoils some; a worker that waits for
/// one target at a time spoils all.
const ROUNDS: u32 = 6;

/// The two sides of a device as `bind` has them.
struct Sides {
    rig: Rig,
    bind: &'static str,
    /// Where it listens.
    near: Site,
    /// Where its targets are.
    far: Site,
}

impl Sides {
    fn start(bind: &'static str) -> Result<Option<Self>> {
        let Some(rig) = Rig::apart(DaemonSpec::new(env!("CARGO_BIN_EXE_portway")), "hole")? else {
            return Ok(None);
        };
        let (host, inside) = (rig.host().clone(), rig.inside()?);
        let (near, far) = if bind == "host" { (host, inside) } else { (inside, host) };
        Ok(Some(Self { rig, bind, near, far }))
    }

    fn add(&self, device: &str, listen: &str, connect: &str, more: &[&str]) -> Result<()> {
        let keys = [format!("listen={listen}"), format!("connect={connect}"), format!("bind={}", self.bind)];
        let keys: Vec<&str> = keys.iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.rig.add(device, &keys)
    }

    /// A path for a socket on the targets' side: as a device names it, and as this process does.
    fn path(&self, name: &str) -> (PathBuf, PathBuf) {
        let seen = match self.bind {
            "host" => Path::new("/tmp").join(name),
            _ => self.rig.path(name),
        };
        let ours = self.far.path(&seen);
        (seen, ours)
    }

    /// A service at a socket file that every user may call.
    fn unix_service(&self, name: &str, behaviour: Behaviour) -> Result<(PathBuf, Service)> {
        let (seen, ours) = self.path(name);
        let service = Service::start(&self.far, &Addr::unix(&ours), behaviour)?;
        fs::set_permissions(&ours, fs::Permissions::from_mode(0o777)).context("cannot open a socket")?;
        Ok((seen, service))
    }

    /// A tcp port of the targets' side whose SYNs are dropped, though somebody listens there.
    fn silent_port(&self) -> Result<Service> {
        let service = Service::start(&self.far, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        self.far.network().nft(&format!(
            "table inet silence {{\nchain input {{\ntype filter hook input priority 0;\ntcp dport {} drop;\n}}\n}}",
            service.port()
        ))?;
        Ok(service)
    }

    /// Begins to keep clients hanging at `device`, and waits until all of them are there.
    fn hang(&self, device: &str, target: &Addr) -> Result<RunningLoad> {
        let load = Load::new(target, Pace::InFlight(HANGING)).limit(HANG).start(&self.near)?;
        wait_for("clients that hang", || {
            let device = self.rig.daemon.device(device).ok()?;
            (device["connections_now"].as_u64()? >= u64::from(HANGING) * 9 / 10).then_some(())
        })?;
        Ok(load)
    }

    fn measure(&self) -> Result<Report> {
        let good = Addr::tcp(&format!("{ADDRESS}:{GOOD}"));
        let report = Load::new(&good, Pace::InFlight(4)).total(SAMPLE).run(&self.near)?;
        ensure!(report.failures() == 0, "clients of the good target: {report}");
        Ok(report)
    }

    /// The good target is as fast while clients of `device` hang as it is without them: p99 within
    /// twice, in one of [`ROUNDS`].
    fn compare(&self, device: &str) -> Result<()> {
        let worker = self.one_worker()?;
        let bad = Addr::tcp(&format!("{ADDRESS}:{BAD}"));
        self.measure().context("warm-up")?;
        let mut seen = Vec::new();
        for _ in 0..ROUNDS {
            let idle = self.measure()?;
            let hanging = self.hang(device, &bad)?;
            let busy = self.measure()?;
            let hung = hanging.stop()?;
            ensure!(hung.count(Outcome::TimedOut) == hung.records.len(), "clients of the bad target: {hung}");
            ensure!(self.one_worker()? == worker, "not the worker it was");
            let [idle, busy] = [idle, busy].map(|report| report.percentile(0.99));
            seen.push(format!("{idle:.1?} -> {busy:.1?}"));
            if busy <= idle * 2 {
                println!("p99 idle -> with {HANGING} hanging, bind={}: {}", self.bind, seen.join(", "));
                return Ok(());
            }
        }
        anyhow::bail!("p99 idle -> with {HANGING} hanging: {}", seen.join(", "))
    }

    /// Everything is in the same worker.
    fn one_worker(&self) -> Result<i32> {
        let workers = self.rig.daemon.workers();
        ensure!(workers.len() == 1, "workers: {workers:?}");
        Ok(workers[0])
    }
}

fn syns_are_dropped(bind: &'static str) -> Result<()> {
    let Some(sides) = Sides::start(bind)? else { return Ok(()) };
    let good = Service::start(&sides.far, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
    let bad = sides.silent_port()?;
    sides.add(
        "both",
        &format!("tcp:{ADDRESS}:{GOOD},{BAD}"),
        &format!("tcp:127.0.0.1:{},{}", good.port(), bad.port()),
        &[],
    )?;
    sides.compare("both")?;
    ensure!(bad.accepted() == 0, "SYNs came through");
    Ok(())
}

/// 50 clients hang on one port of a device because nobody answers their SYN; 1,000 connections to its
/// other port are as fast as without them.
///
/// Fails when the worker dials with a blocking `connect`, or waits for one dial before it accepts the
/// next client: the clients that are to hang do not even get in, and p99 is seconds.
#[test]
fn a_target_that_drops_syns_delays_no_other_client() -> Result<()> {
    syns_are_dropped("host")
}

/// The same with the listener inside the container and the targets on the host.
///
/// Fails as the one above.
#[test]
fn a_target_that_drops_syns_delays_no_other_client_from_inside() -> Result<()> {
    syns_are_dropped("instance")
}

fn backlog_is_full(bind: &'static str) -> Result<()> {
    let Some(sides) = Sides::start(bind)? else { return Ok(()) };
    let (good, _good) = sides.unix_service("good.sock", Behaviour::Echo)?;
    let (bad, _bad) = sides.unix_service("bad.sock", Behaviour::NeverAccept { backlog: 1 })?;
    sides.add("good", &format!("tcp:{ADDRESS}:{GOOD}"), &format!("unix:{}", good.display()), &[])?;
    sides.add("bad", &format!("tcp:{ADDRESS}:{BAD}"), &format!("unix:{}", bad.display()), &[])?;
    sides.compare("bad")
}

/// 50 clients hang because their unix target does not accept and its backlog is full (`connect` says
/// EAGAIN): 1,000 connections to another target of the same worker are as fast as without them.
///
/// Fails when `connect` to a unix socket blocks, or EAGAIN is retried in a loop.
#[test]
fn a_full_backlog_delays_no_other_client() -> Result<()> {
    backlog_is_full("host")
}

/// The same with the listener inside the container and the targets on the host.
///
/// Fails as the one above.
#[test]
fn a_full_backlog_delays_no_other_client_from_inside() -> Result<()> {
    backlog_is_full("instance")
}

/// Clients of a full backlog have not been refused: they get through when there is room.
///
/// Fails when EAGAIN counts as a refusal, or is not tried again.
#[test]
fn clients_of_a_full_backlog_are_served_when_there_is_room() -> Result<()> {
    let Some(sides) = Sides::start("host")? else { return Ok(()) };
    let (seen, ours) = sides.path("full.sock");
    let listener = sides.far.run(|| Addr::unix(&ours).listen_with_backlog(1))??;
    sides.add("full", &format!("tcp:{ADDRESS}:{BAD}"), &format!("unix:{}", seen.display()), &[])?;
    let target = Addr::tcp(&format!("{ADDRESS}:{BAD}"));
    let clients: Vec<_> = (0..30).map(|_| check::dial(&sides.near, &target)).collect::<Result<_>>()?;
    wait_for("clients in the worker", || {
        (sides.rig.daemon.device("full").ok()?["connections_now"] == clients.len()).then_some(())
    })?;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..clients.len() {
                let Ok(stream) = listener.accept_within(Duration::from_secs(20)) else { return };
                scope.spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let talks = clients.iter().zip(1..).map(|(client, seed)| {
            // Only bytes: an end of stream would go no further while `copy` waits for more.
            scope.spawn(move || exchange(client, seed))
        });
        let talks: Vec<_> = talks.collect();
        let results =
            talks.into_iter().map(|talk| talk.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        let result = results.collect::<Result<Vec<()>>>();
        clients.iter().for_each(|client| drop(client.shutdown(std::net::Shutdown::Both)));
        result
    })?;
    let device = sides.rig.daemon.device("full")?;
    ensure!(device["dials_failed"] == 0, "{device}");
    Ok(())
}

fn exchange(mut stream: &portway_testkit::Stream, seed: u64) -> Result<()> {
    use std::io::{Read as _, Write as _};
    let sent = portway_testkit::Pattern::new(seed).bytes(1000);
    let mut back = vec![0; sent.len()];
    stream.write_all(&sent)?;
    stream.read_exact(&mut back).context("a client that waited for room")?;
    ensure!(sent == back, "wrong bytes");
    Ok(())
}

/// `connect.timeout` is told to the client, by a reset over tcp and by the end of the stream over a
/// unix socket, to each when its own time is over; the daemon counts it and says which target it was.
///
/// Fails when a dial has no deadline of its own, or the client is closed without a reset.
#[test]
fn a_dial_that_takes_too_long_is_told_to_the_client() -> Result<()> {
    /// Of the device; far below what the kernel waits by itself.
    const TIMEOUT: Duration = Duration::from_millis(700);
    let Some(sides) = Sides::start("host")? else { return Ok(()) };
    let bad = sides.silent_port()?;
    let connect = format!("tcp:127.0.0.1:{}", bad.port());
    sides.add("tcp", &format!("tcp:{ADDRESS}:{BAD}"), &connect, &["connect.timeout=700ms"])?;
    let socket = sides.rig.path("listen.sock");
    sides.add("unix", &format!("unix:{}", socket.display()), &connect, &["connect.timeout=700ms"])?;
    sides.add("patient", &format!("tcp:{ADDRESS}:{GOOD}"), &connect, &[])?;

    let patient = check::dial(&sides.near, &Addr::tcp(&format!("{ADDRESS}:{GOOD}")))?;
    let begin = Instant::now();
    let client = check::dial(&sides.near, &Addr::tcp(&format!("{ADDRESS}:{BAD}")))?;
    check::expect_reset(&client).context("the tcp client")?;
    ensure!(begin.elapsed() >= TIMEOUT, "told after {:?} already", begin.elapsed());

    let begin = Instant::now();
    let client = check::dial(&sides.near, &Addr::unix(&socket))?;
    ensure!(check::read_all(&client)?.is_empty(), "bytes from nowhere");
    ensure!(begin.elapsed() >= TIMEOUT, "told after {:?} already", begin.elapsed());

    let (full, _full) = sides.unix_service("full.sock", Behaviour::NeverAccept { backlog: 0 })?;
    let connect_full = format!("unix:{}", full.display());
    sides.add("full", "tcp:127.0.0.1:7003", &connect_full, &["connect.timeout=700ms"])?;
    let target = Addr::tcp("127.0.0.1:7003");
    // The queue takes one; it stays, unheard.
    let _first = check::dial(&sides.near, &target)?;
    let begin = Instant::now();
    let second = check::dial(&sides.near, &target)?;
    check::expect_reset(&second).context("the client of a full backlog")?;
    ensure!(begin.elapsed() >= TIMEOUT, "told after {:?} already", begin.elapsed());

    for (name, connect, now) in [("tcp", &connect, 0), ("unix", &connect, 0), ("full", &connect_full, 1)] {
        let device = wait_for("the failure in the device's state", || {
            let device = sides.rig.daemon.device(name).ok()?;
            device["last_error"].is_string().then_some(device)
        })?;
        let error = device["last_error"].as_str().unwrap_or_default();
        ensure!(device["dials_failed"] == 1 && device["connections_now"] == now, "{device}");
        ensure!(error.contains(connect) && error.contains("timed out"), "{error}");
    }
    // Ten seconds by default: it has been there all the time.
    ensure!(sides.rig.daemon.device("patient")?["connections_now"] == 1, "the patient one is gone");
    drop(patient);
    Ok(())
}
