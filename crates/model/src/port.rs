//! Ports and port lists. A list is positional: its order is that of the text, and it is never
//! expanded in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::at::{AddrError, AddrErrorKind};
use crate::text::{quote, serde_by_text};

/// A TCP or UDP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(NonZeroU16);

impl Port {
    /// The port `number`; `None` for 0.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// Its number, 1 to 65535.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Ports from `first` to `last`, both included, `first <= last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PortRange {
    first: Port,
    last: Port,
}

impl PortRange {
    /// The range; `None` when it falls.
    #[must_use]
    pub fn new(first: Port, last: Port) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    /// First port.
    #[must_use]
    pub const fn first(self) -> Port {
        self.first
    }

    /// Last port.
    #[must_use]
    pub const fn last(self) -> Port {
        self.last
    }

    /// Number of ports, 1 to 65535.
    #[must_use]
    pub const fn count(self) -> u32 {
        (self.last.get() - self.first.get()) as u32 + 1
    }

    /// The port `index` steps after the first.
    #[must_use]
    pub fn nth(self, index: u32) -> Option<Port> {
        let number = u32::from(self.first.get()).checked_add(index)?;
        let port = Port::new(u16::try_from(number).ok()?)?;
        (port <= self.last).then_some(port)
    }
}

impl From<Port> for PortRange {
    fn from(port: Port) -> Self {
        Self { first: port, last: port }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

/// Ports and ranges in the order of the text. Holds at least one port, at most
/// [`PortList::PORTS_MAX`] in at most [`PortList::ITEMS_MAX`] items.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PortList(Vec<PortRange>);

impl PortList {
    /// Most ports of a list: every one once.
    pub const PORTS_MAX: u32 = 65_535;

    /// Most items of a list. Keeps the text of a device within one message between daemon and worker.
    pub const ITEMS_MAX: usize = 1024;

    /// A list of `ranges`; `None` when there is none or a limit is exceeded.
    #[must_use]
    pub fn new(ranges: Vec<PortRange>) -> Option<Self> {
        let count: u64 = ranges.iter().map(|range| u64::from(range.count())).sum();
        let fits =
            !ranges.is_empty() && ranges.len() <= Self::ITEMS_MAX && count <= u64::from(Self::PORTS_MAX);
        fits.then_some(Self(ranges))
    }

    /// Number of ports, 1 to [`PortList::PORTS_MAX`].
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|range| range.count()).sum()
    }

    /// The port at position `index`, counted from 0 in the order of the list.
    #[must_use]
    pub fn nth(&self, index: u32) -> Option<Port> {
        let mut left = index;
        for range in &self.0 {
            match left.checked_sub(range.count()) {
                None => return range.nth(left),
                Some(rest) => left = rest,
            }
        }
        None
    }

    /// Where a port stands first, counted from 0 in the order of the list.
    #[must_use]
    pub fn position(&self, port: Port) -> Option<u32> {
        let mut before = 0;
        for range in &self.0 {
            if range.first <= port && port <= range.last {
                return Some(before + u32::from(port.get() - range.first.get()));
            }
            before += range.count();
        }
        None
    }

    /// Whether a port is in both lists.
    #[must_use]
    pub fn shares(&self, other: &Self) -> bool {
        let meet = |one: &PortRange, other: &PortRange| one.first <= other.last && other.first <= one.last;
        self.0.iter().any(|one| other.0.iter().any(|other| meet(one, other)))
    }

