//! What becomes of every key of a Compose file: one table, from which refusals, warnings and the manual's table follow.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portway_composefile::keys::Said;
use portway_composefile::{Fault, Kind};

mod table;

pub use table::KEYS;

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treatment {
    /// It has its effect.
    Mapped,
    /// It has none, and a warning says so.
    Ignored,
    /// The project is not brought up.
    Refused,
}

/// A key and what becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its path: `services.build.args`. What is ignored or refused stands for what is below it too.
    pub path: &'static str,
    /// What becomes of it.
    pub treatment: Treatment,
    /// What it comes to, or why it does not.
    pub about: &'static str,
}

/// What the table says of a key, or of the nearest one it stands in.
#[must_use]
pub fn of(path: &str) -> Option<&'static Key> {
    let mut path = path;
    loop {
        if let Some(key) = KEYS.iter().find(|key| key.path == path) {
            return Some(key);
        }
        path = path.rsplit_once('.')?.0;
    }
}

/// Warnings for what a project says and is ignored: one for each key, with the first place of each.
///
/// # Errors
/// The first key that is refused.
pub(crate) fn check(said: &[Said<'_>]) -> Result<Vec<String>, Fault> {
    let mut ignored: BTreeMap<&str, (&Said<'_>, usize, &Key)> = BTreeMap::new();
    for one in said {
        let Some(key) = of(&one.key) else {
            return Err(one.node.fault(&one.path, "what this comes to is not known"));
        };
        match key.treatment {
            Treatment::Mapped => {}
            Treatment::Refused => {
                return Err(one
                    .node
                    .fault(&one.path, format!("cannot be had: {}", key.about))
                    .kind(Kind::Inconsistent));
            }
            Treatment::Ignored if one.key == key.path => {
                ignored.entry(key.path).or_insert((one, 0, key)).1 += 1;
            }
            Treatment::Ignored => {}
        }
    }
    let line = |(said, count, key): (&Said<'_>, usize, &Key)| {
        let others = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
        format!("{}: {}{others}: ignored: {}", said.place(), said.path, key.about)
    };
    Ok(ignored.into_values().map(line).collect())
}

/// The table for the manual.
#[must_use]
pub fn markdown() -> String {
    let mut text = "| key | becomes |\n|---|---|\n".to_owned();
    for key in KEYS {
        let word = match key.treatment {
            Treatment::Mapped => "",
            Treatment::Ignored => "*ignored:* ",
            Treatment::Refused => "**refused:** ",
        };
        let _infallible = writeln!(text, "| `{}` | {word}{} |", key.path, key.about);
    }
    text
}

#[cfg(test)]
mod tests;
