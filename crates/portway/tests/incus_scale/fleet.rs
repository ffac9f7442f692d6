//! Very many devices in front of one service.

use std::io::{Read as _, Write as _};
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use portway_testkit::{Addr, Behaviour, DaemonSpec, Rig, Service, Stream, check, process};
use serde_json::{Value, json};

use crate::PORTWAY;

/// Devices of the fleet.
pub(crate) const DEVICES: usize = 1000;

/// What daemon, keeper and workers may have resident together.
pub(crate) const LIMIT_BYTES: u64 = 60_000_000;

/// Requests under way at once while devices are added.
const IN_FLIGHT: usize = 32;

/// Port of the first device; device N listens N above it.
const FIRST_PORT: usize = 10_000;

/// A container with an echo service, a daemon with a host's side of its own, and devices in front.
pub(crate) struct Fleet {
    pub(crate) rig: Rig,
    pub(crate) service: Service,
    pub(crate) instance: Value,
}

/// Name of a device.
pub(crate) fn name(number: usize) -> String {
    format!("d{number}")
}

/// Where a device listens.
pub(crate) fn address(number: usize) -> String {
    format!("127.0.0.1:{}", FIRST_PORT + number)
}

impl Fleet {
    /// A container and no device yet.
    pub(crate) fn start() -> Result<Option<Self>> {
        process::raise_nofile()?;
        let Some(rig) = Rig::apart(DaemonSpec::new(PORTWAY), "scale")? else { return Ok(None) };
        let service = Service::start(&rig.inside()?, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
        let instance = Value::from(format!("incus:default/{}", rig.container.name()));
        Ok(Some(Self { rig, service, instance }))
    }

    /// `connect=` of every device.
    pub(crate) fn connect(&self) -> String {
        format!("tcp:127.0.0.1:{}", self.service.port())
    }

    /// The body of a request that adds a device.
    fn wish(&self, number: usize) -> Value {
        let keys = json!({"listen": format!("tcp:{}", address(number)), "connect": self.connect()});
        json!({"instance": self.instance, "name": name(number), "keys": keys})
    }

    /// The first `count` devices as a file has them.
    pub(crate) fn entries(&self, count: usize) -> Vec<Value> {
        let entry = |number| {
            let listen = format!("tcp:{}", address(number));
            json!({"instance": self.instance, "name": name(number), "listen": listen, "connect": self.connect()})
        };
        (0..count).map(entry).collect()
    }

    /// Adds the first `count` devices, many requests at a time.
    pub(crate) fn add(&self, count: usize) -> Result<Duration> {
        self.add_from(0, count)
    }

    /// Adds `count` devices from the one with the number `first` on.
    pub(crate) fn add_from(&self, first: usize, count: usize) -> Result<Duration> {
        let begin = Instant::now();
        add_all(&self.rig, (first..first + count).map(|number| self.wish(number)).collect())?;
        Ok(begin.elapsed())
    }

    /// A connection through a device that has carried a byte both ways.
    pub(crate) fn connection(&self, number: usize) -> Result<Stream> {
        let client = check::dial(self.rig.host(), &Addr::tcp(&address(number)))?;
        speak(&client).with_context(|| format!("device {number}"))?;
        Ok(client)
    }

    /// A connection through each of the first `count` devices.
    pub(crate) fn connections(&self, count: usize) -> Result<Vec<Stream>> {
        // One thread goes to the host's side once, not a thousand times.
        self.rig.host().run(|| {
            (0..count)
                .map(|number| {
                    let client = Addr::tcp(&address(number)).connect(Duration::from_secs(20))?;
                    client.set_timeout(Duration::from_secs(20))?;
                    speak(&client).with_context(|| format!("device {number}"))?;
                    Ok(client)
                })
                .collect()
        })?
    }

    /// What daemon, keeper and workers have resident.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.rig.daemon.processes().into_iter().map(process::rss_bytes).sum()
    }
}

/// Sends these requests to add devices, many at a time.
pub(crate) fn add_all(rig: &Rig, wishes: Vec<Value>) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let api = rig.daemon.api();
        while let Some(wish) = wishes.get(next.fetch_add(1, Ordering::Relaxed)) {
            let answer = api.call("POST", "/1.0/devices", Some(wish), Duration::from_secs(60))?;
            ensure!(answer.status == 200, "{wish}: {}", answer.body);
            ensure!(answer.body["state"] == "active", "{}", answer.body);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..IN_FLIGHT).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}

/// A byte there and back over a connection that is open.
pub(crate) fn speak(mut client: &Stream) -> Result<()> {
    client.write_all(b"?").context("cannot send")?;
    client.read_exact(&mut [0]).context("no answer")
}
