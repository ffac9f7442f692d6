//! One number for many records: another one when any of them is changed, missing or too much.

use sha2::{Digest as _, Sha256};

/// SHA-256 of the SHA-256 of each, in the order of their keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Of these bytes, in this order.
    pub(super) fn of(items: impl Iterator<Item = impl AsRef<[u8]>>) -> Digest {
        let mut all = Sha256::new();
        for item in items {
            all.update(Sha256::digest(item));
        }
        Digest(all.finalize().into())
    }
}
