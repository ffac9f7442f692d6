//! `key=value` arguments, and the help that lists the keys.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portway_model::{DeviceSpec, SpecError};

use crate::cli::notes::ADD_EXAMPLES;
use crate::failure::{Outcome, Stop, printable};

/// Keys and values as typed.
pub(crate) type Pairs = BTreeMap<String, String>;

/// Reads `key=value` arguments. The value begins after the first `=`.
///
/// An argument without `=` and a key given twice are usage errors.
pub(crate) fn pairs(arguments: &[String]) -> Outcome<Pairs> {
    let mut pairs = Pairs::new();
    for argument in arguments {
        let Some((key, value)) = argument.split_once('=') else {
            return Err(Stop::usage(format!("argument `{}` is not key=value", printable(argument)))
                .hint("write a key and its value in one argument, as in listen=tcp:0.0.0.0:80"));
        };
        if pairs.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Stop::usage(format!("key `{}` is given twice", printable(key))));
        }
    }
    Ok(pairs)
}

/// Takes the device type off the front: `proxy`, which may be left out. Another type is a usage error.
pub(crate) fn without_type(arguments: &[String]) -> Outcome<&[String]> {
    match arguments {
        [first, rest @ ..] if first == "proxy" => Ok(rest),
        [first, ..] if !first.contains('=') && !is_key(first) => {
            Err(Stop::usage(format!("device type `{}` is not `proxy`", printable(first))).hint(
                "portway serves proxy devices only; other types are added with `incus config device add`",
            ))
        }
        all => Ok(all),
    }
}

fn is_key(word: &str) -> bool {
    DeviceSpec::KEYS.iter().any(|doc| doc.name == word)
}

/// `keys` in the order of the table of keys; unknown ones, which a newer daemon may have, at the end.
pub(crate) fn in_order(keys: &Pairs) -> Vec<(&str, &str)> {
    let place = |name: &str| DeviceSpec::KEYS.iter().position(|doc| doc.name == name).unwrap_or(usize::MAX);
    let mut pairs: Vec<_> = keys.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    pairs.sort_by_key(|(key, _)| place(key));
    pairs
}

/// Checks the keys of a whole device.
pub(crate) fn spec(pairs: &Pairs) -> Outcome<DeviceSpec> {
    DeviceSpec::from_keys(pairs).map_err(|error| {
        let stop = Stop::usage(error.to_string());
        match hint(&error) {
            Some(hint) => stop.hint(hint),
            None => stop,
        }
    })
}

/// What the key at fault takes, or where the keys are listed.
fn hint(error: &SpecError) -> Option<String> {
    match error {
        SpecError::Address { key, .. } | SpecError::Value { key, .. } | SpecError::Missing { key } => {
            let doc = DeviceSpec::KEYS.iter().find(|doc| doc.name == *key)?;
            Some(format!("{}={} is {}", doc.name, doc.value, doc.about))
        }
        SpecError::UdpToStream { .. } => {
            Some("udp.framing=len16 puts its length before each datagram, as DNS over TCP has it".to_owned())
        }
        SpecError::UnknownKey { .. } => Some("`portway device add --help` lists the keys".to_owned()),
        SpecError::Foreign { .. }
        | SpecError::Nat(_)
        | SpecError::Listen { .. }
        | SpecError::GroupZero
        | SpecError::Duplicate { .. }
        | SpecError::PortCount { .. }
        | SpecError::Framing
        | SpecError::ProxyUdp
        | SpecError::Pairing { .. }
        | SpecError::ProxyProtocol { .. }
        | SpecError::NotASocketFile { .. }
        | SpecError::V6Only
        | SpecError::Fds => None,
    }
}

/// The keys and examples, below the help of `device add`.
pub(crate) fn help() -> String {
    let mut text = String::from("Keys:\n");
    for doc in DeviceSpec::KEYS {
        let head = format!("{}={}", doc.name, doc.value);
        let about = match doc.default {
            "" => doc.about.to_owned(),
            // Not broken inside the brackets.
            default => format!("{} [default:\u{a0}{default}]", doc.about),
        };
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "  {head:<ABOUT_COLUMN$}{}", hanging(&about));
    }
    text.push_str("\nExamples:");
    for example in ADD_EXAMPLES {
        let _infallible = write!(text, "\n  {example}");
    }
    text
}

/// Columns before what a key is about, without the two at the edge.
const ABOUT_COLUMN: usize = 33;

/// Breaks `text` between words so that it fits beside its key into 100 columns.
fn hanging(text: &str) -> String {
    let width = 100 - 2 - ABOUT_COLUMN;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join(&format!("\n{:1$}", "", ABOUT_COLUMN + 2)).replace('\u{a0}', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(arguments: &[&str]) -> Vec<String> {
        arguments.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn values_keep_their_equals_signs() {
        let pairs = pairs(&list(&["listen=unix:/a=b", "connect="])).unwrap();
        assert_eq!(pairs["listen"], "unix:/a=b");
        assert_eq!(pairs["connect"], "");
    }

    #[test]
    fn the_type_may_be_left_out() {
        let with = list(&["proxy", "listen=x"]);
        assert_eq!(without_type(&with).unwrap(), &with[1..]);
        assert_eq!(without_type(&with[1..]).unwrap(), &with[1..]);
        assert!(without_type(&list(&["disk", "path=/"])).is_err());
        assert!(pairs(&list(&["a=1", "a=2"])).is_err());
    }
}
