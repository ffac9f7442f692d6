//! UDP devices of a real container: every size, replies from where they are expected, targets that
//! restart, and clients by the hundred thousand.

#![expect(clippy::print_stdout, reason = "a measurement shows its figures")]

mod addresses;
mod flood;
mod sizes;
mod times;

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{DaemonSpec, Rig, Site};

/// How long an answer may take; it takes well under a millisecond.
const LIMIT: Duration = Duration::from_secs(10);

/// A container and a daemon whose host side is a namespace of this test.
fn rig(name: &str) -> Result<Option<Rig>> {
    Rig::apart(DaemonSpec::new(env!("CARGO_BIN_EXE_portway")), name)
}

/// An address of this test's own choice.
fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address with a port")
}

/// An echo server that says its name first, on a loopback port inside the container.
fn echo(inside: &Site, name: &str) -> Result<UdpEcho> {
    UdpEcho::start(inside, at("127.0.0.1:0"), name)
}

/// Adds a device with one listener.
fn add(rig: &Rig, name: &str, listen: &str, target: SocketAddr, more: &[&str]) -> Result<()> {
    let keys = [format!("listen=udp:{listen}"), format!("connect=udp:{target}")];
    let keys: Vec<&str> = keys.iter().map(String::as_str).chain(more.iter().copied()).collect();
    rig.add(name, &keys)
}

/// One datagram there and back.
fn expect(client: &UdpClient, payload: &[u8], answer: &[u8]) -> Result<()> {
    let got = client.exchange(payload, LIMIT)?.context("no answer")?;
    ensure!(got == answer, "{} bytes came back, not the {} expected", got.len(), answer.len());
    Ok(())
}

/// The only worker of a daemon.
fn worker(rig: &Rig) -> Result<i32> {
    let workers = rig.daemon.workers();
    ensure!(workers.len() == 1, "workers: {workers:?}");
    Ok(workers[0])
}
