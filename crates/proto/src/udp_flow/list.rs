//! Slots of flows, and doubly linked lists through them by index. No allocation but the slab's growth.

use std::time::Instant;

use super::FlowId;

/// A flow in its slot.
#[derive(Debug)]
pub(super) struct Slot<K, V> {
    pub(super) key: K,
    pub(super) value: V,
    /// Last datagram of either direction.
    pub(super) used: Instant,
    /// Whether upstream has answered.
    pub(super) two_way: bool,
    before: Option<u32>,
    after: Option<u32>,
}

#[derive(Debug)]
struct Cell<K, V> {
    /// Raised each time the slot is emptied.
    generation: u32,
    content: Content<K, V>,
}

#[derive(Debug)]
enum Content<K, V> {
    Used(Slot<K, V>),
    Free { next: Option<u32> },
}

/// Slots with a list of the free ones.
#[derive(Debug)]
pub(super) struct Slab<K, V> {
    cells: Vec<Cell<K, V>>,
    free: Option<u32>,
}

impl<K, V> Slab<K, V> {
    pub(super) const fn new() -> Self {
        Self { cells: Vec::new(), free: None }
    }

    fn cell(&self, index: u32) -> Option<&Cell<K, V>> {
        self.cells.get(usize::try_from(index).ok()?)
    }

    fn cell_mut(&mut self, index: u32) -> Option<&mut Cell<K, V>> {
        self.cells.get_mut(usize::try_from(index).ok()?)
    }

    /// The slot at `index`, whichever flow has it.
    pub(super) fn at(&self, index: u32) -> Option<&Slot<K, V>> {
        match &self.cell(index)?.content {
            Content::Used(slot) => Some(slot),
            Content::Free { .. } => None,
        }
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut Slot<K, V>> {
        match &mut self.cell_mut(index)?.content {
            Content::Used(slot) => Some(slot),
            Content::Free { .. } => None,
        }
    }

    pub(super) fn get(&self, id: FlowId) -> Option<&Slot<K, V>> {
        (self.cell(id.index)?.generation == id.generation).then(|| self.at(id.index))?
    }

    pub(super) fn get_mut(&mut self, id: FlowId) -> Option<&mut Slot<K, V>> {
        (self.cell(id.index)?.generation == id.generation).then(|| self.at_mut(id.index))?
    }

    /// Names the flow that has the slot at `index`.
    pub(super) fn id(&self, index: u32) -> FlowId {
        FlowId { index, generation: self.cell(index).map_or(0, |cell| cell.generation) }
    }

    /// Puts a flow into a free slot, in no list yet.
    pub(super) fn insert(&mut self, key: K, value: V, used: Instant) -> u32 {
        let content = Content::Used(Slot { key, value, used, two_way: false, before: None, after: None });
        if let Some(index) = self.free
            && let Some(cell) = self.cell_mut(index)
            && let Content::Free { next } = cell.content
        {
            cell.content = content;
            self.free = next;
            return index;
        }
        let index = u32::try_from(self.cells.len()).expect("a table holds at most u32::MAX flows");
        self.cells.push(Cell { generation: 0, content });
        index
    }

    /// Empties the slot at `index`, which is in no list.
    pub(super) fn remove(&mut self, index: u32) -> Option<(K, V)> {
        let free = self.free;
        let cell = self.cell_mut(index)?;
        match std::mem::replace(&mut cell.content, Content::Free { next: free }) {
            Content::Used(slot) => {
                cell.generation = cell.generation.wrapping_add(1);
                self.free = Some(index);
                Some((slot.key, slot.value))
            }
            Content::Free { next } => {
                cell.content = Content::Free { next };
                None
            }
        }
    }
}

/// A list through the slots of one slab, the longest unused first.
#[derive(Debug)]
pub(super) struct List {
    first: Option<u32>,
    last: Option<u32>,
}

impl List {
    const EMPTY: Self = Self { first: None, last: None };

    /// Index of the first slot.
    pub(super) const fn front(&self) -> Option<u32> {
        self.first
    }

    /// Appends the slot at `index`, which is in no list.
    pub(super) fn push_back<K, V>(&mut self, slab: &mut Slab<K, V>, index: u32) {
        let before = self.last.replace(index);
        match before.and_then(|before| slab.at_mut(before)) {
            Some(slot) => slot.after = Some(index),
            None => self.first = Some(index),
        }
        if let Some(slot) = slab.at_mut(index) {
            slot.before = before;
            slot.after = None;
        }
    }

    /// Takes the slot at `index` out, which is in this list.
    pub(super) fn unlink<K, V>(&mut self, slab: &mut Slab<K, V>, index: u32) {
        let Some(slot) = slab.at_mut(index) else { return };
        let (before, after) = (slot.before.take(), slot.after.take());
        match before.and_then(|before| slab.at_mut(before)) {
            Some(slot) => slot.after = after,
            None => self.first = after,
        }
        match after.and_then(|after| slab.at_mut(after)) {
            Some(slot) => slot.before = before,
            None => self.last = before,
        }
    }
}

/// The two lists of a table.
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) one_way: List,
    pub(super) two_way: List,
}

impl Lists {
    pub(super) const EMPTY: Self = Self { one_way: List::EMPTY, two_way: List::EMPTY };

    /// The list of flows of that kind.
    pub(super) const fn of(&mut self, two_way: bool) -> &mut List {
        if two_way { &mut self.two_way } else { &mut self.one_way }
    }
}
