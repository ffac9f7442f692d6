//! Replies come from the address that was called.

use anyhow::{Context as _, Result, ensure};
use portway_testkit::udp::UdpClient;
use portway_testkit::{Netns, Site};

use crate::{add, at, echo, expect, rig};

/// The host's addresses towards the clients; the first of a family is what the kernel would choose.
const HOST: [&str; 5] = ["10.77.0.1/24", "10.77.0.2/24", "10.78.0.1/16", "fd77::1/64", "fd77::2/64"];

/// Connected clients hear a device only from the address they sent to. It listens on the wildcard,
/// in both of its forms, and they call addresses that are not the host's first.
///
/// Fails when a reply is sent without the source of the request (`IP_PKTINFO`, `IPV6_PKTINFO`), and,
/// for `[::]`, when a v4-mapped client is not treated as IPv4.
#[test]
fn replies_come_from_the_address_that_was_called() -> Result<()> {
    let Some(rig) = rig("source")? else { return Ok(()) };
    let outside = Netns::new()?;
    rig.host().network().veth("lan0", &HOST, &outside, "eth0", &["10.77.0.9/24", "fd77::9/64"])?;
    outside.ip("route add 10.78.0.0/16 dev eth0")?;
    let outside = Site::netns(&outside);
    let (dual, four) = (echo(&rig.inside()?, "dual ")?, echo(&rig.inside()?, "four ")?);
    add(&rig, "dual", "[::]:7000", dual.addr(), &[])?;
    add(&rig, "four", "0.0.0.0:7001", four.addr(), &[])?;
    let calls = [
        ("10.77.0.2:7000", "dual"),
        ("[fd77::2]:7000", "dual"),
        ("10.78.0.1:7000", "dual"),
        ("10.77.0.1:7000", "dual"),
        ("[fd77::1]:7000", "dual"),
        ("10.77.0.2:7001", "four"),
        ("10.78.0.1:7001", "four"),
        ("10.77.0.1:7001", "four"),
    ];
    for (address, name) in calls {
        let client = UdpClient::connect(&outside, at(address))?;
        for _ in 0..2 {
            expect(&client, b"hello", format!("{name} hello").as_bytes()).context(address)?;
        }
    }
    // The same from the host itself: loopback's second address, and the first of another interface.
    for address in ["127.0.0.2:7000", "[::1]:7000", "10.77.0.2:7000", "127.0.0.3:7001"] {
        let name = if address.ends_with("7000") { "dual" } else { "four" };
        let client = UdpClient::connect(rig.host(), at(address))?;
        expect(&client, b"hello", format!("{name} hello").as_bytes()).context(address)?;
    }
    // One socket that calls two addresses is two flows: each answer comes from its own.
    let client = UdpClient::bind(&outside, at("10.77.0.9:0"))?;
    for address in ["10.77.0.2:7000", "10.77.0.1:7000", "10.77.0.2:7000"].map(at) {
        let (_, from) = client.exchange_with(address, b"from?", crate::LIMIT)?.context("no answer")?;
        ensure!(from == address, "{from} answers for {address}");
    }
    Ok(())
}
