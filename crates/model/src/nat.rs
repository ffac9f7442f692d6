//! The `nat` key: whether the kernel or the relay carries what clients send, and what the kernel cannot.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::address::Protocol;
use crate::at::ValueError;
use crate::options::{Bind, ProxyProtocol, not_one_of, truth};
use crate::spec::{DeviceSpec, UDP_MAX_FLOWS};

/// Who carries the bytes of a device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Nat {
    /// The relay.
    #[default]
    Off,
    /// The kernel; a device it cannot carry is refused.
    On,
    /// The kernel where it can, else the relay.
    Auto,
}

impl FromStr for Nat {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match (truth(text), text) {
            (Some(true), _) => Ok(Self::On),
            (Some(false), _) => Ok(Self::Off),
            (None, "auto") => Ok(Self::Auto),
            (None, _) => Err(not_one_of(text, "true, false or auto")),
        }
    }
}

impl fmt::Display for Nat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "false",
            Self::On => "true",
            Self::Auto => "auto",
        })
    }
}

/// Why the kernel cannot carry a device, whatever the instance. With `nat=auto` it is relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NatObstacle {
    /// It listens inside the instance.
    #[error("the kernel leads what comes to the host, so bind must be host")]
    Bind,
    /// It is not tcp to tcp, nor udp to udp.
    #[error("the kernel leads tcp to tcp and udp to udp, not {listen} to {connect}")]
    Protocols {
        /// What `listen` speaks.
        listen: Protocol,
        /// What `connect` speaks.
        connect: Protocol,
    },
    /// A key that only the relay can honour.
    #[error("only the relay can honour {0}")]
    Key(&'static str),
    /// The target listens on its own loopback interface.
    #[error(
        "what is led there never reaches the instance's loopback; connect to 0.0.0.0, [::] or its address instead"
    )]
    Loopback,
    /// One side is IPv4, the other IPv6.
    #[error(
        "the kernel leads IPv4 to IPv4 and IPv6 to IPv6; let connect be of the family of listen, \
         with v6only=true where that is [::], or connect to [::]"
    )]
    Families,
    /// One side is a link-local address.
    #[error(
        "a link-local address is another host's on every interface, and the kernel's rules do not tell them apart; \
         use another address of the interface"
    )]
    LinkLocal,
    /// It listens at an address that means many hosts.
    #[error(
        "{0} is a multicast or broadcast address, and the kernel leads what comes for this host alone; \
         use an address of the host"
    )]
    Many(IpAddr),
}

impl DeviceSpec {
    /// Why the kernel cannot carry this device; `None` when it can, for an instance with an address.
    ///
    /// `[::]` as `connect` stands for the instance's address of either family, `0.0.0.0` for its IPv4
    /// one. A listener at a loopback address is no obstacle, though its clients are relayed: a packet
    /// that has left the host cannot have a loopback source.
    #[must_use]
    pub fn nat_obstacle(&self) -> Option<NatObstacle> {
        if self.bind != Bind::Host {
            return Some(NatObstacle::Bind);
        }
        let (listen, connect) = (self.listen.address(), self.connect.address());
        let (from, to) = match (listen.host(), connect.host()) {
            (Some(from), Some(to)) if listen.protocol() == connect.protocol() => (from, to),
            _ => {
                return Some(NatObstacle::Protocols {
                    listen: listen.protocol(),
                    connect: connect.protocol(),
                });
            }
        };
        let relayed = [
            ("proxy_protocol", self.proxy_protocol != ProxyProtocol::Off),
            ("accept_proxy", self.accept_proxy.is_some()),
            ("allow", !self.allow.is_empty()),
            ("deny", !self.deny.is_empty()),
            ("limits.connections", self.limits.connections.is_some()),
            ("limits.rate", self.limits.rate.is_some()),
            ("limits.per_source", self.limits.per_source.is_some()),
            ("udp.max_flows", self.udp_max_flows != UDP_MAX_FLOWS),
        ];
        if let Some((key, _)) = relayed.into_iter().find(|(_, given)| *given) {
            return Some(NatObstacle::Key(key));
        }
        if from.zone().is_some() || to.zone().is_some() {
            return Some(NatObstacle::LinkLocal);
        }
        if is_many(from.ip()) {
            return Some(NatObstacle::Many(from.ip()));
        }
        if to.ip().is_loopback() {
            return Some(NatObstacle::Loopback);
        }
        let both = from.is_wildcard() && from.ip().is_ipv6() && !self.v6only;
        let either = to.is_wildcard() && to.ip().is_ipv6();
        let same = |from: IpAddr, to: IpAddr| from.is_ipv4() == to.is_ipv4();
        let fits = if both { either } else { same(from.ip(), to.ip()) || either };
        (!fits).then_some(NatObstacle::Families)
    }
}

