//! Keys of WireGuard: 32 bytes, 44 characters of base64. Private and preshared keys are never printed, are overwritten
//! when they are dropped, and are compared in constant time.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64, Encoding as _};
use curve25519_dalek::montgomery::MontgomeryPoint;
use curve25519_dalek::scalar::clamp_integer;
use curve25519_dalek::traits::IsIdentity as _;
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use zeroize::Zeroizing;

/// Bytes of a key.
const KEY_BYTES: usize = 32;

/// Characters of a key.
const KEY_CHARS: usize = 44;

/// Why a text is no key. The text itself is not repeated: it may be half of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// Too long or too short.
    #[error("a key has 44 characters, this has {0}")]
    Length(usize),
    /// Not base64, or more than 32 bytes.
    #[error("a key is 32 bytes in base64, this is not")]
    Base64,
    /// All its bits are zero: what WireGuard calls no key.
    #[error("a key of zeros is no key")]
    Zero,
    /// A public key that agrees with every private key on the same secret.
    #[error("no private key has this public key")]
    SmallOrder,
}

/// Reads 44 characters of base64, in constant time for each length.
fn read(text: &str) -> Result<Zeroizing<[u8; KEY_BYTES]>, KeyError> {
    let length = text.chars().count();
    if length != KEY_CHARS || !text.is_ascii() {
        return Err(KeyError::Length(length).or_base64());
    }
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    match Base64::decode(text, bytes.as_mut_slice()) {
        Ok(read) if read.len() == KEY_BYTES => Ok(bytes),
        _ => Err(KeyError::Base64),
    }
}

impl KeyError {
    /// A text of the right length that is no ASCII has another fault.
    fn or_base64(self) -> Self {
        if self == KeyError::Length(KEY_CHARS) { KeyError::Base64 } else { self }
    }
}

fn write(bytes: &[u8; KEY_BYTES]) -> Zeroizing<String> {
    Zeroizing::new(Base64::encode_string(bytes))
}

/// The key of this node. Clamped, as the kernel keeps it (RFC 7748, 5).
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_BYTES]>);

impl PrivateKey {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<PrivateKey, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(PrivateKey(Zeroizing::new(clamp_integer(*bytes))))
    }

    /// The key of these bytes.
    ///
    /// # Errors
    /// [`KeyError::Zero`].
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Result<PrivateKey, KeyError> {
        if bool::from(bytes.ct_eq(&[0; KEY_BYTES])) {
            return Err(KeyError::Zero);
        }
        Ok(PrivateKey(Zeroizing::new(clamp_integer(*bytes))))
    }

    /// Its bytes, for the handshake.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// What others know this node by.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(MontgomeryPoint::mul_base_clamped(*self.0).to_bytes())
    }

    /// Its 44 characters: for the file of its owner, and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        write(&self.0)
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PrivateKey, KeyError> {
        PrivateKey::from_bytes(&*read(text)?)
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &PrivateKey) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for PrivateKey {}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

/// The key of a peer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// The key of these bytes.
    ///
    /// # Errors
    /// [`KeyError::Zero`], [`KeyError::SmallOrder`].
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Result<PublicKey, KeyError> {
        if bytes == [0; KEY_BYTES] {
            return Err(KeyError::Zero);
        }
        // Any scalar does: a clamped one is a multiple of eight, which takes a point of small order to the identity.
        if MontgomeryPoint(bytes).mul_clamped([0; KEY_BYTES]).is_identity() {
            return Err(KeyError::SmallOrder);
        }
        Ok(PublicKey(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<PublicKey, KeyError> {
        PublicKey::from_bytes(*read(text)?)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&write(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret that two peers share beside their keys.
#[derive(Clone)]
pub struct PresharedKey(Zeroizing<[u8; KEY_BYTES]>);

impl PresharedKey {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<PresharedKey, getrandom::Error> {
        let mut key = PresharedKey(Zeroizing::new([0; KEY_BYTES]));
        getrandom::fill(key.0.as_mut_slice())?;
        Ok(key)
    }

    /// The key of these bytes; `None` for zeros, which mean that there is none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; KEY_BYTES]) -> Option<PresharedKey> {
        (!bool::from(bytes.ct_eq(&[0; KEY_BYTES]))).then(|| PresharedKey(Zeroizing::new(*bytes)))
    }

    /// Reads 44 characters; `None` for zeros, which mean that there is none.
    ///
    /// # Errors
    /// [`KeyError::Length`], [`KeyError::Base64`].
    pub fn parse(text: &str) -> Result<Option<PresharedKey>, KeyError> {
        Ok(PresharedKey::from_bytes(&*read(text)?))
    }

    /// Its bytes, for the handshake.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    /// Its 44 characters: for the files of the two, and for nothing else.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        write(&self.0)
    }
}

impl PartialEq for PresharedKey {
    fn eq(&self, other: &PresharedKey) -> bool {
        self.0.ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for PresharedKey {}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

#[cfg(test)]
mod tests;
