//! Checks of pairings that end in datagrams.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{Addr, Pattern};

use crate::place::Pair;
use crate::streams::dial;

/// A datagram that is not answered in this time is lost; nothing here loses any.
const LIMIT: Duration = Duration::from_secs(10);

/// Largest payload over IPv4: 65,535 less the headers of IP and UDP.
const LARGEST: usize = 65_507;

pub(crate) fn socket_addr(addr: &Addr) -> Result<SocketAddr> {
    match addr {
        Addr::Tcp(addr) => Ok(*addr),
        Addr::Unix(_) | Addr::Abstract(_) => bail!("{addr} is no address with a port"),
    }
}

/// Datagrams of every interesting size come back whole.
pub(crate) fn echo(pair: &Pair) -> Result<()> {
    let _echo = UdpEcho::start(&pair.connect.site, socket_addr(&pair.connect.addr)?, "")?;
    let client = UdpClient::connect(&pair.listen.site, socket_addr(&pair.listen.addr)?)?;
    for size in [1, 0, 1_472, 32_769, LARGEST] {
        let payload = Pattern::new(5).bytes(size);
        let answer = client.exchange(&payload, LIMIT)?;
        ensure!(answer.as_ref() == Some(&payload), "a datagram of {size} bytes came back otherwise");
    }
    Ok(())
}

/// What a stream client writes goes out as datagrams and comes back; its end ends the connection
/// once no answer is due (`udp.idle`).
pub(crate) fn echo_to_stream(pair: &Pair) -> Result<()> {
    let echo = UdpEcho::start(&pair.connect.site, socket_addr(&pair.connect.addr)?, "")?;
    let client = dial(pair)?;
    for (number, size) in (1..).zip([1, 1_472, 9_000]) {
        let payload = Pattern::new(6).bytes(size);
        (&client).write_all(&payload).context("cannot send")?;
        let mut answer = vec![0; size];
        (&client).read_exact(&mut answer).with_context(|| format!("no answer to {size} bytes"))?;
        ensure!(answer == payload, "{size} bytes came back otherwise");
        ensure!(echo.received() == number, "{} datagrams for {number} writes", echo.received());
    }
    client.shutdown(Shutdown::Write).context("cannot end my side")?;
    let rest = portway_testkit::check::read_all(&client)?;
    ensure!(rest.is_empty(), "{} bytes nobody sent", rest.len());
    Ok(())
}
