//! The organization's key, and bytes that it has signed (Ed25519, RFC 8032).

use std::fmt;

use base64ct::{Base64, Encoding as _};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::wire::Malformed;

/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

/// Bytes of either half of a key.
const KEY_BYTES: usize = 32;

/// What an organization is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrgPublicKey([u8; KEY_BYTES]);

impl OrgPublicKey {
    /// The key of these bytes. Any are taken: what is no key has signed nothing.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> OrgPublicKey {
        OrgPublicKey(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl fmt::Display for OrgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Base64::encode_string(&self.0))
    }
}

impl fmt::Debug for OrgPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrgPublicKey({self})")
    }
}

/// What an organization signs with. Never printed.
pub struct OrgKey {
    seed: Zeroizing<[u8; KEY_BYTES]>,
    pair: Ed25519KeyPair,
    public: OrgPublicKey,
}

impl OrgKey {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<OrgKey, getrandom::Error> {
        let mut seed = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(seed.as_mut_slice())?;
        Ok(OrgKey::from_seed(seed))
    }

    /// The key of this seed.
    ///
    /// # Panics
    /// Never: any 32 bytes are a seed, and its public half has 32.
    #[must_use]
    pub fn from_seed(seed: Zeroizing<[u8; KEY_BYTES]>) -> OrgKey {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice()).expect("32 bytes are a seed");
        let public = pair.public_key().as_ref().try_into().expect("a public key has 32 bytes");
        OrgKey { seed, pair, public: OrgPublicKey(public) }
    }

    /// The seed: for the file of its owner, and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> &Zeroizing<[u8; KEY_BYTES]> {
        &self.seed
    }

    /// What it is known by.
    #[must_use]
    pub fn public(&self) -> OrgPublicKey {
        self.public
    }

    /// Signs `bytes`.
    ///
    /// # Panics
    /// Never: a signature has 64 bytes.
    #[must_use]
    pub fn sign(&self, bytes: Vec<u8>) -> Signed {
        let signature = self.pair.sign(&bytes);
        let signature = signature.as_ref().try_into().expect("a signature has 64 bytes");
        Signed { signature, bytes }
    }
}

impl fmt::Debug for OrgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrgKey({})", self.public)
    }
}

/// Bytes and a signature, which may be anybody's until it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed {
    signature: [u8; SIGNATURE_BYTES],
    bytes: Vec<u8>,
}

impl Signed {
    /// What is said to be signed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether `signer` has signed it.
    #[must_use]
    pub fn is_by(&self, signer: &OrgPublicKey) -> bool {
        UnparsedPublicKey::new(&ED25519, signer.0).verify(&self.bytes, &self.signature).is_ok()
    }

    /// Signature and bytes, as they are stored and sent.
    #[must_use]
    pub fn pack(&self) -> Vec<u8> {
        [self.signature.as_slice(), &self.bytes].concat()
    }

    /// Takes them apart again.
    ///
    /// # Errors
    /// They are shorter than a signature.
    pub fn unpack(packed: &[u8]) -> Result<Signed, Malformed> {
        let (signature, bytes) = packed.split_first_chunk().ok_or(Malformed("signature"))?;
        Ok(Signed { signature: *signature, bytes: bytes.to_vec() })
    }
}
