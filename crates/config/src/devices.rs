//! A file of devices, as `portway apply` reads it: YAML (JSON is YAML too), or TOML.
//!
//! ```yaml
//! devices:
//!   - {instance: c1, name: web, listen: "tcp::8080", connect: "tcp::80"}
//! ```
//!
//! Every value is text as written, so that `mode: 0660` is a mode and `yes` is no surprise. Each
//! error says file, line and column.

mod toml_form;
mod yaml_form;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use portway_model::{
    DeviceKey, DeviceName, DeviceSpec, InstanceKey, InstanceRef, ListenIndex, ProjectName, Provider,
};
use thiserror::Error;

pub use crate::files::Position;
use crate::files::{self, FileError, Trust};

/// Longest file, bytes: 50,000 devices.
pub const FILE_MAX_BYTES: u64 = 16 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// YAML, and so JSON.
    Yaml,
    /// TOML.
    Toml,
}

impl Form {
    /// TOML for a name that ends so, else YAML.
    #[must_use]
    pub fn of(path: &Path) -> Form {
        if path.extension().is_some_and(|end| end.eq_ignore_ascii_case("toml")) {
            Form::Toml
        } else {
            Form::Yaml
        }
    }
}

/// What names in a file mean that say less than they could.
#[derive(Debug, Clone)]
pub struct Meaning {
    /// Provider of an instance without one.
    pub provider: Provider,
    /// Project of an instance without one.
    pub project: Option<ProjectName>,
}

/// A device of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub key: DeviceKey,
    /// Its options.
    pub spec: DeviceSpec,
    /// Where it stands.
    pub position: Position,
}

/// Why a file is not one of devices.
#[derive(Debug, Error)]
pub enum DevicesError {
    /// It cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A place in it is wrong.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// In characters, from 1.
        column: usize,
        /// What is wrong.
        message: String,
    },
}

/// A text with its place.
#[derive(Debug, Clone)]
pub(crate) struct Word {
    text: String,
    at: Position,
}

/// A device as written.
#[derive(Debug)]
pub(crate) struct Raw {
    at: Position,
    pairs: Vec<(Word, Word)>,
}

/// A fault at a place.
#[derive(Debug)]
pub(crate) struct Fault {
    at: Position,
    message: String,
}

/// Reads the devices of a file.
///
/// # Errors
/// [`DevicesError`], any.
pub fn load(path: &Path, meaning: &Meaning) -> Result<Vec<Entry>, DevicesError> {
    let bytes = files::read(path, FILE_MAX_BYTES, Trust::Named)?;
    parse(path, bytes, Form::of(path), meaning)
}

/// Reads the devices of a text; `path` is only for messages.
///
/// # Errors
/// [`DevicesError`], any.
pub fn parse(path: &Path, bytes: Vec<u8>, form: Form, meaning: &Meaning) -> Result<Vec<Entry>, DevicesError> {
    let text = files::text(path, bytes)?;
    let raw = match form {
        Form::Yaml => yaml_form::read(&text),
        Form::Toml => toml_form::read(&text),
    };
    raw.and_then(|raw| entries(raw, meaning)).map_err(|Fault { at, message }| DevicesError::Wrong {
        path: path.to_owned(),
        line: at.line,
        column: at.column,
        message,
    })
}

fn entries(raw: Vec<Raw>, meaning: &Meaning) -> Result<Vec<Entry>, Fault> {
    let mut seen: BTreeMap<DeviceKey, Position> = BTreeMap::new();
    let mut entries = Vec::new();
    for one in raw {
        let entry = entry(one, meaning)?;
        if let Some(first) = seen.insert(entry.key.clone(), entry.position) {
            let message = format!("{} stands in line {} already", entry.key, first.line);
            return Err(Fault { at: entry.position, message });
        }
        entries.push(entry);
    }
    apart(&entries)?;
    Ok(entries)
}

/// Whether every device can listen beside the others.
fn apart(entries: &[Entry]) -> Result<(), Fault> {
    let listed = entries.iter().enumerate();
    let index = ListenIndex::new(listed.map(|(number, entry)| (number, &entry.key.instance, &entry.spec)));
    for (number, entry) in entries.iter().enumerate() {
        let earlier = index.in_the_way_of(&entry.key.instance, &entry.spec).filter(|other| *other < number);
        if let Some(other) = earlier.min().and_then(|other| entries.get(other)) {
            let (key, listen, line) = (&entry.key, &entry.spec.listen, other.position.line);
            let message = format!(
                "{key} listens at {listen}, and {} in line {line} at {}",
                other.key, other.spec.listen
            );
            return Err(Fault { at: entry.position, message });
        }
    }
    Ok(())
}

fn entry(raw: Raw, meaning: &Meaning) -> Result<Entry, Fault> {
    let mut named: BTreeMap<&str, &Word> = BTreeMap::new();
    let mut keys = Vec::new();
    for (key, value) in &raw.pairs {
        if matches!(key.text.as_str(), "instance" | "name") {
            if named.insert(&key.text, value).is_some() {
                return Err(Fault { at: key.at, message: format!("`{}` is given twice", key.text) });
            }
        } else {
            keys.push((key, value));
        }
    }
    let needed = |what: &str| {
        named.get(what).copied().ok_or_else(|| Fault { at: raw.at, message: format!("`{what}` is missing") })
    };
    let (instance, name) = (needed("instance")?, needed("name")?);
    let key = DeviceKey { instance: self::instance(instance, meaning)?, device: device(name)? };
    let pairs = keys.iter().map(|(key, value)| (&key.text, &value.text));
    let spec = DeviceSpec::from_keys(pairs).map_err(|problem| {
        let faulty = keys.iter().rev().find(|(key, _)| key.text == problem.key());
        Fault { at: faulty.map_or(raw.at, |(_, value)| value.at), message: problem.to_string() }
    })?;
    Ok(Entry { key, spec, position: raw.at })
}

fn instance(word: &Word, meaning: &Meaning) -> Result<InstanceKey, Fault> {
    let fault =
        |problem: portway_model::RefError| Fault { at: word.at, message: format!("instance: {problem}") };
    let typed: InstanceRef = word.text.parse().map_err(fault)?;
    let provider = typed.provider.unwrap_or(meaning.provider);
    // The project of the command line is for those that say none and can have one.
    let project = meaning.project.clone().filter(|_| typed.project.is_none() && provider.has_projects());
    typed.resolve(meaning.provider, project).map_err(fault)
}

fn device(word: &Word) -> Result<DeviceName, Fault> {
    word.text.parse().map_err(|problem| Fault { at: word.at, message: format!("name: {problem}") })
}

#[cfg(test)]
mod tests;
