//! Publications in few words, for tests.

#![expect(dead_code, reason = "each test binary uses a part")]
#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

pub(crate) mod town;

use std::net::IpAddr;

use portway_model::{Cidr, Port, PortRange};
use portway_nat::{Family, InterfaceName, Listen, Publication, Transport, Want};

/// Ports as they are written: `80` or `80-90`.
pub(crate) fn ports(text: &str) -> PortRange {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| Port::new(text.parse().unwrap()).unwrap();
    PortRange::new(port(first), port(last)).unwrap()
}

/// Address and ports: `10.0.0.1 80-90`.
fn place(text: &str) -> (&str, PortRange) {
    let (host, range) = text.split_once(' ').unwrap();
    (host, ports(range))
}

/// `publication("web", "tcp", "* 80", "10.0.0.2 8080")`; the hosts `*` and `*6` are all addresses.
pub(crate) fn publication(device: &str, transport: &str, listen: &str, target: &str) -> Publication {
    let transport = if transport == "tcp" { Transport::Tcp } else { Transport::Udp };
    let (host, listen_ports) = place(listen);
    let listen = match host {
        "*" => Listen::Every(Family::V4),
        "*6" => Listen::Every(Family::V6),
        host => Listen::Address(host.parse::<IpAddr>().unwrap()),
    };
    let (host, target_ports) = place(target);
    Publication::new(device, transport, (listen, listen_ports), (host.parse().unwrap(), target_ports))
        .unwrap()
}

/// A block of addresses.
pub(crate) fn subnet(ip: &str, prefix: u8) -> Cidr {
    Cidr::new(ip.parse().unwrap(), prefix).unwrap()
}

/// Publications of instances in 10.0.0.0/24 and fd00::/64 behind `br0`.
pub(crate) fn want(publications: Vec<Publication>) -> Want {
    Want {
        publications,
        bridges: [InterfaceName::new("br0").unwrap()].into(),
        subnets: [("10.0.0.0", 24), ("fd00::", 64)].map(|(ip, prefix)| subnet(ip, prefix)).into(),
    }
}

/// The example of docs/nat.md.
pub(crate) fn ten_devices() -> Want {
    want(vec![
        publication("web", "tcp", "192.0.2.1 80", "10.0.0.2 8080"),
        publication("web-tls", "tcp", "192.0.2.1 443", "10.0.0.2 8443"),
        publication("web6", "tcp", "2001:db8::1 80", "fd00::2 8080"),
        publication("ssh", "tcp", "* 2222", "10.0.0.3 22"),
        publication("ssh6", "tcp", "*6 2222", "fd00::3 22"),
        publication("dns", "udp", "192.0.2.1 53", "10.0.0.4 53"),
        publication("game", "udp", "* 27000-27099", "10.0.0.5 27000-27099"),
        publication("media", "udp", "192.0.2.1 30000-30999", "10.0.0.6 10000-10999"),
        publication("relay6", "udp", "*6 3478-3481", "fd00::6 3478"),
        publication("ftp", "tcp", "192.0.2.1 50000-50099", "10.0.0.7 50000-50099"),
    ])
}
