//! `x-incus`, `x-incus-compose` and `x-portway`.

use portway_composefile::Fault;
use portway_composefile::tree::{Node, Value};
use portway_model::Nat;

use super::{Work, plain, raw, refused};
use crate::want::{Instance, Keys};

/// Our own key among those of the server.
const NAT: &str = "nat-proxy";

/// What `x-incus` stands at. Each has keys that any file may set; all others reach out of it, or may.
#[derive(Debug, Clone, Copy)]
pub(super) enum Of<'n> {
    Service,
    Network(&'n str),
    /// An interface in a network.
    Nic(&'n str),
    Volume(&'n str),
}

/// Keys of our own devices that any file may set. Where they listen and dial, and as whom, is not the file's to say.
const DEVICE_KEYS: [&str; 15] = [
    "accept_proxy",
    "allow",
    "connect.timeout",
    "deny",
    "hold",
    "limits.connections",
    "limits.per_source",
    "limits.rate",
    "nat",
    "proxy_protocol",
    "tcp.keepalive",
    "tcp.timeout",
    "udp.idle",
    "udp.max_flows",
    "v6only",
];

/// What a file may not set at all: what we know our things by, and what the server keeps for itself.
const RESERVED: [&str; 3] = ["user.portway.", "volatile.", "image."];

impl Work<'_> {
    /// Keys of the server's project, and what the files outside of the project's folder are.
    pub(super) fn extensions_of_project(&mut self) -> Result<(), Fault> {
        if let Some(said) = self.project.tree.get("x-incus") {
            let node = said.clone();
            for (key, value) in copied(&node, "x-incus")? {
                if key.starts_with("features.") || key.starts_with("restricted") {
                    self.privilege("", &node, format!("set {} of the project", pair(&key, &value)));
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
            let (real, inside) = self.real(&path);
            if !inside {
                let what = format!("read {real}, which is outside of the project's folder");
                let place = portway_composefile::Place::of_file(&path);
                self.privilege("", &Node::new(Value::Null, &place), what);
            }
        }
        Ok(())
    }

    /// `x-incus`: copied.
    pub(super) fn extensions(
        &mut self,
        (service, of): (&str, Of<'_>),
        node: &Node,
        path: &str,
        keys: &mut Keys,
    ) -> Result<(), Fault> {
        let Some(said) = node.at("x-incus") else { return Ok(()) };
        for (key, value) in copied(said, &format!("{path}.x-incus"))? {
            if !of.is_harmless(&key) {
                let place = match of {
                    Of::Service => String::new(),
                    Of::Network(name) => format!(" of the network {name}"),
                    Of::Nic(name) => format!(" of the interface in {name}"),
                    Of::Volume(name) => format!(" of the volume {name}"),
                };
                self.privilege(service, said, format!("set {}{place}", pair(&key, &value)));
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
        self.extensions((service, Of::Service), node, path, &mut keys)?;
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
                let kind = device_keys.get("type").map(|kind| shown(kind)).unwrap_or_default();
                let rest = device_keys.iter().filter(|(key, _)| *key != "type");
                let rest: String = rest.map(|(key, value)| format!(" {}", pair(key, value))).collect();
                self.privilege(service, device, format!("have the device {}: {kind}{rest}", shown(name)));
                instance.devices.insert(name.clone(), device_keys);
            }
        }
        Ok(())
    }
}

impl Of<'_> {
    /// Whether a key concerns nothing but what it is set of.
    fn is_harmless(self, key: &str) -> bool {
        let (exact, prefixes): (&[&str], &[&str]) = match self {
            Of::Service => {
                (&[], &["limits.", "user.", "boot.", "environment.", "snapshots.", "linux.sysctl.", "oci."])
            }
            // Which addresses it has is judged where they are known.
            Of::Network(_) => (
                &[
                    "ipv4.address",
                    "ipv4.dhcp",
                    "ipv4.dhcp.expiry",
                    "ipv4.dhcp.gateway",
                    "ipv4.dhcp.ranges",
                    "ipv4.nat",
                    "ipv6.address",
                    "ipv6.dhcp",
                    "ipv6.dhcp.expiry",
                    "ipv6.dhcp.ranges",
                    "ipv6.dhcp.stateful",
                    "ipv6.nat",
                ],
                &["user."],
            ),
            Of::Nic(_) => (&["boot.priority", "ipv4.address", "ipv6.address"], &["limits.", "user."]),
            Of::Volume(_) => (&[], &["user.", "snapshots."]),
        };
        exact.contains(&key) || prefixes.iter().any(|prefix| key.starts_with(prefix))
    }
}

/// A key and its whole value, so that two that differ never look the same.
fn pair(key: &str, value: &str) -> String {
    format!("{}={}", shown(key), shown(value))
}

/// A text as it is when nothing in it could be taken for something else, and in quotes otherwise.
fn shown(text: &str) -> String {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\' | '=');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// What `x-portway` of a service or of a port says of the device that publishes.
pub(super) fn of_device(own: &Node, path: &str) -> Result<Keys, Fault> {
    let known = |key: &str| DEVICE_KEYS.contains(&key);
    if let Some((key, value)) = own.as_map().into_iter().flatten().find(|(key, _)| !known(key)) {
        let hint = format!("one of {}", DEVICE_KEYS.join(", "));
        let what = "is not the file's to set";
        return Err(refused(value, &format!("{path}.{key}"), what).hint(Some(hint)));
    }
    copied(own, path)
}

/// Whether the kernel is asked for: where it can, or in any case.
pub(super) fn leads(own: Option<&Node>, key: &str, path: &str) -> Result<Option<Nat>, Fault> {
    let Some(said) = own.and_then(|own| own.at(key)) else { return Ok(None) };
    match (&said.value, said.as_text()) {
        (Value::Bool(true), _) | (_, Some("true")) => Ok(Some(Nat::Auto)),
        (Value::Bool(false), _) | (_, Some("false")) => Ok(Some(Nat::Off)),
        (_, Some("strict")) => Ok(Some(Nat::On)),
        _ => {
            let word = said.as_word().unwrap_or_else(|| said.value.noun().to_owned());
            let what = format!("`{word}` is none of true, false, strict");
            Err(refused(said, &format!("{path}.{key}"), what))
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