/// Whether it is no single host's.
fn is_many(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obstacle(keys: &[(&str, &str)]) -> Option<NatObstacle> {
        DeviceSpec::from_keys(keys.iter().copied()).unwrap().nat_obstacle()
    }

    fn between(listen: &str, connect: &str) -> Option<NatObstacle> {
        obstacle(&[("listen", listen), ("connect", connect)])
    }

    #[test]
    fn words() {
        for (text, nat) in
            [("true", Nat::On), ("ON", Nat::On), ("1", Nat::On), ("no", Nat::Off), ("auto", Nat::Auto)]
        {
            assert_eq!(text.parse(), Ok(nat));
            assert_eq!(nat.to_string().parse(), Ok(nat));
        }
        for text in ["", "Auto", "maybe"] {
            assert!(text.parse::<Nat>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_the_kernel_can_carry() {
        for (listen, connect) in [
            ("tcp:0.0.0.0:80", "tcp:0.0.0.0:80"),
            ("tcp:192.0.2.1:80", "tcp:10.0.0.5:8080"),
            ("udp:0.0.0.0:1000-1009", "udp:[::]:2000-2009"),
            ("tcp:[::]:80", "tcp:[::]:80"),
            ("tcp:[2001:db8::1]:80", "tcp:[fd00::5]:80"),
            ("tcp:127.0.0.1:80", "tcp:0.0.0.0:80"),
            ("tcp::80", "tcp:[::]:80"),
        ] {
            assert_eq!(between(listen, connect), None, "{listen} {connect}");
        }
    }

    #[test]
    fn what_it_cannot() {
        let many = |text: &str| NatObstacle::Many(text.parse().unwrap());
        for (listen, connect, found) in [
            ("tcp:0.0.0.0:80", "tcp:127.0.0.1:80", NatObstacle::Loopback),
            ("tcp:0.0.0.0:80", "tcp::80", NatObstacle::Loopback),
            ("tcp:[::]:80", "tcp:[::1]:80", NatObstacle::Loopback),
            ("tcp:0.0.0.0:80", "tcp:[fd00::5]:80", NatObstacle::Families),
            ("tcp:[::]:80", "tcp:10.0.0.5:80", NatObstacle::Families),
            ("tcp:[::]:80", "tcp:[fd00::5]:80", NatObstacle::Families),
            ("tcp:[2001:db8::1]:80", "tcp:0.0.0.0:80", NatObstacle::Families),
            ("tcp:[fe80::1%eth0]:80", "tcp:[::]:80", NatObstacle::LinkLocal),
            ("udp:239.1.2.3:53", "udp:0.0.0.0:53", many("239.1.2.3")),
            ("udp:255.255.255.255:67", "udp:0.0.0.0:67", many("255.255.255.255")),
            ("udp:[ff05::2]:53", "udp:[::]:53", many("ff05::2")),
            (
                "unix:/run/s",
                "tcp:0.0.0.0:80",
                NatObstacle::Protocols { listen: Protocol::Unix, connect: Protocol::Tcp },
            ),
            (
                "tcp:0.0.0.0:80",
                "udp:0.0.0.0:80",
                NatObstacle::Protocols { listen: Protocol::Tcp, connect: Protocol::Udp },
            ),
        ] {
            assert_eq!(between(listen, connect), Some(found), "{listen} {connect}");
        }
        for (key, value, found) in [
            ("bind", "instance", NatObstacle::Bind),
            ("proxy_protocol", "v2", NatObstacle::Key("proxy_protocol")),
            ("accept_proxy", "192.0.2.0/24", NatObstacle::Key("accept_proxy")),
            ("allow", "192.0.2.0/24", NatObstacle::Key("allow")),
            ("deny", "192.0.2.0/24", NatObstacle::Key("deny")),
            ("limits.connections", "5", NatObstacle::Key("limits.connections")),
            ("limits.rate", "5", NatObstacle::Key("limits.rate")),
            ("limits.per_source", "5", NatObstacle::Key("limits.per_source")),
            ("udp.max_flows", "5", NatObstacle::Key("udp.max_flows")),
        ] {
            let address = if key.starts_with("udp") { "udp:0.0.0.0:80" } else { "tcp:0.0.0.0:80" };
            let keys = [("listen", address), ("connect", address), (key, value)];
            assert_eq!(obstacle(&keys), Some(found), "{key}");
        }
        let keys = [("listen", "tcp:[::]:80"), ("connect", "tcp:[fd00::5]:80"), ("v6only", "true")];
        assert_eq!(obstacle(&keys), None);
    }
}
