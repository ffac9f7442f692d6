//! Counter lines in shared memory, by device.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portway_sys::shm::Counters;

use super::slab::Key;
use crate::wire::{SLOT_COUNT, Slot, field};

/// Which line a device counts in, if any: a removed device that still drains loses its line to the next
/// user of the slot.
#[derive(Debug)]
pub(super) struct CounterLines {
    counters: Arc<Counters>,
    /// By index of the device.
    lines: Vec<Option<usize>>,
}

impl CounterLines {
    /// Lines for every slot; the descriptor is what the daemon gets.
    pub(super) fn new() -> io::Result<(CounterLines, OwnedFd)> {
        let (counters, memory) = Counters::create(usize::try_from(SLOT_COUNT).unwrap_or(usize::MAX))?;
        Ok((CounterLines { counters: Arc::new(counters), lines: Vec::new() }, memory))
    }

    /// The same for another thread.
    pub(super) fn shared(&self) -> CounterLines {
        CounterLines { counters: Arc::clone(&self.counters), lines: self.lines.clone() }
    }

    /// Gives `device` the line of `slot`, at zero. Other threads have been told before.
    pub(super) fn assign(&mut self, device: Key, slot: Slot) {
        self.point(device, slot);
        self.counters.clear(line_of(slot));
    }

    /// Counts `device` in the line of `slot`, and nobody else.
    pub(super) fn point(&mut self, device: Key, slot: Slot) {
        let line = line_of(slot);
        for other in &mut self.lines {
            if *other == Some(line) {
                *other = None;
            }
        }
        let at = usize::try_from(device.index()).unwrap_or(usize::MAX);
        if self.lines.len() <= at {
            self.lines.resize(at.saturating_add(1), None);
        }
        if let Some(entry) = self.lines.get_mut(at) {
            *entry = Some(line);
        }
    }

    /// Adds `n` to `field` of a line that no device counts in.
    pub(super) fn add_to(&self, line: u32, field: usize, n: u64) {
        if line < SLOT_COUNT {
            self.counters.add(usize::try_from(line).unwrap_or(usize::MAX), field, n);
        }
    }

    /// Takes everything that is over as settled ([`field::SETTLED`]).
    pub(super) fn settle(&self) {
        for line in self.lines.iter().flatten() {
            let counted = self.counters.read(*line);
            let (closed, settled) = (counted[field::CLOSED], counted[field::SETTLED]);
            self.counters.add(*line, field::SETTLED, closed.saturating_sub(settled));
        }
    }

    /// Adds `n` to `field` of `device`.
    #[inline]
    pub(super) fn add(&self, device: Key, field: usize, n: u64) {
        let at = usize::try_from(device.index()).unwrap_or(usize::MAX);
        if let Some(Some(line)) = self.lines.get(at) {
            self.counters.add(*line, field, n);
        }
    }
}

fn line_of(slot: Slot) -> usize {
    usize::try_from(slot.index).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_user_of_a_slot_begins_at_zero_and_alone() {
        let (mut lines, _memory) = CounterLines::new().unwrap();
        let (old, new) = (Key::from_parts(0, 0), Key::from_parts(1, 0));
        lines.assign(old, Slot::new(5, 0));
        lines.add(old, field::OPENED, 3);
        assert_eq!(lines.counters.read(5)[field::OPENED], 3);
        lines.assign(new, Slot::new(5, 1));
        lines.add(old, field::CLOSED, 1);
        lines.add(new, field::OPENED, 1);
        assert_eq!(lines.counters.read(5)[field::OPENED], 1);
        assert_eq!(lines.counters.read(5)[field::CLOSED], 0);
    }
}
