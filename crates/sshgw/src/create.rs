//! How an instance is made for a login: the gateway's defaults, profiles by their names, and what the login says, each
//! over the one before.
//!
//! Pure, but for the files of [`CreateConfig::load`]. What the server makes of it is its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portway_incus::{Device, InstanceKind};
use portway_proto::login::{Create, CreateOptions};
use serde::{Deserialize, Serialize};

mod config;
mod yaml;

pub use config::{CreateConfig, CreateConfigError, path};

/// The image where nobody names one: from `images:`.
pub const IMAGE: &str = "debian/13";

/// What one part says of a new instance; what it does not say is up to those below.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recipe {
    /// Image, `[SERVER:]NAME`.
    pub image: Option<String>,
    /// Memory as the server reads it; empty is no limit.
    pub memory: Option<String>,
    /// Processors; 0 is no limit.
    pub cpu: Option<u32>,
    /// Size of the root disk as the server reads it; empty is no limit.
    pub disk: Option<String>,
    /// Deleted when it stops.
    pub ephemeral: Option<bool>,
    /// A virtual machine.
    pub vm: Option<bool>,
    /// Devices.
    pub devices: BTreeMap<String, Device>,
    /// Configuration.
    pub config: BTreeMap<String, String>,
}

impl Recipe {
    /// This, and of `lower` what this does not say: a key of the configuration by itself, a device as a whole.
    #[must_use]
    fn over(self, lower: &Self) -> Self {
        let below = |own: Option<String>, lower: &Option<String>| own.or_else(|| lower.clone());
        let mut devices = lower.devices.clone();
        devices.extend(self.devices);
        let mut config = lower.config.clone();
        config.extend(self.config);
        Self {
            image: below(self.image, &lower.image),
            memory: below(self.memory, &lower.memory),
            cpu: self.cpu.or(lower.cpu),
            disk: below(self.disk, &lower.disk),
            ephemeral: self.ephemeral.or(lower.ephemeral),
            vm: self.vm.or(lower.vm),
            devices,
            config,
        }
    }
}

/// What a login says of its instance, kept with its session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Wanted {
    pub(crate) ephemeral: bool,
    pub(crate) image: Option<String>,
    pub(crate) memory_gib: Option<u32>,
    pub(crate) cpu_count: Option<u32>,
    pub(crate) disk_gib: Option<u32>,
    pub(crate) nesting: bool,
    pub(crate) privileged: bool,
    pub(crate) vm: bool,
    pub(crate) profiles: Vec<String>,
}

impl From<&Create> for Wanted {
    fn from(create: &Create) -> Self {
        let CreateOptions { image, memory_gib, cpu_count, disk_gib, nesting, privileged, vm, profiles } =
            create.options.clone();
        let ephemeral = create.ephemeral;
        Self { ephemeral, image, memory_gib, cpu_count, disk_gib, nesting, privileged, vm, profiles }
    }
}

impl Wanted {
    /// As a part like the others.
    fn recipe(&self) -> Recipe {
        let size = |gib: u32| if gib == 0 { String::new() } else { format!("{gib}GiB") };
        let mut config = BTreeMap::new();
        let mut set = |key: &str| drop(config.insert(key.to_owned(), "true".to_owned()));
        if self.nesting && !self.vm {
            set("security.nesting");
            // The root of a privileged container needs nobody to do this for it.
            if !self.privileged {
                set("security.syscalls.intercept.mknod");
                set("security.syscalls.intercept.setxattr");
            }
        }
        if self.privileged && !self.vm {
            set("security.privileged");
        }
        Recipe {
            image: self.image.clone(),
            memory: self.memory_gib.map(size),
            cpu: self.cpu_count,
            disk: self.disk_gib.map(size),
            ephemeral: Some(true).filter(|_| self.ephemeral),
            vm: Some(true).filter(|_| self.vm),
            devices: BTreeMap::new(),
            config,
        }
    }
}

/// What an instance is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) image: String,
    pub(crate) kind: InstanceKind,
    pub(crate) is_ephemeral: bool,
    pub(crate) config: BTreeMap<String, String>,
    pub(crate) devices: BTreeMap<String, Device>,
    /// Size of the root disk, whichever device that is.
    pub(crate) disk: Option<String>,
}

