//! Devices in TOML.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Fault, Position, Raw, Word};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    devices: Vec<Spanned<Pairs>>,
}

/// A table in its order, with places.
struct Pairs(Vec<(Spanned<String>, Spanned<Value>)>);

/// A value as text.
struct Value(String);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        from.deserialize_map(PairsVisitor)
    }
}

struct PairsVisitor;

impl<'de> Visitor<'de> for PairsVisitor {
    type Value = Pairs;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device: a table of keys and values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
        let mut pairs = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            if key.get_ref() == "mode" {
                // A number would have lost how it was written.
                let value = map.next_value::<Spanned<String>>()?;
                let span = value.span();
                pairs.push((key, Spanned::new(span, Value(value.into_inner()))));
            } else {
                pairs.push((key, map.next_value()?));
            }
        }
        Ok(Pairs(pairs))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Value, D::Error> {
        from.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string, a number or a boolean (a key with a dot stands in quotes)")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(text.to_owned()))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value(value.to_string()))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Value, E> {
        if number < 0 { Err(E::custom("a number below 0")) } else { Ok(Value(number.to_string())) }
    }
}

/// Reads the devices of `text`.
pub(super) fn read(text: &str) -> Result<Vec<Raw>, Fault> {
    let places = Places::of(text);
    let file: File = toml::from_str(text).map_err(|error| Fault {
        at: places.at(error.span().map_or(0, |span| span.start)),
        message: error.message().replace('\n', ", "),
    })?;
    let word = |span: std::ops::Range<usize>, value: String| Word { at: places.at(span.start), text: value };
    let raw = |device: Spanned<Pairs>| {
        let at = places.at(device.span().start);
        let pairs = device.into_inner().0.into_iter().map(|(key, value)| {
            let (key_span, value_span) = (key.span(), value.span());
            (word(key_span, key.into_inner()), word(value_span, value.into_inner().0))
        });
        Raw { at, pairs: pairs.collect() }
    };
    Ok(file.devices.into_iter().map(raw).collect())
}

/// Bytes from one known place to the next.
const STEP: usize = 1024;

/// Lines and columns of a text, of which those at every [`STEP`] bytes are known: a place costs the same wherever in
/// the text it is, and however long its line.
struct Places<'a> {
    text: &'a [u8],
    known: Vec<Position>,
}

impl<'a> Places<'a> {
    fn of(text: &'a str) -> Self {
        let text = text.as_bytes();
        let mut known = vec![Position { line: 1, column: 1 }];
        for step in text.chunks(STEP) {
            known.extend(known.last().map(|from| behind(*from, step)));
        }
        Self { text, known }
    }

    /// The place of a byte; that of the end for one behind it.
    fn at(&self, byte: usize) -> Position {
        let byte = byte.min(self.text.len());
        let step = byte / STEP;
        let from = self.known.get(step).copied().unwrap_or(Position { line: 1, column: 1 });
        behind(from, self.text.get(step * STEP..byte).unwrap_or_default())
    }
}

/// Where a text ends that begins at `from`.
fn behind(from: Position, text: &[u8]) -> Position {
    text.iter().fold(from, |at, byte| match byte {
        b'\n' => Position { line: at.line + 1, column: 1 },
        // Not the first byte of a character.
        0x80..0xc0 => at,
        _ => Position { column: at.column + 1, ..at },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_those_that_one_counts() {
        let text = "a\u{e4}b\n\n".repeat(STEP) + &"\u{20ac}".repeat(STEP);
        let places = Places::of(&text);
        let (mut line, mut column) = (1, 1);
        for (byte, c) in text.char_indices() {
            assert_eq!(places.at(byte), Position { line, column }, "byte {byte}");
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        assert_eq!(places.at(text.len() + 9), Position { line, column });
        assert_eq!(Places::of("").at(0), Position { line: 1, column: 1 });
    }
}
