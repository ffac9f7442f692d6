//! What was dropped, and why: a counter for each reason, read by anybody at any time.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a datagram or a packet went no further. The sender is told nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Dropped {
    /// No message of the protocol: its length, type or reserved bytes.
    Form,
    /// A handshake by one who does not know our key.
    Mac,
    /// A handshake while there are too many, without the cookie that was sent for it, or beyond its source's share.
    Load,
    /// A handshake that cannot be read, or of a key that is no peer's.
    Stranger,
    /// An initiation that is not newer than the last one, or comes too soon after it.
    Stale,
    /// A response or cookie nobody waits for, or that does not hold.
    Unasked,
    /// For a session that there is not.
    NoSession,
    /// Seen before, too old, or past the last number there may be.
    Replayed,
    /// Its tag does not hold.
    Forged,
    /// Keys too old.
    Expired,
    /// What was inside is no IP packet of a length that fits.
    Inner,
    /// What was inside comes from an address that is another peer's, or nobody's, or is an error about a packet that went
    /// to one.
    Source,
    /// What was inside is to be passed on, and this node is no hub; or there is nobody it could be for; or who says that it
    /// was passed on is no hub.
    Relay,
    /// What was inside is to be passed on to a member that has no session with this hub.
    RelayAway,
    /// A packet for an address that is no peer's.
    NoRoute,
    /// A packet for a peer that has no session yet, and more wait than may.
    Waiting,
    /// A packet the tunnel cannot carry: too long, or cut in an unknown way.
    Outsize,
    /// The system would not send a datagram.
    Unsent,
    /// The system would not take a packet out of the tunnel.
    Undelivered,
}

impl Dropped {
    /// All, in order.
    pub const ALL: [Dropped; 19] = [
        Dropped::Form,
        Dropped::Mac,
        Dropped::Load,
        Dropped::Stranger,
        Dropped::Stale,
        Dropped::Unasked,
        Dropped::NoSession,
        Dropped::Replayed,
        Dropped::Forged,
        Dropped::Expired,
        Dropped::Inner,
        Dropped::Source,
        Dropped::Relay,
        Dropped::RelayAway,
        Dropped::NoRoute,
        Dropped::Waiting,
        Dropped::Outsize,
        Dropped::Unsent,
        Dropped::Undelivered,
    ];
}

/// One number for each reason.
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; Dropped::ALL.len()]);

impl Counters {
    /// One more.
    pub fn count(&self, why: Dropped) {
        self.add(why, 1);
    }

    /// So many more.
    pub fn add(&self, why: Dropped, count: u64) {
        if let Some(counter) = self.0.get(why as usize) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// How many so far.
    #[must_use]
    pub fn of(&self, why: Dropped) -> u64 {
        self.0.get(why as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// All that are not zero.
    pub fn seen(&self) -> impl Iterator<Item = (Dropped, u64)> + '_ {
        Dropped::ALL.into_iter().map(|why| (why, self.of(why))).filter(|(_, count)| *count > 0)
    }
}
