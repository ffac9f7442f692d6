//! A network in TOML, rules and all:
//!
//! ```toml
//! private_key_file = "node.key"
//! addresses = ["10.9.0.1/24"]
//! ingress = ["tcp:443:127.0.0.1:8443", { rule = "tcp:80:127.0.0.1:8080", proxy_protocol = "v2" }]
//!
//! [[peers]]
//! public_key = "..."
//! allowed_ips = ["10.9.0.2/32"]
//! endpoint = "b.example:51820"
//! ```

use std::fmt;
use std::path::Path;

use portway_config::files::{Places, Position};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use toml::Spanned;
use zeroize::Zeroizing;

use super::draft::{Draft, PeerDraft, shown};
use super::error::SpecError;
use super::load::Surroundings;
use super::named;
use super::place::{Field, Place, Source};
use super::rules::Said;

/// A table in its order, with places.
struct Pairs(Vec<(Spanned<String>, Spanned<Value>)>);

/// A value: texts and numbers as texts.
enum Value {
    Text(Zeroizing<String>),
    List(Vec<Spanned<Value>>),
    Table(Pairs),
}

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Pairs, D::Error> {
        match Value::deserialize(from)? {
            Value::Table(pairs) => Ok(pairs),
            Value::Text(_) | Value::List(_) => Err(serde::de::Error::custom("expected a table")),
        }
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
        f.write_str("a text, a number, a list or a table")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(text.to_owned())))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Text(Zeroizing::new(number.to_string())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::List(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry()? {
            pairs.push(pair);
        }
        Ok(Value::Table(Pairs(pairs)))
    }
}

/// Reads a file into `draft` and `rules`.
pub(super) fn read(
    path: &Path,
    text: &str,
    around: &dyn Surroundings,
    draft: &mut Draft,
    rules: &mut Vec<Said>,
) -> Result<(), SpecError> {
    let reader = Reader { path, places: Places::of(text), around };
    let pairs: Pairs = toml::from_str(text).map_err(|error| {
        let place = reader.place(error.span().map_or(0, |span| span.start));
        SpecError::wrong(&place, error.message().replace('\n', ", "))
    })?;
    for (key, value) in pairs.0 {
        if key.get_ref() == "peers" {
            let place = reader.place(value.span().start);
            let Value::List(peers) = value.into_inner() else {
                return Err(SpecError::wrong(&place, "peers are written as [[peers]]"));
            };
            for table in peers {
                draft.peers.push(reader.peer(table)?);
            }
            continue;
        }
        let at = reader.place(key.span().start);
        for (name, field) in reader.fields(&key, value)? {
            if !named::network(draft, rules, &name, field)? {
                return Err(unknown(&at, key.get_ref()));
            }
        }
    }
    Ok(())
}

fn unknown(place: &Place, key: &str) -> SpecError {
    let error = SpecError::wrong(place, format!("unknown key {}", shown(key)));
    match named::meant(key) {
        Some(name) => error.with_hint(format!("did you mean {name}?")),
        None => error,
    }
}

/// What a reader has to know of its file.
struct Reader<'a> {
    path: &'a Path,
    places: Places<'a>,
    around: &'a dyn Surroundings,
}

impl Reader<'_> {
    fn place(&self, byte: usize) -> Place {
        let Position { line, column } = self.places.at(byte);
        Place::file(self.path, line, column)
    }

    fn peer(&self, table: Spanned<Value>) -> Result<PeerDraft, SpecError> {
        let place = self.place(table.span().start);
        let Value::Table(pairs) = table.into_inner() else {
            return Err(SpecError::wrong(&place, "peers are written as [[peers]]"));
        };
        let mut peer = PeerDraft::at(place);
        for (key, value) in pairs.0 {
            let at = self.place(key.span().start);
            for (name, field) in self.fields(&key, value)? {
                if !named::peer(&mut peer, &name, field)? {
                    return Err(unknown(&at, key.get_ref()));
                }
            }
        }
        Ok(peer)
    }

    /// A rule as a table: `{ rule = "...", proxy_protocol = "v2" }`.
    fn rule(&self, place: Place, pairs: Pairs) -> Result<Field, SpecError> {
        let (mut rule, mut option) = (None, None);
        for (key, value) in pairs.0 {
            let at = self.place(value.span().start);
            let Value::Text(text) = value.into_inner() else {
                return Err(SpecError::wrong(&at, format!("{} is one value", shown(key.get_ref()))));
            };
            match key.get_ref().as_str() {
                "rule" => rule = Some(text),
                "proxy_protocol" => option = Some(text),
                other => {
                    let error = SpecError::wrong(
                        &self.place(key.span().start),
                        format!("unknown key {}", shown(other)),
                    );
                    return Err(error.with_hint("a rule has rule and proxy_protocol"));
                }
            }
        }
        let Some(rule) = rule else {
            return Err(SpecError::wrong(&place, "a rule without its text: rule = \"...\""));
        };
        Ok(match option {
            Some(option) => Field::new(place, &format!("{}+proxy_protocol={}", *rule, *option)),
            None => Field { place, text: rule },
        })
    }

    /// What a key says, and under which name: `private_key_file` says `private_key`. A list says each of its items.
    fn fields(
        &self,
        key: &Spanned<String>,
        value: Spanned<Value>,
    ) -> Result<Vec<(String, Field)>, SpecError> {
        let (name, place) = (key.get_ref(), self.place(value.span().start));
        let known = named::NETWORK.iter().chain(named::PEER).copied().chain([
            "private_key_file",
            "preshared_key_file",
            "proxy_password_file",
        ]);
        if !known.into_iter().any(|known| known == name) {
            return Err(unknown(&self.place(key.span().start), name));
        }
        match value.into_inner() {
            Value::List(items) if named::takes_list(name) => {
                let item = |item: Spanned<Value>| {
                    let place = self.place(item.span().start);
                    match item.into_inner() {
                        Value::Text(text) => Ok((name.clone(), Field { place, text })),
                        Value::Table(pairs) if name == "ingress" || name == "egress" => {
                            Ok((name.clone(), self.rule(place, pairs)?))
                        }
                        Value::List(_) | Value::Table(_) => {
                            Err(SpecError::wrong(&place, format!("{name} is a list of texts")))
                        }
                    }
                };
                items.into_iter().map(item).collect()
            }
            Value::Text(_) if named::takes_list(name) => {
                Err(SpecError::wrong(&place, format!("{name} is a list of texts, written [\"...\"]")))
            }
            Value::List(_) | Value::Table(_) => Err(SpecError::wrong(&place, format!("{name} is one value"))),
            Value::Text(text) => match name.strip_suffix("_file").filter(|name| named::is_secret(name)) {
                Some(secret) => {
                    let file = self.path.parent().unwrap_or(Path::new("")).join(text.as_str());
                    let text = self.around.file(&file)?.text;
                    let field = Field::new(Place::of(Source::File(file)), text.trim());
                    Ok(vec![(secret.to_owned(), field)])
                }
                None => Ok(vec![(name.clone(), Field { place, text })]),
            },
        }
    }
}

#[cfg(test)]
mod tests;
