//! Maps that refuse a key given twice: in plain JSON the last one would win silently.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{Error as _, MapAccess, Visitor};

/// Reads a map of strings.
///
/// # Errors
/// Those of the input, and a key given twice.
pub(super) fn map<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    from.deserialize_map(Pairs)
}

struct Pairs;

impl<'de> Visitor<'de> for Pairs {
    type Value = BTreeMap<String, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map of keys to strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut pairs = BTreeMap::new();
        while let Some((key, value)) = map.next_entry::<String, String>()? {
            if pairs.contains_key(&key) {
                return Err(A::Error::custom(format!("key {key:?} is given twice")));
            }
            pairs.insert(key, value);
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(transparent)]
    struct Keys(#[serde(deserialize_with = "map")] BTreeMap<String, String>);

    #[test]
    fn a_key_given_twice_is_refused() {
        assert_eq!(serde_json::from_str::<Keys>(r#"{"a":"1","b":"2"}"#).unwrap().0.len(), 2);
        let error = serde_json::from_str::<Keys>(r#"{"a":"1","a":"2"}"#).unwrap_err();
        assert!(error.to_string().contains("\"a\" is given twice"), "{error}");
    }
}
