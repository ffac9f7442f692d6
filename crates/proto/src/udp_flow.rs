//! The table of UDP flows of one device.
//!
//! A flow begins with a datagram from downstream and is *one-way* until upstream answers, then
//! *two-way*. It ends when nothing has passed for the idle time, a one-way flow sooner ([`ONE_WAY_IDLE`]). When
//! the table is full the least recently used one-way flow makes room, and only without one the least recently
//! used two-way flow: a flood of spoofed sources displaces itself, not the conversations.
//!
//! Every operation takes constant time: a slab of slots, an index by key, and two lists through the
//! slots in order of last use (one per kind, so the head of a list is its next to expire). Memory grows
//! with the number of flows up to the capacity; a datagram of a known flow allocates nothing.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::Dir;

mod list;

/// Longest idle life of a flow that upstream has not answered. RFC 4787, REQ-5, asks for two minutes where
/// traffic goes both ways; the kernel's conntrack, too, gives the other kind 30 s (`nf_conntrack_udp_timeout`).
pub const ONE_WAY_IDLE: Duration = Duration::from_secs(30);

use list::{Lists, Slab};

/// Names a flow without its key: stays valid until the flow ends, and never means another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowId {
    index: u32,
    generation: u32,
}

impl FlowId {
    /// As one number, for the token of an event queue.
    #[must_use]
    pub const fn to_u64(self) -> u64 {
        ((self.generation as u64) << 32) | self.index as u64
    }

    /// From [`FlowId::to_u64`].
    #[must_use]
    pub const fn from_u64(token: u64) -> Self {
        let bytes = token.to_le_bytes();
        Self {
            index: u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
            generation: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        }
    }
}

/// Result of [`FlowTable::insert`].
#[derive(Debug, PartialEq, Eq)]
pub struct Inserted<K, V> {
    /// The new flow.
    pub id: FlowId,
    /// The flow that had to end: the one of the same key, or the one that made room.
    pub ended: Option<(K, V)>,
}

/// Flows by key, at most a given number. `K` is what makes a flow, `V` what the caller keeps for it.
#[derive(Debug)]
pub struct FlowTable<K, V> {
    slab: Slab<K, V>,
    index: HashMap<K, u32>,
    lists: Lists,
    capacity: u32,
    idle: Duration,
    /// Latest time ever given: time never runs back in the lists, whatever the caller says.
    latest: Option<Instant>,
}

impl<K: Eq + Hash + Clone, V> FlowTable<K, V> {
    /// An empty table of at most `capacity` flows (at least 1), each ended after `idle` without a datagram; a
    /// one-way flow after [`ONE_WAY_IDLE`] if that is sooner.
    #[must_use]
    pub fn new(capacity: u32, idle: Duration) -> Self {
        Self {
            slab: Slab::new(),
            index: HashMap::new(),
            lists: Lists::EMPTY,
            capacity: capacity.max(1),
            idle,
            latest: None,
        }
    }

    /// Number of flows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Most flows.
    #[must_use]
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Idle life of a two-way flow.
    #[must_use]
    pub const fn idle(&self) -> Duration {
        self.idle
    }

    /// Begins a one-way flow with a datagram from downstream at `now`.
    pub fn insert(&mut self, key: K, value: V, now: Instant) -> Inserted<K, V> {
        let now = self.advance(now);
        let same = self.index.get(&key).copied().and_then(|index| self.end(index));
        let ended = if same.is_none() && self.is_full() { self.evict() } else { same };
        let index = self.slab.insert(key.clone(), value, now);
        self.index.insert(key, index);
        self.lists.of(false).push_back(&mut self.slab, index);
        Inserted { id: self.slab.id(index), ended }
    }

    /// The flow of `key`.
    #[must_use]
    pub fn find(&self, key: &K) -> Option<FlowId> {
        self.index.get(key).map(|&index| self.slab.id(index))
    }

    /// Key and value of the flow `id`, as they are; its life is not prolonged.
    #[must_use]
    pub fn get(&self, id: FlowId) -> Option<(&K, &V)> {
        self.slab.get(id).map(|slot| (&slot.key, &slot.value))
    }

    /// When a datagram of the flow `id` last passed.
    #[must_use]
    pub fn last_use(&self, id: FlowId) -> Option<Instant> {
        self.slab.get(id).map(|slot| slot.used)
    }

