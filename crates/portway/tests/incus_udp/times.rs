//! What time does to flows: idle ones end, an instance that is down hears nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use portway_testkit::udp::{UdpClient, spray};
use portway_testkit::{process, wait_for};

use crate::{add, at, echo, expect, rig, worker};

/// Flows without traffic end after `udp.idle` and give their descriptors back; one that is used stays.
///
/// Fails when nothing expires flows, or a flow's socket outlives it.
#[test]
fn idle_flows_give_their_descriptors_back() -> Result<()> {
    let Some(rig) = rig("idle")? else { return Ok(()) };
    let echo = echo(&rig.inside()?, "")?;
    add(&rig, "idle", "127.0.0.1:7000", echo.addr(), &["udp.idle=1s"])?;
    let worker = worker(&rig)?;
    let before = process::fd_count(worker)?;
    let client = UdpClient::connect(rig.host(), at("127.0.0.1:7000"))?;
    expect(&client, b"first", b"first")?;
    let sources = ["127.0.0.2".parse()?, "127.0.0.3".parse()?];
    let sent = spray(rig.host(), at("127.0.0.1:7000"), &sources, 20_000..20_400, 4_000)?;
    ensure!(sent == 800);
    wait_for("all flows", || (echo.sources() == 801).then_some(()))?;
    let most = process::fd_count(worker)?;
    wait_for("the end of idle flows", || {
        // Ten times in an idle time: this one is never idle.
        expect(&client, b"still", b"still").ok()?;
        std::thread::sleep(Duration::from_millis(100));
        (process::fd_count(worker).ok()? == before + 1).then_some(())
    })?;
    ensure!(most >= before + 400, "{most} descriptors at most, {before} before: no flow had one");
    ensure!(echo.sources() == 801, "the flow in use was begun anew");
    drop(client);
    wait_for("the end of the last flow", || (process::fd_count(worker).ok()? == before).then_some(()))?;
    let device = rig.daemon.device("idle")?;
    ensure!(device["connections_now"] == 0 && device["connections_total"] == 801, "{device}");
    ensure!(device["evicted"] == 0, "{device}");
    Ok(())
}

/// Datagrams for an instance that is down are thrown away and counted: they are not kept for the next
/// run, and the same client socket is served again by it.
///
/// Fails when they stay in the listener's queue, or are not counted.
#[test]
fn datagrams_for_a_stopped_instance_are_discarded_and_counted() -> Result<()> {
    let Some(rig) = rig("down")? else { return Ok(()) };
    let first = echo(&rig.inside()?, "first ")?;
    let target = first.addr();
    add(&rig, "down", "127.0.0.1:7000", target, &[])?;
    let client = UdpClient::connect(rig.host(), at("127.0.0.1:7000"))?;
    expect(&client, b"one", b"first one")?;
    drop(first);
    rig.container.kill()?;
    rig.daemon.wait_for_state("down", "waiting")?;
    let before = rig.daemon.device("down")?["dropped"].as_u64().unwrap_or_default();
    for _ in 0..200 {
        client.socket().send(b"into the void")?;
    }
    wait_for("200 discarded datagrams", || {
        let dropped = rig.daemon.device("down").ok()?["dropped"].as_u64()?;
        (dropped == before + 200).then_some(())
    })?;
    rig.container.start()?;
    let second = portway_testkit::udp::UdpEcho::start(&rig.inside()?, target, "second ")?;
    rig.daemon.wait_for_state("down", "active")?;
    expect(&client, b"two", b"second two")?;
    ensure!(second.received() == 1, "{} datagrams, one was sent", second.received());
    Ok(())
}
