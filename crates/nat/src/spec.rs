//! What is wanted: publications, and the networks their targets live in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use portway_model::{Cidr, PortRange};

/// What a publication carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Transport {
    /// Its number in an IP header.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The one of a number.
    pub(crate) const fn of_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The one of an address.
    #[must_use]
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`, which are `AF_INET` and `AF_INET6`.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// Which of the host's addresses a publication answers on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Listen {
    /// This one. Reached by the interfaces that have it, by the managed bridges, and from the host.
    Address(IpAddr),
    /// All of a family but the loopback ones, whatever interface a client comes by.
    Every(Family),
}

impl Listen {
    const fn family(self) -> Family {
        match self {
            Self::Address(ip) => Family::of(ip),
            Self::Every(family) => family,
        }
    }
}

/// Why there can be no such publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublicationError {
    /// Packets to it never pass a network, or pass to many.
    #[error("{0} cannot be published by NAT: it is a loopback, multicast, broadcast or unspecified address")]
    Listen(IpAddr),
    /// The same of the target.
    #[error("{0} cannot be the target of NAT: it is a loopback, multicast, broadcast or unspecified address")]
    Target(IpAddr),
    /// The kernel does not translate between the families.
    #[error("NAT leads from IPv4 to IPv4 and from IPv6 to IPv6 only, and the target is {0}")]
    Families(IpAddr),
    /// As many as there are, or one.
    #[error("{listen} ports lead to {target}: as many are needed, or one")]
    Counts {
        /// Ports listened on.
        listen: u32,
        /// Ports of the target.
        target: u32,
    },
}

/// One device, or one range of its ports: where clients come and where they are led. Cannot exist
/// unless the kernel can do it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    device: String,
    transport: Transport,
    listen: Listen,
    ports: PortRange,
    target: IpAddr,
    target_ports: PortRange,
}

impl Publication {
    /// Ports of one or all addresses, led to as many ports of `target` in the same order, or all to one.
    /// `device` is the name it is counted and reported by; several publications may share it.
    ///
    /// # Errors
    /// When the addresses are not for NAT, or the numbers of ports do not fit.
    pub fn new(
        device: &str,
        transport: Transport,
        (listen, ports): (Listen, PortRange),
        (target, target_ports): (IpAddr, PortRange),
    ) -> Result<Self, PublicationError> {
        if let Listen::Address(ip) = listen
            && !is_ordinary(ip)
        {
            return Err(PublicationError::Listen(ip));
        }
        if !is_ordinary(target) {
            return Err(PublicationError::Target(target));
        }
        if Family::of(target) != listen.family() {
            return Err(PublicationError::Families(target));
        }
        let (from, to) = (ports.count(), target_ports.count());
        if to != 1 && from != to {
            return Err(PublicationError::Counts { listen: from, target: to });
        }
        Ok(Self { device: device.to_owned(), transport, listen, ports, target, target_ports })
    }

    /// The name it is counted by.
    #[must_use]
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What it carries.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// Which addresses of the host.
    #[must_use]
    pub const fn listen(&self) -> Listen {
        self.listen
    }

    /// Which ports.
    #[must_use]
    pub const fn ports(&self) -> PortRange {
        self.ports
    }

    /// Where they lead.
    #[must_use]
    pub const fn target(&self) -> IpAddr {
        self.target
    }

    /// To which ports there.
    #[must_use]
    pub const fn target_ports(&self) -> PortRange {
        self.target_ports
    }

    /// The family of both sides.
    #[must_use]
    pub const fn family(&self) -> Family {
        Family::of(self.target)
    }

    /// The target's port for one that is listened on.
    pub(crate) fn target_port(&self, port: u16) -> Option<u16> {
        let step = u32::from(port).checked_sub(u32::from(self.ports.first().get()))?;
        (step < self.ports.count()).then_some(())?;
        let step = if self.target_ports.count() == 1 { 0 } else { step };
        self.target_ports.nth(step).map(portway_model::Port::get)
    }
}

impl fmt::Display for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, transport, listen, ports, .. } = self;
        match listen {
            Listen::Address(IpAddr::V4(ip)) => write!(f, "{device} ({transport}:{ip}:{ports})"),
            Listen::Address(IpAddr::V6(ip)) => write!(f, "{device} ({transport}:[{ip}]:{ports})"),
            Listen::Every(Family::V4) => write!(f, "{device} ({transport}:0.0.0.0:{ports})"),
            Listen::Every(Family::V6) => write!(f, "{device} ({transport}:[::]:{ports})"),
        }
    }
}

/// Whether packets from one host to one host carry it. An IPv4-mapped address is none of IPv6, and a
/// link-local one of IPv6 means another host on every interface.
fn is_ordinary(ip: IpAddr) -> bool {
    if ip.is_loopback() || ip.is_multicast() || ip.is_unspecified() {
        return false;
    }
    match ip {
        IpAddr::V4(ip) => !ip.is_broadcast() && ip.octets()[0] != 0,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_none() && !ip.is_unicast_link_local(),
    }
}

/// Name of an interface, as the kernel takes them: 1 to 15 bytes, no slash, no white space.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name; `None` when no interface can have it.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let fits = (1..16).contains(&name.len()) && name != "." && name != "..";
        let fits =
            fits && !name.bytes().any(|byte| byte == b'/' || byte == b':' || byte <= b' ' || byte == 0x7f);
        fits.then(|| Self(name.to_owned()))
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As the kernel compares it: sixteen bytes.
    pub(crate) fn padded(&self) -> Vec<u8> {
        let mut bytes = self.0.clone().into_bytes();
        bytes.resize(16, 0);
        bytes
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Everything that is wanted of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// What is published.
    pub publications: Vec<Publication>,
    /// Bridges of instances: a client that comes by one of them reaches publications on every address.
    pub bridges: BTreeSet<InterfaceName>,
    /// Subnets of instances: a client in the subnet of its target is masqueraded, because the target
    /// would answer it past the host.
    pub subnets: BTreeSet<Cidr>,
}

/// Two publications want the same port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{first} and {second} share a port")]
pub struct Conflict {
    /// As it is in messages.
    pub first: String,
    /// The other.
    pub second: String,
}

/// What publications are told apart by before their ports.
type Place = (Listen, Transport);

/// A [`Want`] without conflicts: for each place and port at most one publication.
#[derive(Debug, Clone, Default)]
pub struct Checked<'a> {
    want: Option<&'a Want>,
    /// Publications by place and first port.
    places: BTreeMap<Place, BTreeMap<u16, &'a Publication>>,
}

impl Want {
    /// Checks that no two publications share a port of the same address. One on all addresses and one on
    /// a single address may: the single address goes first.
    ///
    /// # Errors
    /// The first two that do.
    pub fn check(&self) -> Result<Checked<'_>, Conflict> {
        let mut places: BTreeMap<Place, BTreeMap<u16, &Publication>> = BTreeMap::new();
        for publication in &self.publications {
            put(&mut places, publication)?;
        }
        Ok(Checked { want: Some(self), places })
    }
}

impl Want {
    /// Leaves out every device that wants a port of one before it, and returns these with what is said of
    /// each. Then nothing is in the way of [`check`](Self::check).
    pub fn settle(&mut self) -> BTreeMap<String, Conflict> {
        let mut left_out = BTreeMap::new();
        let mut places: BTreeMap<Place, BTreeMap<u16, &Publication>> = BTreeMap::new();
        for publication in &self.publications {
            if let Err(conflict) = put(&mut places, publication) {
                left_out.insert(publication.device.clone(), conflict);
            }
        }
        drop(places);
        self.publications.retain(|publication| !left_out.contains_key(&publication.device));
        left_out
    }
}

/// Gives a publication its place, unless another one has it.
fn put<'a>(
    places: &mut BTreeMap<Place, BTreeMap<u16, &'a Publication>>,
    publication: &'a Publication,
) -> Result<(), Conflict> {
    let place = places.entry((publication.listen, publication.transport)).or_default();
    let (first, last) = (publication.ports.first().get(), publication.ports.last().get());
    // No two of those before overlap, so the one that begins last at or below `last` decides.
    let below = place.range(..=last).next_back();
    if let Some((_, other)) = below.filter(|(_, other)| other.ports.last().get() >= first) {
        return Err(Conflict { first: other.to_string(), second: publication.to_string() });
    }
    place.insert(first, publication);
    Ok(())
}

impl<'a> Checked<'a> {
    /// What was checked.
    pub(crate) fn publications(&self) -> impl Iterator<Item = &'a Publication> + use<'a> {
        self.want.into_iter().flat_map(|want| &want.publications)
    }

    /// Bridges of instances.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &'a InterfaceName> + use<'a> {
        self.want.into_iter().flat_map(|want| &want.bridges)
    }

    /// Subnets of instances.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Cidr> + use<'a> {
        self.want.into_iter().flat_map(|want| want.subnets.iter().copied())
    }

    /// The publication that takes what is sent to a port of an address of this host: the table's own
    /// order, the single address before all.
    pub(crate) fn find(&self, transport: Transport, ip: IpAddr, port: u16) -> Option<&'a Publication> {
        if ip.is_loopback() {
            return None;
        }
        let at = |listen| {
            let (_, found) = self.places.get(&(listen, transport))?.range(..=port).next_back()?;
            (found.ports.last().get() >= port).then_some(*found)
        };
        at(Listen::Address(ip)).or_else(|| at(Listen::Every(Family::of(ip))))
    }
}

#[cfg(test)]
mod tests;
