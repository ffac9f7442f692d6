//! Which devices of an instance can move, and which not. Pure.
//!
//! While a device moves, the server keeps a note of it in the instance's own configuration, written with
//! the very change that takes the device out: whatever dies in between, the device is defined in at
//! least one place, and the next move of it goes on from there.

use std::collections::BTreeMap;

use portway_control::api;
use portway_incus::{Definition, Device};
use portway_model::{DeviceName, DeviceSpec, Follow, InstanceKey, Provider};
use serde::{Deserialize, Serialize};

use super::seal::Seals;
use super::translate;
use crate::state::{Origin, StoredDevice};

/// Configuration keys of notes begin so; the device's name follows.
pub(crate) const NOTE: &str = "user.portway.moving.";

/// Where Incus and LXD keep an instance's identity. A copy has the notes of its original, and another one.
const UUID: &str = "volatile.uuid";

/// A note.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Note {
    /// UUID of the instance.
    uuid: String,
    /// What moves.
    pub(crate) origin: Origin,
    /// Says that this Portway wrote it: whoever may edit the instance can write notes, too.
    seal: String,
}

impl Note {
    /// The text of a note about `origin`, which is the device `name` of an instance.
    pub(crate) fn text(definition: &Definition, name: &str, origin: Origin, seals: &Seals) -> String {
        let uuid = definition.config(UUID).unwrap_or_default().to_owned();
        let seal = seals.of(&uuid, name, &origin);
        serde_json::to_string(&Note { uuid, origin, seal }).unwrap_or_default()
    }
}

/// What is to be done with a device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    /// It can be taken over.
    Take {
        /// Its options here.
        spec: Box<DeviceSpec>,
        /// What is another way here.
        notes: Vec<String>,
        /// The server has only its note any more.
        noted: bool,
    },
    /// It is here; the server has its note still.
    Finish,
    /// It stays; why.
    Skip(String),
}

/// A proxy device of an instance.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Candidate {
    /// Its name, by the rules of the server.
    pub(crate) name: String,
    /// What it is there.
    pub(crate) origin: Origin,
    /// What is to be done.
    pub(crate) verdict: Verdict,
}

/// The proxy devices of an instance, those on their way included. `here` are ours of it. A note counts only with the
/// seal of this Portway: the server has checked its own devices, and nobody a note.
pub(crate) fn candidates(
    provider: Provider,
    definition: &Definition,
    here: &BTreeMap<DeviceName, StoredDevice>,
    seals: &Seals,
) -> Vec<Candidate> {
    let local = definition.devices();
    let mut found: BTreeMap<String, (Origin, bool)> = BTreeMap::new();
    let uuid = definition.config(UUID).unwrap_or_default();
    for (name, text) in definition.config_below(NOTE) {
        if let Ok(note) = serde_json::from_str::<Note>(text)
            && note.uuid == uuid
            && seals.fit(&note.uuid, name, &note.origin, &note.seal)
        {
            found.insert(name.to_owned(), (note.origin, true));
        }
    }
    for (name, device) in &definition.expanded_devices {
        if device.get("type").is_some_and(|kind| kind == "proxy") {
            let place = if local.contains_key(name) { api::Place::Instance } else { api::Place::Profile };
            found.insert(name.clone(), (Origin { device: device.clone(), place }, false));
        }
    }
    let candidate = |(name, (origin, noted)): (String, (Origin, bool))| {
        let verdict = verdict(provider, &name, &origin.device, noted, here);
        Candidate { name, origin, verdict }
    };
    found.into_iter().map(candidate).collect()
}

fn verdict(
    provider: Provider,
    name: &str,
    device: &Device,
    noted: bool,
    here: &BTreeMap<DeviceName, StoredDevice>,
) -> Verdict {
    let name: DeviceName = match name.parse() {
        Ok(name) => name,
        Err(problem) => return Verdict::Skip(format!("its name cannot be had here: {problem}")),
    };
    match (here.contains_key(&name), noted) {
        (true, true) => return Verdict::Finish,
        (true, false) => return Verdict::Skip("Portway has a device of this name for it already".into()),
        (false, _) => {}
    }
    match translate::to_ours(provider, device) {
        Ok(ours) => Verdict::Take { spec: Box::new(ours.spec), notes: ours.notes, noted },
        Err(reason) => Verdict::Skip(reason),
    }
}

/// A device of ours as its server gets it: exactly what it was there, when nothing has changed since.
///
/// # Errors
/// Why the server cannot have it, one line.
pub(crate) fn exportable(device: &StoredDevice) -> Result<Origin, String> {
    if let Some(origin) = &device.origin
        && translate::to_ours(device.instance.provider(), &origin.device)
            .is_ok_and(|ours| ours.spec == device.keys)
    {
        return Ok(origin.clone());
    }
    let keys = translate::to_theirs(device.instance.provider(), device.name.as_str(), &device.keys)?;
    Ok(Origin { device: keys, place: api::Place::Instance })
}

/// Whether a device of ours is that of the instance, and not of one that had its name before.
pub(crate) fn belongs(device: &StoredDevice, definition: &Definition) -> bool {
    let same = device.uuid.is_none() || device.uuid.as_deref() == definition.config(UUID);
    same || device.keys.follow == Some(Follow::Name)
}

/// What is said of a candidate.
pub(crate) fn shown(key: &InstanceKey, candidate: Candidate) -> api::Move {
    let Candidate { name, origin, verdict } = candidate;
    let unnamed = |device: Device| device.into_iter().filter(|(key, _)| key != "type").collect();
    let (progress, keys, notes, reason) = match verdict {
        Verdict::Take { spec, notes, noted } => {
            let progress = if noted { api::Progress::Unfinished } else { api::Progress::Ready };
            (progress, spec.to_keys(), notes, None)
        }
        Verdict::Finish => (api::Progress::Unfinished, unnamed(origin.device), Vec::new(), None),
        Verdict::Skip(reason) => (api::Progress::Skipped, unnamed(origin.device), Vec::new(), Some(reason)),
    };
    api::Move { instance: key.clone(), name, place: origin.place, progress, keys, notes, reason, state: None }
}

#[cfg(test)]
mod tests;
