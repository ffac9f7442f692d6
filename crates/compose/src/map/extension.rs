//! `x-incus`, `x-incus-compose` and `x-portway`.

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};

use super::{Work, is_inside, plain, raw, refused};
use crate::want::{Instance, Keys};

/// Our own key among those of the server.
const NAT: &str = "nat-proxy";

/// What any file may set of an instance. All other keys reach out of it, or may.
const HARMLESS: [&str; 9] =
    ["limits.", "user.", "boot.", "environment.", "snapshots.", "linux.sysctl.", "oci.", "ipv4.", "ipv6."];

/// What a file may not set at all: what we know our things by, and what the server keeps for itself.
const RESERVED: [&str; 3] = ["user.portway.", "volatile.", "image."];

impl Work<'_> {
    /// Keys of the server's project, and what the files outside of the project's folder are.
    pub(super) fn extensions_of_project(&mut self) -> Result<(), Fault> {
        if let Some(said) = self.project.tree.get("x-incus") {
            let node = said.clone();
            for (key, value) in copied(&node, "x-incus")? {
                if key.starts_with("features.") || key.starts_with("restricted") {
                    self.privilege("", &node, format!("set {key} of the project"));
                }
                self.want.config.insert(key, value);
            }
        }
        if let Some(said) = self.project.tree.get("x-incus-compose") {
            let node = said.clone();
            self.warn(&node, "x-incus-compose", "ignored: no daemon for health is needed");
        }
        for file in &self.project.files {
            let path = file.display().to_string();
            if !is_inside(&path, &self.setting.dir) {
                let what = format!("read {path}, which is outside of the project's folder");
                let place = portway_composefile::Place::of_file(&path);
                self.privilege("", &Node::new(Value::Null, &place), what);
            }
        }
        Ok(())
    }

    /// `x-incus` of anything but a service: copied.
    pub(super) fn extensions(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        keys: &mut Keys,
    ) -> Result<(), Fault> {
        let Some(said) = node.at("x-incus") else { return Ok(()) };
        for (key, value) in copied(said, &format!("{path}.x-incus"))? {
            if !HARMLESS.iter().any(|prefix| key.starts_with(prefix)) {
                self.privilege(service, said, format!("set {key}"));
            }
            keys.insert(key, value);
        }
        Ok(())
    }

    /// What the file says to the server itself: it wins over what was made of the rest.
    pub(super) fn extensions_of_service(
        &mut self,
        service: &str,
        node: &Node,
        path: &str,
        instance: &mut Instance,
    ) -> Result<(), Fault> {
        let mut keys = Keys::new();
        self.extensions(service, node, path, &mut keys)?;
        for (key, value) in keys {
            if key == "raw.lxc" {
                raw(&mut instance.config, &[value]);
            } else {
                instance.config.insert(key, value);
            }
        }
        let Some(own) = node.at("x-incus-compose") else { return Ok(()) };
        for (key, said) in own.as_map().into_iter().flatten() {
            let path = format!("{path}.x-incus-compose.{key}");
            if key != "devices" {
                self.warn(said, &path, "ignored: there is no such key");
                continue;
            }
            for (name, device) in said.as_map().into_iter().flatten() {
                let path = format!("{path}.{name}");
                let device_keys = copied(device, &path)?;
                if name.is_empty() || name.len() > 63 || !device_keys.contains_key("type") {
                    return Err(refused(device, &path, "is no device with a `type`"));
                }
                self.privilege(service, device, format!("have the device {name}"));
                instance.devices.insert(name.clone(), device_keys);
            }
        }
        Ok(())
    }
}

/// Whether a service asks for NAT for all its ports.
pub(super) fn nat_proxy(service: &Node, path: &str) -> Result<Option<bool>, Fault> {
    let Some(said) = service.at("x-incus").and_then(|own| own.at(NAT)) else { return Ok(None) };
    truth(said, &format!("{path}.x-incus.{NAT}")).map(Some)
}

/// A truth value, also as a text.
pub(super) fn truth(node: &Node, path: &str) -> Result<bool, Fault> {
    match (&node.value, node.as_text()) {
        (Value::Bool(value), _) => Ok(*value),
        (_, Some("true")) => Ok(true),
        (_, Some("false")) => Ok(false),
        _ => {
            let said = node.as_word().unwrap_or_else(|| node.value.noun().to_owned());
            Err(refused(node, path, format!("`{said}` is neither true nor false")))
        }
    }
}

/// The keys of a mapping as texts, without our own.
pub(super) fn copied(node: &Node, path: &str) -> Result<Keys, Fault> {
    let mut keys = Keys::new();
    let Some(map) = node.as_map() else {
        return if node.value == Value::Null {
            Ok(keys)
        } else {
            Err(refused(node, path, format!("must be a mapping, not {}", node.value.noun())))
        };
    };
    for (key, value) in map.iter().filter(|(key, _)| *key != NAT) {
        let path = format!("{path}.{key}");
        if RESERVED.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(refused(value, &path, "is not the file's to set"));
        }
        // Several lines are what some keys are for.
        let text = if key.starts_with("raw.") || key.starts_with("cloud-init.") {
            value.as_text().filter(|text| !text.contains('\0')).map(str::to_owned)
        } else {
            Some(plain(value, &path)?)
        };
        let Some(text) = text else { return Err(refused(value, &path, "must be a text")) };
        keys.insert(key.clone(), text);
    }
    Ok(keys)
}
