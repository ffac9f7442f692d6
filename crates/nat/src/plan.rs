//! What has to change: the difference between the table that is wanted and the one that is there.
//! Nothing here touches the kernel.

pub(crate) mod layout;
mod offset;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::conntrack::{Affected, Scope};
use crate::nft::{Batch, Element, Key, Set, Table};
use crate::observe::Observed;
use crate::spec::{Checked, Publication};

/// The change of one set: what leaves it, then what comes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct SetChange {
    leaving: Vec<Key>,
    coming: Vec<(Key, Element)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// All is as it should be.
    Nothing,
    /// The whole table is made, and one that is there goes by the same transaction.
    Whole { table: Table, there: bool },
    /// Some elements of some sets.
    Elements(BTreeMap<String, SetChange>),
}

/// One transaction: all of it happens, or nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan(Step);

impl Plan {
    /// From what is there to what is wanted. Counters go on counting where a key stays.
    pub(crate) fn between(wanted: &Table, observed: &Observed) -> Self {
        let there = match observed {
            Observed::Absent => return Self(Step::Whole { table: wanted.clone(), there: false }),
            Observed::Ours(table) => table,
        };
        if !same_shape(wanted, there) {
            return Self(Step::Whole { table: with_counts(wanted, there), there: true });
        }
        let mut changes = BTreeMap::new();
        for (name, set) in &wanted.sets {
            let Some(old) = there.sets.get(name) else { continue };
            let change = SetChange::between(set, old);
            if change != SetChange::default() {
                changes.insert(name.clone(), change);
            }
        }
        Self(if changes.is_empty() { Step::Nothing } else { Step::Elements(changes) })
    }

    /// The same where nothing but the elements of what was touched can differ.
    pub(crate) fn of_touched(wanted: &Checked, touched: &[Arc<Publication>], there: &Table) -> Self {
        let mut elements: BTreeMap<(&str, Key), Option<Vec<u8>>> = BTreeMap::new();
        for publication in touched {
            let stays = wanted.has(publication);
            for (set, key, data) in layout::elements(publication) {
                let element = elements.entry((set, key)).or_default();
                if stays {
                    *element = Some(data);
                }
            }
        }
        let mut changes: BTreeMap<String, SetChange> = BTreeMap::new();
        for ((set, key), data) in elements {
            let old = there.sets.get(set).and_then(|set| set.elements.get(&key));
            if old.map(|old| &old.data) == data.as_ref() {
                continue;
            }
            let change = changes.entry(set.to_owned()).or_default();
            let count = old.map(|old| old.count).unwrap_or_default();
            change.leaving.extend(old.map(|_| key.clone()));
            change.coming.extend(data.map(|data| (key, Element { data, count })));
        }
        Self(if changes.is_empty() { Step::Nothing } else { Step::Elements(changes) })
    }

    /// Does to a table what it does to the kernel's.
    pub(crate) fn carry_out(self, there: &mut Table) {
        match self.0 {
            Step::Nothing => {}
            Step::Whole { table, .. } => *there = table,
            Step::Elements(changes) => {
                for (set, change) in changes {
                    let Some(set) = there.sets.get_mut(&set) else { continue };
                    for key in &change.leaving {
                        set.elements.remove(key);
                    }
                    set.elements.extend(change.coming);
                }
            }
        }
    }

    /// The elements that are made anew, by set.
    pub(crate) fn renewed(&self) -> Vec<(String, Key)> {
        let Step::Elements(changes) = &self.0 else { return Vec::new() };
        let renewed = changes.iter().flat_map(|(set, change)| {
            let keys = change.coming.iter().map(|(key, _)| key).filter(|key| change.leaving.contains(key));
            keys.map(|key| (set.clone(), key.clone()))
        });
        renewed.collect()
    }

    /// What of it only takes away: nothing is published by it that was not, and what is led elsewhere than wanted is
    /// led no more. Of a table of another shape the elements that its sets of the same name should not have.
    pub(crate) fn taking_away(wanted: &Table, there: &Table) -> Self {
        let mut changes = BTreeMap::new();
        for (name, old) in &there.sets {
            let Some(set) = wanted.sets.get(name) else { continue };
            let change = SetChange { coming: Vec::new(), ..SetChange::between(set, old) };
            if !change.leaving.is_empty() {
                changes.insert(name.clone(), change);
            }
        }
        Self(if changes.is_empty() { Step::Nothing } else { Step::Elements(changes) })
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0 == Step::Nothing
    }

