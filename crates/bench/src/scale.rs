//! Many devices of the kernel's NAT: new connections through the last one of them, and those that none of
//! them concerns.
//!
//! Incus has a chain with a rule for each of its devices, and every new connection of the host walks all of
//! them; Portway has one map. Both are measured with the same addresses, one after the other, after a measurement
//! with one device of each.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
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
const PORTS: u16 = 30_000;

/// Devices that Incus is asked for at once.
const BATCH: usize = 100;

/// How long Portway may take to have all of them in the kernel.
const SETTLED: Duration = Duration::from_secs(60);

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scale {
    pub(crate) devices: u16,
    /// By peer: with one device of each, then with many of this one.
    pub(crate) one: BTreeMap<Peer, Vec<f64>>,
    pub(crate) many: BTreeMap<Peer, Many>,
    /// Memory of all of Portway's processes with many devices of the relay.
    pub(crate) relay: Memory,
}

/// With many devices of a peer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Many {
    /// Connections per second through the last one, in each round.
    pub(crate) through: Vec<f64>,
    /// The same past all of them, by a route.
    pub(crate) unrelated: Vec<f64>,
    /// Milliseconds that one more takes.
    pub(crate) add_ms: f64,
}

impl Scale {
    /// Rate through the last of many beside the rate through the only one.
    pub(crate) fn through(&self, peer: Peer) -> Option<f64> {
        ratio(&self.many.get(&peer)?.through, self.one.get(&peer)?)
    }

    /// Rate of connections that have nothing to do with the devices, beside that without them.
    pub(crate) fn unrelated(&self, peer: Peer) -> Option<f64> {
        ratio(&self.many.get(&peer)?.unrelated, self.one.get(&Peer::Direct)?)
    }
}

fn ratio(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let median = |values: &[f64]| Median::of(values.iter().copied());
    Some(median(ours)?.value / median(theirs)?.value)
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
    let workload = Workload::named("conn").context("no workload of new connections")?;
    let rate = |target: &Target| -> Result<f64> {
        call(arena, target, workload, options.span())?.rate.context("a rate")
    };
    let mut scale = Scale { devices: options.scale_devices(), ..Scale::default() };
    let kernels = [Peer::Direct, Peer::Nat, Peer::IncusNat];
    for round in 0..options.rounds() {
        say(&format!("one device, round {}/{}", round + 1, options.rounds()));
        for peer in peers.iter().filter(|peer| kernels.contains(&peer.peer)) {
            let target = peer.targets.get(&Path::Tcp).context("a device")?;
            scale.one.entry(peer.peer).or_default().push(rate(target)?);
        }
    }
    scale.relay = relay_memory(arena, scale.devices, say)?;
    let direct = Target::Tcp(arena.service_address());
    let last = Target::Tcp((arena.host, PORTS + scale.devices - 1).into());
    for peer in [Peer::Nat, Peer::IncusNat] {
        say(&format!("adding {} devices of {}", scale.devices, peer.name()));
        let devices = Devices { arena, peer, count: scale.devices };
        let measure = || -> Result<Many> {
            let mut many = Many { add_ms: devices.add()?, ..Many::default() };
            for round in 0..options.rounds() {
                say(&format!("many devices of {}, round {}/{}", peer.name(), round + 1, options.rounds()));
                many.through.push(rate(&last)?);
                many.unrelated.push(rate(&direct)?);
            }
            Ok(many)
        };
        let many = measure();
        // Whatever came of it: a container with so many devices of Incus would take minutes to end.
        devices.remove()?;
        scale.many.insert(peer, many?);
    }
    Ok(scale)
}

fn relay_memory(arena: &Arena, count: u16, say: &dyn Fn(&str)) -> Result<Memory> {
    say(&format!("adding {count} devices of relay"));
    let devices = Devices { arena, peer: Peer::Relay, count };
    devices.add()?;
    let memory = Memory::of(&arena.daemon.processes());
    devices.remove()?;
    Ok(memory)
}

/// The devices of one peer.
struct Devices<'a> {
    arena: &'a Arena,
    peer: Peer,
    count: u16,
}

