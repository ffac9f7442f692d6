//! Caps of a device and the groups of its relay.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::at::{ValueError, ValueErrorKind};
use crate::options::{parse_id, parse_number};
use crate::text::{quote, serde_by_text};

/// Caps of a device (`limits.*`); `None` is no cap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Most connections or flows at once.
    pub connections: Option<NonZeroU32>,
    /// New connections or flows in a second.
    pub rate: Option<Rate>,
    /// Most connections or flows at once of one client address; of IPv6 one network of 64 bits.
    pub per_source: Option<NonZeroU32>,
}

/// Greatest value of any cap.
const CAP_MAX: u32 = 1_000_000;

/// Reads a cap, 1 to 1,000,000.
pub(crate) fn parse_cap(text: &str) -> Result<Option<NonZeroU32>, ValueError> {
    parse_number(text, 1, CAP_MAX).map(NonZeroU32::new)
}

/// A number in a second, 1 to 1,000,000. As many may come at once after a second without any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rate(NonZeroU32);

impl Rate {
    /// How many in a second.
    #[must_use]
    pub const fn per_second(self) -> NonZeroU32 {
        self.0
    }
}

impl FromStr for Rate {
    type Err = ValueError;

    /// `100/s`, or `100`.
    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (digits, unit) = text.split_at(text.find('/').unwrap_or(text.len()));
        if !matches!(unit, "" | "/s") {
            let kind = ValueErrorKind::Character { found: quote(unit), expected: "`/s` or nothing" };
            return Err(ValueError::new(text, digits.len(), kind));
        }
        match parse_cap(digits) {
            Ok(Some(number)) => Ok(Self(number)),
            Ok(None) => Err(ValueError::new(text, 0, ValueErrorKind::Empty { expected: "a number" })),
            Err(error) => Err(ValueError::new(text, error.position, error.kind)),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/s", self.0)
    }
}

serde_by_text!(Rate);

/// Supplementary groups, in order, each once, at most [`GroupIds::MAX_COUNT`]. As text a list with commas; in JSON
/// a list of numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupIds {
    /// Those in use first; the others are zero, so that equal lists are equal.
    ids: [u32; Self::MAX_COUNT],
    count: usize,
}

impl GroupIds {
    /// Most groups. NFS tells a server 16 at most; the kernel itself takes many more (credentials(7)).
    pub const MAX_COUNT: usize = 16;

    /// No group.
    pub const NONE: Self = Self { ids: [0; Self::MAX_COUNT], count: 0 };

    /// These groups; `None` when they are too many.
    #[must_use]
    pub fn new(groups: &[u32]) -> Option<Self> {
        let mut sorted = groups.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let mut ids = [0; Self::MAX_COUNT];
        ids.get_mut(..sorted.len())?.copy_from_slice(&sorted);
        Some(Self { ids, count: sorted.len() })
    }

    /// The ids.
    #[must_use]
    pub fn as_slice(&self) -> &[u32] {
        self.ids.get(..self.count).unwrap_or_default()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl FromStr for GroupIds {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let mut ids = Vec::new();
        let mut start = 0;
        for item in text.split(',') {
            if ids.len() == Self::MAX_COUNT {
                return Err(ValueError::new(text, start, ValueErrorKind::TooMany(Self::MAX_COUNT)));
            }
            ids.push(
                parse_id(item).map_err(|error| ValueError::new(text, start + error.position, error.kind))?,
            );
            start += item.len() + 1;
        }
        Self::new(&ids).ok_or_else(|| ValueError::new(text, 0, ValueErrorKind::TooMany(Self::MAX_COUNT)))
    }
}

impl fmt::Display for GroupIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, id) in self.as_slice().iter().enumerate() {
            write!(f, "{}{id}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Serialize for GroupIds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GroupIds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ids = Vec::<u32>::deserialize(deserializer)?;
        Self::new(&ids).ok_or_else(|| D::Error::custom(format!("more than {} groups", Self::MAX_COUNT)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate = |text: &str| text.parse::<Rate>().map(|rate| rate.to_string()).map_err(|e| e.to_string());
        assert_eq!(rate("100/s"), Ok("100/s".into()));
        assert_eq!(rate("1"), Ok("1/s".into()));
        assert_eq!(rate("1000000"), Ok("1000000/s".into()));
        assert_eq!(rate("0"), Err("column 1: `0` is outside 1 to 1000000".into()));
        assert_eq!(rate("1000001/s"), Err("column 1: `1000001` is outside 1 to 1000000".into()));
        assert_eq!(rate("10/m"), Err("column 3: unexpected `/m`, expected `/s` or nothing".into()));
        assert_eq!(rate("10/s/s"), Err("column 3: unexpected `/s/s`, expected `/s` or nothing".into()));
        assert_eq!(rate("1m"), Err("column 2: unexpected `m`, expected a number".into()));
        assert_eq!(rate("/s"), Err("column 1: value is empty, expected a number".into()));
    }

    #[test]
    fn groups() {
        let read = |text: &str| text.parse::<GroupIds>().map_err(|error| error.to_string());
        let groups = read("44,4,44").expect("groups");
        assert_eq!((groups.as_slice(), groups.to_string()), (&[4, 44][..], "4,44".to_owned()));
        assert_eq!(serde_json::to_string(&groups).expect("json"), "[4,44]");
        assert_eq!(serde_json::from_str::<GroupIds>("[44,4]").expect("groups"), groups);
        assert!(serde_json::from_str::<GroupIds>("[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]").is_err());
        assert!(GroupIds::default().is_empty() && !groups.is_empty());
        assert_eq!(read("1,,2"), Err("column 3: value is empty, expected a number".into()));
        assert_eq!(read("1,audio"), Err("column 3: unexpected `a`, expected a number".into()));
        assert_eq!(read("1,4294967295"), Err("column 3: id 4294967295 is reserved by the kernel".into()));
        let many = (0..17).map(|id| id.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(read(&many), Err("column 39: more than 16 items in a list".into()));
    }
}
