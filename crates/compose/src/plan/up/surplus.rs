//! Instances of the project that are no replica the files name.

use std::collections::BTreeSet;

use super::super::down;
use super::{Builder, Orphans};
use crate::observe::Seen;

/// What becomes of an instance of the project that is no replica the files name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes: a replica beyond the scale, or an orphan that is to go.
    Goes,
    /// It stays, and a note names it.
    Orphan,
    /// It stays: a service that is disabled or not meant, or what `run` made.
    Stays,
}

impl<'a> Builder<'a> {
    /// Instances of the project that are no replica the files name, and what becomes of them.
    pub(super) fn unwanted(&self) -> impl Iterator<Item = (&'a String, &'a Seen, Fate)> + use<'a, '_> {
        let wanted: BTreeSet<&str> = self.want.instances().map(|(_, one)| one.name.as_str()).collect();
        let of = move |(name, seen): (&'a String, &'a Seen)| {
            let service = seen.service().unwrap_or_default();
            let fate = if seen.is_one_off() || self.options.disabled.contains(service) {
                Fate::Stays
            } else if self.want.services.contains_key(service) {
                if self.selected.contains(service) { Fate::Goes } else { Fate::Stays }
            } else {
                match self.options.orphans {
                    Orphans::Remove => Fate::Goes,
                    Orphans::Ignore => Fate::Stays,
                    Orphans::Keep => Fate::Orphan,
                }
            };
            (!wanted.contains(name.as_str())).then_some((name, seen, fate))
        };
        self.seen.ours(&self.want.name).filter_map(of)
    }

    /// Replicas beyond the scale go, the highest number first; instances of no service stay unless told otherwise.
    pub(super) fn surplus(&mut self) {
        let mut gone: Vec<(&str, u32, &String, &Seen)> = Vec::new();
        let mut orphans = Vec::new();
        for (name, seen, fate) in self.unwanted() {
            match fate {
                Fate::Stays => {}
                Fate::Orphan => orphans.push(name.as_str()),
                Fate::Goes => gone.push((seen.service().unwrap_or_default(), seen.index(), name, seen)),
            }
        }
        if !orphans.is_empty() {
            let names = orphans.join(", ");
            self.plan.notes.push(format!(
                "instances of services that are no longer in the files stay: {names} (--remove-orphans removes them)"
            ));
        }
        gone.sort_by_key(|(service, index, _, _)| (*service, std::cmp::Reverse(*index)));
        let mut last: Option<(&str, usize)> = None;
        for (service, _, name, seen) in gone {
            let after = last.filter(|(before, _)| *before == service).map(|(_, step)| step);
            let grace = match self.want.services.get(service) {
                Some(service) => self.grace(service),
                None => self.options.grace.or(seen.grace()).unwrap_or(down::GRACE),
            };
            let step = down::remove_one(&mut self.plan, name, seen, grace, after.into_iter().collect());
            down::unpublish(&mut self.plan, self.seen, name, vec![step]);
            if seen.is_beside() {
                // Its name may be needed.
                self.base.push(step);
            }
            last = Some((service, step));
        }
    }
}
