//! The keys of one session: [`Sealer`] sends, from any thread; [`Opener`] receives, on one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ring::aead::{Aad, LessSafeKey};

use super::message::{DATA, HEADER_BYTES, OVERHEAD_BYTES, array, put};
use super::noise::{SessionKeys, TAG_BYTES, aead, nonce};
use super::replay::Replay;

/// After how many messages no more are sent or taken under one key: 2^64 - 2^13 - 1 (section 6.1 of the paper).
pub(super) const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// After how many the initiator looks for new keys.
const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Age at which keys are no longer used.
pub(super) const REJECT_AFTER: Duration = Duration::from_secs(180);

/// Seals packets. The counter is the nonce, so that it is never used twice: it only goes up, and one past the limit is
/// not used.
pub struct Sealer {
    key: LessSafeKey,
    /// What the other side calls this session.
    remote: u32,
    counter: AtomicU64,
    born: Instant,
}

/// Opens messages of one session.
pub(super) struct Opener {
    key: LessSafeKey,
    replay: Replay,
}

/// Why a message is not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    Replayed,
    Forged,
}

/// Makes both from the keys of a handshake.
pub(super) fn split(keys: &SessionKeys, remote: u32, born: Instant) -> (Sealer, Opener) {
    let sealer = Sealer { key: aead(&keys.send), remote, counter: AtomicU64::new(0), born };
    (sealer, Opener { key: aead(&keys.receive), replay: Replay::new() })
}

impl Sealer {
    /// Whether its keys may still be used.
    #[must_use]
    pub fn is_usable(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.born) < REJECT_AFTER
            && self.counter.load(Ordering::Relaxed) < REJECT_AFTER_MESSAGES
    }

    pub(super) fn is_worn(&self) -> bool {
        self.counter.load(Ordering::Relaxed) >= REKEY_AFTER_MESSAGES
    }

    /// Nothing is sealed any more, whoever still has it: there are no counters left.
    pub(super) fn retire(&self) {
        self.counter.store(REJECT_AFTER_MESSAGES, Ordering::Relaxed);
    }

    /// Takes `count` counters in a row; returns the first. `None`: so many are not left.
    #[must_use]
    pub fn reserve(&self, count: u64) -> Option<u64> {
        let step = |counter: u64| counter.checked_add(count).filter(|next| *next <= REJECT_AFTER_MESSAGES);
        self.counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, step).ok()
    }

    /// Makes a message of `place`: its packet, padding and all, lies behind [`Sealer::HEADER_BYTES`] and before
    /// [`Sealer::TAG_BYTES`], both of which are written. `counter` was reserved, and is used this once.
    pub fn seal(&self, counter: u64, place: &mut [u8]) {
        let Some((header, rest)) = place.split_at_mut_checked(HEADER_BYTES) else { return };
        put(header, 0, &DATA);
        put(header, 4, &self.remote.to_le_bytes());
        put(header, 8, &counter.to_le_bytes());
        let Some((packet, tag)) = rest.split_at_mut_checked(rest.len().wrapping_sub(TAG_BYTES)) else {
            return;
        };
        match self.key.seal_in_place_separate_tag(nonce(counter), Aad::empty(), packet) {
            Ok(sealed) => tag.copy_from_slice(sealed.as_ref()),
            // Only a text of 256 GiB is too long. Nothing may leave that is not sealed.
            Err(_) => packet.fill(0),
        }
    }

    /// Before the packet.
    pub const HEADER_BYTES: usize = HEADER_BYTES;
    /// Behind it.
    pub const TAG_BYTES: usize = TAG_BYTES;

    #[cfg(test)]
    pub(super) fn set_counter(&self, counter: u64) {
        self.counter.store(counter, Ordering::Relaxed);
    }
}

/// Writes over a key. What would be left out as nobody's business is not, because it is looked at.
fn wipe(key: &mut LessSafeKey) {
    *key = aead(&[0; 32]);
    std::hint::black_box(key);
}

impl Drop for Sealer {
    fn drop(&mut self) {
        wipe(&mut self.key);
    }
}

impl Drop for Opener {
    fn drop(&mut self) {
        wipe(&mut self.key);
    }
}

impl Opener {
    /// Opens a message where it lies, and takes its counter; returns the length of the packet, which then begins
    /// behind the header.
    pub(super) fn open(&mut self, message: &mut [u8]) -> Result<usize, Unopened> {
        let counter = counter_of(message);
        if counter >= REJECT_AFTER_MESSAGES || !self.replay.is_new(counter) {
            return Err(Unopened::Replayed);
        }
        let sealed = message.get_mut(HEADER_BYTES..).unwrap_or_default();
        let opened = self.key.open_in_place(nonce(counter), Aad::empty(), sealed);
        let length = opened.map_err(|_| Unopened::Forged)?.len();
        self.replay.take(counter);
        Ok(length)
    }
}

fn counter_of(message: &[u8]) -> u64 {
    array(message, 8).map_or(u64::MAX, u64::from_le_bytes)
}

const _: () = assert!(OVERHEAD_BYTES == HEADER_BYTES + TAG_BYTES, "nothing but header and tag");
