//! The options of a proxy device, checked: [`DeviceSpec`] from and to its keys.
//!
//! Order of the checks, so that the same keys give the same error: keys that cannot be there, missing
//! keys, values in the order of [`DeviceSpec::KEYS`], then rules between keys.

mod error;
mod keys;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use error::SpecError;
pub use keys::KeyDoc;

use crate::address::{Address, ConnectAddr, ListenAddr, Protocol};
use crate::cidr::{AcceptProxy, CidrList};
use crate::host::Zone;
use crate::limits::Limits;
use crate::nat::Nat;
use crate::options::{Bind, FdPassing, Follow, ProxyProtocol, RunAs, SocketOwner, UdpFraming};
use crate::port::PortList;
use crate::unix::{UnixKind, UnixName};

/// A proxy device. Built from its keys; [`DeviceSpec::check`] holds for every value from there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Where clients come in.
    pub listen: ListenAddr,
    /// Where the target is.
    pub connect: ConnectAddr,
    /// Which side listens.
    pub bind: Bind,
    /// Owner and mode of the socket file (`uid`, `gid`, `mode`), for a path unix listener.
    pub socket: SocketOwner,
    /// Who the relay runs as (`security.uid`, `security.gid`, `security.groups`).
    pub run_as: RunAs,
    /// Header sent to the target.
    pub proxy_protocol: ProxyProtocol,
    /// Clients from whom a header is expected.
    pub accept_proxy: Option<AcceptProxy>,
    /// Clients that are served; empty: every one.
    pub allow: CidrList,
    /// Clients that are not served, whatever `allow` says.
    pub deny: CidrList,
    /// Caps.
    pub limits: Limits,
    /// Whether the kernel carries it.
    pub nat: Nat,
    /// Longest wait for the target to accept, 10 ms to 24 h.
    pub connect_timeout: Duration,
    /// How long clients are kept while the instance is down, 0 to 24 h.
    pub hold: Duration,
    /// Idle life of a UDP flow, 100 ms to 24 h. RFC 4787, REQ-5: not less than two minutes by default.
    pub udp_idle: Duration,
    /// Most UDP flows at once, 1 to 1,000,000.
    pub udp_max_flows: u32,
    /// How datagrams stand in the stream, between udp and a stream; `None` where there is none, and for
    /// [`UdpFraming::Raw`] from a stream to udp.
    pub udp_framing: Option<UdpFraming>,
    /// Whether descriptors are passed, for unix to unix.
    pub fds: FdPassing,
    /// What to follow; `None` is the provider's default.
    pub follow: Option<Follow>,
    /// `[::]` takes IPv6 clients only.
    pub v6only: bool,
    /// Idle time before the first keepalive probe, whole seconds, 1 s to 9 h.
    pub tcp_keepalive: Duration,
    /// How long sent bytes may stay unacknowledged, 1 s to 24 h.
    pub tcp_timeout: Duration,
}

/// UDP flows that a device may have at once, unless its key says something else.
pub(crate) const UDP_MAX_FLOWS: u32 = 16_384;

/// What to dial for one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// TCP.
    Tcp {
        /// Address, never a wildcard; the scope id is not filled in.
        addr: SocketAddr,
        /// Interface that gives the scope id, for link-local addresses.
        zone: Option<&'a Zone>,
    },
    /// UDP.
    Udp {
        /// Address, never a wildcard; the scope id is not filled in.
        addr: SocketAddr,
        /// Interface that gives the scope id, for link-local addresses.
        zone: Option<&'a Zone>,
    },
    /// Unix socket.
    Unix(UnixKind, &'a UnixName),
}

impl DeviceSpec {
    /// A device with every other option at its default.
    ///
    /// # Errors
    /// A rule between the two addresses, see [`DeviceSpec::check`].
    pub fn new(listen: ListenAddr, connect: ConnectAddr) -> Result<Self, SpecError> {
        let spec = Self::with_defaults(listen, connect);
        spec.check()?;
        Ok(spec)
    }

    fn with_defaults(listen: ListenAddr, connect: ConnectAddr) -> Self {
        Self {
            listen,
            connect,
            bind: Bind::Host,
            socket: SocketOwner::default(),
            run_as: RunAs::default(),
            proxy_protocol: ProxyProtocol::Off,
            accept_proxy: None,
            allow: CidrList::default(),
            deny: CidrList::default(),
            limits: Limits::default(),
            nat: Nat::Off,
            connect_timeout: Duration::from_secs(10),
            hold: Duration::from_secs(30),
            udp_idle: Duration::from_secs(120),
            udp_max_flows: UDP_MAX_FLOWS,
            udp_framing: None,
            fds: FdPassing::On,
            follow: None,
            v6only: false,
            tcp_keepalive: Duration::from_secs(30),
            tcp_timeout: Duration::from_secs(120),
        }
    }

    /// Reads a device from its keys.
    ///
    /// # Errors
    /// The key that is unknown, given twice, missing, malformed, or at odds with another one.
    pub fn from_keys<K, V>(pairs: impl IntoIterator<Item = (K, V)>) -> Result<Self, SpecError>
    where
        K: AsRef<str>,
        V: AsRef<str>,
    {
        keys::read(pairs)
    }

    /// The canonical keys: `listen`, `connect`, and every option that differs from its default.
    #[must_use]
    pub fn to_keys(&self) -> BTreeMap<String, String> {
        keys::write(self)
    }

    /// Number of sockets the device listens on: its ports, or 1 for unix.
    #[must_use]
    pub fn listen_count(&self) -> u32 {
        self.listen.address().count()
    }

