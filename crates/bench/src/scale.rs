//! Many devices of the kernel's NAT: new connections through the last one of them, and those that none of
//! them concerns.
//!
//! Incus has a chain with a rule for each of its devices, and every new connection of the host walks all of
//! them; Portway has one map. What the devices cost others is a small difference of rates that drift: Portway's are
//! put in and taken out, in turns of which each measures both. Incus needs minutes for that, and is measured once
//! without and once with. Portway's devices are those of a daemon that has no others.

use std::collections::BTreeMap;
use std::path::Path as FilePath;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{Daemon, DaemonSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::arena::Arena;
use crate::net::Target;
use crate::options::RunOptions;
use crate::peer::{Peer, Running, connect};
use crate::process::Memory;
use crate::rounds::call;
use crate::stats::Median;
use crate::workload::{Path, Workload};

/// First port of the devices.
const PORTS: u16 = 24_000;

/// Devices that Incus is asked for at once.
const BATCH: usize = 100;

/// How long Portway may take to have all of them in the kernel.
const SETTLED: Duration = Duration::from_secs(60);

/// Turns for each round: a difference of 3 % is to be told from none.
const TURNS: usize = 2;

/// Measurements with the devices, and as many without, in a turn.
pub(crate) const WINDOWS: usize = 4;

/// How often one more device is added.
const MORE: usize = 5;

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    /// Connections per second through the only device of a peer, in each round.
    pub(crate) one: BTreeMap<Peer, Vec<f64>>,
    pub(crate) many: Vec<Many>,
    /// Devices of the relay, and memory of all of Portway's processes with them.
    pub(crate) relay_devices: u16,
    pub(crate) relay: Memory,
}

/// With many devices of a peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Many {
    pub(crate) peer: Peer,
    pub(crate) devices: u16,
    /// Connections per second through the last one, in each round.
    pub(crate) through: Vec<f64>,
    /// The same past all of them, by a route, in each turn; and without them.
    pub(crate) unrelated: Vec<f64>,
    pub(crate) without: Vec<f64>,
    /// Milliseconds until one more was served, each time.
    pub(crate) add_ms: Vec<f64>,
}

impl Scale {
    /// Rate through the last of many beside the rate through the only one.
    pub(crate) fn through(&self, many: &Many) -> Option<Median> {
        ratio(&many.through, self.one.get(&many.peer)?)
    }
}

impl Many {
    fn new(peer: Peer, devices: u16) -> Self {
        let (through, unrelated, without, add_ms) = Default::default();
        Self { peer, devices, through, unrelated, without, add_ms }
    }

    /// Rate of connections that have nothing to do with the devices, beside that without them.
    pub(crate) fn unrelated(&self) -> Option<Median> {
        ratio(&self.unrelated, &self.without)
    }
}

/// Median of the ratios, each of the same turn.
fn ratio(ours: &[f64], theirs: &[f64]) -> Option<Median> {
    Median::of(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs))
}

/// What all parts need.
struct Stage<'a> {
    arena: &'a Arena,
    options: &'a RunOptions,
    say: &'a dyn Fn(&str),
}

/// Measures with one device of each, with many of Portway, with many of Incus.
///
/// # Errors
/// When devices cannot be added or a measurement fails.
pub(crate) fn run(
    arena: &Arena,
    peers: &[Running],
    options: &RunOptions,
    say: &dyn Fn(&str),
) -> Result<Scale> {
    let stage = Stage { arena, options, say };
    let mut scale = Scale::default();
    for round in 0..options.rounds() {
        say(&format!("one device, round {}/{}", round + 1, options.rounds()));
        for peer in peers.iter().filter(|peer| [Peer::Nat, Peer::IncusNat].contains(&peer.peer)) {
            let target = peer.targets.get(&Path::Tcp).context("a device")?;
            scale.one.entry(peer.peer).or_default().push(stage.rate(target)?);
        }
    }
    for devices in options.scale_devices() {
        scale.many.push(stage.portway(devices)?);
    }
    let first = options.scale_devices().into_iter().next().unwrap_or_default();
    (scale.relay_devices, scale.relay) = (first, stage.relay_memory(first)?);
    scale.many.push(stage.incus(first)?);
    Ok(scale)
}

