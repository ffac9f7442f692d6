//! Types of `POST /1.0/apply`: a list of devices becomes the state.

use std::collections::BTreeMap;

use portway_model::{DeviceName, InstanceKey, ProjectName, Provider};
use serde::{Deserialize, Serialize};

use super::{AddDevice, DeviceState};

/// Body of `POST /1.0/apply`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// What is wanted, each device once.
    pub devices: Vec<AddDevice>,
    /// Whose devices are removed when the list does not name them; nobody's when empty.
    #[serde(default)]
    pub prune: Vec<Scope>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Generation that the list was made from: with another one nothing is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// One project, or one instance of a provider without projects: its instances belong to nobody together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// Provider.
    pub provider: Provider,
    /// Project; `None` where the provider has none.
    #[serde(default)]
    pub project: Option<ProjectName>,
    /// Instance; `None` for all of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceKey>,
}

impl Scope {
    /// The scope an instance is in.
    #[must_use]
    pub fn of(key: &InstanceKey) -> Scope {
        let instance = (!key.provider().has_projects()).then(|| key.clone());
        Scope { provider: key.provider(), project: key.project().cloned(), instance }
    }

    /// Whether an instance is in it.
    #[must_use]
    pub fn has(&self, key: &InstanceKey) -> bool {
        self.provider == key.provider()
            && self.project.as_ref() == key.project()
            && self.instance.as_ref().is_none_or(|instance| instance == key)
    }
}

/// Answer: the plan, and whether it was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// Whether it was carried out; false for a dry run.
    pub applied: bool,
    /// Generation of the state after it.
    pub generation: u64,
    /// One for each device of the list and each that is removed, sorted by instance and name.
    pub plan: Vec<Planned>,
}

/// What is done with one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Instance.
    pub instance: InstanceKey,
    /// Device name.
    pub name: DeviceName,
    /// What is done.
    pub action: Action,
    /// The keys that differ, each with its value before and after; `None` is the default.
    pub keys: BTreeMap<String, KeyChange>,
    /// State after it; `None` for a dry run and for one that is removed.
    pub state: Option<DeviceState>,
    /// Why it is in this state, when there is something to say.
    pub reason: Option<String>,
}

/// What is done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Add,
    /// Some of its keys change.
    Change,
    /// It goes.
    Remove,
    /// It is as wanted.
    Keep,
}

/// A value before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// Before.
    pub from: Option<String>,
    /// After.
    pub to: Option<String>,
}
