//! Devices in TOML.

use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;

use super::{Fault, Raw, Word};
use crate::files::Places;

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
