//! Times and memory with very many devices, for `cargo xtask figures`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{
    Addr, Bed, Behaviour, Container, Daemon, DaemonSpec, Netns, Rig, Service, Site, process,
};
use serde_json::{Value, json};

use crate::PORTWAY;
use crate::fleet::{DEVICES, Fleet, add_all, address, name};

/// Measurements of what is repeated.
pub(crate) const REPEATS: usize = 20;

/// Instances the thousand devices are spread over, and how many of them are containers.
const INSTANCES: usize = 200;
const CONTAINERS: usize = 20;

/// Devices of each.
const EACH: usize = 5;

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// One line: median and longest of some times, beside the goal.
pub(crate) fn line(what: &str, goal_ms: u32, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    let verdict = if ms(median) < f64::from(goal_ms) { "met" } else { "MISSED" };
    println!("{what:<52} {:>9.1} ms, longest {:>7.1} (goal {goal_ms} ms: {verdict})", ms(median), ms(most));
}

/// Resident bytes by role, and all together; beside them what remains when pages that processes share
/// are counted once.
pub(crate) fn weights(daemon: &Daemon) -> Result<u64> {
    let roles =
        [("daemon", vec![daemon.pid()?]), ("keeper", daemon.keepers()), ("workers", daemon.workers())];
    let (mut all, mut all_shares) = (0, 0);
    for (role, pids) in roles {
        let bytes = pids.iter().map(|pid| process::rss_bytes(*pid)).sum::<Result<u64>>()?;
        let shares =
            pids.iter().map(|pid| Ok(process::rollup_bytes(*pid, ["Pss:"])?[0])).sum::<Result<u64>>()?;
        weight(&format!("  resident, {role} ({})", pids.len()), bytes, shares);
        all += bytes;
        all_shares += shares;
    }
    weight("  resident, all", all, all_shares);
    Ok(all)
}

fn weight(what: &str, bytes: u64, shares: u64) {
    println!("{what:<52} {:>9} kB, shared pages once {:>9} kB", bytes / 1000, shares / 1000);
}

pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.context("cannot start the command")?;
    ensure!(status.success(), "the command ended with {status}");
    Ok(())
}

/// From the start of `device add` to a byte through the new device, and its removal.
fn one_more(fleet: &Fleet) -> Result<Duration> {
    let container = fleet.rig.container.name();
    let (listen, connect) =
        (format!("listen=tcp:{}", address(DEVICES)), format!("connect={}", fleet.connect()));
    let mut command = fleet.rig.daemon.command();
    command.args(["device", "add", container, &name(DEVICES), &listen, &connect]);
    let time = fleet.rig.host().run(|| {
        let begin = Instant::now();
        quiet(&mut command)?;
        let mut client = TcpStream::connect(address(DEVICES))?;
        client.write_all(b"!")?;
        client.read_exact(&mut [0])?;
        anyhow::Ok(begin.elapsed())
    })??;
    fleet.rig.device_ok("remove", &[&name(DEVICES)])?;
    Ok(time)
}

fn list(fleet: &Fleet, format: &str) -> Result<Duration> {
    let begin = Instant::now();
    quiet(fleet.rig.daemon.command().args(["device", "list", "--format", format]))?;
    Ok(begin.elapsed())
}

/// A thousand devices on one container.
#[test]
#[ignore = "measures: `cargo xtask figures`"]
fn a_thousand_devices_on_one_container() -> Result<()> {
    let Some(mut fleet) = Fleet::start()? else { return Ok(()) };
    println!("{DEVICES} devices on one container");
    line("all added, by requests of one device", 10_000, vec![fleet.add(DEVICES)?]);
    weights(&fleet.rig.daemon)?;
    let clients = fleet.connections(DEVICES)?;
    println!("with an open connection through each");
    ensure!(weights(&fleet.rig.daemon)? < crate::fleet::LIMIT_BYTES, "more than 60 MB");
    let repeat = |measure: &dyn Fn() -> Result<Duration>| -> Result<Vec<Duration>> {
        (0..REPEATS).map(|_| measure()).collect()
    };
    line("one more, from command to a byte through it", 50, repeat(&|| one_more(&fleet))?);
    for format in ["table", "json", "csv"] {
        line(&format!("device list --format {format}"), 100, repeat(&|| list(&fleet, format))?);
    }
    fleet.rig.daemon.kill()?;
    let begin = Instant::now();
    fleet.rig.daemon.launch()?;
    while fleet.rig.daemon.api().get("/1.0")?["devices"]["active"] != DEVICES {
        std::thread::sleep(Duration::from_millis(1));
    }
    line("the next daemon has adopted all", 10_000, vec![begin.elapsed()]);
    clients.iter().try_for_each(crate::fleet::speak)
}

