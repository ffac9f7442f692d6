//! The ways of one device: which ports of the host lead to which address of the instance. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use portway_incus::Assigned;
use portway_model::{Address, Cidr, DeviceSpec, IpHost, Nat, PortList, PortRange};
use portway_nat::{Family, InterfaceName, Listen, Publication, PublicationError, Transport};
use serde::{Deserialize, Serialize};

use super::obstacles::Obstacles;

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

    /// The same on a host that stops what is led: with `nat=auto` the relay carries it, with `nat=true` it is said.
    pub(crate) fn on(self, obstacles: &Obstacles, nat: Nat) -> Verdict {
        let leads = self.way.iter().flat_map(|way| &way.leads);
        let led: BTreeSet<bool> = leads.map(|lead| lead.target.is_ipv6()).collect();
        let stopped: Vec<bool> = led.into_iter().filter(|v6| !obstacles.of(*v6).is_empty()).collect();
        if stopped.is_empty() {
            return self;
        }
        let mut texts: Vec<&str> =
            stopped.iter().flat_map(|v6| obstacles.of(*v6)).map(String::as_str).collect();
        texts.sort_unstable();
        texts.dedup();
        let text = texts.join("; ");
        let Verdict { way: Some(mut way), reason, is_loose } = self else { return self };
        if nat != Nat::Auto {
            return Verdict { way: Some(way), reason: format!("{reason}; {text}"), is_loose };
        }
        Arc::make_mut(&mut way).leads.retain(|lead| !stopped.contains(&lead.target.is_ipv6()));
        if way.leads.is_empty() {
            return Verdict::relayed(text);
        }
        let family = if stopped.contains(&true) { "IPv6" } else { "IPv4" };
        let reason = format!("to {}; {family} is relayed: {text}", way.targets());
        Verdict { way: Some(way), reason, is_loose }
    }
}

/// What a device asks of the kernel.
struct Asked<'a> {
    udp: bool,
    from: &'a IpHost,
    to: &'a IpHost,
    ports: &'a PortList,
    target_ports: &'a PortList,
}

impl<'a> Asked<'a> {
    /// # Errors
    /// Why the kernel cannot do it, whatever the instance.
    fn of(spec: &'a DeviceSpec) -> Result<Asked<'a>, String> {
        if let Some(obstacle) = spec.nat_obstacle() {
            return Err(obstacle.to_string());
        }
        let (listen, connect) = (spec.listen.address(), spec.connect.address());
        let (Some(from), Some(to), Some(ports), Some(target_ports)) =
            (listen.host(), connect.host(), listen.ports(), connect.ports())
        else {
            return Err("it has no ports".to_owned());
        };
        if from.ip().is_loopback() {
            return Err("clients of a loopback address are on this host and are relayed".to_owned());
        }
        Ok(Asked { udp: matches!(listen, Address::Udp { .. }), from, to, ports, target_ports })
    }

    /// One address of the host; `None`: all.
    fn listen(&self) -> Option<IpAddr> {
        (!self.from.is_wildcard()).then_some(self.from.ip())
    }

    fn pairs(&self) -> Vec<(Ends, Ends)> {
        pairs(self.ports, self.target_ports)
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

    /// Whether it is one of a device with these options, wherever the instance is.
    pub(crate) fn fits(&self, spec: &DeviceSpec) -> bool {
        let Ok(asked) = Asked::of(spec) else { return false };
        let is_right = |lead: &Lead| {
            lead.udp == asked.udp
                && lead.listen == asked.listen()
                && (asked.to.is_wildcard() || asked.to.ip() == lead.target)
        };
        let of = |v6: bool| {
            let leads = self.leads.iter().filter(move |lead| lead.target.is_ipv6() == v6);
            leads.map(|lead| (lead.ports, lead.target_ports)).collect::<Vec<_>>()
        };
        let families = families(asked.from, spec.v6only);
        let is_whole = |v6: bool| {
            let leads = of(v6);
            leads.is_empty() || (families.contains(&v6) && leads == asked.pairs())
        };
        spec.nat != Nat::Off && self.leads.iter().all(is_right) && is_whole(false) && is_whole(true)
    }

    /// Its targets, in words.
    pub(crate) fn targets(&self) -> String {
        let targets: BTreeSet<IpAddr> = self.leads.iter().map(|lead| lead.target).collect();
        targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Interfaces of the bridges its targets are at.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = InterfaceName> {
        self.networks.iter().filter_map(|network| InterfaceName::new(network.bridge.as_deref()?))
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

    /// Subnets of the networks of its targets.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Cidr> {
        let subnets = self.networks.iter().flat_map(|network| &network.subnets);
        subnets.filter_map(|(ip, prefix)| Cidr::around(*ip, *prefix))
    }

    /// Ports of the bridges that its targets are at.
    pub(crate) fn ports(&self) -> impl Iterator<Item = InterfaceName> {
        self.networks.iter().filter_map(|network| InterfaceName::new(network.port.as_deref()?))
    }
}

fn range((first, last): (u16, u16)) -> Option<PortRange> {
    PortRange::new(portway_model::Port::new(first)?, portway_model::Port::new(last)?)
}

/// The way of a device into an instance with these interfaces, which had the way `present` until now.
pub(crate) fn way(spec: &DeviceSpec, nics: &[Assigned], present: Option<&Way>) -> Verdict {
    if spec.nat == Nat::Off {
        return Verdict::relayed("nat=false");
    }
    let asked = match Asked::of(spec) {
        Ok(asked) => asked,
        Err(text) => return Verdict::relayed(text),
    };
    let (udp, from, to, listen) = (asked.udp, asked.from, asked.to, asked.listen());
    let mut way = Way { leads: Vec::new(), networks: Vec::new() };
    let mut led = Vec::new();
    let (mut missing, mut is_loose) = (None, false);
    for v6 in families(from, spec.v6only) {
        let Some((nic, target, word)) = target(to, v6, nics, present) else {
            missing.get_or_insert_with(|| absent(to, v6, nics));
            continue;
        };
        for (ports, target_ports) in asked.pairs() {
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
fn target<'a>(
    to: &IpHost,
    v6: bool,
    nics: &'a [Assigned],
    present: Option<&Way>,
) -> Option<(&'a Assigned, IpAddr, Word)> {
    let fits = |ip: &IpAddr| ip.is_ipv6() == v6 && (to.is_wildcard() || *ip == to.ip());
    let mut bridged = nics.iter().filter(|nic| nic.is_bridge);
    let assigned =
        bridged.clone().find_map(|nic| Some((nic, nic.addresses.iter().copied().find(fits)?, Word::Server)));
    assigned.or_else(|| bridged.find_map(|nic| Some((nic, said(nic, fits, present)?, Word::Own))))
}

/// Of the addresses that an instance says it has, the one it is reached at already: another one would end the
/// connections that are open. Else the oldest, which is the lasting one where an IPv6 host takes others for a day
/// (RFC 8981); the kernel lists IPv6 addresses newest first, IPv4 ones oldest first.
fn said(nic: &Assigned, fits: impl Fn(&IpAddr) -> bool, present: Option<&Way>) -> Option<IpAddr> {
    let leads = present.iter().flat_map(|way| &way.leads);
    let mut fitting = nic.claimed.iter().copied().filter(|ip| fits(ip));
    let kept = leads.map(|lead| lead.target).find(|target| fitting.clone().any(|ip| ip == *target));
    kept.or_else(|| fitting.clone().rfind(IpAddr::is_ipv6)).or_else(|| fitting.next())
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
