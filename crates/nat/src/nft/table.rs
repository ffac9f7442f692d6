//! A table and what stands in it.

use std::collections::BTreeMap;

use super::Expr;

/// A table's content, without its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// Chains by name.
    pub(crate) chains: BTreeMap<String, Chain>,
    /// Sets and maps by name.
    pub(crate) sets: BTreeMap<String, Set>,
}

/// A list of rules.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Chain {
    /// Where the kernel calls it; `None`: other chains do.
    pub(crate) hook: Option<Hook>,
    /// The rules in order.
    pub(crate) rules: Vec<Vec<Expr>>,
}

/// What a chain at a hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HookKind {
    /// `type nat`: sees the first packet of each connection.
    Nat,
    /// `type filter`
    Filter,
    /// `type route`
    Route,
}

impl HookKind {
    /// Its name in the kernel.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nat => "nat",
            Self::Filter => "filter",
            Self::Route => "route",
        }
    }
}

/// Where and when the kernel calls a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hook {
    /// What it does.
    pub(crate) kind: HookKind,
    /// `enum nf_inet_hooks`.
    pub(crate) number: u32,
    /// Chains of lower priority come first.
    pub(crate) priority: i32,
    /// Whether what no rule decides is dropped.
    pub(crate) drops: bool,
}

impl Hook {
    /// Before the packet is routed.
    pub(crate) const PREROUTING: u32 = 0;
    /// Packets that pass through.
    pub(crate) const FORWARD: u32 = 2;
    /// Packets that begin here.
    pub(crate) const OUTPUT: u32 = 3;
    /// Before the packet leaves.
    pub(crate) const POSTROUTING: u32 = 4;
}

/// Number of a type of data, as nft prints keys and values: informational for the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TypeId(pub(crate) u32);

impl TypeId {
    /// `ipv4_addr`
    pub(crate) const IPV4: Self = Self(7);
    /// `ipv6_addr`
    pub(crate) const IPV6: Self = Self(8);
    /// `inet_proto`
    pub(crate) const PROTOCOL: Self = Self(12);
    /// `inet_service`
    pub(crate) const PORT: Self = Self(13);
    /// `mark`
    pub(crate) const MARK: Self = Self(19);
    /// `ifname`
    pub(crate) const INTERFACE: Self = Self(41);

    /// Bytes of a value.
    pub(crate) const fn bytes(self) -> u32 {
        match self {
            Self::IPV6 | Self::INTERFACE => 16,
            Self::PROTOCOL => 1,
            Self::PORT => 2,
            _ => 4,
        }
    }
}

/// What the elements of a set look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SetShape {
    /// `enum nft_set_flags`.
    pub(crate) flags: u32,
    /// Type of the key; several in one number.
    pub(crate) key_type: u32,
    /// Bytes of a key.
    pub(crate) key_bytes: u32,
    /// Of a map: type and bytes of the value.
    pub(crate) data: Option<(u32, u32)>,
    /// Of keys that are ranges: bytes of each part.
    pub(crate) fields: Vec<u32>,
    /// Whether each element counts.
    pub(crate) counts: bool,
}

impl SetShape {
    const INTERVAL: u32 = 0x4;
    const MAP: u32 = 0x8;
    const CONCAT: u32 = 0x80;

    /// Single keys made of these parts.
    pub(crate) fn exact(parts: &[TypeId]) -> Self {
        let (key_type, key_bytes) = joined(parts);
        Self { flags: 0, key_type, key_bytes, data: None, fields: Vec::new(), counts: false }
    }

    /// Keys whose parts are ranges.
    pub(crate) fn ranges(parts: &[TypeId]) -> Self {
        let fields = parts.iter().map(|part| part.bytes()).collect();
        Self { flags: Self::INTERVAL | Self::CONCAT, fields, ..Self::exact(parts) }
    }

    /// The same with values.
    pub(crate) fn map_to(mut self, parts: &[TypeId]) -> Self {
        self.flags |= Self::MAP;
        self.data = Some(joined(parts));
        self
    }

    /// The same with a counter for each element.
    pub(crate) fn counted(mut self) -> Self {
        self.counts = true;
        self
    }
}

/// Several parts, each padded to four bytes, and their types in six bits each.
fn joined(parts: &[TypeId]) -> (u32, u32) {
    let kind = parts.iter().fold(0, |sum, part| sum << 6 | part.0);
    match parts {
        [one] => (kind, one.bytes()),
        several => (kind, several.iter().map(|part| part.bytes().next_multiple_of(4)).sum()),
    }
}

/// A set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Set {
    /// What it holds.
    pub(crate) shape: SetShape,
    /// What is in it.
    pub(crate) elements: BTreeMap<Key, Element>,
}

impl Set {
    /// An empty one.
    pub(crate) const fn empty(shape: SetShape) -> Self {
        Self { shape, elements: BTreeMap::new() }
    }
}

/// Key of an element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    /// The key, or the first of a range.
    pub(crate) first: Vec<u8>,
    /// The last of a range.
    pub(crate) last: Option<Vec<u8>>,
}

/// What has been counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// Packets: in a nat chain the first of each connection.
    pub(crate) packets: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

/// An element without its key. Equal when it says the same, whatever it has counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Element {
    /// Of a map: the value.
    pub(crate) data: Vec<u8>,
    /// What it has counted.
    pub(crate) count: Count,
}

impl PartialEq for Element {
    fn eq(&self, other: &Self) -> bool {
        self.data == other.data
    }
}

impl Eq for Element {}
