//! The keys of a proxy device of Incus or LXD as keys of ours, and back. Pure. Both servers take the same keys, read
//! them in the same way, and refuse the same.
//!
//! A device does here what it does there, as far as that can be had; where it is written another way
//! a note says so.

use portway_incus::{Device, is_true};
use portway_model::{Bind, DeviceSpec, Nat, Provider};

/// A device of a server in our words.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ours {
    /// Its options.
    pub(crate) spec: DeviceSpec,
    /// What is another way here.
    pub(crate) notes: Vec<String>,
}

/// Keys that the servers know.
const KEYS: [&str; 10] = [
    "bind",
    "connect",
    "gid",
    "listen",
    "mode",
    "nat",
    "proxy_protocol",
    "security.gid",
    "security.uid",
    "uid",
];

/// What a server is called.
pub(crate) const fn title(provider: Provider) -> &'static str {
    match provider {
        Provider::Lxd => "LXD",
        Provider::Incus | Provider::Netns | Provider::Pid => "Incus",
    }
}

/// Reads a device of a server.
///
/// # Errors
/// Why it cannot be had here, one line.
pub(crate) fn to_ours(provider: Provider, device: &Device) -> Result<Ours, String> {
    let server = title(provider);
    // A key without a value is one that is not set.
    let mut keys: Device = device.iter().filter(|(_, value)| !value.is_empty()).map(owned).collect();
    keys.remove("type");
    let mut notes = Vec::new();
    let nat = keys.remove("nat").is_some_and(|text| is_true(&text));
    if nat {
        keys.insert("nat".into(), "true".into());
    }
    if let Some(text) = keys.remove("proxy_protocol") {
        // A header is sent for this one spelling.
        if text == "true" {
            keys.insert("proxy_protocol".into(), "v1".into());
        } else if is_true(&text) {
            notes.push(format!("proxy_protocol={text} sends no header in {server}, nor here"));
        }
    }
    // By NAT it takes one family there, too.
    if let Some(listen) = keys.get_mut("listen").filter(|_| !nat) {
        for protocol in ["tcp", "udp"] {
            if let Some(ports) = listen.strip_prefix(&format!("{protocol}:0.0.0.0:")) {
                let both = format!("{protocol}:[::]:{ports}");
                notes.push(format!("{listen} takes IPv6 too in {server}: {both}"));
                *listen = both;
                break;
            }
        }
    }
    if let Some(mode) = keys.get_mut("mode")
        && let Ok(bits) = u32::from_str_radix(mode, 8)
    {
        // The upper bits are dropped there.
        let kept = format!("{:04o}", bits & 0o777);
        if bits > 0o777 {
            notes.push(format!("mode {mode} is {kept} in {server}"));
        }
        *mode = kept;
    }
    let spec = DeviceSpec::from_keys(&keys).map_err(|problem| problem.to_string())?;
    if dials_as_root(&spec) {
        notes.push(format!("dials as an unprivileged user; security.uid=0 dials as root, as {server} does"));
    }
    Ok(Ours { spec, notes })
}

/// Writes a device of ours for a server.
///
/// # Errors
/// Why it cannot express it, one line.
pub(crate) fn to_theirs(provider: Provider, name: &str, spec: &DeviceSpec) -> Result<Device, String> {
    let server = title(provider);
    let mut keys: Device = spec.to_keys();
    let foreign: Vec<&str> = keys.keys().map(String::as_str).filter(|key| !KEYS.contains(key)).collect();
    if !foreign.is_empty() {
        return Err(format!("{server} has no {}", foreign.join(", ")));
    }
    if name.contains('/') {
        return Err(format!("{server} does not start a device with `/` in its name"));
    }
    let protocol =
        |key: &str| keys.get(key).and_then(|text| text.split(':').next()).unwrap_or_default().to_owned();
    let (listen, connect) = (protocol("listen"), protocol("connect"));
    if let Some(other) =
        [&listen, &connect].into_iter().find(|one| !matches!(one.as_str(), "tcp" | "udp" | "unix"))
    {
        return Err(format!("{server} has no {other} sockets"));
    }
    if listen == "udp" && connect != "udp" {
        return Err(format!("{server} cannot carry udp to {connect}"));
    }
    if spec.nat == Nat::Auto {
        return Err(format!("{server} has no nat=auto"));
    }
    if spec.nat == Nat::Off && spec.listen.address().host().is_some_and(|host| host.to_string() == "0.0.0.0")
    {
        return Err(format!("{server} cannot listen on IPv4 alone: 0.0.0.0 takes IPv6 too there"));
    }
    let addresses = [spec.listen.address(), spec.connect.address()];
    if addresses.iter().any(|address| address.host().is_some_and(|host| host.zone().is_some())) {
        return Err(format!("{server} takes no zone of a link-local address"));
    }
    match keys.get("proxy_protocol").map(String::as_str) {
        Some("v1") => drop(keys.insert("proxy_protocol".into(), "true".into())),
        Some(other) => return Err(format!("{server} has no proxy_protocol={other}")),
        None => {}
    }
    keys.insert("type".into(), "proxy".into());
    Ok(keys)
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// Whether a server would dial a socket file of the host as root, which we do only when told.
fn dials_as_root(spec: &DeviceSpec) -> bool {
    let path = spec.connect.address().unix().is_some_and(|name| name.path().is_some());
    path && spec.bind == Bind::Instance && spec.run_as.uid.is_none()
}

#[cfg(test)]
mod tests;
