//! The ways of one device: which ports of the host lead to which address of the instance. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway_incus::Assigned;
use portway_model::{Address, Cidr, DeviceSpec, IpHost, Nat, PortList, PortRange};
use portway_nat::{Family, InterfaceName, Listen, Publication, PublicationError, Transport};
use serde::{Deserialize, Serialize};

/// Some ports of one device, as they are kept over a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Lead {
    udp: bool,
    /// One address of the host; `None`: all of the target's family.
    listen: Option<IpAddr>,
    /// First and last port.
    ports: (u16, u16),
    target: IpAddr,
    /// First and last port there.
    target_ports: (u16, u16),
}

/// A network that targets are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Network {
    /// Interface of its bridge, if it is one.
    pub(crate) bridge: Option<String>,
    /// Port of the bridge that the target is at.
    port: Option<String>,
    /// Hardware address of the target.
    #[serde(default)]
    hwaddr: Option<String>,
    /// The bridge's own addresses, with the length of their prefixes.
    pub(crate) subnets: Vec<(IpAddr, u8)>,
}

/// Everything the table holds for one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Way {
    leads: Vec<Lead>,
    /// The networks of its targets.
    pub(crate) networks: Vec<Network>,
}

/// What becomes of a device with `nat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Its way; `None`: all is relayed.
    pub(crate) way: Option<Arc<Way>>,
    /// Where it leads, or why it is relayed. One line.
    pub(crate) reason: String,
    /// Whether it may change without any word of the server's: the instance decides, or has nothing yet.
    pub(crate) is_loose: bool,
}

impl Verdict {
    /// Of a device that is relayed until the server says something else.
    pub(crate) fn relayed(reason: impl Into<String>) -> Verdict {
        Verdict { way: None, reason: reason.into(), is_loose: false }
    }
}

impl Lead {
    fn publication(&self, device: &str) -> Option<Result<Publication, PublicationError>> {
        let transport = if self.udp { Transport::Udp } else { Transport::Tcp };
        let listen = self.listen.map_or(Listen::Every(Family::of(self.target)), Listen::Address);
        let ports = range(self.ports)?;
        Some(Publication::new(device, transport, (listen, ports), (self.target, range(self.target_ports)?)))
    }
}

impl Way {
    /// What the table is to hold, by the device's name.
    ///
    /// # Errors
    /// What of it no table can hold, one line.
    pub(crate) fn publications(&self, device: &str) -> Result<Vec<Publication>, String> {
        let made = self.leads.iter().filter_map(|lead| lead.publication(device));
        made.collect::<Result<_, _>>().map_err(|problem| problem.to_string())
    }

    /// Whether datagrams go it.
    pub(crate) fn is_udp(&self) -> bool {
        self.leads.iter().any(|lead| lead.udp)
    }

    /// Interfaces of the bridges its targets are at.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = InterfaceName> {
        self.networks.iter().filter_map(|network| InterfaceName::new(network.bridge.as_deref()?))
    }

    /// Subnets of the networks of its targets.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Cidr> {
        let subnets = self.networks.iter().flat_map(|network| &network.subnets);
        subnets.filter_map(|(ip, prefix)| Cidr::around(*ip, *prefix))
    }

    /// Its targets, each with the bridge it is on and its hardware address there.
    pub(crate) fn neighbours(&self) -> BTreeSet<(InterfaceName, IpAddr, &str)> {
        let mut found = BTreeSet::new();
        for network in &self.networks {
            let bridge = network.bridge.as_deref().and_then(InterfaceName::new);
            let (Some(bridge), Some(hwaddr)) = (bridge, &network.hwaddr) else { continue };
            let blocks = network.subnets.iter().filter_map(|(ip, prefix)| Cidr::around(*ip, *prefix));
            let inside = |ip: &IpAddr| blocks.clone().any(|block| block.contains(*ip));
            let targets = self.leads.iter().map(|lead| lead.target).filter(inside);
            found.extend(targets.map(|target| (bridge.clone(), target, hwaddr.as_str())));
        }
        found
    }

    /// Ports of the bridges that its targets are at.
    pub(crate) fn ports(&self) -> impl Iterator<Item = InterfaceName> {
        self.networks.iter().filter_map(|network| InterfaceName::new(network.port.as_deref()?))
    }
}

fn range((first, last): (u16, u16)) -> Option<PortRange> {
    PortRange::new(portway_model::Port::new(first)?, portway_model::Port::new(last)?)
}

