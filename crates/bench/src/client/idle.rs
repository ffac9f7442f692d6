//! Connections that are open and still.

use anyhow::{Context as _, Result};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::Ask;
use crate::sample::Sample;
use crate::server::order;

/// Opens them, each with a byte there and back, says so, and holds them until standard input ends.
pub(super) fn run(ask: &Ask) -> Result<Sample> {
    let mut sockets = Vec::with_capacity(ask.idle);
    for number in 0..ask.idle {
        let socket = ask.target.connect().with_context(|| format!("cannot open connection {number}"))?;
        send(&socket, &[order::ECHO], SendFlags::NOSIGNAL).context("cannot send")?;
        recv(&socket, &mut [0_u8], RecvFlags::empty())
            .with_context(|| format!("no answer on connection {number}"))?;
        sockets.push(socket);
    }
    rustix::io::write(std::io::stdout(), b"ready\n").context("cannot say that all are open")?;
    rustix::io::read(std::io::stdin(), &mut [0_u8]).context("cannot wait for the end")?;
    Ok(Sample { operations: sockets.len() as u64, ..Sample::default() })
}
