//! What differs between an instance as it is wanted and as it is, and what it takes to change that.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::label;
use crate::observe::{Life, Seen};
use crate::render::Rendered;
use crate::want::Keys;

/// What a change takes, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// It is made while the instance runs.
    Live,
    /// It counts from the next start on.
    Restart,
    /// Only an instance made anew has it.
    Recreate,
}

/// Changes to an instance that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// What they take together.
    pub takes: Takes,
    /// What has changed, in words, each once.
    pub reasons: Vec<String>,
    /// Keys to set.
    pub set: Keys,
    /// Keys to remove.
    pub unset: Vec<String>,
    /// Devices to set.
    pub devices: BTreeMap<String, Keys>,
    /// Devices to remove.
    pub gone: Vec<String>,
    /// Whether files are to be written again.
    pub files: bool,
    /// Whether its first process is another version of ours: it is replaced where it does not run.
    pub program: bool,
}

/// Names of what we have written, for [`label::KEYS`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Written {
    #[serde(default)]
    pub(crate) config: BTreeSet<String>,
    #[serde(default)]
    pub(crate) devices: BTreeSet<String>,
    /// Devices of Portway.
    #[serde(default)]
    pub(crate) ports: BTreeSet<String>,
}

impl Written {
    /// What an instance's label says; nothing without one.
    pub(crate) fn of(seen: &Seen) -> Written {
        seen.label(label::KEYS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

/// Keys that the server takes while an instance runs.
const LIVE: [&str; 6] = ["user.", "limits.", "boot.", "snapshots.", "cluster.", "security.protection."];

/// Those of them that it takes and that count from the next start on.
const NOT_LIVE: [&str; 2] = ["limits.kernel.", "limits.hugepages."];

/// What it takes to change a key of the configuration.
fn takes_key(key: &str) -> Takes {
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| key.starts_with(prefix));
    if begins(&LIVE) && !begins(&NOT_LIVE) { Takes::Live } else { Takes::Restart }
}

/// What it takes to change a device. One of proxies goes and another comes, which an instance does not notice.
fn takes_device(device: Option<&Keys>) -> Takes {
    match device.and_then(|keys| keys.get("type")).map(String::as_str) {
        Some("proxy" | "unix-char" | "unix-block" | "usb" | "gpu") => Takes::Live,
        _ => Takes::Restart,
    }
}

/// Whether all that differs between two interfaces is that the server reserves the address that the instance has, or
/// that it does no longer.
fn is_pin(name: &str, there: &Keys, wanted: &Keys, seen: &Seen) -> bool {
    const PIN: &str = "ipv4.address";
    let rest = |keys: &Keys| {
        keys.iter().filter(|(key, _)| *key != PIN).map(|(k, v)| (k.clone(), v.clone())).collect::<Keys>()
    };
    if there.get("type").map(String::as_str) != Some("nic") || rest(there) != rest(wanted) {
        return false;
    }
    let written = |address: &String| {
        let line = |line: &str| {
            let rest = line
                .strip_prefix("lxc.net.")
                .and_then(|rest| rest.strip_prefix(name.trim_start_matches("eth")));
            rest.and_then(|rest| rest.strip_prefix(".ipv4.address = "))
                .is_some_and(|has| has.split('/').next() == Some(address))
        };
        seen.label("raw.lxc").is_some_and(|raw| raw.lines().any(line))
    };
    match (there.get(PIN), wanted.get(PIN)) {
        (None, Some(address)) => {
            written(address) || seen.leased.get(name).is_some_and(|leased| leased.to_string() == *address)
        }
        (Some(_), None) => true,
        _ => false,
    }
}

/// What is to be done to `seen` for it to be `wanted`; `None` when nothing is. `image` is the fingerprint its image has.
#[must_use]
pub fn difference(wanted: &Rendered, seen: &Seen, image: Option<&str>) -> Option<Difference> {
    let mut found = Difference::nothing();
    found.born(wanted, seen, image);
    let written = Written::of(seen);
    found.keys(wanted, seen, &written);
    found.of_devices(wanted, seen, &written);
    if seen.label(label::FILES).unwrap_or_default() != wanted.files_hash() {
        found.files = true;
        found.note(Takes::Restart, "files");
    }
    found.guest(wanted, seen);
    found.reasons.sort();
    found.reasons.dedup();
    let nothing = found.reasons.is_empty() && found.set.is_empty() && found.unset.is_empty();
    // What does not run has no life to interrupt.
    if found.takes == Takes::Restart && seen.life == Life::Stopped {
        found.takes = Takes::Live;
    }
    (!nothing).then_some(found)
}

impl Difference {
    /// Made anew whatever differs.
    #[must_use]
    pub fn recreate(reason: &str) -> Difference {
        Difference { takes: Takes::Recreate, reasons: vec![reason.to_owned()], ..Difference::nothing() }
    }

    fn nothing() -> Difference {
        Difference {
            takes: Takes::Live,
            reasons: Vec::new(),
            set: Keys::new(),
            unset: Vec::new(),
            devices: BTreeMap::new(),
            gone: Vec::new(),
            files: false,
            program: false,
        }
    }

    fn note(&mut self, takes: Takes, reason: impl Into<String>) {
        self.takes = self.takes.max(takes);
        self.reasons.push(reason.into());
    }

    fn born(&mut self, wanted: &Rendered, seen: &Seen, image: Option<&str>) {
        if seen.label(label::BORN) != wanted.config.get(label::BORN).map(String::as_str) {
            self.note(Takes::Recreate, "image, volumes or paths");
        } else if let Some(image) = image
            && seen.base_image().is_some_and(|base| base != image)
        {
            self.note(Takes::Recreate, "another image of that name");
        }
    }

    fn keys(&mut self, wanted: &Rendered, seen: &Seen, written: &Written) {
        for (key, value) in &wanted.config {
            if seen.config.get(key) == Some(value) || key == label::GUEST {
                continue;
            }
            self.set.insert(key.clone(), value.clone());
            // Our own labels follow from the rest, and are nothing to tell.
            if !key.starts_with(label::PREFIX) {
                self.note(takes_key(key), key.clone());
            }
        }
        let labels = [label::FILES, label::DEPENDS, label::GUEST, label::BESIDE, label::HEALTH]
            .into_iter()
            .filter(|key| !wanted.config.contains_key(*key));
        self.unset.extend(labels.filter(|key| seen.config.contains_key(*key)).map(str::to_owned));
        let gone = written.config.iter().filter(|key| !wanted.config.contains_key(*key));
        // The server has given an application container what its image says when it was made, and only then.
        let of_image = |key: &str| {
            seen.is_application() && ["oci.", "environment."].iter().any(|of| key.starts_with(of))
        };
        for key in gone.filter(|key| seen.config.contains_key(*key)) {
            self.unset.push(key.clone());
            self.note(if of_image(key) { Takes::Recreate } else { takes_key(key) }, key.clone());
        }
    }

    /// Another version of the first process is no reason to stop a service.
    fn guest(&mut self, wanted: &Rendered, seen: &Seen) {
        let Some(guest) = wanted.guest().filter(|guest| seen.label(label::GUEST) != Some(*guest)) else {
            return;
        };
        if seen.life == Life::Stopped || self.takes >= Takes::Restart {
            self.program = true;
            self.set.insert(label::GUEST.to_owned(), guest.to_owned());
        }
    }

    fn of_devices(&mut self, wanted: &Rendered, seen: &Seen, written: &Written) {
        for (name, device) in &wanted.devices {
            let there = seen.devices.get(name);
            if there == Some(device) {
                continue;
            }
            self.devices.insert(name.clone(), device.clone());
            let takes = there.map_or(Takes::Live, |there| takes_device(Some(there)));
            let takes = if there.is_some_and(|there| is_pin(name, there, device, seen)) {
                Takes::Live
            } else {
                takes.max(takes_device(Some(device)))
            };
            self.note(takes, format!("device {name}"));
        }
        let gone = written.devices.iter().filter(|name| !wanted.devices.contains_key(*name));
        for name in gone.filter(|name| seen.devices.contains_key(*name)) {
            self.gone.push(name.clone());
            self.note(takes_device(seen.devices.get(name)), format!("device {name}"));
        }
    }
}
