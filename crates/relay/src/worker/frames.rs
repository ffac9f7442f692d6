//! Frames that are not whole, or do not go on yet: how much memory they may hold, and for how long.
//!
//! What one device's clients or targets leave unfinished is at the cost of that device alone: each has its share.

use std::time::Duration;

use super::slab::Key;

/// Memory for the frames of all devices, bytes: enough for a hundred of the longest that have come in part. The devices
/// share it evenly; past its share of a device, whoever needs more is ended.
const TOTAL_BYTES: usize = 8 * 1024 * 1024;

/// Least share of a device, bytes: two of the longest frames, however many devices there are.
const SHARE_MIN_BYTES: usize = 128 * 1024;

/// How long a frame may stay unfinished without a byte more. No network that works needs as long between two
/// segments; DNS servers wait about as long for a client's next word (RFC 7766, 6.2.3, speaks of seconds).
pub(super) const UNFINISHED_TIME: Duration = Duration::from_secs(30);

/// How much memory the frames of each device hold.
#[derive(Debug)]
pub(super) struct FrameMemory {
    /// By index of the device; it is back at 0 when the device is forgotten.
    held: Vec<usize>,
    share: usize,
}

impl Default for FrameMemory {
    fn default() -> FrameMemory {
        FrameMemory::new()
    }
}

impl FrameMemory {
    pub(super) const fn new() -> FrameMemory {
        FrameMemory { held: Vec::new(), share: TOTAL_BYTES }
    }

    /// So many devices have frames.
    pub(super) fn divide(&mut self, device_count: usize) {
        self.share = (TOTAL_BYTES / device_count.max(1)).max(SHARE_MIN_BYTES);
    }

    /// Counts what somebody of `device` holds: `before` so far, `after` from now on. False: that is more than
    /// the device's share.
    pub(super) fn changed(&mut self, device: Key, before: usize, after: usize) -> bool {
        let share = self.share;
        let held = self.of(device);
        *held = (*held + after).saturating_sub(before);
        after <= before || *held <= share
    }

    /// Counts what somebody of `device` holds no longer.
    pub(super) fn unkeep(&mut self, device: Key, bytes: usize) {
        let held = self.of(device);
        *held = held.saturating_sub(bytes);
    }

    fn of(&mut self, device: Key) -> &mut usize {
        let at = usize::try_from(device.index()).unwrap_or(usize::MAX);
        if self.held.len() <= at {
            self.held.resize(at.saturating_add(1), 0);
        }
        self.held.get_mut(at).expect("it has been made long enough")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: the devices draw on one account.
    #[test]
    fn a_device_has_its_share_whatever_others_hold() {
        let (one, two) = (Key::from_parts(0, 0), Key::from_parts(7, 3));
        let mut memory = FrameMemory::new();
        assert!(memory.changed(one, 0, TOTAL_BYTES));
        memory.divide(2);
        assert!(!memory.changed(one, 0, 1), "past its share, which has become smaller");
        assert!(memory.changed(one, 2, 1), "less than before is always right");
        assert!(memory.changed(two, 0, TOTAL_BYTES / 2));
        assert!(!memory.changed(two, TOTAL_BYTES / 2, TOTAL_BYTES / 2 + 1));
        memory.unkeep(one, TOTAL_BYTES);
        assert!(memory.changed(one, 0, TOTAL_BYTES / 2));
        memory.divide(1000);
        memory.unkeep(two, TOTAL_BYTES);
        assert!(memory.changed(two, 0, SHARE_MIN_BYTES));
        assert!(!memory.changed(two, 0, 1));
    }
}
