//! Published ports: which of those that are left open, and whether any would get into another's way.
//!
//! All of it is found before anything is done. Programs of the server's host are not known here: there the port is
//! refused when it is bound, and a device that relays always binds it.

use std::borrow::Cow;
use std::net::IpAddr;

use crate::label;
use crate::observe::{Life, Observed};
use crate::plan::PlanError;
use crate::want::{ComposeProject, Instance, Keys};

/// Where something listens.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Listen {
    protocol: String,
    at: At,
    first: u16,
    last: u16,
    /// Whether the kernel leads from there, which may stand beside one that relays.
    is_led: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Everywhere,
    Every4,
    Every6,
    One(IpAddr),
}

/// Reads `tcp:0.0.0.0:80-90`; nothing of what has no ports. A server's proxy on `0.0.0.0` is on IPv6 too.
fn listens(text: &str, is_ours: bool, v6only: bool) -> Vec<Listen> {
    let Some((protocol, rest)) = text.split_once(':') else { return Vec::new() };
    let Some((address, ports)) = rest.rsplit_once(':') else { return Vec::new() };
    let at = match address.trim_matches(['[', ']']).parse::<IpAddr>() {
        Err(_) if address.is_empty() => At::Everywhere,
        Err(_) => return Vec::new(),
        Ok(IpAddr::V6(ip)) if ip.is_unspecified() => {
            if v6only {
                At::Every6
            } else {
                At::Everywhere
            }
        }
        Ok(IpAddr::V4(ip)) if ip.is_unspecified() => {
            if is_ours {
                At::Every4
            } else {
                At::Everywhere
            }
        }
        Ok(ip) => At::One(ip),
    };
    let one = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        Some(Listen { protocol: protocol.to_owned(), at, first, last, is_led: false })
    };
    ports.split(',').filter_map(one).collect()
}

impl Listen {
    fn meets(&self, other: &Listen) -> bool {
        let of = |at: At, v6: bool| match at {
            At::Everywhere => true,
            At::Every4 => !v6,
            At::Every6 => v6,
            At::One(ip) => ip.is_ipv6() == v6,
        };
        let address = match (self.at, other.at) {
            (At::One(one), At::One(other)) => one == other,
            (one, other) => [false, true].into_iter().any(|v6| of(one, v6) && of(other, v6)),
        };
        let ports = self.first <= other.last && other.first <= self.last;
        self.protocol == other.protocol && address && ports
    }
}

/// Where devices listen on the host: the server's have a type, ours have none.
fn of<'a>(devices: impl Iterator<Item = &'a Keys>) -> Vec<(&'a str, Listen)> {
    let mut found = Vec::new();
    for device in devices {
        let kind = device.get("type").map(String::as_str);
        let is_host = device.get("bind").is_none_or(|bind| bind == "host");
        if !(is_host && matches!(kind, None | Some("proxy"))) {
            continue;
        }
        let Some(text) = device.get("listen") else { continue };
        let is = |key: &str| device.get(key).is_some_and(|value| value == "true");
        for mut listen in listens(text, kind.is_none(), is("v6only")) {
            listen.is_led = kind.is_some() && is("nat");
            found.push((text.as_str(), listen));
        }
    }
    found
}

/// Where instances listen that the files do not name: of other projects, and of this one by others' hands.
fn others<'a>(want: &ComposeProject, seen: &'a Observed) -> Vec<(&'a str, &'a str, Listen)> {
    let wanted: Vec<&str> = want.instances().map(|(_, instance)| instance.name.as_str()).collect();
    let mut found = Vec::new();
    for (name, there) in &seen.instances {
        let ours = label::are_of(&there.config, &want.name, name);
        if ours || there.life == Life::Stopped || wanted.contains(&name.as_str()) {
            continue;
        }
        found.extend(of(there.devices.values()).into_iter().map(|(text, one)| (name.as_str(), text, one)));
    }
    for (name, devices) in &seen.rivals {
        found.extend(of(devices.iter()).into_iter().map(|(text, one)| (name.as_str(), text, one)));
    }
    found
}

/// Refuses ports that two instances publish of those that count, or one of them and another that is there.
pub(crate) fn check(
    want: &ComposeProject,
    seen: &Observed,
    counts: &dyn Fn(&Instance) -> bool,
) -> Result<(), PlanError> {
    let mut all: Vec<(&str, &str, Listen)> = Vec::new();
    for instance in want.instances().map(|(_, instance)| instance).filter(|instance| counts(instance)) {
        let listens = of(instance.devices.values().chain(instance.ports.values()));
        all.extend(listens.into_iter().map(|(text, one)| (instance.name.as_str(), text, one)));
    }
    for (at, (name, text, one)) in all.iter().enumerate() {
        let mut earlier = all.iter().take(at);
        // Of one instance, what leads may stand beside what relays.
        let meets = |(other, _, has): &&(&str, &str, Listen)| {
            (other != name || has.is_led == one.is_led) && has.meets(one)
        };
        if let Some((other, _, _)) = earlier.find(meets) {
            return Err(conflict(other, name, text));
        }
    }
    for (other, _, has) in others(want, seen) {
        if let Some((name, text, _)) = all.iter().find(|(_, _, one)| one.meets(&has)) {
            return Err(conflict(other, name, text));
        }
    }
    Ok(())
}

fn conflict(one: &str, other: &str, port: &str) -> PlanError {
    PlanError::Port { one: one.to_owned(), other: other.to_owned(), port: port.to_owned() }
}

