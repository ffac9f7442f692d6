//! The table: its chains and rules, the same for any number of devices, and its maps, which hold one
//! element for each publication.
//!
//! ```text
//! prerouting ─┬─ not an address of this host, or a loopback one ──▶ (nothing)
//!             ├─ address of the interface it came by ──▶ published ──▶ wildcard
//!             ├─ came by a managed bridge ─────────────▶ published ──▶ wildcard
//!             └─ any other interface ─────────────────────────────────▶ wildcard
//! output ─────┬─ not an address of this host, or a loopback one ──▶ (nothing)
//!             └────────────────────────────────────────▶ published ──▶ wildcard
//! postrouting ── ours, and both ends in one subnet ──▶ masquerade
//! ```
//!
//! A publication of single ports is one element of a hash map, the ports one by one to nothing but what
//! they say; one of a range is an element (rarely more, see [`offset`]) of an interval map.

use std::net::IpAddr;

use portway_model::Cidr;

use super::offset;
use crate::conntrack::Scope;
use crate::nft::{
    Chain, CtKey, Element, Expr, Fib, Hook, HookKind, Key, MetaKey, PayloadBase, Register, Set, SetShape,
    Table, TypeId, Verdict,
};
use crate::spec::{Checked, Family, Listen, Publication, Transport};

/// A set that says by its name whose table this is, and of which shape. Nothing uses it.
pub(crate) const MARKER: &str = "made-by-portway-1";
/// What the name of every such set begins with.
pub(crate) const MARKER_STEM: &str = "made-by-portway-";

/// The bit of a connection's labels that says which table has led it, 0 to 127. Labels are nobody's by rule;
/// the low bits are those people name in connlabel.conf, so it is one of the high ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label(u8);

impl Label {
    /// That of the table `portway`.
    pub(crate) const MAIN: Self = Self(112);

    /// One of the fifteen that tables of other names share.
    pub(crate) fn of_number(number: u32) -> Self {
        let step = u8::try_from(number % 15).unwrap_or_default();
        Self(Self::MAIN.0 + 1 + step)
    }

    /// The bit among sixteen bytes. The kernel keeps labels in numbers of the host's byte order.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut words = [0_usize; 16 / size_of::<usize>()];
        let (bit, bits) = (usize::from(self.0), usize::BITS as usize);
        if let Some(word) = words.get_mut(bit / bits) {
            *word = 1 << (bit % bits);
        }
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// Whether it is among a connection's.
    pub(crate) fn is_in(self, labels: &[u8]) -> bool {
        labels.iter().zip(self.bytes()).any(|(label, own)| label & own != 0)
    }
}

/// Where nat chains change destinations and sources (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`). Ours change destinations
/// one step behind all others: who translates an address of the host itself, say a network forward of a server, has the
/// connection, whoever came first. The first translation of a connection is its last.
const PRIORITY_DNAT: i32 = -100 + 1;
const PRIORITY_SNAT: i32 = 100;

/// `RTN_LOCAL`, an answer of `fib`: an address of this host. In the host's byte order.
const LOCAL: u32 = 2;

const BRIDGES: &str = "bridges";

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// One of the eight maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Map {
    family: Family,
    every: bool,
    ranges: bool,
}

impl Map {
    fn all() -> impl Iterator<Item = Self> {
        [false, true].into_iter().flat_map(|every| {
            FAMILIES
                .into_iter()
                .flat_map(move |family| [false, true].map(move |ranges| Self { family, every, ranges }))
        })
    }

