//! Proof that a device has the private half of its WireGuard key, which cannot sign: a MAC under what that key and the
//! registrar's agree on (X25519, RFC 7748), over a nonce of the registrar's and the request itself.
//!
//! The nonce belongs to one connection and is good for one request, so what was overheard or kept proves nothing.

use curve25519_dalek::montgomery::MontgomeryPoint;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::spec::{PrivateKey, PublicKey};

/// Begins everything that a proof is made of.
const CONTEXT: &[u8] = b"portway registrar proof 1";

/// Bytes of a nonce, and of a proof.
pub(super) const PROOF_BYTES: usize = 32;

/// Headers of a request that is a device's.
pub(super) const KEY_HEADER: &str = "portway-key";
pub(super) const PROOF_HEADER: &str = "portway-proof";

/// Header of a request for another key: the same proof by that one, which its body names.
pub(super) const NEW_PROOF_HEADER: &str = "portway-new-proof";

/// What is proven to be the device's.
pub(super) struct Proven<'a> {
    pub(super) nonce: &'a [u8; PROOF_BYTES],
    pub(super) method: &'a str,
    /// Path and query.
    pub(super) target: &'a str,
    pub(super) body: &'a [u8],
}

/// The proof, by either side: its own private half and the other's public one.
pub(super) fn proof(own: &PrivateKey, other: &PublicKey, proven: &Proven<'_>) -> [u8; PROOF_BYTES] {
    let shared = Zeroizing::new(MontgomeryPoint(*other.as_bytes()).mul_clamped(*own.as_bytes()).to_bytes());
    let mut mac = Hmac::<Sha256>::new_from_slice(shared.as_slice()).expect("a MAC has a key of any length");
    mac.update(CONTEXT);
    mac.update(proven.nonce);
    for part in [proven.method.as_bytes(), proven.target.as_bytes(), proven.body] {
        mac.update(&Sha256::digest(part));
    }
    mac.finalize().into_bytes().into()
}

/// Whether `found` is it, in constant time.
pub(super) fn is_proof(
    own: &PrivateKey,
    other: &PublicKey,
    proven: &Proven<'_>,
    found: &[u8; PROOF_BYTES],
) -> bool {
    proof(own, other, proven).ct_eq(found).into()
}
