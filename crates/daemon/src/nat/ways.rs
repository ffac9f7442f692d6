//! The ways in force, and what is made of them for the table and the file: kept way by way, so that a change costs
//! what it changes and not what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portway_model::{Cidr, DeviceKey};
use portway_nat::{Checked, Conflict, InterfaceName, Publication};

use super::{Way, file};

/// The ways in force, by device.
#[derive(Debug, Default)]
pub(super) struct Ways {
    ways: BTreeMap<DeviceKey, Entry>,
    checked: Checked,
    bridges: Tally<InterfaceName>,
    ports: Tally<InterfaceName>,
    subnets: Tally<Cidr>,
    /// Devices that no table can hold beside the others, one line each.
    left_out: BTreeMap<DeviceKey, String>,
}

/// A way, with what is made of it.
#[derive(Debug)]
struct Entry {
    way: Arc<Way>,
    publications: Vec<Arc<Publication>>,
    text: Box<str>,
}

/// How often something is said.
#[derive(Debug, PartialEq, Eq)]
struct Tally<T>(BTreeMap<T, usize>);

impl<T> Default for Tally<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord> Tally<T> {
    fn add(&mut self, items: impl Iterator<Item = T>) {
        items.for_each(|item| *self.0.entry(item).or_default() += 1);
    }

    fn remove(&mut self, items: impl Iterator<Item = T>) {
        for item in items {
            if let Some(count) = self.0.get_mut(&item) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(&item);
                }
            }
        }
    }
}

impl Ways {
    /// The way of a device.
    pub(super) fn get(&self, key: &DeviceKey) -> Option<&Arc<Way>> {
        self.ways.get(key).map(|entry| &entry.way)
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.ways.is_empty()
    }

    /// What the table is to hold for a device.
    pub(super) fn publications_of(&self, key: &DeviceKey) -> &[Arc<Publication>] {
        self.ways.get(key).map(|entry| &entry.publications[..]).unwrap_or_default()
    }

    /// What the table is to hold.
    pub(super) fn checked(&mut self) -> &mut Checked {
        &mut self.checked
    }

    /// Devices that no table can hold beside the others, one line each.
    pub(super) fn left_out(&self) -> &BTreeMap<DeviceKey, String> {
        &self.left_out
    }

    /// Ports of bridges that targets are at.
    pub(super) fn ports(&self) -> impl Iterator<Item = &InterfaceName> {
        self.ports.0.keys()
    }

    /// The ways as a file has them.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.ways.values().map(|entry| &*entry.text)
    }

    /// Gives a device a way, instead of the one it has.
    pub(super) fn insert(&mut self, key: DeviceKey, way: Arc<Way>) {
        self.remove(&key);
        let name = key.to_string();
        self.bridges.add(way.bridges());
        self.ports.add(way.ports());
        self.subnets.add(way.subnets());
        let (publications, problem) = match way.publications(&name) {
            Ok(publications) => (publications.into_iter().map(Arc::new).collect(), None),
            Err(text) => (Vec::new(), Some(text)),
        };
        let conflict = put_all(&mut self.checked, &publications).err();
        let text = file::text(&name, &way).into_boxed_str();
        self.ways.insert(key.clone(), Entry { way, publications, text });
        if conflict.is_some() || !self.left_out.is_empty() {
            self.settle();
        }
        if let Some(problem) = problem {
            self.left_out.insert(key, problem);
        }
        self.surround();
    }

    /// Takes a device's way away.
    pub(super) fn remove(&mut self, key: &DeviceKey) -> Option<Arc<Way>> {
        let Entry { way, publications, .. } = self.ways.remove(key)?;
        self.bridges.remove(way.bridges());
        self.ports.remove(way.ports());
        self.subnets.remove(way.subnets());
        publications.iter().for_each(|publication| self.checked.take(publication));
        if !self.left_out.is_empty() {
            // What it was in the way of comes in.
            self.settle();
        }
        self.surround();
        Some(way)
    }

    /// Decides anew who is left out: of two that want a port, the one whose name comes later.
    fn settle(&mut self) {
        let entries = self.ways.values().flat_map(|entry| &entry.publications);
        entries.for_each(|publication| self.checked.take(publication));
        self.left_out.retain(|key, _| self.ways.get(key).is_some_and(|entry| entry.publications.is_empty()));
        for (key, entry) in &self.ways {
            if let Err(conflict) = put_all(&mut self.checked, &entry.publications) {
                self.left_out.insert(key.clone(), conflict.to_string());
            }
        }
    }

    fn surround(&mut self) {
        let subnets: BTreeSet<Cidr> = self.subnets.0.keys().copied().collect();
        self.checked.surround(self.bridges.0.keys().cloned().collect(), subnets);
    }
}

impl FromIterator<(DeviceKey, Way)> for Ways {
    fn from_iter<I: IntoIterator<Item = (DeviceKey, Way)>>(ways: I) -> Self {
        let mut all = Self::default();
        ways.into_iter().for_each(|(key, way)| all.insert(key, Arc::new(way)));
        all
    }
}

/// Adds all or none.
fn put_all(checked: &mut Checked, publications: &[Arc<Publication>]) -> Result<(), Conflict> {
    for (count, publication) in publications.iter().enumerate() {
        if let Err(conflict) = checked.put(publication) {
            publications.iter().take(count).for_each(|publication| checked.take(publication));
            return Err(conflict);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
