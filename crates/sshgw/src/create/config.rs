//! `create-config.yaml`, as ssh2incus has it: of 0.8 and later (`defaults:` and `profiles:`) or of 0.7 (the keys by
//! themselves). Values of `config` may stand in files of the same folder.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use portway_config::Paths;
use portway_config::files::{self, FileError, Trust};

use super::Recipe;
use super::yaml::{self, Fault, Node, Place, TEXT_BYTES, Value, shown};

/// Most files that are included.
const INCLUDES: usize = 64;

/// Keys of one part.
const KEYS: [&str; 8] = ["image", "memory", "cpu", "disk", "ephemeral", "vm", "devices", "config"];

/// Units of sizes that the servers know.
const UNITS: [&str; 13] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// A key that the packaged file of 0.7 has, that no server knows, and what was meant.
const OLD_NESTING: &str = "security.nested";
const NESTING: &str = "security.nesting";

/// Where the file is: beside the settings.
#[must_use]
pub fn path(paths: &Paths) -> PathBuf {
    paths.config.with_file_name("create-config.yaml")
}

/// How instances are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateConfig {
    /// What counts where nothing else is said.
    pub defaults: Recipe,
    /// What is said by a name.
    pub profiles: BTreeMap<String, Recipe>,
    /// What was read otherwise than it is written, one line each.
    pub warnings: Vec<String>,
    /// Names of the files that were included, beside it.
    pub included: Vec<String>,
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CreateConfigError {
    /// It cannot be read, or be trusted.
    #[error(transparent)]
    File(FileError),
    /// It is malformed.
    #[error("{}:{line}:{column}: {message}", path.display())]
    Syntax {
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

impl CreateConfig {
    /// Reads `path` and the files that it includes; without that file the defaults are our own.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load(path: &Path) -> Result<Self, CreateConfigError> {
        Self::load_trusting(path, Trust::Own)
    }

    /// The same with files of somebody else, to look at them.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn load_trusting(path: &Path, trust: Trust) -> Result<Self, CreateConfigError> {
        let bytes = match files::read(path, TEXT_BYTES, trust) {
            Ok(bytes) => bytes,
            Err(FileError::Missing { .. }) => return Ok(Self::default()),
            Err(error) => return Err(CreateConfigError::File(error)),
        };
        let text = files::text(path, bytes).map_err(CreateConfigError::File)?;
        let dir = path.parent().unwrap_or(path);
        Self::read(&text, |name| included(dir, name, trust)).map_err(|fault| CreateConfigError::Syntax {
            path: path.to_owned(),
            line: fault.line,
            column: fault.column,
            message: fault.message,
        })
    }

    fn read(text: &str, include: impl Fn(&str) -> Result<String, String>) -> Result<Self, Fault> {
        let mut reader = Reader { include, warnings: Vec::new(), included: Vec::new() };
        let Some(document) = yaml::document(text)? else { return Ok(Self::default()) };
        let mut config = match document.value {
            Value::Null => return Ok(Self::default()),
            Value::Map(map) => reader.whole(map)?,
            other => {
                return Err(document.place.fault(format!("the file is a mapping, not {}", other.noun())));
            }
        };
        config.warnings = reader.warnings;
        config.included = reader.included;
        Ok(config)
    }
}

/// The text of a file in the folder, and in no other.
fn included(dir: &Path, name: &str, trust: Trust) -> Result<String, String> {
    let path = Path::new(name);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if name.is_empty() || !is_below {
        return Err(format!("`{}` is not a file of this folder", shown(name)));
    }
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", shown(name));
    let (home, path) = (dir.canonicalize(), dir.join(path).canonicalize());
    let (home, path) = (home.map_err(|error| failed(&error))?, path.map_err(|error| failed(&error))?);
    if !path.starts_with(&home) {
        return Err(format!("`{}` leads out of this folder", shown(name)));
    }
    let bytes = files::read(&path, TEXT_BYTES, trust).map_err(|error| error.to_string())?;
    files::text(&path, bytes).map_err(|error| error.to_string())
}

struct Reader<F> {
    include: F,
    warnings: Vec<String>,
    included: Vec<String>,
}

type Members = Vec<(String, Place, Node)>;

impl<F: Fn(&str) -> Result<String, String>> Reader<F> {
    fn whole(&mut self, map: Members) -> Result<CreateConfig, Fault> {
        let is_new = map.iter().any(|(key, ..)| matches!(key.as_str(), "defaults" | "profiles"));
        let mut config = CreateConfig::default();
        let mut flat = Members::new();
        for (key, place, node) in map {
            match key.as_str() {
                "version" => drop(text(&node)?),
                "defaults" => config.defaults = self.part(members(node)?)?,
                "profiles" => {
                    for (name, _, node) in members(node)? {
                        let profile = self.part(members(node)?)?;
                        config.profiles.insert(name, profile);
                    }
                }
                _ if is_new && KEYS.contains(&key.as_str()) => {
                    return Err(place.fault(format!("`{key}` stands below `defaults:` or a profile")));
                }
                _ if is_new => return Err(unknown(&key, place, &["version", "defaults", "profiles"])),
                _ => flat.push((key, place, node)),
            }
        }
        if !is_new {
            config.defaults = self.part(flat)?;
        }
        Ok(config)
    }

