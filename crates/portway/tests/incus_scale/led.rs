//! Very many devices that the kernel carries, over several containers, for `cargo xtask figures`.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use portway_testkit::{Container, DaemonSpec, Rig, process};
use serde_json::{Value, json};

use crate::PORTWAY;
use crate::figures::{REPEATS, line, quiet, weights};
use crate::fleet::name;

/// Containers that the devices lead into.
const CONTAINERS: usize = 10;

/// The address of the host that they listen at.
const ADDRESS: &str = "192.0.2.1";

/// Port of the first device; device N listens N above it. Below what the kernel gives to clients.
const FIRST_PORT: usize = 10_000;

/// A daemon on a host of its own, and the containers.
struct Led {
    rig: Rig,
    more: Vec<Container<'static>>,
}

impl Led {
    fn start() -> Result<Option<Self>> {
        process::raise_nofile()?;
        let Some(rig) = Rig::apart(DaemonSpec::new(PORTWAY), "led")? else { return Ok(None) };
        rig.host().network().ip(&format!("addr add {ADDRESS}/32 dev lo"))?;
        let more = (1..CONTAINERS).map(|_| rig.bed().container("led")).collect::<Result<_>>()?;
        Ok(Some(Self { rig, more }))
    }

    /// The container that a device leads into.
    fn container(&self, number: usize) -> &str {
        let of = number % CONTAINERS;
        of.checked_sub(1).and_then(|of| self.more.get(of)).unwrap_or(&self.rig.container).name()
    }

    /// A device as a file has it.
    fn entry(&self, number: usize) -> Value {
        let listen = format!("tcp:{ADDRESS}:{}", FIRST_PORT + number);
        let connect = format!("tcp:0.0.0.0:{}", 1000 + number);
        json!({"instance": self.container(number), "name": name(number), "listen": listen, "connect": connect, "nat": "true"})
    }

    fn time(&self, words: &[&str]) -> Result<Duration> {
        let mut command = self.rig.daemon.command();
        command.args(words);
        self.rig.host().run(|| {
            let begin = Instant::now();
            quiet(&mut command)?;
            anyhow::Ok(begin.elapsed())
        })?
    }

    fn apply(&self, path: &Path) -> Result<Duration> {
        self.time(&["apply", "-f", &path.display().to_string()])
    }

    fn add(&self, number: usize) -> Result<Duration> {
        let entry = self.entry(number);
        let keys = ["listen", "connect", "nat"]
            .map(|key| format!("{key}={}", entry[key].as_str().unwrap_or_default()));
        let [listen, connect, nat] = keys.each_ref().map(String::as_str);
        self.time(&["device", "add", self.container(number), &name(number), listen, connect, nat])
    }

    /// Lines about so many devices.
    fn measure(&self, count: usize, goal_ms: u32) -> Result<()> {
        let path = self.rig.path(&format!("{count}.json"));
        let entries: Vec<Value> = (0..count).map(|number| self.entry(number)).collect();
        std::fs::write(&path, json!({"devices": entries}).to_string())?;
        println!("{count} devices of the kernel's NAT over {CONTAINERS} containers");
        line("apply", 10_000, vec![self.apply(&path)?]);
        line("apply of the same once more", 10_000, vec![self.apply(&path)?]);
        let devices = self.rig.daemon.devices()?;
        let led = devices.iter().filter(|device| device["mode"] == "nat" && device["state"] == "active");
        ensure!(led.count() == count, "not all are carried by the kernel");
        let repeat = |measure: &dyn Fn(usize) -> Result<Duration>| -> Result<Vec<Duration>> {
            (0..REPEATS).map(|turn| measure(count + turn)).collect()
        };
        line("one more", goal_ms, repeat(&|number| self.add(number))?);
        let other = |number| {
            let port = format!("connect=tcp:0.0.0.0:{}", 60_000 + number % 1000);
            self.time(&["device", "set", self.container(number), &name(number), &port])
        };
        line("another target", goal_ms, repeat(&other)?);
        let removed = |number| self.time(&["device", "remove", self.container(number), &name(number)]);
        line("remove one", goal_ms, repeat(&removed)?);
        for format in ["table", "json"] {
            let list = |_| self.time(&["device", "list", "--format", format]);
            line(&format!("device list --format {format}"), 500, repeat(&list)?);
        }
        weights(&self.rig.daemon).map(drop)
    }
}

/// A thousand devices over ten containers.
#[test]
#[ignore = "measures: `cargo xtask figures`"]
fn a_thousand_devices_of_the_kernels_nat() -> Result<()> {
    Led::start()?.map_or(Ok(()), |led| led.measure(1000, 10))
}

/// Five thousand devices over ten containers.
#[test]
#[ignore = "measures: `cargo xtask figures`"]
fn five_thousand_devices_of_the_kernels_nat() -> Result<()> {
    Led::start()?.map_or(Ok(()), |led| led.measure(5000, 20))
}
