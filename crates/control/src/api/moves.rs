//! Types of `/1.0/import` and `/1.0/export`: devices that move between Incus or LXD and
//! Portway.

use std::collections::BTreeMap;

use portway_model::{DeviceName, InstanceKey};
use serde::{Deserialize, Serialize};

use super::DeviceState;

/// Body of `POST /1.0/import` and `POST /1.0/export`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveDevice {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// Device name.
    pub name: DeviceName,
}

/// A device that may move, or has moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// Device name.
    pub name: String,
    /// Where its server has it, or gets it.
    pub place: Place,
    /// How far it is.
    pub progress: Progress,
    /// Its keys where it goes; those it has, when it is skipped.
    pub keys: BTreeMap<String, String>,
    /// What is another way there, one line each.
    pub notes: Vec<String>,
    /// Why it is skipped, or what is to be said of its state.
    pub reason: Option<String>,
    /// State after an import.
    pub state: Option<DeviceState>,
}

/// Where a server has a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// The instance itself.
    Instance,
    /// One of its profiles.
    Profile,
}

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Progress {
    /// It can move.
    Ready,
    /// It stays where it is.
    Skipped,
    /// A move was broken off; it goes on with the next one.
    Unfinished,
    /// It has moved.
    Moved,
}

/// An instance that there is, or that has devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownInstance {
    /// Instance, canonical.
    pub instance: InstanceKey,
    /// State in the words of its server; `None` when that is not known.
    pub status: Option<String>,
    /// How many devices of ours it has.
    pub devices: u64,
}
