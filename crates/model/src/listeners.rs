//! Which devices listen where: found by place, protocol and port, without a look at each of them.

use std::collections::HashMap;

use crate::address::{Address, Protocol};
use crate::host::IpHost;
use crate::instance::InstanceKey;
use crate::options::Bind;
use crate::port::PortRange;
use crate::spec::DeviceSpec;
use crate::unix::{UnixKind, UnixName};

/// Whose namespaces an address is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place<'a> {
    /// The host's.
    Host,
    /// Those of an instance.
    Instance(&'a InstanceKey),
}

impl<'a> Place<'a> {
    /// Where a device of `instance` listens.
    #[must_use]
    pub const fn listening(instance: &'a InstanceKey, bind: Bind) -> Self {
        match bind {
            Bind::Host => Self::Host,
            Bind::Instance => Self::Instance(instance),
        }
    }

    /// Where a device of `instance` dials: the other side.
    #[must_use]
    pub const fn dialling(instance: &'a InstanceKey, bind: Bind) -> Self {
        match bind {
            Bind::Host => Self::Instance(instance),
            Bind::Instance => Self::Host,
        }
    }
}

/// Listen addresses of many devices, each known to the caller as a `T`.
#[derive(Debug)]
pub struct ListenIndex<'a, T> {
    ports: HashMap<(Place<'a>, Protocol), Ports<'a, T>>,
    names: HashMap<(Place<'a>, &'a UnixName), Vec<(UnixKind, T)>>,
}

/// The listeners of one protocol in one place.
#[derive(Debug)]
struct Ports<'a, T> {
    /// Those of one address each.
    exact: HashMap<&'a IpHost, Spans<T>>,
    /// Those of every address, by family; one of both families stands in both.
    wild: [Spans<T>; 2],
    /// All of them, by family.
    all: [Spans<T>; 2],
}

/// Ranges of ports, sorted by their first one.
#[derive(Debug)]
struct Spans<T> {
    spans: Vec<(PortRange, T)>,
    /// The highest port of a span and all before it.
    reach: Vec<u16>,
}

impl<'a, T: Copy> ListenIndex<'a, T> {
    /// An index of the devices' listen addresses.
    pub fn new(devices: impl IntoIterator<Item = (T, &'a InstanceKey, &'a DeviceSpec)>) -> Self {
        let mut index = Self { ports: HashMap::new(), names: HashMap::new() };
        for (what, instance, spec) in devices {
            let place = Place::listening(instance, spec.bind);
            match spec.listen.address() {
                address @ (Address::Tcp { host, ports } | Address::Udp { host, ports }) => {
                    let listed = index.ports.entry((place, address.protocol())).or_default();
                    for range in ports.ranges() {
                        listed.add(host, families(host, spec.v6only), (*range, what));
                    }
                }
                Address::Unix(kind, name) => {
                    index.names.entry((place, name)).or_default().push((*kind, what));
                }
            }
        }
        index.ports.values_mut().for_each(Ports::sort);
        index
    }

