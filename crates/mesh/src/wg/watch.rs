//! What the way to a peer takes, as far as both threads have to know it: a piece of TCP that the sending one waits for, and
//! the longest packet.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crate::segment::{Segment, clamp};

/// What came behind a gap in one row is more than what passes everywhere.
const LONG_BYTES: usize = 1280;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Upper half: the connection, never 0. Lower half: the number behind its last byte. 0: nothing is waited for.
    wanted: AtomicU64,
    /// Longest packet for that peer, bytes; 0: as long as the tunnel's may be.
    limit: AtomicU16,
}

impl Watch {
    /// Waits for an answer to what `segment` has before the number `end`.
    pub(crate) fn want(&self, segment: &Segment, end: u32) {
        self.wanted.store(u64::from(segment.flow | 1) << 32 | u64::from(end), Ordering::Relaxed);
    }

    pub(crate) fn forget(&self) {
        self.wanted.store(0, Ordering::Relaxed);
    }

    /// Whether it has come, or nothing was waited for.
    pub(crate) fn is_taken(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) == 0
    }

    pub(crate) fn set_limit(&self, limit: Option<usize>) {
        let limit = limit.map_or(0, |limit| u16::try_from(limit).unwrap_or(u16::MAX));
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Longest packet, where the way takes less than the tunnel.
    pub(crate) fn limit(&self) -> Option<u16> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit > 0)
    }

    /// A packet came from the peer: it may answer, and may ask for segments that are too long.
    pub(crate) fn hear(&self, packet: &mut [u8]) {
        if let Some(limit) = self.limit() {
            clamp(packet, limit.into());
        }
        let wanted = self.wanted.load(Ordering::Relaxed);
        if wanted == 0 {
            return;
        }
        let Some(segment) = Segment::read(packet) else { return };
        let [flow, end] = [wanted >> 32, wanted & 0xffff_ffff].map(|half| u32::try_from(half).unwrap_or(0));
        let reaches = segment.acknowledged.is_some_and(|number| number.wrapping_sub(end) < 1 << 31);
        if segment.answers | 1 == flow && (reaches || segment.longest_block > LONG_BYTES) {
            // Another one may be wanted already.
            self.wanted.compare_exchange(wanted, 0, Ordering::Relaxed, Ordering::Relaxed).ok();
        }
    }
}