/// The same thousand from a file, by one command.
#[test]
#[ignore = "measures: `cargo xtask figures`"]
fn a_thousand_devices_from_a_file() -> Result<()> {
    let Some(fleet) = Fleet::start()? else { return Ok(()) };
    let path = fleet.rig.path("devices.json");
    std::fs::write(&path, json!({"devices": fleet.entries(DEVICES)}).to_string())?;
    let apply = || {
        let begin = Instant::now();
        quiet(fleet.rig.daemon.command().args(["apply", "-f"]).arg(&path))?;
        anyhow::Ok(begin.elapsed())
    };
    line("apply of 1,000 new devices", 10_000, vec![apply()?]);
    fleet.connections(DEVICES)?;
    line("apply of the same once more", 10_000, vec![apply()?]);
    Ok(())
}

/// An instance with a service inside.
struct Place {
    key: String,
    service: Service,
    _container: Option<Container<'static>>,
    _netns: Option<Netns>,
}

impl Place {
    fn container(bed: &'static Bed) -> Result<Self> {
        let container = bed.container("spread")?;
        let service = Service::start(&container.site()?, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        let key = format!("incus:default/{}", container.name());
        Ok(Self { key, service, _container: Some(container), _netns: None })
    }

    fn netns() -> Result<Self> {
        let netns = Netns::new()?;
        let site = Site::netns(&netns);
        let service = Service::start(&site, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        let key = format!("netns:{}", netns.path().display());
        Ok(Self { key, service, _container: None, _netns: Some(netns) })
    }

    fn wish(&self, number: usize) -> Value {
        let connect = format!("tcp:127.0.0.1:{}", self.service.port());
        let keys = json!({"listen": format!("tcp:{}", address(number)), "connect": connect});
        json!({"instance": self.key, "name": name(number), "keys": keys})
    }
}

/// Two hundred instances with five devices each: containers, and namespaces that count as instances.
#[test]
#[ignore = "measures: `cargo xtask figures`"]
fn two_hundred_instances_with_five_devices_each() -> Result<()> {
    process::raise_nofile()?;
    let Some(rig) = Rig::apart(DaemonSpec::new(PORTWAY), "spread")? else { return Ok(()) };
    let places = (0..INSTANCES)
        .map(|number| if number < CONTAINERS { Place::container(rig.bed()) } else { Place::netns() });
    let places = places.collect::<Result<Vec<_>>>()?;
    println!("{INSTANCES} instances ({CONTAINERS} of them containers) with {EACH} devices each");
    let wishes = (0..INSTANCES * EACH).map(|number| places[number / EACH].wish(number)).collect();
    let begin = Instant::now();
    add_all(&rig, wishes)?;
    println!("{:<52} {:>9.1} ms", "all added, by requests of one device", ms(begin.elapsed()));
    ensure!(rig.daemon.workers().len() == INSTANCES, "a worker for each instance");
    weights(&rig.daemon)?;
    rig.host().run(|| {
        (0..INSTANCES * EACH).try_for_each(|number| {
            let client = Addr::tcp(&address(number)).connect(Duration::from_secs(20))?;
            client.set_timeout(Duration::from_secs(20))?;
            crate::fleet::speak(&client)
        })
    })??;
    println!("after a byte through each");
    weights(&rig.daemon).map(drop)
}
