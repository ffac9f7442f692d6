//! Resets: carried from tcp to tcp, the end of the stream towards unix.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use portway_testkit::{Addr, Behaviour, Rig, Stream, check};

use crate::PORTWAY;
use crate::place::{BOTH, Kind, LIMIT, Pair};
use crate::streams::{dial, with_service};

/// What the other side of a reset sees.
fn expect(stream: &Stream, is_tcp: bool) -> Result<()> {
    if is_tcp {
        return check::expect_reset(stream);
    }
    let rest = check::read_all(stream).context("no clean end after a reset")?;
    ensure!(rest.is_empty(), "{} bytes nobody sent", rest.len());
    Ok(())
}

fn is_tcp(addr: &Addr) -> bool {
    matches!(addr, Addr::Tcp(_))
}

/// The service resets; the client must see it.
pub(crate) fn by_service(pair: &Pair) -> Result<()> {
    with_service(pair, Behaviour::Reset, |_| {
        let client = dial(pair)?;
        (&client).write_all(b"x").context("cannot send")?;
        expect(&client, is_tcp(&pair.listen.addr))
    })
}

/// The client resets; the service must see it.
pub(crate) fn by_client(pair: &Pair) -> Result<()> {
    let target = pair.target();
    let client = dial(pair)?;
    (&client).write_all(b"x").context("cannot send")?;
    let service = target.accept()?;
    let mut first = [0];
    (&service).read_exact(&mut first).context("the first byte")?;
    client.reset();
    expect(&service, is_tcp(&pair.connect.addr))
}

/// A reset in the middle of megabytes, when bytes wait in the relay and its sockets are full one way or
/// both. (The kernel itself resets where a closed socket has bytes unread; one way it has none.)
///
/// Fails when: a failed `recv` or `splice` closes the other side without `SO_LINGER` 0.
#[test]
fn a_reset_in_mid_transfer_is_a_reset() {
    let Some(rig) = Rig::start(PORTWAY, "reset").unwrap() else { return };
    for (number, bind) in (0..).zip(BOTH) {
        let pair = Pair::new(&rig, bind, Kind::Tcp, Kind::Tcp, number).unwrap();
        pair.add(&rig, bind.name(), &[]).unwrap();
        let target = pair.target();
        for (resets_client, both_send) in [(true, false), (false, false), (true, true), (false, true)] {
            let client = dial(&pair).unwrap();
            let service = target.accept().unwrap();
            let (resets, other) = if resets_client { (client, service) } else { (service, client) };
            fill(&resets).unwrap();
            if both_send {
                fill(&other).unwrap();
            }
            resets.reset();
            let told = check::expect_reset(&other);
            let case = format!("bind={} client: {resets_client} both: {both_send}", bind.name());
            assert!(told.is_ok(), "{case}: {told:?}");
        }
    }
}

/// Writes until nothing more goes.
fn fill(stream: &Stream) -> Result<()> {
    stream.set_timeout(Duration::from_millis(200))?;
    let chunk = vec![7; 64 << 10];
    for _ in 0..10_000 {
        if (&*stream).write(&chunk).is_err() {
            return stream.set_timeout(LIMIT).context("cannot set a limit");
        }
    }
    bail!("640 MB are buffered somewhere")
}