/// The way of a device into an instance with these interfaces.
pub(crate) fn way(spec: &DeviceSpec, nics: &[Assigned]) -> Verdict {
    if spec.nat == Nat::Off {
        return Verdict::relayed("nat=false");
    }
    if let Some(obstacle) = spec.nat_obstacle() {
        return Verdict::relayed(obstacle.to_string());
    }
    let (listen, connect) = (spec.listen.address(), spec.connect.address());
    let (Some(from), Some(to), Some(ports), Some(target_ports)) =
        (listen.host(), connect.host(), listen.ports(), connect.ports())
    else {
        return Verdict::relayed("it has no ports");
    };
    if from.ip().is_loopback() {
        return Verdict::relayed("clients of a loopback address are on this host and are relayed");
    }
    let udp = matches!(listen, Address::Udp { .. });
    let mut way = Way { leads: Vec::new(), networks: Vec::new() };
    let mut led = Vec::new();
    let (mut missing, mut is_loose) = (None, false);
    for v6 in families(from, spec.v6only) {
        let Some((nic, target, word)) = target(to, v6, nics) else {
            missing.get_or_insert_with(|| absent(to, v6, nics));
            continue;
        };
        let listen = (!from.is_wildcard()).then_some(from.ip());
        for (ports, target_ports) in pairs(ports, target_ports) {
            way.leads.push(Lead { udp, listen, ports, target, target_ports });
        }
        let network = Network {
            bridge: nic.is_bridge.then(|| nic.network.clone()),
            port: nic.host_name.clone(),
            hwaddr: nic.hwaddr.clone(),
            subnets: nic.subnets.clone(),
        };
        if !way.networks.contains(&network) {
            way.networks.push(network);
        }
        is_loose |= word == Word::Own;
        let by = if word == Word::Own { ", configured inside" } else { "" };
        led.push(format!("{target} ({} in {}{by})", nic.device, nic.network));
    }
    if let Err(text) = way.publications("it") {
        return Verdict::relayed(text);
    }
    match (led.is_empty(), missing) {
        (true, missing) => Verdict {
            is_loose: nics.iter().any(|nic| nic.is_bridge),
            ..Verdict::relayed(missing.unwrap_or_else(|| "it has no address".into()))
        },
        (false, None) => {
            Verdict { way: Some(Arc::new(way)), reason: format!("to {}", led.join(", ")), is_loose }
        }
        (false, Some(missing)) => Verdict {
            way: Some(Arc::new(way)),
            reason: format!("to {}; {missing}, so those are relayed", led.join(", ")),
            is_loose,
        },
    }
}

/// The families clients can come by: IPv4 is false.
fn families(from: &IpHost, v6only: bool) -> Vec<bool> {
    match from.ip() {
        IpAddr::V4(_) => vec![false],
        IpAddr::V6(ip) if ip.is_unspecified() && !v6only => vec![false, true],
        IpAddr::V6(_) => vec![true],
    }
}

/// Who says that an address is the instance's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// The server.
    Server,
    /// The instance.
    Own,
}

/// The address of the first interface that has one that fits, and that interface. What the server has assigned
/// goes before what the instance says.
fn target<'a>(to: &IpHost, v6: bool, nics: &'a [Assigned]) -> Option<(&'a Assigned, IpAddr, Word)> {
    let fits = |ip: &IpAddr| ip.is_ipv6() == v6 && (to.is_wildcard() || *ip == to.ip());
    [Word::Server, Word::Own].into_iter().find_map(|word| {
        nics.iter().filter(|nic| nic.is_bridge).find_map(|nic| {
            let addresses = if word == Word::Server { &nic.addresses } else { &nic.claimed };
            Some((nic, addresses.iter().copied().find(fits)?, word))
        })
    })
}

fn absent(to: &IpHost, v6: bool, nics: &[Assigned]) -> String {
    if !to.is_wildcard() {
        return format!("{} is not an address the server has assigned to the instance", to.ip());
    }
    let family = if v6 { "IPv6" } else { "IPv4" };
    if nics.iter().any(|nic| nic.is_bridge) {
        format!("the instance has no {family} address that the server has assigned")
    } else {
        "the instance has no interface in a bridge of the server's".to_owned()
    }
}

/// First and last port.
type Ends = (u16, u16);

/// Ranges of listened ports with the ranges they lead to: as many ports each, or one.
fn pairs(listen: &PortList, connect: &PortList) -> Vec<(Ends, Ends)> {
    let ends = |range: &PortRange| (range.first().get(), range.last().get());
    if let (1, Some(port)) = (connect.count(), connect.nth(0)) {
        return listen.ranges().iter().map(|range| (ends(range), (port.get(), port.get()))).collect();
    }
    let mut found = Vec::new();
    let mut targets = connect.ranges().iter().map(ends);
    let mut target: Option<Ends> = None;
    for range in listen.ranges() {
        let (mut first, last) = ends(range);
        // Both lists have as many ports: a range ends where either list does.
        while let Some((to_first, to_last)) = target.take().or_else(|| targets.next()) {
            let length = (last - first).min(to_last - to_first);
            found.push(((first, first + length), (to_first, to_first + length)));
            target = (to_first + length < to_last).then(|| (to_first + length + 1, to_last));
            if first + length == last {
                break;
            }
            first += length + 1;
        }
    }
    found
}

#[cfg(test)]
mod tests;