    /// Every port in order.
    pub fn iter(&self) -> impl Iterator<Item = Port> + '_ {
        self.0.iter().flat_map(|range| (range.first.get()..=range.last.get()).filter_map(Port::new))
    }

    /// The items as written.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Reads the list that is `text[start..]`. Also returns the byte offset of each item in `text`.
    pub(crate) fn parse_at(text: &str, start: usize) -> Result<(Self, Vec<usize>), AddrError> {
        let fail = |position, kind| Err(AddrError::new(text, position, kind));
        let mut ranges = Vec::new();
        let mut places = Vec::new();
        let mut count = 0;
        let mut place = start;
        for item in text.get(start..).unwrap_or_default().split(',') {
            if ranges.len() == Self::ITEMS_MAX {
                return fail(place, AddrErrorKind::TooManyItems(Self::ITEMS_MAX));
            }
            let range = parse_item(text, place, item)?;
            count += range.count();
            if count > Self::PORTS_MAX {
                return fail(place, AddrErrorKind::TooManyPorts(Self::PORTS_MAX));
            }
            ranges.push(range);
            places.push(place);
            place += item.len() + 1;
        }
        Ok((Self(ranges), places))
    }

    /// The first item that repeats a port of an earlier one: its index, and the lowest such port.
    pub(crate) fn first_repeat(&self) -> Option<(usize, Port)> {
        // Ranges so far, which are disjoint: last port by first port.
        let mut seen: BTreeMap<Port, Port> = BTreeMap::new();
        for (index, range) in self.0.iter().enumerate() {
            let below = seen.range(..=range.first).next_back();
            if below.is_some_and(|(_, last)| *last >= range.first) {
                return Some((index, range.first));
            }
            if let Some((first, _)) = seen.range(range.first..=range.last).next() {
                return Some((index, *first));
            }
            seen.insert(range.first, range.last);
        }
        None
    }
}

/// Reads one item, `text[place..place + item.len()]`.
fn parse_item(text: &str, place: usize, item: &str) -> Result<PortRange, AddrError> {
    let Some((first, last)) = item.split_once('-') else {
        return parse_port(text, place, item).map(PortRange::from);
    };
    let first_port = parse_port(text, place, first)?;
    let last_place = place + first.len() + 1;
    if let Some(extra) = last.find('-') {
        // `1--2` lacks a port, `1-2-3` has one too many.
        parse_port(text, last_place, last.get(..extra).unwrap_or_default())?;
        return Err(AddrError::new(text, last_place + extra, AddrErrorKind::RangeParts));
    }
    let last_port = parse_port(text, last_place, last)?;
    if first_port >= last_port {
        let kind = AddrErrorKind::RangeOrder { first: first_port.get(), last: last_port.get() };
        return Err(AddrError::new(text, place, kind));
    }
    Ok(PortRange { first: first_port, last: last_port })
}

/// Reads one port, `text[place..place + digits.len()]`. Leading zeros are decimal.
pub(crate) fn parse_port(text: &str, place: usize, digits: &str) -> Result<Port, AddrError> {
    let fail = |position, kind| Err(AddrError::new(text, position, kind));
    if digits.is_empty() {
        return fail(place, AddrErrorKind::PortMissing);
    }
    if let Some((offset, found)) = digits.char_indices().find(|(_, c)| !c.is_ascii_digit()) {
        return fail(place + offset, AddrErrorKind::PortCharacter(quote(found.encode_utf8(&mut [0; 4]))));
    }
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return fail(place, AddrErrorKind::PortZero);
    }
    match significant.parse().ok().and_then(Port::new) {
        Some(port) => Ok(port),
        None => fail(place, AddrErrorKind::PortTooLarge(cut(significant))),
    }
}

/// A number for a message: as it is, or its beginning when it is absurdly long.
fn cut(digits: &str) -> String {
    const SHOWN: usize = 20;
    match digits.get(..SHOWN) {
        Some(head) if digits.len() > SHOWN => format!("{head}…"),
        _ => digits.to_owned(),
    }
}

impl FromStr for PortList {
    type Err = AddrError;

    fn from_str(text: &str) -> Result<Self, AddrError> {
        Self::parse_at(text, 0).map(|(list, _)| list)
    }
}

impl fmt::Display for PortList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{range}")?;
        }
        Ok(())
    }
}

serde_by_text!(PortList);

#[cfg(test)]
mod tests;