    /// Whether the whole table is made anew.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        matches!(self.0, Step::Whole { .. })
    }

    /// How many elements come.
    #[must_use]
    pub fn coming(&self) -> usize {
        match &self.0 {
            Step::Nothing => 0,
            Step::Whole { table, .. } => table.sets.values().map(|set| set.elements.len()).sum(),
            Step::Elements(changes) => changes.values().map(|change| change.coming.len()).sum(),
        }
    }

    /// How many elements leave. Not known of a table that goes as a whole.
    #[must_use]
    pub fn leaving(&self) -> usize {
        match &self.0 {
            Step::Nothing | Step::Whole { .. } => 0,
            Step::Elements(changes) => changes.values().map(|change| change.leaving.len()).sum(),
        }
    }

    /// Whether an element is made anew that has counted something: then the count must be a fresh one.
    pub(crate) fn carries_counts(&self) -> bool {
        match &self.0 {
            Step::Nothing => false,
            Step::Whole { there, .. } => *there,
            Step::Elements(changes) => changes
                .values()
                .any(|change| change.coming.iter().any(|(key, _)| change.leaving.contains(key))),
        }
    }

    /// What connections may have to be forgotten after it.
    pub(crate) fn affects(&self) -> Affected {
        match &self.0 {
            Step::Nothing => Affected::Nothing,
            Step::Whole { .. } => Affected::Everything,
            Step::Elements(changes) => {
                let scopes = changes.iter().flat_map(|(set, change)| {
                    let keys = change.leaving.iter().chain(change.coming.iter().map(|(key, _)| key));
                    keys.filter_map(|key| layout::scope(set, key))
                });
                let mut scopes: Vec<Scope> = scopes.collect();
                scopes.sort_unstable();
                scopes.dedup();
                Affected::Scopes(scopes)
            }
        }
    }

    /// The transaction, valid for one generation of the ruleset.
    pub(crate) fn batch(&self, table: &str, generation: u32) -> Batch {
        let mut batch = Batch::new(table, Some(generation));
        match &self.0 {
            Step::Nothing => {}
            Step::Whole { table, there } => {
                if *there {
                    batch.delete_table();
                }
                batch.create_table(table);
            }
            Step::Elements(changes) => {
                for (set, change) in changes {
                    batch.delete_elements(set, change.leaving.iter());
                }
                for (set, change) in changes {
                    batch.add_elements(set, change.coming.iter().map(|(key, element)| (key, element, true)));
                }
            }
        }
        batch
    }
}

impl SetChange {
    fn between(wanted: &Set, there: &Set) -> Self {
        let mut change = Self::default();
        for (key, old) in &there.elements {
            if wanted.elements.get(key) != Some(old) {
                change.leaving.push(key.clone());
            }
        }
        for (key, element) in &wanted.elements {
            match there.elements.get(key) {
                Some(old) if old == element => {}
                old => {
                    let count = old.map(|old| old.count).unwrap_or_default();
                    change.coming.push((key.clone(), Element { data: element.data.clone(), count }));
                }
            }
        }
        change
    }
}

/// Whether two tables differ in the elements of their sets at most.
fn same_shape(wanted: &Table, there: &Table) -> bool {
    let shapes = |table: &Table| -> Vec<_> {
        table.sets.iter().map(|(name, set)| (name.clone(), set.shape.clone())).collect()
    };
    wanted.chains == there.chains && shapes(wanted) == shapes(there)
}

/// What is wanted, with what the same keys have counted so far.
fn with_counts(wanted: &Table, there: &Table) -> Table {
    let mut table = wanted.clone();
    for (name, set) in &mut table.sets {
        let Some(old) = there.sets.get(name) else { continue };
        for (key, element) in &mut set.elements {
            element.count = old.elements.get(key).map(|old| old.count).unwrap_or_default();
        }
    }
    table
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Step::Nothing => f.write_str("nothing to do"),
            Step::Whole { there, .. } => {
                let verb = if *there { "replace" } else { "make" };
                write!(f, "{verb} the table, {} elements", self.coming())
            }
            Step::Elements(_) => write!(f, "add {} elements, remove {}", self.coming(), self.leaving()),
        }
    }
}

#[cfg(test)]
mod tests;
