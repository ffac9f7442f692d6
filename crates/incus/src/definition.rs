//! What an instance is defined as, to be read, changed and put back.
//!
//! It is changed as a whole and only from the version that was read (`If-Match`): whoever changes it
//! at the same time is noticed and not overwritten.

use std::collections::BTreeMap;

use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::instance_target;
use crate::encode::percent_encode;
use crate::transport::protocol;
use crate::{Client, InstanceKind, Result};

/// A device: keys and values, `type` among them.
pub type Device = BTreeMap<String, String>;

/// What a client may change of an instance, as the API's `InstancePut` has it.
const WRITABLE: [&str; 7] =
    ["architecture", "config", "description", "devices", "ephemeral", "profiles", "stateful"];

/// The definition of an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Project.
    pub project: String,
    /// Name.
    pub name: String,
    /// Container or virtual machine.
    pub kind: InstanceKind,
    /// Its devices, profiles merged in.
    pub expanded_devices: BTreeMap<String, Device>,
    /// What can be changed.
    writable: Map<String, Value>,
    etag: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct Wire {
    name: String,
    project: String,
    #[serde(rename = "type")]
    kind: InstanceKind,
    #[serde(default)]
    expanded_devices: BTreeMap<String, Device>,
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

impl Definition {
    pub(crate) fn of(wire: Wire, etag: Option<String>) -> Definition {
        let Wire { name, project, kind, expanded_devices, rest } = wire;
        let writable = rest.into_iter().filter(|(key, _)| WRITABLE.contains(&key.as_str())).collect();
        Definition { project, name, kind, expanded_devices, writable, etag }
    }

    /// A definition as the API's JSON has it, without a version.
    ///
    /// # Errors
    /// When it is not one.
    pub fn read(value: Value) -> serde_json::Result<Definition> {
        serde_json::from_value(value).map(|wire| Definition::of(wire, None))
    }

    /// Devices of the instance itself.
    #[must_use]
    pub fn devices(&self) -> BTreeMap<String, Device> {
        let devices = self.writable.get("devices").and_then(|map| BTreeMap::deserialize(map).ok());
        devices.unwrap_or_default()
    }

    /// A configuration key of the instance itself.
    #[must_use]
    pub fn config(&self, key: &str) -> Option<&str> {
        self.writable.get("config")?.get(key)?.as_str()
    }

    /// Its configuration keys that begin with `prefix`, without it, and their values.
    pub fn config_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let config = self.writable.get("config").and_then(Value::as_object);
        config
            .into_iter()
            .flatten()
            .filter_map(move |(key, value)| Some((key.strip_prefix(prefix)?, value.as_str()?)))
    }

    /// Names of its profiles, the later ones over the earlier ones.
    #[must_use]
    pub fn profiles(&self) -> Vec<String> {
        let names = self.writable.get("profiles").and_then(Value::as_array);
        names.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
    }

    /// Sets or removes a device of the instance itself.
    pub fn set_device(&mut self, name: &str, device: Option<&Device>) {
        self.set("devices", name, device.map(|device| json!(device)));
    }

    /// Sets or removes a configuration key.
    pub fn set_config(&mut self, key: &str, value: Option<&str>) {
        self.set("config", key, value.map(|value| json!(value)));
    }

    /// Makes the server delete the instance when it stops.
    pub fn set_ephemeral(&mut self) {
        self.writable.insert("ephemeral".to_owned(), json!(true));
    }

    fn set(&mut self, map: &str, key: &str, value: Option<Value>) {
        let map = self.writable.entry(map).or_insert_with(|| json!({}));
        let Some(map) = map.as_object_mut() else { return };
        match value {
            Some(value) => drop(map.insert(key.to_owned(), value)),
            None => drop(map.remove(key)),
        }
    }
}

impl Client {
    /// The definition of an instance; `None` when the project or the instance does not exist.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn definition(&self, project: &str, name: &str) -> Result<Option<Definition>> {
        let Some(target) = instance_target(project, name, "") else { return Ok(None) };
        let limit = self.limits().answer_bytes;
        let found: Option<(Wire, Option<String>)> = self.door().get_versioned(&target, limit).await?;
        Ok(found.map(|(wire, etag)| Definition::of(wire, etag)))
    }

    /// The definitions of all instances of all projects this connection may see. They cannot be put
    /// back: they have no version.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn definitions(&self) -> Result<Vec<Definition>> {
        let target = "/1.0/instances?recursion=1&all-projects=true";
        let found: Option<Vec<Wire>> = self.door().get(target, self.limits().list_bytes).await?;
        let found = found.ok_or_else(|| protocol(target, "the list of instances is not found"))?;
        Ok(found.into_iter().map(|wire| Definition::of(wire, None)).collect())
    }

    /// The devices of a profile, as an instance of `project` sees it; none when there is no such
    /// profile.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any.
    pub async fn profile_devices(&self, project: &str, profile: &str) -> Result<BTreeMap<String, Device>> {
        #[derive(Deserialize)]
        struct Profile {
            #[serde(default)]
            devices: BTreeMap<String, Device>,
        }
        let (project, profile) = (percent_encode(project), percent_encode(profile));
        let target = format!("/1.0/profiles/{profile}?project={project}");
        let found: Option<Profile> = self.door().get(&target, self.limits().answer_bytes).await?;
        Ok(found.map(|profile| profile.devices).unwrap_or_default())
    }

    /// Puts a changed definition back and waits until the server has carried it out. The server
    /// starts and stops devices of an instance that runs.
    ///
    /// # Errors
    /// [`IncusError`](crate::IncusError), any; [`is_outdated`](crate::IncusError::is_outdated) when it was changed
    /// since it was read. Unless the request timed out, the instance is then as before.
    pub async fn replace(&self, definition: &Definition) -> Result<()> {
        let name = &definition.name;
        let gone = || protocol(name, "the instance cannot be named");
        let target = instance_target(&definition.project, name, "").ok_or_else(gone)?;
        self.carry_out(Method::PUT, &target, Some(&definition.writable), definition.etag.clone()).await
    }
}

#[cfg(test)]
mod tests;