    const fn name(self) -> &'static str {
        match (self.family, self.every, self.ranges) {
            (Family::V4, false, false) => "address4",
            (Family::V4, false, true) => "address4-ranges",
            (Family::V4, true, false) => "every4",
            (Family::V4, true, true) => "every4-ranges",
            (Family::V6, false, false) => "address6",
            (Family::V6, false, true) => "address6-ranges",
            (Family::V6, true, false) => "every6",
            (Family::V6, true, true) => "every6-ranges",
        }
    }

    /// Of ranges: the map with the last port of what the kernel counts within. It has a map of its own because
    /// nft knows how to print an address and a port, and not an address and two.
    const fn ends(self) -> &'static str {
        match (self.family, self.every) {
            (Family::V4, false) => "address4-range-ends",
            (Family::V4, true) => "every4-range-ends",
            (Family::V6, false) => "address6-range-ends",
            (Family::V6, true) => "every6-range-ends",
        }
    }

    /// The shape of its keys.
    fn keys(self) -> SetShape {
        let all = [address_type(self.family), TypeId::PROTOCOL, TypeId::PORT];
        let parts = if self.every { &all[1..] } else { &all[..] };
        if self.ranges { SetShape::ranges(parts) } else { SetShape::exact(parts) }
    }

    /// Its sets by name.
    fn sets(self) -> Vec<(&'static str, SetShape)> {
        let target = self.keys().map_to(&[address_type(self.family), TypeId::PORT]).counted();
        let ends = || (self.ends(), self.keys().map_to(&[TypeId::PORT]));
        let mut sets = vec![(self.name(), target)];
        sets.extend(self.ranges.then(ends));
        sets
    }

    /// The rule that asks it.
    fn rule(self, label: Label) -> Vec<Expr> {
        let words = address_bytes(self.family) / 4;
        let mut rule = of_family(self.family);
        let mut next = 0;
        if !self.every {
            rule.push(address_of_packet(self.family, Side::Destination, KEY));
            next = words;
        }
        rule.push(Expr::Meta { key: MetaKey::Protocol, to: Register::word(next) });
        // Of TCP and UDP alike: the destination port.
        rule.push(Expr::Payload {
            base: PayloadBase::Transport,
            offset: 2,
            length: 2,
            to: Register::word(next + 1),
        });
        let lookup = |set: &str, to| Expr::Lookup { set: set.to_owned(), from: KEY, to: Some(to) };
        rule.push(lookup(self.name(), Register::word(TARGET_WORD)));
        if self.ranges {
            rule.push(lookup(self.ends(), END));
        }
        rule.push(Expr::Value { to: LABEL_REGISTER, value: label.bytes() });
        rule.push(Expr::SetCt { key: CtKey::Labels, from: LABEL_REGISTER });
        rule.push(Expr::Dnat {
            family: self.family.number(),
            address: Register::word(TARGET_WORD),
            first: Register::word(TARGET_WORD + words),
            last: self.ranges.then_some(END),
        });
        rule
    }
}

/// Where the key of a map begins: at most address, protocol and port, six words.
const KEY: Register = Register::word(0);
/// Where its value goes: address and port, five words.
const TARGET_WORD: u32 = 6;
/// Where the last port of a range goes.
const END: Register = Register::word(11);
/// Four words behind all of these.
const LABEL_REGISTER: Register = Register::word(12);

/// The table for what is wanted.
pub(crate) fn table(want: &Checked, label: Label) -> Table {
    let mut table = skeleton(label);
    let mut put = |set: &str, key: Key, data: Vec<u8>| {
        let element = Element { data, ..Element::default() };
        table.sets.entry(set.to_owned()).and_modify(|set| {
            set.elements.insert(key, element);
        });
    };
    for bridge in want.bridges() {
        for transport in [Transport::Tcp, Transport::Udp] {
            let key = [&bridge.padded()[..], &[transport.number(), 0, 0, 0]].concat();
            put(BRIDGES, Key { first: key, last: None }, Vec::new());
        }
    }
    for subnet in want.subnets() {
        let (first, last) = bounds(subnet);
        let twice = |bytes: Vec<u8>| [bytes.clone(), bytes].concat();
        let key = Key { first: twice(first), last: Some(twice(last)) };
        put(hairpin_set(Family::of(subnet.ip())), key, Vec::new());
    }
    for publication in want.publications() {
        for (set, key, data) in elements(publication) {
            put(set, key, data);
        }
    }
    table
}

/// The table without any device.
fn skeleton(label: Label) -> Table {
    let mut table = Table::default();
    let mut set = |name: &str, shape: SetShape| table.sets.insert(name.to_owned(), Set::empty(shape));
    set(MARKER, SetShape::exact(&[TypeId::MARK]));
    set(BRIDGES, SetShape::exact(&[TypeId::INTERFACE, TypeId::PROTOCOL]));
    for family in FAMILIES {
        let address = address_type(family);
        set(hairpin_set(family), SetShape::ranges(&[address, address]));
    }
    for (name, shape) in Map::all().flat_map(Map::sets) {
        set(name, shape);
    }
    let mut chain = |name: &str, hook: Option<(u32, i32)>, rules: Vec<Vec<Expr>>| {
        let hook =
            hook.map(|(number, priority)| Hook { kind: HookKind::Nat, number, priority, drops: false });
        table.chains.insert(name.to_owned(), Chain { hook, rules });
    };
    chain("prerouting", Some((Hook::PREROUTING, PRIORITY_DNAT)), prerouting());
    chain("output", Some((Hook::OUTPUT, PRIORITY_DNAT)), output());
    chain("postrouting", Some((Hook::POSTROUTING, PRIORITY_SNAT)), postrouting(label));
    let mut published: Vec<Vec<Expr>> =
        Map::all().filter(|map| !map.every).map(|map| map.rule(label)).collect();
    published.push(vec![goto("wildcard")]);
    chain("published", None, published);
    chain("wildcard", None, Map::all().filter(|map| map.every).map(|map| map.rule(label)).collect());
    table
}

