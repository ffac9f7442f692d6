//! Ports that the kernel leads by devices of the server's: which devices, and why not.
//!
//! The server leads what comes to one address of its host to one reserved address of an instance, and takes no
//! wildcards. So each address of the host gets a device of its own, beside the one that relays: that one keeps the
//! port, and serves loopback, IPv6 and addresses that come later. A device is never turned into one of the other kind: a
//! change in place that fails leaves one that is dead and looks alive.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::render::{Facts, keys};
use crate::want::{Addressing, Instance, Keys, Lead, Nic};

/// Why a port is relayed that the kernel was to lead. What stands before the parenthesis is stable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Relayed {
    /// It listens at a loopback address.
    Loopback,
    /// The service has no interface.
    NoInterface,
    /// What is led would be forwarded, and nothing is forwarded there.
    Internal,
    /// The server's project has networks of its own.
    ProjectNetworks,
    /// Only the relay can honour a key.
    Key(String),
    /// It listens at an address that the host does not have.
    NotOfHost,
    /// There is no reserved IPv6 address.
    NoStaticV6,
    /// The network gives no addresses.
    NoDhcp,
    /// The instance has no address that could be reserved.
    NoAddress,
    /// Somebody else has leased the address.
    Contested,
}

impl fmt::Display for Relayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relayed::Loopback => "loopback (it listens at a loopback address)",
            Relayed::NoInterface => "no-nic (the service has no interface)",
            Relayed::Internal => "internal-network (nothing is led into an internal network)",
            Relayed::ProjectNetworks => {
                "project-networks-feature (the server's project has its own networks)"
            }
            Relayed::Key(key) => return write!(f, "relay-only-key (only the relay can honour {key})"),
            Relayed::NotOfHost => "not-a-host-address (the server's host does not have it)",
            Relayed::NoStaticV6 => "ipv6-without-static (the service has no IPv6 address there)",
            Relayed::NoDhcp => "network-dhcp-off (its network gives no addresses)",
            Relayed::NoAddress => "no-address (the service has no address yet; `up` again leads it)",
            Relayed::Contested => "pin-mismatch (somebody else has leased its address)",
        })
    }
}

/// The line that says that a port is relayed.
pub(crate) fn line(service: &str, lead: &Lead, why: &Relayed) -> String {
    let Lead { protocol, address, port, .. } = lead;
    let at = if address.is_unspecified() { String::new() } else { format!("{}:", host(*address)) };
    format!("service {service} port {at}{port}/{protocol} is relayed: {why}")
}

/// An address as it stands before a port.
pub(crate) fn host(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}

/// What becomes of the ports of an instance that the kernel is to lead.
#[derive(Debug, Default)]
pub(crate) struct Led<'a> {
    /// Devices that lead.
    pub(crate) devices: BTreeMap<String, Keys>,
    /// Devices that relay and are left out.
    pub(crate) without: BTreeSet<&'a str>,
    /// What is relayed, and why.
    pub(crate) relayed: Vec<(&'a Lead, Relayed)>,
}

/// The devices that lead ports to `instance`, where `facts` is known.
pub(crate) fn led<'a>(instance: &'a Instance, facts: &Facts<'_>) -> Led<'a> {
    let mut led = Led::default();
    let there = facts.devices.get(instance.name.as_str());
    for (name, lead) in &instance.leads {
        let (listens, target) = match ends(instance, lead, facts) {
            Ok(ends) => ends,
            Err(why) => {
                led.relayed.push((lead, why));
                continue;
            }
        };
        let side = |ip: IpAddr, port: u16| format!("{}:{}:{port}", lead.protocol, host(ip));
        let connect = side(target, lead.target);
        // Each keeps its name when another address comes or goes.
        let known = |listen: &str| {
            let begin = format!("{name}-nat");
            let mut found = there.into_iter().flat_map(|devices| devices.iter());
            let found = found.find(|(name, device)| {
                name.starts_with(&begin) && device.get("listen").is_some_and(|has| has == listen)
            });
            found.map(|(name, _)| name.clone())
        };
        let listens: Vec<(String, Option<String>)> = listens
            .into_iter()
            .map(|ip| side(ip, lead.port))
            .map(|listen| (known(&listen), listen))
            .map(|(known, listen)| (listen, known))
            .collect();
        let mut taken: BTreeSet<String> = listens.iter().filter_map(|(_, known)| known.clone()).collect();
        for (listen, known) in &listens {
            let mut free = (0..).map(|number: u32| format!("{name}-nat{number}"));
            let called = known.clone().or_else(|| free.find(|name| !taken.contains(name)));
            let Some(called) = called else { continue };
            taken.insert(called.clone());
            let device = [("type", "proxy"), ("nat", "true"), ("listen", listen), ("connect", &connect)];
            led.devices.insert(called, keys(&device));
        }
        if lead.is_strict {
            led.without.insert(name);
        }
    }
    led
}

/// Addresses of the host that a port is led from, and the one it is led to.
fn ends(instance: &Instance, lead: &Lead, facts: &Facts<'_>) -> Result<(Vec<IpAddr>, IpAddr), Relayed> {
    // Never left to the server, which takes any of them.
    let is_open = |nic: &&Nic| facts.networks.get(nic.network.as_str()).is_some_and(|place| !place.is_closed);
    let mut open = instance.nics.iter().filter(is_open).peekable();
    if open.peek().is_none() {
        return Err(Relayed::Internal);
    }
    let place = |nic: &Nic| facts.networks.get(nic.network.as_str()).copied();
    let v6 = lead.address.is_ipv6();
    let found = open.clone().find_map(|nic| {
        let target = if v6 {
            nic.keys.get("ipv6.address")?.parse().ok().map(IpAddr::V6)?
        } else {
            IpAddr::V4(*facts.addresses.get(&(instance.name.as_str(), nic.network.as_str()))?)
        };
        Some((nic, target))
    });
    let silent = |nic: &Nic| {
        let gives = place(nic).is_some_and(|place| place.gives_addresses);
        instance.addressing == Addressing::Inside && !gives
    };
    let (nic, target) = match found {
        Some((nic, _)) if silent(nic) => return Err(Relayed::NoDhcp),
        Some(found) => found,
        None if v6 => return Err(Relayed::NoStaticV6),
        None if open.all(silent) => return Err(Relayed::NoDhcp),
        None => return Err(Relayed::NoAddress),
    };
    if facts.contested.contains(&(instance.name.as_str(), nic.network.as_str())) {
        return Err(Relayed::Contested);
    }
    let listens: Vec<IpAddr> = if lead.address.is_unspecified() {
        let gateway = place(nic).and_then(|place| place.subnet).map(|subnet| IpAddr::V4(subnet.gateway()));
        let outer = facts.outer.iter().copied().filter(|ip| ip.is_ipv6() == v6);
        outer.chain(gateway.filter(|_| !v6)).collect()
    } else {
        [lead.address].into_iter().filter(|ip| facts.host.contains(ip)).collect()
    };
    if listens.is_empty() { Err(Relayed::NotOfHost) } else { Ok((listens, target)) }
}
