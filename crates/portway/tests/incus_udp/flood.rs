//! More clients than there can be flows.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::udp::{FlowReport, UdpClient, UdpFlows, spray};
use portway_testkit::{Addr, Behaviour, DaemonSpec, Netns, Rig, Service, Site, check, process, wait_for};

use crate::{add, at, echo, expect, rig, worker};

/// `udp.max_flows` of the flooded device.
const MAX_FLOWS: u64 = 2000;

/// Flows that send 50 times a second.
const QUICK: u64 = 40;

/// Flows that send every two seconds. The flood replaces all of its own flows many times between.
const SLOW: u64 = 5;

/// Flows through the other device.
const OTHER: u64 = 20;

/// Datagrams of the flood each second, at most.
const RATE: u32 = 7000;

/// Descriptors the worker may have beyond flows and what it had before: a batch that is under way.
const FEW: u64 = 16;

/// 100,000 source ports, four addresses with 25,000 each, one datagram from each, to a port of the
/// device that nobody answers at.
const SOURCES: [&str; 4] = ["10.77.0.11", "10.77.0.12", "10.77.0.13", "10.77.0.14"];
const PORTS: std::ops::Range<u16> = 20_000..45_000;

/// A namespace of clients, joined to the host's side of a rig.
fn outside(rig: &Rig) -> Result<Site> {
    let outside = Netns::new()?;
    let own = ["10.77.0.9/24"].into_iter().map(str::to_owned);
    let own: Vec<String> = own.chain(SOURCES.map(|source| format!("{source}/24"))).collect();
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    rig.host().network().veth("lan0", &["10.77.0.1/24"], &outside, "eth0", &own)?;
    Ok(Site::netns(&outside))
}

fn lost(what: &str, reports: &[FlowReport]) -> Result<()> {
    let sent: u64 = reports.iter().map(|report| report.sent).sum();
    let answered: u64 = reports.iter().map(|report| report.answered).sum();
    let foreign: u64 = reports.iter().map(|report| report.foreign).sum();
    println!("{what}: {} of {sent} datagrams lost", sent - answered);
    ensure!(foreign == 0, "{what}: {foreign} answers of other flows");
    ensure!((sent - answered) * 1000 < sent, "{what}: {} of {sent} datagrams lost", sent - answered);
    Ok(())
}

