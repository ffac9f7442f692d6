//! Who gives way when there are too many: the one that has waited longest; and while somebody has more than their share,
//! one of theirs. So whoever begins many ends their own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

/// Part of everything that one source may have before it gives way alone: an eighth, so that several that have much leave
/// room for those that have little.
pub(super) const PART: usize = 8;

/// Whose something is: a peer's, by its number, whatever its addresses are; or this node's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Source(Option<u16>);

impl Source {
    pub(super) const OWN: Source = Source(None);

    pub(super) const fn peer(number: u16) -> Source {
        Source(Some(number))
    }
}

/// See the module. Each thing has a number and the time it was last used.
#[derive(Debug, Default)]
pub(super) struct Shares {
    all: BTreeSet<(Instant, u64)>,
    of: HashMap<Source, BTreeSet<(Instant, u64)>>,
    /// How many sources have so many.
    counts: BTreeMap<usize, BTreeSet<Source>>,
}

impl Shares {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn add(&mut self, used: Instant, id: u64, source: Source) {
        self.all.insert((used, id));
        let own = self.of.entry(source).or_default();
        let before = own.len();
        own.insert((used, id));
        let after = own.len();
        self.recount(source, before, after);
    }

    pub(super) fn remove(&mut self, used: Instant, id: u64, source: Source) {
        self.all.remove(&(used, id));
        let Some(own) = self.of.get_mut(&source) else { return };
        let before = own.len();
        own.remove(&(used, id));
        let after = own.len();
        if after == 0 {
            self.of.remove(&source);
        }
        self.recount(source, before, after);
    }

    fn recount(&mut self, source: Source, before: usize, after: usize) {
        if let Some(sources) = self.counts.get_mut(&before) {
            sources.remove(&source);
            if sources.is_empty() {
                self.counts.remove(&before);
            }
        }
        if after > 0 {
            self.counts.entry(after).or_default().insert(source);
        }
    }

    /// How many a source has.
    pub(super) fn count(&self, source: Source) -> usize {
        self.of.get(&source).map_or(0, BTreeSet::len)
    }

    /// The one that has waited longest, and since when.
    pub(super) fn first(&self) -> Option<(Instant, u64)> {
        self.all.first().copied()
    }

    /// Which one gives way when there may be `most`.
    pub(super) fn gives_way(&self, most: usize) -> Option<u64> {
        let (count, sources) = self.counts.last_key_value()?;
        if *count > (most / PART).max(1)
            && let Some((_, id)) = sources.first().and_then(|source| self.of.get(source)?.first())
        {
            return Some(*id);
        }
        self.all.first().map(|(_, id)| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Fails when: whoever has many takes the place of those who have few, or with few of everybody it is not the oldest.
    #[test]
    fn who_has_much_gives_way() {
        let begin = Instant::now();
        let at = |number: u64| begin + Duration::from_millis(number);
        let (quiet, loud) = (Source::peer(1), Source::peer(2));
        let mut shares = Shares::default();
        shares.add(at(0), 0, quiet);
        (1..=8).for_each(|number| shares.add(at(number), number, loud));
        assert_eq!((shares.len(), shares.count(loud), shares.first()), (9, 8, Some((at(0), 0))));
        assert_eq!(shares.gives_way(64), Some(0), "nobody has more than a share");
        assert_eq!(shares.gives_way(56), Some(1));
        shares.remove(at(1), 1, loud);
        assert_eq!((shares.count(loud), shares.gives_way(48)), (7, Some(2)));
        (2..=8).for_each(|number| shares.remove(at(number), number, loud));
        assert_eq!((shares.count(loud), shares.gives_way(1)), (0, Some(0)));
        shares.remove(at(0), 0, quiet);
        assert_eq!((shares.len(), shares.gives_way(1)), (0, None));
        assert!(shares.of.is_empty() && shares.counts.is_empty());
    }
}
