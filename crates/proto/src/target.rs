//! Whom a client of a proxy wants to reach: an address or a name, and a port, as it said them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use portway_model::HostName;

/// The host of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetHost {
    /// An address, never IPv4-mapped.
    Ip(IpAddr),
    /// A name that may be looked up.
    Name(HostName),
}

/// Whom a client wants to reach. The port may be 0 where a protocol has a meaning for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// Address or name.
    pub host: TargetHost,
    /// Port.
    pub port: u16,
}

impl TargetHost {
    /// Reads a name, or an address without brackets. `None`: it is neither.
    #[must_use]
    pub fn read(text: &str) -> Option<TargetHost> {
        match text.parse::<IpAddr>() {
            Ok(ip) => Some(TargetHost::Ip(ip.to_canonical())),
            Err(_) => text.parse().ok().map(TargetHost::Name),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target { host: TargetHost::Ip(address.ip().to_canonical()), port: address.port() }
    }
}

/// `HOST:PORT`, IPv6 addresses in brackets.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            TargetHost::Ip(ip) => SocketAddr::new(*ip, self.port).fmt(f),
            TargetHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}
