//! Devices in YAML.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_saphyr::{Location, Spanned};

use super::{Fault, Position, Raw, Word};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    devices: Vec<Spanned<Pairs>>,
}

/// A map in the order it is written, with places.
struct Pairs(Vec<(Word, Word)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        from.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device: a map of keys to values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some((key, value)) = map.next_entry::<Spanned<String>, Spanned<String>>()? {
            pairs.push((word(key), word(value)));
        }
        Ok(Pairs(pairs))
    }
}

fn word(spanned: Spanned<String>) -> Word {
    Word { at: position(spanned.referenced), text: spanned.value }
}

fn position(location: Location) -> Position {
    let number = |value: u64| usize::try_from(value).unwrap_or(usize::MAX).max(1);
    Position { line: number(location.line()), column: number(location.column()) }
}

/// Reads the devices of `text`. Aliases are followed within the parser's budgets.
pub(super) fn read(text: &str) -> Result<Vec<Raw>, Fault> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let at = error.location().map_or(Position { line: 1, column: 1 }, position);
        // The place is said by us, and advice for programmers is for nobody here.
        let message = error.without_snippet().to_string();
        let cut = [" at line ", "; use ", ", set "].iter().filter_map(|advice| message.find(advice)).min();
        let message = message[..cut.unwrap_or(message.len())].replace('\n', ", ");
        Fault { at, message }
    })?;
    let raw = |device: Spanned<Pairs>| Raw { at: position(device.referenced), pairs: device.value.0 };
    Ok(file.devices.into_iter().map(raw).collect())
}