    /// What the listener at position `listen_index` (from 0) dials: the only connect port, or the one at
    /// the same position. `None` when there is no such listener.
    #[must_use]
    pub fn target(&self, listen_index: u32) -> Option<Target<'_>> {
        if listen_index >= self.listen_count() {
            return None;
        }
        let port = |ports: &PortList| {
            let index = if ports.count() == 1 { 0 } else { listen_index };
            ports.nth(index).map(crate::Port::get)
        };
        Some(match self.connect.address() {
            Address::Tcp { host, ports } => {
                Target::Tcp { addr: SocketAddr::new(host.dial_ip(), port(ports)?), zone: host.zone() }
            }
            Address::Udp { host, ports } => {
                Target::Udp { addr: SocketAddr::new(host.dial_ip(), port(ports)?), zone: host.zone() }
            }
            Address::Unix(kind, name) => Target::Unix(*kind, name),
        })
    }

    /// Checks the rules between options.
    ///
    /// # Errors
    /// The first rule that does not hold: port counts, protocols that cannot be joined, or an option
    /// that these addresses cannot honour.
    pub fn check(&self) -> Result<(), SpecError> {
        let (listen, connect) = (self.listen.address(), self.connect.address());
        self.check_pairing()?;
        let counts = (listen.count(), connect.count());
        if counts.1 != 1 && counts.0 != counts.1 {
            return Err(SpecError::PortCount { listen: counts.0, connect: counts.1 });
        }
        let header_fits = match (self.proxy_protocol, connect.protocol()) {
            (ProxyProtocol::Off, _)
            | (ProxyProtocol::V1, Protocol::Tcp)
            | (ProxyProtocol::V2, Protocol::Tcp | Protocol::Unix) => true,
            (ProxyProtocol::V1, Protocol::Unix)
            | (
                ProxyProtocol::V1 | ProxyProtocol::V2,
                Protocol::Udp | Protocol::Unixgram | Protocol::Unixpacket,
            ) => false,
        };
        if !header_fits {
            return Err(SpecError::ProxyProtocol {
                version: self.proxy_protocol,
                connect: connect.protocol(),
            });
        }
        if self.proxy_protocol == ProxyProtocol::V1 && listen.protocol() == Protocol::Udp {
            return Err(SpecError::ProxyUdp);
        }
        self.check_socket()?;
        if self.v6only && !listen.host().is_some_and(|host| host.ip().is_ipv6()) {
            return Err(SpecError::V6Only);
        }
        self.check_clients()?;
        if self.run_as.groups.as_slice().contains(&0) && self.run_as.uid != Some(0) {
            return Err(SpecError::GroupZero);
        }
        match self.nat_obstacle() {
            Some(obstacle) if self.nat == Nat::On => Err(SpecError::Nat(obstacle)),
            _ => Ok(()),
        }
    }

    /// Whether what clients send can be carried to the target at all.
    fn check_pairing(&self) -> Result<(), SpecError> {
        use Protocol::{Tcp, Udp, Unix, Unixgram, Unixpacket};
        let (listen, connect) = (self.listen.address().protocol(), self.connect.address().protocol());
        let why = match (listen, connect) {
            (Tcp | Unix, Udp) => return Ok(()),
            (Udp, Tcp | Unix) if self.udp_framing.is_some() => return Ok(()),
            (Udp, Tcp | Unix) => return Err(SpecError::UdpToStream { connect }),
            (Tcp | Unix, Tcp | Unix) | (Udp | Unixgram, Udp | Unixgram) | (Unixpacket, Unixpacket) => {
                return if self.udp_framing.is_none() { Ok(()) } else { Err(SpecError::Framing) };
            }
            (Unixpacket, _) | (_, Unixpacket) => "records go to records only",
            (Tcp | Unix, Unixgram) | (Unixgram, Tcp | Unix) => {
                "a stream keeps no boundaries, and who sends a datagram has no connection"
            }
        };
        Err(SpecError::Pairing { listen, connect, why })
    }

    /// Owner and mode are for files.
    fn check_socket(&self) -> Result<(), SpecError> {
        if self.listen.address().unix().and_then(UnixName::path).is_none() {
            let default = SocketOwner::default();
            let differs = [
                ("uid", self.socket.uid != default.uid),
                ("gid", self.socket.gid != default.gid),
                ("mode", self.socket.mode != default.mode),
            ];
            if let Some((key, _)) = differs.into_iter().find(|(_, differs)| *differs) {
                return Err(SpecError::NotASocketFile { key });
            }
        }
        Ok(())
    }

    /// Keys that judge a client by its address need one.
    fn check_clients(&self) -> Result<(), SpecError> {
        let listen = self.listen.address();
        if self.accept_proxy.is_some() && listen.protocol() != Protocol::Tcp {
            return Err(SpecError::Listen { key: "accept_proxy", wanted: "tcp" });
        }
        let by_address = [
            ("allow", !self.allow.is_empty()),
            ("deny", !self.deny.is_empty()),
            ("limits.per_source", self.limits.per_source.is_some()),
        ];
        match by_address.into_iter().find(|(_, given)| *given && listen.host().is_none()) {
            Some((key, _)) => Err(SpecError::Listen { key, wanted: "tcp or udp" }),
            None => Ok(()),
        }
    }
}

impl Serialize for DeviceSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_keys().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DeviceSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(KeysVisitor)
    }
}

/// Collects pairs instead of a map, so that a key given twice is seen.
struct KeysVisitor;

impl<'de> Visitor<'de> for KeysVisitor {
    type Value = DeviceSpec;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of device keys to strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DeviceSpec, A::Error> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        DeviceSpec::from_keys(pairs).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