impl Stage<'_> {
    /// New connections per second.
    fn rate(&self, target: &Target) -> Result<f64> {
        let workload = Workload::named("conn").context("no workload of new connections")?;
        call(self.arena, target, workload, self.options.span())?.rate.context("a rate")
    }

    /// The same past all devices, several times.
    fn past(&self) -> Result<f64> {
        let direct = Target::Tcp(self.arena.service_address());
        let windows = if self.options.rounds() > 1 { WINDOWS } else { 1 };
        let mut sum = 0.0;
        for _ in 0..windows {
            sum += self.rate(&direct)?;
        }
        Ok(sum / windows as f64)
    }

    fn portway(&self, count: u16) -> Result<Many> {
        let devices = PortwayDevices::start(self.arena, &self.options.portway, Peer::Nat)?;
        let last = Target::Tcp((self.arena.host, PORTS + count - 1).into());
        let mut many = Many::new(Peer::Nat, count);
        let turns = self.options.rounds() * TURNS;
        for turn in 0..turns {
            (self.say)(&format!("{count} devices of nat, turn {}/{turns}", turn + 1));
            // What a turn ends with the next one begins with.
            for is_with in [turn % 2 == 0, turn % 2 != 0] {
                devices.apply(if is_with { count } else { 0 })?;
                if is_with {
                    many.unrelated.push(self.past()?);
                    if turn % TURNS == 0 {
                        many.through.push(self.rate(&last)?);
                    }
                } else {
                    many.without.push(self.past()?);
                }
            }
        }
        devices.apply(count)?;
        for _ in 0..MORE {
            many.add_ms.push(devices.add_one_more(count)?);
        }
        Ok(many)
    }

    fn relay_memory(&self, count: u16) -> Result<Memory> {
        (self.say)(&format!("adding {count} devices of relay"));
        let devices = PortwayDevices::start(self.arena, &self.options.portway, Peer::Relay)?;
        devices.apply(count)?;
        Ok(Memory::of(&devices.daemon.processes()))
    }

    fn incus(&self, count: u16) -> Result<Many> {
        let mut many = Many::new(Peer::IncusNat, count);
        for _ in 0..self.options.rounds() {
            many.without.push(self.past()?);
        }
        (self.say)(&format!("adding {count} devices of incus-nat"));
        let devices = IncusDevices { arena: self.arena, count };
        let last = Target::Tcp((self.arena.host, PORTS + count - 1).into());
        let mut measure = || -> Result<()> {
            many.add_ms.push(devices.add()?);
            for round in 0..self.options.rounds() {
                (self.say)(&format!(
                    "many devices of incus-nat, round {}/{}",
                    round + 1,
                    self.options.rounds()
                ));
                many.through.push(self.rate(&last)?);
                many.unrelated.push(self.past()?);
            }
            Ok(())
        };
        let measured = measure();
        // Whatever came of it: a container with so many devices of Incus would take minutes to end.
        devices.remove()?;
        measured.map(|()| many)
    }
}

fn name(number: u16) -> String {
    format!("scale-{number}")
}

fn keys(arena: &Arena, peer: Peer, number: u16) -> Value {
    json!({
        "listen": format!("tcp:{}:{}", arena.host, PORTS + number),
        "connect": connect(peer, Path::Tcp, arena),
        "nat": if peer.is_relay() { "false" } else { "true" },
    })
}

/// A daemon with no other devices.
struct PortwayDevices<'a> {
    arena: &'a Arena,
    daemon: Daemon,
    peer: Peer,
}

impl<'a> PortwayDevices<'a> {
    fn start(arena: &'a Arena, portway: &FilePath, peer: Peer) -> Result<Self> {
        Ok(Self { arena, daemon: DaemonSpec::new(portway).on(arena.bed).start()?, peer })
    }

    /// What the control API calls the container.
    fn instance(&self) -> String {
        format!("incus:default/{}", self.arena.container.name())
    }

    fn device(&self, number: u16) -> Value {
        json!({
            "instance": self.instance(), "name": name(number), "keys": keys(self.arena, self.peer, number),
        })
    }

