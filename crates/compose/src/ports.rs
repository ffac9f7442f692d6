//! Published ports that would get into each other's way, found before anything is done.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::observe::{Life, Observed};
use crate::plan::PlanError;
use crate::want::{ComposeProject, Keys};

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listen {
    protocol: String,
    /// `None`: everywhere.
    address: Option<IpAddr>,
    first: u16,
    last: u16,
}

/// Reads `tcp:0.0.0.0:80-90`; nothing of what has no ports.
fn listens(text: &str) -> Vec<Listen> {
    let Some((protocol, rest)) = text.split_once(':') else { return Vec::new() };
    let Some((address, ports)) = rest.rsplit_once(':') else { return Vec::new() };
    let address: Option<IpAddr> = address.trim_matches(['[', ']']).parse().ok();
    let Some(address) = address else { return Vec::new() };
    let address = (!address.is_unspecified()).then_some(address);
    let one = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(Listen { protocol: protocol.to_owned(), address, first, last })
    };
    ports.split(',').filter_map(one).collect()
}

impl Listen {
    fn meets(&self, other: &Listen) -> bool {
        let address = self.address.is_none() || other.address.is_none() || self.address == other.address;
        let ports = self.first <= other.last && other.first <= self.last;
        self.protocol == other.protocol && address && ports
    }
}

/// Where devices of an instance listen on the host. A device of the kernel's beside one that relays is one port.
fn of<'a>(devices: impl Iterator<Item = &'a Keys>) -> Vec<(&'a str, Listen)> {
    let host = |device: &&Keys| {
        let kind = device.get("type").is_none_or(|kind| kind == "proxy");
        let bind = device.get("bind").is_none_or(|bind| bind == "host");
        let nat = device.get("type").is_some() && device.get("nat").is_some_and(|nat| nat == "true");
        kind && bind && !nat
    };
    let listen = |device: &'a Keys| device.get("listen").map(String::as_str);
    let texts = devices.filter(host).filter_map(listen);
    texts.flat_map(|text| listens(text).into_iter().map(move |one| (text, one))).collect()
}

/// Refuses ports that two instances publish, or one and another that runs already in the server's project.
pub(crate) fn check(want: &ComposeProject, seen: &Observed) -> Result<(), PlanError> {
    let mut taken: BTreeMap<&str, Vec<(&str, Listen)>> = BTreeMap::new();
    let mut all: Vec<(&str, &str, Listen)> = Vec::new();
    for (_, instance) in want.instances() {
        let listens = of(instance.devices.values().chain(instance.ports.values()));
        taken.insert(&instance.name, Vec::new());
        all.extend(listens.into_iter().map(|(text, one)| (instance.name.as_str(), text, one)));
    }
    for (at, (name, text, one)) in all.iter().enumerate() {
        let earlier = all.iter().take(at);
        if let Some((other, _, _)) = earlier.into_iter().find(|(_, _, other)| other.meets(one)) {
            return Err(conflict(other, name, text));
        }
    }
    for (other, there) in &seen.instances {
        let ours = crate::label::are_of(&there.config, &want.name, other);
        if ours || there.life == Life::Stopped || taken.contains_key(other.as_str()) {
            continue;
        }
        for (_, listen) in of(there.devices.values()) {
            if let Some((name, text, _)) = all.iter().find(|(_, _, one)| one.meets(&listen)) {
                return Err(conflict(other, name, text));
            }
        }
    }
    Ok(())
}

fn conflict(one: &str, other: &str, port: &str) -> PlanError {
    PlanError::Port { one: one.to_owned(), other: other.to_owned(), port: port.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_meet_by_protocol_address_and_range() {
        let meets = |one: &str, other: &str| {
            let (one, other) = (listens(one), listens(other));
            one.iter().any(|one| other.iter().any(|other| one.meets(other)))
        };
        assert!(meets("tcp:0.0.0.0:80", "tcp:127.0.0.1:80"));
        assert!(meets("tcp:[::]:80", "tcp:127.0.0.1:80"));
        assert!(meets("tcp:127.0.0.1:80-90", "tcp:127.0.0.1:90,100"));
        assert!(!meets("tcp:0.0.0.0:80", "udp:0.0.0.0:80"));
        assert!(!meets("tcp:127.0.0.1:80", "tcp:127.0.0.2:80"));
        assert!(!meets("tcp:127.0.0.1:80-90", "tcp:127.0.0.1:91"));
        assert!(listens("unix:/run/x").is_empty() && listens("").is_empty());
    }
}