/// `want` with every port chosen that was left open: the one its device has, else one that nobody has.
pub(crate) fn settle<'w>(
    want: &'w ComposeProject,
    seen: &Observed,
) -> Result<Cow<'w, ComposeProject>, PlanError> {
    if want.instances().all(|(_, instance)| instance.open.is_empty()) {
        return Ok(Cow::Borrowed(want));
    }
    let mut taken: Vec<Listen> = others(want, seen).into_iter().map(|(_, _, listen)| listen).collect();
    for (_, instance) in want.instances() {
        let named = instance.devices.iter().chain(&instance.ports);
        let fixed = named.filter(|(name, _)| !instance.open.contains_key(*name)).map(|(_, keys)| keys);
        taken.extend(of(fixed).into_iter().map(|(_, listen)| listen));
    }
    let mut want = want.clone();
    let project = want.name.clone();
    // What has a port keeps it: those go first.
    for is_kept in [true, false] {
        for instance in want.services.values_mut().flat_map(|service| &mut service.instances) {
            let open: Vec<(String, (u16, u16))> =
                instance.open.iter().map(|(name, range)| (name.clone(), *range)).collect();
            for (name, range) in open {
                // The other half of a port, which goes with the first.
                let half = name.strip_suffix(HALF).is_some_and(|first| instance.open.contains_key(first));
                let kept = kept(&instance.name, &name, range, seen);
                if half || kept.is_some() != is_kept {
                    continue;
                }
                let both = [name.clone(), format!("{name}{HALF}")];
                let both: Vec<&str> = both.iter().map(String::as_str).collect();
                let fits = |port: &u16| {
                    let own = both.iter().filter_map(|name| keys(instance, name)).map(|keys| at(keys, *port));
                    let own: Vec<Keys> = own.collect();
                    !of(own.iter()).iter().any(|(_, one)| taken.iter().any(|other| other.meets(one)))
                };
                let port = kept
                    .filter(fits)
                    .or_else(|| candidates(&project, &instance.name, &name, range).find(fits));
                let port = port.ok_or_else(|| PlanError::NoPort {
                    instance: instance.name.clone(),
                    first: range.0,
                    last: range.1,
                })?;
                for name in both {
                    let Some(set) = keys(instance, name).map(|keys| at(keys, port)) else { continue };
                    taken.extend(of([&set].into_iter()).into_iter().map(|(_, listen)| listen));
                    let devices =
                        if set.contains_key("type") { &mut instance.devices } else { &mut instance.ports };
                    devices.insert(name.to_owned(), set);
                    instance.leads.entry(name.to_owned()).and_modify(|lead| lead.port = port);
                }
            }
        }
    }
    want.services.values_mut().flat_map(|service| &mut service.instances).for_each(|one| one.open.clear());
    Ok(Cow::Owned(want))
}

/// What a device is called that relays IPv6 beside one that leads IPv4.
pub(crate) const HALF: &str = "-ipv6";

fn keys<'i>(instance: &'i Instance, name: &str) -> Option<&'i Keys> {
    instance.ports.get(name).or_else(|| instance.devices.get(name))
}

/// The same device on another port of the host.
fn at(keys: &Keys, port: u16) -> Keys {
    let mut keys = keys.clone();
    if let Some(listen) = keys.get_mut("listen")
        && let Some((side, _)) = listen.rsplit_once(':')
    {
        *listen = format!("{side}:{port}");
    }
    keys
}

/// The port that a device has already.
fn kept(instance: &str, device: &str, (first, last): (u16, u16), seen: &Observed) -> Option<u16> {
    let ours = seen.published.get(instance).and_then(|devices| devices.get(device));
    let theirs = || seen.instances.get(instance).and_then(|one| one.devices.get(device));
    let listen = ours.or_else(theirs)?.get("listen")?;
    let port = listen.rsplit_once(':')?.1.parse().ok()?;
    (first..=last).contains(&port).then_some(port)
}

/// The ports of a range. One that was written begins with its first; of the one that stands for any port, every device
/// begins somewhere else.
fn candidates(
    project: &str,
    instance: &str,
    device: &str,
    (first, last): (u16, u16),
) -> impl Iterator<Item = u16> {
    let count = u32::from(last - first) + 1;
    let start = if device.starts_with("proxy-any-") {
        crate::address::spread(&format!("{project}/{instance}/{device}")) % count
    } else {
        0
    };
    (0..count).filter_map(move |step| u16::try_from(u32::from(first) + (start + step) % count).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_meet_by_protocol_address_and_range() {
        let meets = |one: &str, other: &str| {
            let (one, other) = (listens(one, true, false), listens(other, false, false));
            one.iter().any(|one| other.iter().any(|other| one.meets(other)))
        };
        assert!(meets("tcp:0.0.0.0:80", "tcp:127.0.0.1:80"));
        assert!(meets("tcp:[::]:80", "tcp:127.0.0.1:80"));
        assert!(meets("tcp:[::1]:80", "tcp:0.0.0.0:80"), "the server's is on IPv6 too");
        assert!(!meets("tcp:0.0.0.0:80", "tcp:[::1]:80"), "ours is not");
        assert!(meets("tcp:127.0.0.1:80-90", "tcp:127.0.0.1:90,100"));
        assert!(!meets("tcp:0.0.0.0:80", "udp:0.0.0.0:80"));
        assert!(!meets("tcp:127.0.0.1:80", "tcp:127.0.0.2:80"));
        assert!(!meets("tcp:127.0.0.1:80-90", "tcp:127.0.0.1:91"));
        let (four, six) = (listens("tcp:0.0.0.0:80", true, false), listens("tcp:[::]:80", true, true));
        assert!(!four[0].meets(&six[0]), "two halves of one port");
        assert!(listens("unix:/run/x", true, false).is_empty() && listens("", true, false).is_empty());
    }
}
