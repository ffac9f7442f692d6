//! What goes in comes out, and goes where it should.

use anyhow::{Context as _, Result, ensure};
use portway_testkit::Pattern;
use portway_testkit::udp::{UdpClient, UdpEcho};

use crate::{LIMIT, add, at, echo, expect, rig};

/// Nothing, a byte, an Ethernet frame's worth, more than half of the most, the most over IPv4.
const SIZES_V4: [usize; 5] = [0, 1, 1472, 32_769, 65_507];

/// The most over IPv6 besides: it has no header length to take off (RFC 8200).
const SIZES_V6: [usize; 6] = [0, 1, 1472, 32_769, 65_507, 65_527];

fn sizes(bind: &str, address: &str, sizes: &[usize]) -> Result<()> {
    let Some(rig) = rig("sizes")? else { return Ok(()) };
    let (host, inside) = (rig.host().clone(), rig.inside()?);
    let (near, far) = if bind == "host" { (host, inside) } else { (inside, host) };
    let echo = UdpEcho::start(&far, at(&format!("{address}:0")), "")?;
    add(&rig, "sizes", &format!("{address}:7000"), echo.addr(), &[&format!("bind={bind}")])?;
    let client = UdpClient::connect(&near, at(&format!("{address}:7000")))?;
    for (size, seed) in sizes.iter().zip(1..) {
        let payload = Pattern::new(seed).bytes(*size);
        // Twice: with the flow's first datagram, and with a flow that is there.
        for _ in 0..2 {
            expect(&client, &payload, &payload).with_context(|| format!("{size} bytes"))?;
        }
    }
    let total = 2 * sizes.iter().sum::<usize>();
    let device = rig.daemon.device("sizes")?;
    ensure!(device["bytes_in"] == total && device["bytes_out"] == total, "{device}");
    ensure!(device["connections_now"] == 1 && device["dropped"] == 0, "{device}");
    Ok(())
}

/// Datagrams from none to 65,507 bytes cross whole, in both directions.
///
/// Fails when a buffer is smaller than the largest datagram, or when an empty one counts as nothing.
#[test]
fn every_size_crosses_whole_over_ipv4() -> Result<()> {
    sizes("host", "127.0.0.1", &SIZES_V4)?;
    sizes("instance", "127.0.0.1", &SIZES_V4)
}

/// Datagrams up to 65,527 bytes cross whole over IPv6.
///
/// Fails as the one above, also when the buffer is made for IPv4.
#[test]
fn every_size_crosses_whole_over_ipv6() -> Result<()> {
    sizes("host", "[::1]", &SIZES_V6)?;
    sizes("instance", "[::1]", &SIZES_V6)
}

/// One client socket that talks to four ports of a range reaches four targets, and hears each from
/// the port it sent to.
///
/// Fails when flows are told apart by the client's address alone.
#[test]
fn one_client_on_four_ports_reaches_four_targets() -> Result<()> {
    let Some(rig) = rig("four")? else { return Ok(()) };
    let inside = rig.inside()?;
    let echoes: Vec<UdpEcho> = (0..4)
        .map(|number| {
            UdpEcho::start(&inside, at(&format!("127.0.0.1:{}", 6000 + number)), &format!("{number} "))
        })
        .collect::<Result<_>>()?;
    rig.add("range", &["listen=udp:127.0.0.1:7000-7003", "connect=udp:127.0.0.1:6000-6003"])?;
    let client = UdpClient::bind(rig.host(), at("127.0.0.1:0"))?;
    for round in 0..3 {
        for number in 0..4 {
            let target = at(&format!("127.0.0.1:{}", 7000 + number));
            let answer = client.exchange_with(target, b"which?", LIMIT)?.context("no answer")?;
            let wanted = (format!("{number} which?").into_bytes(), target);
            ensure!(answer == wanted, "round {round}: {answer:?} is not {wanted:?}");
        }
    }
    for echo in &echoes {
        ensure!((echo.received(), echo.sources()) == (3, 1), "{echo:?}");
    }
    ensure!(rig.daemon.device("range")?["connections_now"] == 4);
    Ok(())
}

/// While the target is down the client's datagrams are lost; the first one after it is back is
/// answered, to the same port of the client.
///
/// Fails when an error the network reports ends the flow for good, or costs the next datagram.
#[test]
fn a_client_is_heard_again_at_once_after_its_target_was_away() -> Result<()> {
    let Some(rig) = rig("again")? else { return Ok(()) };
    let inside = rig.inside()?;
    let first = echo(&inside, "first ")?;
    let target = first.addr();
    add(&rig, "again", "127.0.0.1:7000", target, &[])?;
    let client = UdpClient::connect(rig.host(), at("127.0.0.1:7000"))?;
    expect(&client, b"one", b"first one")?;
    drop(first);
    for number in 0..20 {
        let answer = client.exchange(b"lost", std::time::Duration::from_millis(10))?;
        ensure!(answer.is_none(), "datagram {number}: an answer from nobody: {answer:?}");
        if number % 5 == 4 {
            // Each time the port refused up to five times before, heard or not yet.
            let second = UdpEcho::start(&inside, target, "again ")?;
            expect(&client, b"two", b"again two").with_context(|| format!("after {} lost", number + 1))?;
            ensure!(second.received() == 1, "what was sent before the service came has come after it");
        }
    }
    let device = rig.daemon.device("again")?;
    ensure!(device["connections_total"] == 1, "the flow was begun anew: {device}");
    ensure!(device["dials_failed"].as_u64() > Some(0), "the refusals are not counted: {device}");
    Ok(())
}
