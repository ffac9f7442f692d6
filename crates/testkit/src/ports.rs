//! Port numbers that no other test takes.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result, bail};

use crate::Netns;

/// First port handed out: above the well-known ones.
const FIRST: u16 = 10_000;

/// Ports of one claim. 700 claims of them end below 32,768, where the kernel begins to hand out ports
/// by itself (`ip_local_port_range`).
const SIZE: u16 = 32;
const CLAIMS: u16 = 700;

/// A run of ports of one namespace that is this value's alone among tests, in whatever process. An
/// abstract socket of the namespace stands for the claim, so a killed test holds nothing.
#[derive(Debug)]
pub struct Ports {
    first: u16,
    used: AtomicU16,
    _claim: UnixListener,
}

impl Ports {
    /// Claims ports of a namespace.
    ///
    /// # Errors
    /// When all are claimed, or the namespace is gone.
    pub fn claim(netns: &Netns) -> Result<Self> {
        // Tests that start together begin in different places.
        let begin = std::process::id() % u32::from(CLAIMS);
        let begin = u16::try_from(begin).unwrap_or_default();
        let claimed = netns.enter(|| {
            (0..CLAIMS).map(|step| (begin + step) % CLAIMS).find_map(|number| {
                let name = SocketAddr::from_abstract_name(format!("testkit-ports-{number}")).ok()?;
                Some((number, UnixListener::bind_addr(&name).ok()?))
            })
        })?;
        let (number, claim) = claimed.context("no ports are left")?;
        Ok(Self { first: FIRST + number * SIZE, used: AtomicU16::new(0), _claim: claim })
    }

    /// Whether a port belongs to this claim.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..self.first + SIZE).contains(&port)
    }

    /// One port.
    ///
    /// # Errors
    /// When the claim is used up.
    pub fn one(&self) -> Result<u16> {
        self.run(1)
    }

    /// The first of `count` ports in a row.
    ///
    /// # Errors
    /// When the claim has not so many left.
    pub fn run(&self, count: u16) -> Result<u16> {
        let offset = self.used.fetch_add(count, Ordering::Relaxed);
        if offset.saturating_add(count) > SIZE {
            bail!("more than {SIZE} ports asked of one claim");
        }
        Ok(self.first + offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_do_not_overlap() {
        let host = Netns::host().unwrap();
        let (one, other) = (Ports::claim(&host).unwrap(), Ports::claim(&host).unwrap());
        let first = one.run(30).unwrap();
        assert_eq!(one.one().unwrap(), first + 30);
        assert!(one.run(2).is_err());
        assert!(other.first.abs_diff(one.first) >= SIZE);
        drop(one);
        const { assert!(FIRST + CLAIMS * SIZE < 32_768) };
    }
}