    /// The devices that cannot listen beside one of `instance` with these options, itself included; one
    /// may come more than once.
    pub fn in_the_way_of<'s>(
        &'s self,
        instance: &'s InstanceKey,
        spec: &'s DeviceSpec,
    ) -> impl Iterator<Item = T> + 's {
        let place = Place::listening(instance, spec.bind);
        let address = spec.listen.address();
        let named = address.unix().and_then(|name| self.names.get(&(place, name))).into_iter().flatten();
        // The names of abstract sockets are apart by kind, a path is one file.
        let meets = move |kind: UnixKind| {
            address.unix().is_some_and(|name| name.path().is_some()) || address.unix_kind() == Some(kind)
        };
        let named = named.filter(move |(kind, _)| meets(*kind)).map(|(_, what)| *what);
        let listed = self.ports.get(&(place, address.protocol()));
        let ranges = address.ports().map(crate::port::PortList::ranges).unwrap_or_default();
        let ports = listed.zip(address.host()).into_iter().flat_map(move |(listed, host)| {
            let families = families(host, spec.v6only);
            ranges.iter().flat_map(move |range| listed.beside(host, families, *range))
        });
        named.chain(ports.map(|(_, what)| what))
    }

    /// The devices that take a connection to one of these ports of `host`, and their share of the ports.
    /// One that listens at every address is seen by a connection to loopback only: which addresses are
    /// local is not known here.
    pub fn at_ports<'s>(
        &'s self,
        place: Place<'s>,
        protocol: Protocol,
        host: &'s IpHost,
        range: PortRange,
    ) -> impl Iterator<Item = (PortRange, T)> + 's {
        let listed = self.ports.get(&(place, protocol));
        let family = usize::from(host.ip().is_ipv6());
        let exact = listed.and_then(|listed| listed.exact.get(host));
        let wild = listed.filter(|_| host.ip().is_loopback()).and_then(|listed| listed.wild.get(family));
        exact.into_iter().chain(wild).flat_map(move |spans| spans.touching(range))
    }

    /// The devices that take a connection to a unix socket.
    pub fn at_name<'s>(
        &'s self,
        place: Place<'s>,
        kind: UnixKind,
        name: &'s UnixName,
    ) -> impl Iterator<Item = T> + 's {
        let named = self.names.get(&(place, name)).into_iter().flatten();
        named.filter(move |(other, _)| *other == kind).map(|(_, what)| *what)
    }
}

/// Whether a listener takes IPv4, and whether IPv6.
fn families(host: &IpHost, v6only: bool) -> [bool; 2] {
    let v6 = host.ip().is_ipv6();
    [!v6 || (host.is_wildcard() && !v6only), v6]
}

impl<T: Copy> Ports<'_, T> {
    fn sort(&mut self) {
        let lists = self.exact.values_mut().chain(&mut self.wild).chain(&mut self.all);
        lists.for_each(Spans::sort);
    }
}

impl<'a, T: Copy> Ports<'a, T> {
    fn add(&mut self, host: &'a IpHost, families: [bool; 2], span: (PortRange, T)) {
        if !host.is_wildcard() {
            self.exact.entry(host).or_default().spans.push(span);
        }
        for (family, taken) in families.into_iter().enumerate() {
            for lists in [Some(&mut self.all), host.is_wildcard().then_some(&mut self.wild)] {
                if let Some(list) = lists.filter(|_| taken).and_then(|lists| lists.get_mut(family)) {
                    list.spans.push(span);
                }
            }
        }
    }

    /// Listeners that cannot be beside one of `host`.
    fn beside<'s>(
        &'s self,
        host: &IpHost,
        families: [bool; 2],
        range: PortRange,
    ) -> impl Iterator<Item = (PortRange, T)> + use<'s, 'a, T> {
        let lists = if host.is_wildcard() { &self.all } else { &self.wild };
        let taken = lists.iter().zip(families).filter_map(|(list, taken)| taken.then_some(list));
        self.exact.get(host).into_iter().chain(taken).flat_map(move |spans| spans.touching(range))
    }
}

impl<T> Default for Ports<'_, T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), wild: Default::default(), all: Default::default() }
    }
}

impl<T> Default for Spans<T> {
    fn default() -> Self {
        Self { spans: Vec::new(), reach: Vec::new() }
    }
}

impl<T: Copy> Spans<T> {
    fn sort(&mut self) {
        self.spans.sort_by_key(|(range, _)| range.first());
        let reach = self.spans.iter().scan(0, |highest, (range, _)| {
            *highest = range.last().get().max(*highest);
            Some(*highest)
        });
        self.reach = reach.collect();
    }

    /// Spans with a port of `range`, and their share of it.
    fn touching(&self, range: PortRange) -> impl Iterator<Item = (PortRange, T)> + '_ {
        let end = self.spans.partition_point(|(span, _)| span.first() <= range.last());
        let spans = self.spans.iter().zip(&self.reach).take(end).rev();
        let near = spans.take_while(move |(_, reach)| **reach >= range.first().get());
        near.filter_map(move |((span, what), _)| {
            let share = PortRange::new(span.first().max(range.first()), span.last().min(range.last()))?;
            Some((share, *what))
        })
    }
}
