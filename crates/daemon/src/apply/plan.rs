//! The pure difference between the stored devices and a list.

use std::collections::{BTreeMap, BTreeSet};

use portway_control::api::{Action, KeyChange, Planned, Scope};
use portway_model::{DeviceKey, DeviceName, DeviceSpec, InstanceKey, ListenIndex};

use crate::instance::batch::Batch;
use crate::state::Desired;

/// What is wanted.
pub(crate) type Wanted = BTreeMap<DeviceKey, DeviceSpec>;

/// What to do, in order: `clear`, `stage`, store, `late`.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// What is said of it.
    pub(crate) shown: Vec<Planned>,
    /// What stands in the way of something new.
    pub(crate) clear: BTreeMap<InstanceKey, Batch>,
    /// What changes and what is new.
    pub(crate) stage: BTreeMap<InstanceKey, Batch>,
    /// What goes when all else has worked.
    pub(crate) late: BTreeMap<InstanceKey, Vec<DeviceName>>,
}

impl Plan {
    /// The devices that go when all else has worked.
    pub(crate) fn late_keys(&self) -> impl Iterator<Item = DeviceKey> + '_ {
        self.late.iter().flat_map(|(instance, names)| {
            let key = |name: &DeviceName| DeviceKey { instance: instance.clone(), device: name.clone() };
            names.iter().map(key)
        })
    }

    /// Has stored devices whose keys are refused go when they are not wanted. One that is wanted is new, and
    /// replaces what is stored.
    pub(crate) fn drop_refused(
        &mut self,
        refused: impl Iterator<Item = DeviceKey>,
        wanted: &Wanted,
        prune: &[Scope],
    ) {
        let doomed = |key: &DeviceKey| !wanted.contains_key(key) && is_in(prune, key);
        for key in refused.filter(doomed) {
            self.shown.push(shown(&key, Action::Remove, None, None));
            self.late.entry(key.instance).or_default().push(key.device);
        }
        self.shown.sort_by(|one, other| (&one.instance, &one.name).cmp(&(&other.instance, &other.name)));
    }
}

/// The difference. `prune` says whose devices go when they are not wanted.
pub(crate) fn plan(current: &Desired, wanted: &Wanted, prune: &[Scope]) -> Plan {
    let mut plan = Plan::default();
    let doomed: Vec<&DeviceKey> =
        current.keys().filter(|key| !wanted.contains_key(key) && is_in(prune, key)).collect();
    let in_the_way = in_the_way(current, wanted, &doomed);
    for key in doomed {
        plan.shown.push(shown(key, Action::Remove, current.get(key).map(|device| &device.keys), None));
        if in_the_way.contains(key) {
            plan.clear.entry(key.instance.clone()).or_default().remove.push(key.device.clone());
        } else {
            plan.late.entry(key.instance.clone()).or_default().push(key.device.clone());
        }
    }
    for (key, spec) in wanted {
        let before = current.get(key).map(|device| &device.keys);
        let action = match before {
            None => Action::Add,
            Some(before) if before == spec => Action::Keep,
            Some(_) => Action::Change,
        };
        plan.shown.push(shown(key, action, before, Some(spec)));
        let change = (key.device.clone(), spec.clone());
        match action {
            Action::Change if in_the_way.contains(key) => {
                plan.clear.entry(key.instance.clone()).or_default().remove.push(key.device.clone());
                plan.stage.entry(key.instance.clone()).or_default().add.push(change);
            }
            Action::Change => plan.stage.entry(key.instance.clone()).or_default().change.push(change),
            Action::Add => plan.stage.entry(key.instance.clone()).or_default().add.push(change),
            Action::Keep | Action::Remove => {}
        }
    }
    plan.shown.sort_by(|one, other| (&one.instance, &one.name).cmp(&(&other.instance, &other.name)));
    plan
}

/// Whether a device goes when it is not wanted.
fn is_in(prune: &[Scope], key: &DeviceKey) -> bool {
    prune.iter().any(|scope| scope.has(&key.instance))
}

/// Devices whose present listen address another device of the list gets.
fn in_the_way(current: &Desired, wanted: &Wanted, doomed: &[&DeviceKey]) -> BTreeSet<DeviceKey> {
    let listens_anew = |key: &DeviceKey, spec: &DeviceSpec| {
        current
            .get(key)
            .is_none_or(|before| before.keys.listen != spec.listen || before.keys.bind != spec.bind)
    };
    let moving = || wanted.iter().filter(|(key, spec)| listens_anew(key, spec));
    let new = ListenIndex::new(moving().map(|(key, spec)| (key, &key.instance, spec)));
    let leaving = doomed.iter().copied().chain(moving().map(|(key, _)| key));
    let old = leaving.filter_map(|key| current.get(key).map(|device| (key, &device.keys)));
    let is_in_the_way = |(key, old): &(&DeviceKey, &DeviceSpec)| {
        new.in_the_way_of(&key.instance, old).any(|newer| newer != *key)
    };
    old.filter(is_in_the_way).map(|(key, _)| key.clone()).collect()
}

fn shown(
    key: &DeviceKey,
    action: Action,
    before: Option<&DeviceSpec>,
    after: Option<&DeviceSpec>,
) -> Planned {
    let keys = |spec: Option<&DeviceSpec>| spec.map(DeviceSpec::to_keys).unwrap_or_default();
    let (before, after) = (keys(before), keys(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changes = names.into_iter().filter_map(|name| {
        let change = KeyChange { from: before.get(name).cloned(), to: after.get(name).cloned() };
        (change.from != change.to).then(|| (name.clone(), change))
    });
    Planned {
        instance: key.instance.clone(),
        name: key.device.clone(),
        action,
        keys: changes.collect(),
        state: None,
        reason: None,
    }
}

#[cfg(test)]
mod tests;