    /// Value of the flow of `key`; its life is not prolonged.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let id = self.find(key)?;
        self.slab.get_mut(id).map(|slot| &mut slot.value)
    }

    /// A datagram of the flow of `key` went `dir` at `now`; its value.
    pub fn touch(&mut self, key: &K, dir: Dir, now: Instant) -> Option<&mut V> {
        let id = self.find(key)?;
        self.touch_id(id, dir, now).map(|(_, value)| value)
    }

    /// A datagram of the flow `id` went `dir` at `now`; its key and value.
    pub fn touch_id(&mut self, id: FlowId, dir: Dir, now: Instant) -> Option<(&K, &mut V)> {
        let was_two_way = self.slab.get(id)?.two_way;
        let now = self.advance(now);
        let two_way = was_two_way || dir == Dir::Down;
        self.lists.of(was_two_way).unlink(&mut self.slab, id.index);
        self.lists.of(two_way).push_back(&mut self.slab, id.index);
        let slot = self.slab.get_mut(id)?;
        slot.two_way = two_way;
        slot.used = now;
        Some((&slot.key, &mut slot.value))
    }

    /// Ends the flow of `key`.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let index = self.index.get(key).copied()?;
        self.end(index).map(|(_, value)| value)
    }

    /// Ends the flow `id`.
    pub fn remove_id(&mut self, id: FlowId) -> Option<(K, V)> {
        self.slab.get(id)?;
        self.end(id.index)
    }

    /// Ends the flow that is to make room: the least recently used one-way one, else the least recently
    /// used two-way one.
    pub fn evict(&mut self) -> Option<(K, V)> {
        let index = self.lists.one_way.front().or_else(|| self.lists.two_way.front())?;
        self.end(index)
    }

    /// Ends and returns one flow that is idle since at least the idle time at `now`.
    pub fn expire_one(&mut self, now: Instant) -> Option<(K, V)> {
        let now = self.advance(now);
        let due =
            |index: Option<u32>| index.filter(|&index| self.deadline(index).is_some_and(|at| at <= now));
        let index = due(self.lists.one_way.front()).or_else(|| due(self.lists.two_way.front()))?;
        self.end(index)
    }

    /// Ends every flow that is idle since at least the idle time at `now`.
    pub fn expire(&mut self, now: Instant) -> Vec<(K, V)> {
        std::iter::from_fn(|| self.expire_one(now)).collect()
    }

    /// When [`FlowTable::expire`] next has something to do; `None` while there is no flow.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let heads = [self.lists.one_way.front(), self.lists.two_way.front()];
        heads.into_iter().flatten().filter_map(|index| self.deadline(index)).min()
    }

    /// Changes the limits; returns the flows that no longer fit. Those that are idle for too long end at
    /// the next [`FlowTable::expire`].
    pub fn set_limits(&mut self, capacity: u32, idle: Duration) -> Vec<(K, V)> {
        self.capacity = capacity.max(1);
        self.idle = idle;
        let excess = self.len().saturating_sub(usize::try_from(self.capacity).unwrap_or(usize::MAX));
        (0..excess).filter_map(|_| self.evict()).collect()
    }

    /// Ends every flow, in no particular order.
    pub fn clear(&mut self) -> Vec<(K, V)> {
        std::iter::from_fn(|| self.evict()).collect()
    }

    fn is_full(&self) -> bool {
        u32::try_from(self.len()).is_ok_and(|len| len >= self.capacity)
    }

    /// When the flow at `index` ends. An idle time beyond the clock's range never ends it. Within a list it is in the
    /// order of last use, as all of a list have the same idle life.
    fn deadline(&self, index: u32) -> Option<Instant> {
        let slot = self.slab.at(index)?;
        slot.used.checked_add(if slot.two_way { self.idle } else { self.idle.min(ONE_WAY_IDLE) })
    }

    fn advance(&mut self, now: Instant) -> Instant {
        let now = self.latest.map_or(now, |latest| latest.max(now));
        self.latest = Some(now);
        now
    }

    fn end(&mut self, index: u32) -> Option<(K, V)> {
        let two_way = self.slab.at(index)?.two_way;
        self.lists.of(two_way).unlink(&mut self.slab, index);
        let (key, value) = self.slab.remove(index)?;
        self.index.remove(&key);
        Some((key, value))
    }
}

#[cfg(test)]
mod tests;