fn prerouting() -> Vec<Vec<Expr>> {
    // Two parts, because nft prints a name alone only with user data.
    let bridge = vec![
        Expr::Meta { key: MetaKey::InInterface, to: Register::word(0) },
        Expr::Meta { key: MetaKey::Protocol, to: Register::word(4) },
        Expr::Lookup { set: BRIDGES.to_owned(), from: Register::word(0), to: None },
        goto("published"),
    ];
    let mut rules = vec![fib(Fib::DestinationType, false, Verdict::Return)];
    rules.extend(FAMILIES.map(|family| from_or_to_loopback(family, Side::Destination)));
    rules.push(from_link_local());
    rules.push(fib(Fib::DestinationTypeOnInterface, true, Verdict::Goto("published".to_owned())));
    rules.push(bridge);
    rules.push(vec![goto("wildcard")]);
    rules
}

fn output() -> Vec<Vec<Expr>> {
    let mut rules = vec![fib(Fib::DestinationType, false, Verdict::Return)];
    for side in [Side::Destination, Side::Source] {
        // A loopback source would leave the host.
        rules.extend(FAMILIES.map(|family| from_or_to_loopback(family, side)));
    }
    rules.push(from_link_local());
    rules.push(vec![goto("published")]);
    rules
}

fn postrouting(label: Label) -> Vec<Vec<Expr>> {
    let hairpin = |family| {
        let mut rule = vec![
            Expr::Ct { key: CtKey::Labels, to: Register::word(0) },
            Expr::Mask { from: Register::word(0), to: Register::word(0), mask: label.bytes() },
            Expr::Compare { from: Register::word(0), equal: false, value: vec![0; 16] },
        ];
        rule.extend(of_family(family));
        let words = address_bytes(family) / 4;
        rule.push(address_of_packet(family, Side::Source, Register::word(0)));
        rule.push(address_of_packet(family, Side::Destination, Register::word(words)));
        rule.push(Expr::Lookup { set: hairpin_set(family).to_owned(), from: Register::word(0), to: None });
        rule.push(Expr::Masquerade);
        rule
    };
    FAMILIES.map(hairpin).to_vec()
}

fn fib(what: Fib, equal: bool, verdict: Verdict) -> Vec<Expr> {
    vec![
        Expr::Fib { what, to: Register::word(0) },
        Expr::Compare { from: Register::word(0), equal, value: LOCAL.to_ne_bytes().to_vec() },
        Expr::Verdict(verdict),
    ]
}

/// `return` for a loopback address.
fn from_or_to_loopback(family: Family, side: Side) -> Vec<Expr> {
    let mut rule = of_family(family);
    let (length, value) = match family {
        Family::V4 => (1, vec![127]),
        Family::V6 => (16, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    let offset = side.offset(family);
    rule.push(Expr::Payload { base: PayloadBase::Network, offset, length, to: Register::word(0) });
    rule.push(Expr::Compare { from: Register::word(0), equal: true, value });
    rule.push(Expr::Verdict(Verdict::Return));
    rule
}

/// `return` for a client with a link-local address: no router passes it on (RFC 4291, 2.5.6), nor does this host.
fn from_link_local() -> Vec<Expr> {
    let mut rule = of_family(Family::V6);
    let ([mut prefix, mut mask], at) = ([[0; 16]; 2], Register::word(0));
    (prefix[0], prefix[1]) = (0xfe, 0x80);
    (mask[0], mask[1]) = (0xff, 0xc0);
    rule.push(address_of_packet(Family::V6, Side::Source, at));
    rule.push(Expr::Mask { from: at, to: at, mask: mask.to_vec() });
    rule.push(Expr::Compare { from: at, equal: true, value: prefix.to_vec() });
    rule.push(Expr::Verdict(Verdict::Return));
    rule
}

fn of_family(family: Family) -> Vec<Expr> {
    vec![
        Expr::Meta { key: MetaKey::Family, to: Register::word(0) },
        Expr::Compare { from: Register::word(0), equal: true, value: vec![family.number()] },
    ]
}

fn goto(chain: &str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.to_owned()))
}