/// 100,000 clients come by a device that may have 2,000 flows. Its worker stays within them; two-way
/// flows, also ones that are quiet for seconds, lose under 0.1 % and none is given up for a client
/// that only ever sends; another device of the same worker does not notice.
///
/// Fails when flows have no bound, when the least recently used one is given up though it has been
/// answered (the slow ones go then), or when a flow's socket is not closed.
#[test]
fn a_flood_of_clients_takes_nothing_from_live_flows() -> Result<()> {
    let Some(rig) = rig("flood")? else { return Ok(()) };
    let (outside, inside) = (outside(&rig)?, rig.inside()?);
    let (live, other) = (echo(&inside, "")?, echo(&inside, "")?);
    let silent = UdpClient::bind(&inside, at("127.0.0.1:0"))?;
    let silent_port = silent.socket().local_addr()?.port();
    rig.add(
        "flooded",
        &[
            "listen=udp:10.77.0.1:7000,7001",
            &format!("connect=udp:127.0.0.1:{},{silent_port}", live.addr().port()),
            &format!("udp.max_flows={MAX_FLOWS}"),
        ],
    )?;
    add(&rig, "other", "10.77.0.1:7002", other.addr(), &[])?;
    let worker = worker(&rig)?;
    let before = u64::try_from(process::fd_count(worker)?)?;

    let interval = Duration::from_millis(20);
    let quick = UdpFlows::start(&outside, at("10.77.0.1:7000"), QUICK, interval)?;
    let slow = UdpFlows::start(&outside, at("10.77.0.1:7000"), SLOW, Duration::from_secs(2))?;
    let beside = UdpFlows::start(&outside, at("10.77.0.1:7002"), OTHER, interval)?;
    wait_for("live flows", || {
        let live = (live.sources(), other.sources());
        (live == (usize::try_from(QUICK + SLOW).ok()?, usize::try_from(OTHER).ok()?)).then_some(())
    })?;

    let sources: Vec<IpAddr> = SOURCES.iter().map(|source| source.parse()).collect::<Result<_, _>>()?;
    let (sent, most) = std::thread::scope(|scope| {
        let flood = scope.spawn(|| spray(&outside, at("10.77.0.1:7001"), &sources, PORTS, RATE));
        let mut most = 0;
        while !flood.is_finished() {
            most = most.max(process::fd_count(worker)?);
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = flood.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        anyhow::Ok((sent, u64::try_from(most)?))
    })?;
    let (live_reports, other_reports) = ([quick.stop(), slow.stop()].concat(), beside.stop());
    println!("{sent} source ports, {most} descriptors at most, {before} before");
    ensure!(sent == 100_000, "{sent} source ports");
    ensure!(most <= before + MAX_FLOWS + OTHER + FEW, "{most} descriptors, {before} before");
    ensure!(most >= before + MAX_FLOWS, "{most} descriptors, {before} before: the flows were not used up");
    lost("live flows", &live_reports)?;
    lost("flows of the other device", &other_reports)?;
    let sources = (live.sources(), other.sources());
    let wanted = (usize::try_from(QUICK + SLOW)?, usize::try_from(OTHER)?);
    ensure!(sources == wanted, "{sources:?} flows reached the targets, not {wanted:?}: some were given up");

    let device = rig.daemon.device("flooded")?;
    let (total, evicted) = (device["connections_total"].as_u64(), device["evicted"].as_u64());
    let total = total.context("connections_total")?;
    // What the listener's queue had no room for is lost before anybody counts it.
    ensure!(total >= 99_000 + QUICK + SLOW, "{device}");
    ensure!(evicted == Some(total - MAX_FLOWS) && device["connections_now"] == MAX_FLOWS, "{device}");
    let device = rig.daemon.device("other")?;
    ensure!(device["evicted"] == 0 && device["connections_total"] == OTHER, "{device}");
    Ok(())
}

/// All devices of a worker share its descriptors. A daemon with a low limit: 4,000 clients of two UDP
/// devices that may have 16,384 flows each stay below it, newest clients are served, and tcp clients
/// of the same worker still come in.
///
/// Fails when flows are bounded by `udp.max_flows` alone, or may take every descriptor.
#[test]
fn flows_stay_within_the_descriptors_of_the_worker() -> Result<()> {
    const NOFILE: usize = 1024;
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("portway");
    let text = format!("#!/bin/sh\nulimit -n {NOFILE}\nexec {} \"$@\"\n", env!("CARGO_BIN_EXE_portway"));
    std::fs::write(&program, text)?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let Some(rig) = Rig::apart(DaemonSpec::new(&program), "nofile")? else { return Ok(()) };
    let inside = rig.inside()?;
    let (one, two) = (echo(&inside, "")?, echo(&inside, "")?);
    let stream = Service::start(&inside, &Addr::tcp("127.0.0.1:0"), Behaviour::Echo)?;
    add(&rig, "one", "127.0.0.1:7000", one.addr(), &[])?;
    add(&rig, "two", "127.0.0.1:7001", two.addr(), &[])?;
    rig.add("tcp", &["listen=tcp:127.0.0.1:7000", &format!("connect=tcp:127.0.0.1:{}", stream.port())])?;
    let worker = worker(&rig)?;
    let limits = std::fs::read_to_string(format!("/proc/{worker}/limits"))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).context("no such limit")?;
    ensure!(files.split_whitespace().nth(3) == Some("1024"), "{files}");

    let sources = ["127.0.0.2".parse()?];
    let mut most = 0;
    for (target, ports) in [("127.0.0.1:7000", 20_000..22_000), ("127.0.0.1:7001", 30_000..32_000)] {
        for first in ports.step_by(100) {
            spray(rig.host(), at(target), &sources, first..first + 100, 10_000)?;
            most = most.max(process::fd_count(worker)?);
        }
    }
    println!("{most} descriptors at most of {NOFILE}");
    ensure!(most < NOFILE * 9 / 10, "{most} descriptors");
    for (target, payload) in [("127.0.0.1:7000", b"one"), ("127.0.0.1:7001", b"two")] {
        expect(&UdpClient::connect(rig.host(), at(target))?, payload, payload).context(target)?;
    }
    let talks: Vec<_> =
        (0..50).map(|_| check::dial(rig.host(), &Addr::tcp("127.0.0.1:7000"))).collect::<Result<_>>()?;
    for (talk, seed) in talks.iter().zip(1..) {
        check::echo(talk, 10_000, seed).context("a tcp client beside the flood")?;
    }
    ensure!(process::is_alive(worker) && crate::worker(&rig)? == worker, "not the worker it was");
    let evicted = |name: &str| anyhow::Ok(rig.daemon.device(name)?["evicted"].as_u64().unwrap_or_default());
    ensure!(evicted("one")? + evicted("two")? > 3000, "{} and {}", evicted("one")?, evicted("two")?);
    Ok(())
}