/// A profile that is not there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no creation profile {name}{near}")]
pub(crate) struct UnknownProfile {
    name: String,
    near: String,
}

impl CreateConfig {
    /// What a login comes to.
    pub(crate) fn plan(&self, wanted: &Wanted) -> Result<Plan, UnknownProfile> {
        let mut recipe = self.defaults.clone();
        for name in &wanted.profiles {
            let profile = self.profiles.get(name).ok_or_else(|| {
                let near = portway_model::nearest(name, self.profiles.keys().map(String::as_str));
                let near = near.map(|near| format!(", is it {near}?")).unwrap_or_default();
                UnknownProfile { name: name.chars().take(64).flat_map(char::escape_default).collect(), near }
            })?;
            recipe = profile.clone().over(&recipe);
        }
        let recipe = wanted.recipe().over(&recipe);
        let mut config = recipe.config;
        let mut limit = |key: &str, value: Option<String>| match value {
            Some(value) if value.is_empty() => drop(config.remove(key)),
            Some(value) => drop(config.insert(key.to_owned(), value)),
            None => {}
        };
        limit("limits.memory", recipe.memory);
        let count = |count: u32| if count == 0 { String::new() } else { count.to_string() };
        limit("limits.cpu", recipe.cpu.map(count));
        let is_vm = recipe.vm.unwrap_or_default();
        Ok(Plan {
            image: recipe.image.unwrap_or_else(|| IMAGE.to_owned()),
            kind: if is_vm { InstanceKind::Vm } else { InstanceKind::Container },
            is_ephemeral: recipe.ephemeral.unwrap_or_default(),
            config,
            devices: recipe.devices,
            disk: recipe.disk.filter(|size| !size.is_empty()),
        })
    }

    /// All of it as YAML of the newer kind, with what was read otherwise than it is written as comments.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = String::new();
        for warning in &self.warnings {
            // Writing to a String cannot fail.
            let _infallible = writeln!(text, "# {warning}");
        }
        let defaults = Recipe { image: Some(IMAGE.to_owned()), ..Recipe::default() };
        text.push_str("defaults:\n");
        put(&mut text, "  ", &self.defaults.clone().over(&defaults));
        if !self.profiles.is_empty() {
            text.push_str("profiles:\n");
        }
        for (name, profile) in &self.profiles {
            let _infallible = writeln!(text, "  {}:", quoted(name));
            put(&mut text, "    ", profile);
        }
        text
    }
}

/// The lines of one part.
fn put(text: &mut String, indent: &str, recipe: &Recipe) {
    let size = |size: &String| if size.is_empty() { "0".to_owned() } else { quoted(size) };
    let lines = [
        ("image", recipe.image.as_deref().map(quoted)),
        ("memory", recipe.memory.as_ref().map(size)),
        ("cpu", recipe.cpu.map(|count| count.to_string())),
        ("disk", recipe.disk.as_ref().map(size)),
        ("ephemeral", recipe.ephemeral.map(|on| on.to_string())),
        ("vm", recipe.vm.map(|on| on.to_string())),
    ];
    let before = text.len();
    for (key, value) in lines {
        if let Some(value) = value {
            let _infallible = writeln!(text, "{indent}{key}: {value}");
        }
    }
    if !recipe.config.is_empty() {
        let _infallible = writeln!(text, "{indent}config:");
    }
    for (key, value) in &recipe.config {
        let _infallible = writeln!(text, "{indent}  {}: {}", quoted(key), quoted(value));
    }
    if !recipe.devices.is_empty() {
        let _infallible = writeln!(text, "{indent}devices:");
    }
    for (name, device) in &recipe.devices {
        let _infallible = writeln!(text, "{indent}  {}:", quoted(name));
        for (key, value) in device {
            let _infallible = writeln!(text, "{indent}    {}: {}", quoted(key), quoted(value));
        }
    }
    if text.len() == before {
        // A mapping of nothing.
        let end = text.trim_end().len();
        text.truncate(end);
        text.push_str(" {}\n");
    }
}

/// A text in double quotes, which JSON and YAML write alike.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic());
    let is_word = matches!(text, "true" | "false" | "null" | "yes" | "no" | "on" | "off");
    if begins && text.chars().all(is_plain) && !is_word {
        return text.to_owned();
    }
    serde_json::to_string(text).unwrap_or_default()
}

#[cfg(test)]
mod tests;