impl Devices<'_> {
    /// Adds all of them; milliseconds for the last one.
    fn add(&self) -> Result<f64> {
        let numbers: Vec<u16> = (0..self.count).collect();
        let Some((last, others)) = numbers.split_last() else { return Ok(0.0) };
        if self.peer != Peer::IncusNat {
            for number in others {
                self.add_to_portway(*number)?;
            }
            let begin = Instant::now();
            self.add_to_portway(*last)?;
            let took = begin.elapsed();
            self.wait_for_portway()?;
            return Ok(took.as_secs_f64() * 1000.0);
        }
        for batch in others.chunks(BATCH) {
            self.add_to_incus(batch)?;
        }
        let begin = Instant::now();
        self.add_to_incus(&[*last])?;
        Ok(begin.elapsed().as_secs_f64() * 1000.0)
    }

    fn name(number: u16) -> String {
        format!("scale-{number}")
    }

    /// What the control API calls the container.
    fn instance(&self) -> String {
        format!("incus:default/{}", self.arena.container.name())
    }

    fn keys(&self, number: u16) -> Value {
        json!({
            "listen": format!("tcp:{}:{}", self.arena.host, PORTS + number),
            "connect": connect(self.peer, Path::Tcp, self.arena),
            "nat": if self.peer.is_relay() { "false" } else { "true" },
        })
    }

    fn add_to_portway(&self, number: u16) -> Result<()> {
        let body = json!({
            "instance": self.instance(), "name": Self::name(number), "keys": self.keys(number),
        });
        let answer = self.arena.daemon.api().call("POST", "/1.0/devices", Some(&body), SETTLED)?;
        ensure!((200..300).contains(&answer.status), "{}: {}", answer.status, answer.body);
        Ok(())
    }

    /// Until every one is served.
    fn wait_for_portway(&self) -> Result<()> {
        let begin = Instant::now();
        loop {
            let devices = self.arena.daemon.devices()?;
            let ours = devices.iter().filter(|d| d["name"].as_str().is_some_and(|n| n.starts_with("scale-")));
            let mode = if self.peer == Peer::Nat { "nat" } else { "relay" };
            let mut waiting = ours.filter(|device| device["state"] != "active" || device["mode"] != mode);
            let Some(device) = waiting.next() else { return Ok(()) };
            ensure!(begin.elapsed() < SETTLED, "a device is not served: {device}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn add_to_incus(&self, numbers: &[u16]) -> Result<()> {
        let device = |number: &u16| {
            let mut keys = self.keys(*number);
            keys["type"] = json!("proxy");
            (Self::name(*number), keys)
        };
        let devices: Map<String, Value> = numbers.iter().map(device).collect();
        self.arena.container.request("PATCH", "", &json!({"devices": devices}))
    }

    /// Ours one by one. Those of Incus go with the container; its chains are taken out before, all at once,
    /// because Incus asks nft for each of them and needs minutes.
    fn remove(&self) -> Result<()> {
        if self.peer != Peer::IncusNat {
            let instance = self.instance().replace(':', "%3A").replace('/', "%2F");
            for number in 0..self.count {
                let target = format!("/1.0/devices/{instance}/{}", Self::name(number));
                let answer = self.arena.daemon.api().call("DELETE", &target, None, SETTLED)?;
                // One that could not be added is not there.
                let gone = (200..300).contains(&answer.status) || answer.status == 404;
                ensure!(gone, "{}: {}", answer.status, answer.body);
            }
            return Ok(());
        }
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

    /// Fails when: the rate past the devices is divided by a rate through one.
    #[test]
    fn ratios_are_to_one_device_and_to_none() {
        let mut scale = Scale { devices: 1000, ..Scale::default() };
        scale.one.insert(Peer::Direct, vec![100.0]);
        scale.one.insert(Peer::IncusNat, vec![80.0]);
        let many = Many { through: vec![20.0], unrelated: vec![25.0], add_ms: 60.0 };
        scale.many.insert(Peer::IncusNat, many);
        assert_eq!(scale.through(Peer::IncusNat), Some(0.25));
        assert_eq!(scale.unrelated(Peer::IncusNat), Some(0.25));
        assert_eq!(scale.through(Peer::Nat), None);
    }
}
