//! What is wanted: publications, and the networks their targets live in.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

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

/// Publications that have changed since the table was made, at most, so that only they are looked at.
const TOUCHED_MAX: usize = 256;

/// What is wanted, without conflicts: for each place and port at most one publication. Whoever keeps one over many
/// changes says by [`put`](Self::put) and [`take`](Self::take) what is other, and [`Nat`](crate::Nat) looks at that alone.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    bridges: BTreeSet<InterfaceName>,
    subnets: BTreeSet<Cidr>,
    /// Publications by place and first port.
    places: BTreeMap<Place, BTreeMap<u16, Arc<Publication>>>,
    /// Those that have come or gone since the table was made; `None`: possibly all, and bridges and subnets.
    touched: Option<Vec<Arc<Publication>>>,
    /// Of the table that was made.
    seal: Option<Seal>,
}

/// Who has the same one was made of the other, and neither has changed since without saying so.
pub(crate) type Seal = Arc<()>;

impl Want {
    /// Checks that no two publications share a port of the same address. One on all addresses and one on
    /// a single address may: the single address goes first.
    ///
    /// # Errors
    /// The first two that do.
    pub fn check(&self) -> Result<Checked, Conflict> {
        let mut checked = Checked::default();
        checked.surround(self.bridges.clone(), self.subnets.clone());
        for publication in &self.publications {
            checked.put(&Arc::new(publication.clone()))?;
        }
        Ok(checked)
    }
}

impl Checked {
    /// Adds a publication.
    ///
    /// # Errors
    /// When another one has a port of it; it is not added then.
    pub fn put(&mut self, publication: &Arc<Publication>) -> Result<(), Conflict> {
        let place = self.places.entry((publication.listen, publication.transport)).or_default();
        let (first, last) = (publication.ports.first().get(), publication.ports.last().get());
        // No two of those before overlap, so the one that begins last at or below `last` decides.
        let below = place.range(..=last).next_back();
        if let Some((_, other)) = below.filter(|(_, other)| other.ports.last().get() >= first) {
            return Err(Conflict { first: other.to_string(), second: publication.to_string() });
        }
        place.insert(first, Arc::clone(publication));
        self.touch(publication);
        Ok(())
    }

    /// Takes a publication away, if it is there.
    pub fn take(&mut self, publication: &Arc<Publication>) {
        let key = (publication.listen, publication.transport);
        if !self.has(publication) {
            return;
        }
        let Some(place) = self.places.get_mut(&key) else { return };
        place.remove(&publication.ports.first().get());
        if place.is_empty() {
            self.places.remove(&key);
        }
        self.touch(publication);
    }

    /// Whether a publication is there.
    pub(crate) fn has(&self, publication: &Publication) -> bool {
        let place = self.places.get(&(publication.listen, publication.transport));
        let found = place.and_then(|place| place.get(&publication.ports.first().get()));
        found.is_some_and(|found| **found == *publication)
    }

    /// Says which bridges and subnets instances are in.
    pub fn surround(&mut self, bridges: BTreeSet<InterfaceName>, subnets: BTreeSet<Cidr>) {
        if (&bridges, &subnets) != (&self.bridges, &self.subnets) {
            (self.bridges, self.subnets) = (bridges, subnets);
            self.touched = None;
        }
    }

    fn touch(&mut self, publication: &Arc<Publication>) {
        self.touched.take_if(|touched| touched.len() >= TOUCHED_MAX);
        if let Some(touched) = &mut self.touched {
            touched.push(Arc::clone(publication));
        }
    }

    /// A table that has this seal says what this says.
    pub(crate) fn is_made(&mut self, seal: Seal) {
        (self.touched, self.seal) = (Some(Vec::new()), Some(seal));
    }

    /// What may be other than the table of a seal says it; `None`: anything.
    pub(crate) fn touched_since(&self, seal: Option<&Seal>) -> Option<&[Arc<Publication>]> {
        let is_its_table = self.seal.as_ref().zip(seal).is_some_and(|(own, other)| Arc::ptr_eq(own, other));
        self.touched.as_deref().filter(|_| is_its_table)
    }

    /// What was checked.
    pub fn publications(&self) -> impl Iterator<Item = &Publication> {
        self.places.values().flat_map(|place| place.values().map(|publication| &**publication))
    }

    /// Bridges of instances.
    pub(crate) fn bridges(&self) -> impl Iterator<Item = &InterfaceName> {
        self.bridges.iter()
    }

    /// Subnets of instances. The kernel takes no two of which one is within the other; the outer one stands for both.
    pub(crate) fn subnets(&self) -> impl Iterator<Item = Cidr> + '_ {
        let is_outer = |one: &Cidr| {
            let mut others = self.subnets.iter();
            !others.any(|other| other.prefix() < one.prefix() && other.contains(one.ip()))
        };
        self.subnets.iter().copied().filter(is_outer)
    }

    /// The publication that takes what is sent to a port of an address of this host: the table's own
    /// order, the single address before all.
    pub(crate) fn find(&self, transport: Transport, ip: IpAddr, port: u16) -> Option<&Publication> {
        if ip.is_loopback() {
            return None;
        }
        let at = |listen| {
            let (_, found) = self.places.get(&(listen, transport))?.range(..=port).next_back()?;
            (found.ports.last().get() >= port).then_some(&**found)
        };
        at(Listen::Address(ip)).or_else(|| at(Listen::Every(Family::of(ip))))
    }
}

#[cfg(test)]
mod tests;