#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl Side {
    /// Where the address stands in its header: RFC 791, 3.1; RFC 8200, 3.
    const fn offset(self, family: Family) -> u32 {
        match (family, self) {
            (Family::V4, Self::Source) => 12,
            (Family::V4, Self::Destination) => 16,
            (Family::V6, Self::Source) => 8,
            (Family::V6, Self::Destination) => 24,
        }
    }
}

fn address_of_packet(family: Family, side: Side, to: Register) -> Expr {
    let (offset, length) = (side.offset(family), address_bytes(family));
    Expr::Payload { base: PayloadBase::Network, offset, length, to }
}

const fn address_bytes(family: Family) -> u32 {
    address_type(family).bytes()
}

const fn address_type(family: Family) -> TypeId {
    match family {
        Family::V4 => TypeId::IPV4,
        Family::V6 => TypeId::IPV6,
    }
}

const fn hairpin_set(family: Family) -> &'static str {
    match family {
        Family::V4 => "subnets4",
        Family::V6 => "subnets6",
    }
}

/// The elements of a publication: the map, key and value of each.
pub(crate) fn elements(publication: &Publication) -> Vec<(&'static str, Key, Vec<u8>)> {
    let (ports, to) = (publication.ports(), publication.target_ports());
    let (first, last) = (ports.first().get(), ports.last().get());
    let (listen, every) = match publication.listen() {
        Listen::Address(ip) => (octets(ip), false),
        Listen::Every(_) => (Vec::new(), true),
    };
    let key = |port: u16| {
        let protocol = [publication.transport().number(), 0, 0, 0];
        [&listen[..], &protocol, &word(port)].concat()
    };
    let target = |port: u16| [&octets(publication.target())[..], &word(port)].concat();
    let map = Map { family: publication.family(), every, ranges: ports.count() > 1 };
    if !map.ranges {
        return vec![(map.name(), Key { first: key(first), last: None }, target(to.first().get()))];
    }
    let parts = if to.count() == 1 {
        let port = to.first().get();
        vec![offset::Part { from: first, to: last, first: port, last: port }]
    } else {
        offset::parts(first, last, to.first().get())
    };
    let pair = |part: offset::Part| {
        let key = Key { first: key(part.from), last: Some(key(part.to)) };
        [(map.name(), key.clone(), target(part.first)), (map.ends(), key, part.last.to_be_bytes().to_vec())]
    };
    parts.into_iter().flat_map(pair).collect()
}

/// What an element of a map answers for; `None` of any other set's, and of nobody's.
pub(crate) fn scope(set: &str, key: &Key) -> Option<Scope> {
    let map = Map::all().find(|map| map.sets().iter().any(|(name, _)| *name == set))?;
    let address = if map.every { 0 } else { usize::try_from(address_bytes(map.family)).ok()? };
    let port = |key: &[u8]| Some(u16::from_be_bytes([*key.get(address + 4)?, *key.get(address + 5)?]));
    let first = port(&key.first)?;
    let listen = match (map.every, map.family) {
        (true, family) => Listen::Every(family),
        (false, Family::V4) => Listen::Address(IpAddr::from(<[u8; 4]>::try_from(key.first.get(..4)?).ok()?)),
        (false, Family::V6) => {
            Listen::Address(IpAddr::from(<[u8; 16]>::try_from(key.first.get(..16)?).ok()?))
        }
    };
    let transport = Transport::of_number(*key.first.get(address)?)?;
    let last = key.last.as_ref().map_or(Some(first), |last| port(last))?;
    Some(Scope { transport, listen, first, last })
}

/// A port as the kernel keeps it in a register: two bytes and padding.
fn word(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// First and last address of a block.
fn bounds(block: Cidr) -> (Vec<u8>, Vec<u8>) {
    let first = octets(block.ip());
    let prefix = usize::from(block.prefix());
    let last = first.iter().zip((0..).step_by(8)).map(|(byte, bit): (&u8, usize)| {
        let kept = prefix.saturating_sub(bit).min(8);
        byte | u8::MAX.checked_shr(u32::try_from(kept).unwrap_or(8)).unwrap_or(0)
    });
    let last = last.collect();
    (first, last)
}
