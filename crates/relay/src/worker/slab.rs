//! Storage with keys that never mean another entry: a key names a place and which tenant of it.
//!
//! Events of a descriptor may still be in the queue when it has been closed and its place given to the next one;
//! the generation in the key makes them harmless.

/// Bits of a generation that a key carries: what an event token has room for.
const GENERATION_BITS: u32 = 28;

/// Names an entry of a [`Slab`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    index: u32,
    generation: u32,
}

impl Key {
    /// From its parts; `generation` is cut to 28 bits.
    pub(super) const fn from_parts(index: u32, generation: u32) -> Key {
        Key { index, generation: generation & ((1 << GENERATION_BITS) - 1) }
    }

    /// Place in the slab.
    pub(super) const fn index(self) -> u32 {
        self.index
    }

    /// Which tenant of the place, 28 bits.
    pub(super) const fn generation(self) -> u32 {
        self.generation
    }

    fn place(self) -> usize {
        usize::try_from(self.index).unwrap_or(usize::MAX)
    }
}

#[derive(Debug)]
struct Place<T> {
    generation: u32,
    value: Option<T>,
}

/// Entries by [`Key`]. Grows to the most entries there ever were at once.
#[derive(Debug)]
pub(super) struct Slab<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Slab<T> {
        Slab { places: Vec::new(), free: Vec::new() }
    }

    /// Number of entries.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Stores `value`.
    pub(super) fn insert(&mut self, value: T) -> Key {
        if let Some(index) = self.free.pop() {
            let at = usize::try_from(index).unwrap_or(usize::MAX);
            if let Some(place) = self.places.get_mut(at) {
                place.value = Some(value);
                return Key::from_parts(index, place.generation);
            }
        }
        let index = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        self.places.push(Place { generation: 0, value: Some(value) });
        Key::from_parts(index, 0)
    }

    pub(super) fn get(&self, key: Key) -> Option<&T> {
        let place = self.places.get(key.place())?;
        if place.generation == key.generation { place.value.as_ref() } else { None }
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let place = self.places.get_mut(key.place())?;
        if place.generation == key.generation { place.value.as_mut() } else { None }
    }

    /// Takes the entry out; its key means nothing from here on.
    pub(super) fn remove(&mut self, key: Key) -> Option<T> {
        let place = self.places.get_mut(key.place())?;
        if place.generation != key.generation {
            return None;
        }
        let value = place.value.take()?;
        place.generation = Key::from_parts(0, place.generation.wrapping_add(1)).generation;
        self.free.push(key.index);
        Some(value)
    }

    /// The first entry at place `from` or after it.
    pub(super) fn next_from(&self, from: u32) -> Option<Key> {
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        self.places.iter().enumerate().skip(start).find_map(|(at, place)| {
            place.value.as_ref()?;
            Some(Key::from_parts(u32::try_from(at).ok()?, place.generation))
        })
    }

    /// Number of places, with an entry or without.
    pub(super) fn place_count(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    /// The entries at places of `range`.
    pub(super) fn entries_in(&self, range: std::ops::Range<u32>) -> impl Iterator<Item = (Key, &T)> {
        let at = |place: u32| usize::try_from(place).unwrap_or(usize::MAX).min(self.places.len());
        let places = self.places.get(at(range.start)..at(range.end)).unwrap_or_default();
        (range.start..).zip(places).filter_map(|(index, place)| {
            Some((Key::from_parts(index, place.generation), place.value.as_ref()?))
        })
    }

    /// Keys of all entries.
    pub(super) fn keys(&self) -> Vec<Key> {
        let mut keys = Vec::with_capacity(self.len());
        let mut from = 0;
        while let Some(key) = self.next_from(from) {
            keys.push(key);
            from = key.index.saturating_add(1);
        }
        keys
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_never_means_the_next_tenant() {
        let mut slab = Slab::new();
        let first = slab.insert("first");
        assert_eq!(slab.remove(first), Some("first"));
        let second = slab.insert("second");
        assert_eq!((first.index(), second.index()), (0, 0));
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn keys_are_those_of_the_living() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..5).map(|number| slab.insert(number)).collect();
        slab.remove(keys[1]);
        slab.remove(keys[4]);
        assert_eq!(slab.keys(), [keys[0], keys[2], keys[3]]);
        assert!(!slab.is_empty());
    }

    #[test]
    fn generations_wrap_within_their_bits() {
        let mut slab = Slab::new();
        slab.places.push(Place { generation: (1 << GENERATION_BITS) - 1, value: Some(1) });
        let key = slab.keys()[0];
        slab.remove(key);
        let next = slab.insert(2);
        assert_eq!(next.generation(), 0);
        assert_eq!(slab.get(next), Some(&2));
    }
}
