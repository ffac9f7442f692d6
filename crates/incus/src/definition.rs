//! What an instance is defined as, to be read, changed and put back.
//!
//! It is changed as a whole and only from the version that was read (`If-Match`): whoever changes it
//! at the same time is noticed and not overwritten.

use std::collections::BTreeMap;

use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::client::instance_target;
use crate::encode::percent_encode;
use crate::transport::{Failure, Said, Saying, one_line, protocol};
use crate::{Client, IncusError, InstanceKind, Result};

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
struct Wire {
    name: String,
    project: String,
    #[serde(rename = "type")]
    kind: InstanceKind,
    #[serde(default)]
    expanded_devices: BTreeMap<String, Device>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Definition {
    fn of(wire: Wire, etag: Option<String>) -> Definition {
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
    /// [`IncusError`], any.
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
    /// [`IncusError`], any.
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
    /// [`IncusError`], any.
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
    /// [`IncusError`], any; [`IncusError::is_outdated`] when it was changed since it was read. Unless
    /// the request timed out, the instance is then as before.
    pub async fn replace(&self, definition: &Definition) -> Result<()> {
        let name = &definition.name;
        let gone = || protocol(name, "the instance cannot be named");
        let target = instance_target(&definition.project, name, "").ok_or_else(gone)?;
        let body = serde_json::to_vec(&definition.writable).map_err(|error| protocol(&target, error))?;
        let if_match = definition.etag.clone();
        let saying = Saying { method: Method::PUT, body: Some(body), if_match, headers: Vec::new() };
        let request = format!("PUT {target}");
        let (limit, bytes) = (self.limits().change, self.limits().answer_bytes);
        let said = self.door().say(&target, saying, limit, bytes).await?;
        if let Some(operation) = accepted(&request, &said)? {
            self.wait(&request, &operation).await?;
        }
        Ok(())
    }

    /// Waits for an operation.
    async fn wait(&self, request: &str, operation: &str) -> Result<()> {
        #[derive(Deserialize)]
        struct Done {
            metadata: Operation,
        }
        #[derive(Deserialize)]
        struct Operation {
            status_code: u16,
            #[serde(default)]
            err: String,
        }
        let limit = self.limits().change;
        let target = format!("{operation}/wait?timeout={}", limit.as_secs());
        let saying = Saying::get();
        let said = self.door().say(&target, saying, limit * 2, self.limits().answer_bytes).await?;
        let done: Done = serde_json::from_slice(&said.body).map_err(|error| protocol(&target, error))?;
        // 200: success, by the API's table of status codes; below it the operation goes on.
        match done.metadata.status_code {
            200 => Ok(()),
            0..200 => Err(IncusError::TimedOut { request: request.to_owned(), limit }),
            _ => Err(IncusError::Operation {
                request: request.to_owned(),
                message: one_line(&done.metadata.err),
            }),
        }
    }
}

/// Path of the operation that a change became, if it became one.
fn accepted(request: &str, said: &Said) -> Result<Option<String>> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        operation: String,
    }
    let message = || match serde_json::from_slice::<Failure>(&said.body) {
        Ok(failure) if failure.kind == "error" => one_line(&failure.error),
        _ => "no API error".to_owned(),
    };
    match said.status {
        StatusCode::OK => Ok(None),
        StatusCode::ACCEPTED => {
            let answer: Answer =
                serde_json::from_slice(&said.body).map_err(|error| protocol(request, error))?;
            let known = answer.operation.strip_prefix("/1.0/operations/");
            let plain = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
            match known {
                Some(id) if plain(id) => Ok(Some(format!("/1.0/operations/{id}"))),
                _ => Err(protocol(request, "the operation cannot be waited for")),
            }
        }
        status => {
            let (request, code) = (request.to_owned(), status.as_u16());
            Err(IncusError::Status { request, code, message: message() })
        }
    }
}

#[cfg(test)]
mod tests;