    fn part(&mut self, map: Members) -> Result<Recipe, Fault> {
        let mut recipe = Recipe::default();
        for (key, place, node) in map {
            if node.value == Value::Null {
                continue;
            }
            match key.as_str() {
                "image" => recipe.image = Some(image(&node)?),
                "memory" => recipe.memory = Some(size(&node)?),
                "cpu" => recipe.cpu = Some(count(&node)?),
                "disk" => recipe.disk = Some(size(&node)?),
                "ephemeral" => recipe.ephemeral = Some(switch(&node)?),
                "vm" => recipe.vm = Some(switch(&node)?),
                "devices" => recipe.devices = self.devices(node)?,
                "config" => recipe.config = self.config(node)?,
                _ => return Err(unknown(&key, place, &KEYS)),
            }
        }
        Ok(recipe)
    }

    fn devices(&mut self, node: Node) -> Result<BTreeMap<String, portway_incus::Device>, Fault> {
        let mut devices = BTreeMap::new();
        for (name, _, node) in members(node)? {
            let keys = members(node)?.into_iter().map(|(key, _, node)| Ok((key, text(&node)?)));
            devices.insert(name, keys.collect::<Result<_, Fault>>()?);
        }
        Ok(devices)
    }

    fn config(&mut self, node: Node) -> Result<BTreeMap<String, String>, Fault> {
        let mut config = BTreeMap::new();
        for (key, place, node) in members(node)? {
            let value = match &node.value {
                Value::Include(name) => self.file(name, node.place)?,
                _ => text(&node)?,
            };
            let key = if key == OLD_NESTING {
                self.warnings.push(format!("{OLD_NESTING} is read as {NESTING}: no server knows the former"));
                NESTING.to_owned()
            } else {
                key
            };
            if config.insert(key.clone(), value).is_some() {
                return Err(place.fault(format!("`{}` is there twice", shown(&key))));
            }
        }
        Ok(config)
    }

    fn file(&mut self, name: &str, place: Place) -> Result<String, Fault> {
        if self.included.len() == INCLUDES {
            return Err(place.fault(format!("more than {INCLUDES} files are included")));
        }
        let text = (self.include)(name).map_err(|why| place.fault(format!("cannot include {why}")))?;
        self.included.push(name.to_owned());
        Ok(text)
    }
}

fn unknown(key: &str, place: Place, known: &[&'static str]) -> Fault {
    let near = portway_model::nearest(key, known.iter().copied());
    let near = near.map(|near| format!(", is it {near}?")).unwrap_or_default();
    place.fault(format!("unknown key `{}`{near}", shown(key)))
}

fn members(node: Node) -> Result<Members, Fault> {
    match node.value {
        Value::Map(map) => Ok(map),
        Value::Null => Ok(Members::new()),
        other => Err(node.place.fault(format!("a mapping stands here, not {}", other.noun()))),
    }
}

fn text(node: &Node) -> Result<String, Fault> {
    match &node.value {
        Value::Scalar(text) => Ok(text.clone()),
        Value::Include(_) => Err(node.place.fault("files are included in values of `config` alone")),
        other => Err(node.place.fault(format!("a single value stands here, not {}", other.noun()))),
    }
}

fn image(node: &Node) -> Result<String, Fault> {
    let text = text(node)?;
    let is_fine = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    if is_fine { Ok(text) } else { Err(node.place.fault(format!("`{}` is no image", shown(&text)))) }
}

fn count(node: &Node) -> Result<u32, Fault> {
    let text = text(node)?;
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = if is_plain { text.parse().ok() } else { None };
    number.ok_or_else(|| {
        node.place.fault(format!("`{}` is no number of processors, as 2; 0 is no limit", shown(&text)))
    })
}

/// A number is GiB; with a unit it goes to the server as it stands; 0 is no limit.
fn size(node: &Node) -> Result<String, Fault> {
    let text = text(node)?;
    let wrong = || {
        node.place.fault(format!("`{}` is no size, as 4 (GiB), 4GB or 512MiB; 0 is no limit", shown(&text)))
    };
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim_start_matches(' ');
    match unit {
        _ if !unit.is_empty() && !UNITS.contains(&unit) => Err(wrong()),
        _ if number == 0 => Ok(String::new()),
        "" => Ok(format!("{number}GiB")),
        unit => Ok(format!("{number}{unit}")),
    }
}

fn switch(node: &Node) -> Result<bool, Fault> {
    match text(node)?.as_str() {
        "true" | "True" | "TRUE" => Ok(true),
        "false" | "False" | "FALSE" => Ok(false),
        other => Err(node.place.fault(format!("`{}` is neither true nor false", shown(other)))),
    }
}

#[cfg(test)]
mod tests;