    fn call(&self, method: &str, target: &str, body: Option<&Value>) -> Result<()> {
        let answer = self.daemon.api().call(method, target, body, SETTLED)?;
        ensure!((200..300).contains(&answer.status), "{method} {target}: {}: {}", answer.status, answer.body);
        Ok(())
    }

    /// So many devices and no others, each of them served.
    fn apply(&self, count: u16) -> Result<()> {
        let devices: Vec<Value> = (0..count).map(|number| self.device(number)).collect();
        let prune = json!([{"provider": "incus", "project": "default"}]);
        self.call("POST", "/1.0/apply", Some(&json!({"devices": devices, "prune": prune})))?;
        let mode = if self.peer == Peer::Nat { "nat" } else { "relay" };
        let begin = Instant::now();
        loop {
            let devices = self.daemon.devices()?;
            let mut waiting =
                devices.iter().filter(|device| device["state"] != "active" || device["mode"] != mode);
            let Some(device) = waiting.next() else { return Ok(()) };
            ensure!(begin.elapsed() < SETTLED, "a device is not served: {device}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Milliseconds for the device after so many; it is taken out again.
    fn add_one_more(&self, count: u16) -> Result<f64> {
        let begin = Instant::now();
        self.call("POST", "/1.0/devices", Some(&self.device(count)))?;
        let took = begin.elapsed();
        let instance = self.instance().replace(':', "%3A").replace('/', "%2F");
        self.call("DELETE", &format!("/1.0/devices/{instance}/{}", name(count)), None)?;
        Ok(took.as_secs_f64() * 1000.0)
    }
}

/// The same of Incus.
struct IncusDevices<'a> {
    arena: &'a Arena,
    count: u16,
}

impl IncusDevices<'_> {
    /// Adds all of them; milliseconds for the last one.
    fn add(&self) -> Result<f64> {
        let numbers: Vec<u16> = (0..self.count).collect();
        let Some((last, others)) = numbers.split_last() else { return Ok(0.0) };
        for batch in others.chunks(BATCH) {
            self.add_some(batch)?;
        }
        let begin = Instant::now();
        self.add_some(&[*last])?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    fn add_some(&self, numbers: &[u16]) -> Result<()> {
        let device = |number: &u16| {
            let mut keys = keys(self.arena, Peer::IncusNat, *number);
            keys["type"] = json!("proxy");
            (name(*number), keys)
        };
        let devices: Map<String, Value> = numbers.iter().map(device).collect();
        self.arena.container.request("PATCH", "", &json!({"devices": devices}))
    }

    /// They go with the container; their chains are taken out before, all at once, because Incus asks nft for each
    /// of them and needs minutes.
    fn remove(&self) -> Result<()> {
        let netns = self.arena.bed.netns();
        let chains = netns.run(Command::new("nft").args(["list", "chains", "inet"]))?;
        let ours = format!(".{}.scale-", self.arena.container.name());
        let named = chains.lines().filter_map(|line| line.trim().strip_prefix("chain ")?.split(' ').next());
        let rules: Vec<String> = named
            .filter(|chain| chain.contains(&ours))
            .map(|chain| format!("flush chain inet incus {chain}; delete chain inet incus {chain}"))
            .collect();
        // An argument has at most 128 kB.
        for some in rules.chunks(BATCH) {
            netns.nft(&some.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: the rate past the devices is divided by a rate through one, or by that of another turn.
    #[test]
    fn ratios_are_to_one_device_and_to_none() {
        let mut scale = Scale::default();
        scale.one.insert(Peer::IncusNat, vec![80.0]);
        let mut many = Many::new(Peer::IncusNat, 1000);
        (many.through, many.unrelated, many.without) = (vec![20.0], vec![25.0, 50.0], vec![100.0, 200.0]);
        let value = |median: Option<Median>| median.map(|median| (median.value, median.high));
        assert_eq!(value(scale.through(&many)), Some((0.25, 0.25)));
        assert_eq!(value(many.unrelated()), Some((0.25, 0.25)));
        assert_eq!(scale.through(&Many::new(Peer::Nat, 1000)), None);
    }
}
