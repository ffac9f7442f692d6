//! How long a new device takes, and what it weighs, beside Incus' own proxy device.
//!
//! A measurement begins when the command is started and ends when a byte has come back through the new
//! device; no worker runs before it, and the state is on disk at its end. `cargo xtask figures` runs all
//! of it, continuous integration a short form that looks at what happens and at no clock.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{Addr, Behaviour, Rig, Service, process, wait_for};

/// Measurements of the short form, and of the full one.
const SHORT: usize = 10;
const FULL: usize = 200;

/// Measurements of Incus, which takes a second for each.
const INCUS: usize = 5;

/// A container with an echo service, and what to call it by.
struct Bench {
    rig: Rig,
    connect: String,
    _service: Service,
}

/// One device added: until the command had ended, and until a byte had come back.
#[derive(Clone, Copy)]
struct Sample {
    command: Duration,
    byte: Duration,
}

impl Bench {
    fn start() -> Result<Option<Self>> {
        let Some(rig) = Rig::start(env!("CARGO_BIN_EXE_portway"), "figures")? else { return Ok(None) };
        let service = Service::start(&rig.inside()?, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        let connect = format!("connect=tcp:127.0.0.1:{}", service.port());
        Ok(Some(Self { rig, connect, _service: service }))
    }

    /// Runs `command` and calls `port` when it has ended.
    fn time(&self, command: &mut Command, port: u16) -> Result<Sample> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        self.rig.host().run(|| {
            let begin = Instant::now();
            let status = command.status().context("cannot start the command")?;
            let ended = begin.elapsed();
            ensure!(status.success(), "the command ended with {status}");
            let mut client = TcpStream::connect(("127.0.0.1", port)).context("cannot call the new device")?;
            client.set_read_timeout(Some(Duration::from_secs(20)))?;
            client.write_all(b"!")?;
            client.read_exact(&mut [0]).context("no byte through the new device")?;
            Ok(Sample { command: ended, byte: begin.elapsed() })
        })?
    }

    /// Adds a device, looks at what that did, and removes it.
    fn add_ours(&self, port: u16) -> Result<Sample> {
        let daemon = &self.rig.daemon;
        wait_for("the end of the last worker", || daemon.workers().is_empty().then_some(()))?;
        let state = || fs::read_to_string(daemon.dir().join("state.json")).unwrap_or_default();
        let listen = format!("tcp:127.0.0.1:{port}");
        ensure!(!state().contains(&listen), "the device is there already");
        let mut command = daemon.command();
        command.args(["device", "add", self.rig.container.name(), "web"]);
        command.args([&format!("listen={listen}"), &self.connect]);
        let sample = self.time(&mut command, port)?;
        ensure!(state().contains(&listen), "the device is not in the state file: {}", state());
        ensure!(daemon.workers().len() == 1, "workers: {:?}", daemon.workers());
        self.rig.device_ok("remove", &["web"])?;
        ensure!(!state().contains(&listen), "the device is still in the state file");
        Ok(sample)
    }

    fn ours(&self, count: usize) -> Result<Vec<Sample>> {
        let port = self.rig.ports.one()?;
        (0..count).map(|_| self.add_ours(port)).collect()
    }

    /// The same with Incus' own device; also what its process has resident.
    fn theirs(&self, count: usize) -> Result<(Vec<Sample>, u64)> {
        let port = self.rig.ports.one()?;
        let listen = format!("tcp:127.0.0.1:{port}");
        let (mut samples, mut resident) = (Vec::new(), 0);
        for _ in 0..count {
            let mut command = self.rig.bed().client();
            command.args(["config", "device", "add", self.rig.container.name(), "web", "proxy"]);
            command.args([&format!("listen={listen}"), &self.connect]);
            samples.push(self.time(&mut command, port)?);
            resident = helpers(&listen)?.into_iter().map(process::rss_bytes).sum::<Result<u64>>()?;
            let removed = self.rig.bed().client_output(&[
                "config",
                "device",
                "remove",
                self.rig.container.name(),
                "web",
            ])?;
            ensure!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
        }
        Ok((samples, resident))
    }
}

/// Processes of Incus' proxy device that listens there.
fn helpers(listen: &str) -> Result<Vec<i32>> {
    let all = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_helper = |pid: &i32| {
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = command.split(|byte| *byte == 0).collect();
        words.contains(&&b"forkproxy"[..]) && words.contains(&listen.as_bytes())
    };
    let helpers: Vec<i32> = all.filter(is_helper).collect();
    ensure!(!helpers.is_empty(), "no process serves Incus' device");
    Ok(helpers)
}

/// One line: how many, shortest, median, 95th percentile, longest.
fn line(what: &str, samples: &[Sample], time: fn(&Sample) -> Duration) -> Duration {
    let mut times: Vec<Duration> = samples.iter().map(time).collect();
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let [least, median, high, most] = [times[0], at(50), at(95), times[times.len() - 1]].map(ms);
    println!("{what:<44} {:>5} {least:>9.1} {median:>9.1} {high:>9.1} {most:>9.1}", times.len());
    at(50)
}

fn head(what: &str) {
    println!("{what:<44} {:>5} {:>9} {:>9} {:>9} {:>9}", "n", "min", "median", "p95", "max");
}

/// `device add` puts the device on disk, starts the worker that was not there, and the device carries a
/// byte when the command has ended; every time.
///
/// Fails when the command is answered before the worker accepts, or before the state is written.
#[test]
fn a_new_device_carries_bytes_when_the_command_has_ended() -> Result<()> {
    let Some(bench) = Bench::start()? else { return Ok(()) };
    let samples = bench.ours(SHORT)?;
    head("device add, milliseconds");
    line("portway, to a byte through it", &samples, |sample| sample.byte);
    Ok(())
}

/// The figures, side by side with those of Incus' own proxy device on the same container.
#[test]
#[ignore = "measures for a minute: `cargo xtask figures`"]
fn figures() -> Result<()> {
    let Some(bench) = Bench::start()? else { return Ok(()) };
    bench.ours(SHORT).context("warm-up")?;
    let ours = bench.ours(FULL)?;
    let (theirs, helper) = bench.theirs(INCUS)?;

    head("device add, milliseconds");
    line("portway, to the end of the command", &ours, |sample| sample.command);
    let median = line("portway, to a byte through it", &ours, |sample| sample.byte);
    line("incus, to the end of the command", &theirs, |sample| sample.command);
    let incus = line("incus, to a byte through it", &theirs, |sample| sample.byte);
    println!("a median of 50 ms is the goal: {}", if median.as_millis() < 50 { "met" } else { "MISSED" });
    println!("incus takes {:.0} times as long", incus.as_secs_f64() / median.as_secs_f64());

    let port = bench.rig.ports.one()?;
    bench.rig.add("idle", &[&format!("listen=tcp:127.0.0.1:{port}"), &bench.connect])?;
    let daemon = &bench.rig.daemon;
    println!("\nresident with one idle device, kB");
    let all = [("daemon", vec![daemon.pid()?]), ("keeper", daemon.keepers()), ("worker", daemon.workers())];
    for (name, pids) in all {
        let bytes = pids.into_iter().map(process::rss_bytes).sum::<Result<u64>>()?;
        println!("portway, {name:<35} {:>9}", bytes / 1000);
    }
    println!("{:<44} {:>9}", "incus, for each device", helper / 1000);
    Ok(())
}
