//! Revoked keys: a list of public keys, one a line, or a binary key revocation list as `ssh-keygen -k` makes it
//! (OpenSSH's PROTOCOL.krl).
//!
//! A list that cannot be read to its end revokes everything: whoever keeps one means it.

use std::collections::BTreeSet;

use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{Certificate, HashAlg, PublicKey};
use sha1::{Digest as _, Sha1};

mod krl;

/// Longest list, bytes.
pub const FILE_MAX_BYTES: usize = 64 * 1024 * 1024;

/// First bytes of a binary list.
const MAGIC: &[u8] = b"SSHKRL\n\0";

/// What is revoked.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    /// Keys, encoded.
    keys: BTreeSet<Vec<u8>>,
    /// SHA-1 of encoded keys.
    sha1: BTreeSet<Vec<u8>>,
    /// SHA-256 of encoded keys.
    sha256: BTreeSet<Vec<u8>>,
    /// Certificates, by authority.
    certificates: Vec<Certificates>,
}

/// Certificates of one authority.
#[derive(Debug, Clone, Default)]
struct Certificates {
    /// The authority, encoded; `None` is any.
    authority: Option<Vec<u8>>,
    /// Serial numbers, from and to.
    serials: Vec<(u64, u64)>,
    /// Where a bitmap begins, and its bits, most significant byte first.
    bitmaps: Vec<(u64, Vec<u8>)>,
    /// Key ids.
    ids: BTreeSet<Vec<u8>>,
}

/// Why a list cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevokedError {
    /// A line of a plain list that is no key.
    #[error("line {0}: not a key")]
    Line(usize),
    /// A binary list that ends too soon or holds what it cannot.
    #[error("malformed key revocation list at byte {0}")]
    Malformed(usize),
    /// A version that is not known.
    #[error("key revocation list of format {0}, only 1 is known")]
    Version(u32),
    /// A part that must be understood and is not.
    #[error("key revocation list with a part of the unknown kind {0}")]
    Unknown(u8),
    /// Longer than [`FILE_MAX_BYTES`].
    #[error("list is longer than {FILE_MAX_BYTES} bytes")]
    TooLong,
}

impl Revoked {
    /// Reads a list of either form.
    ///
    /// # Errors
    /// Why it cannot be used. Then nobody may log in with a key.
    pub fn parse(bytes: &[u8]) -> Result<Self, RevokedError> {
        if bytes.len() > FILE_MAX_BYTES {
            return Err(RevokedError::TooLong);
        }
        if bytes.starts_with(MAGIC) { krl::parse(bytes) } else { Self::parse_lines(bytes) }
    }

    fn parse_lines(bytes: &[u8]) -> Result<Self, RevokedError> {
        let mut revoked = Self::default();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let text = String::from_utf8_lossy(line);
            let mut words = text.split_ascii_whitespace();
            let (kind, base64) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let key = super::key::parse(kind, base64).ok_or(RevokedError::Line(index + 1))?;
            revoked.keys.insert(encoded(&key).ok_or(RevokedError::Line(index + 1))?);
        }
        Ok(revoked)
    }

    /// Whether a key is revoked. One that cannot be encoded counts as revoked.
    #[must_use]
    pub fn has_key(&self, key: &KeyData) -> bool {
        let Some(blob) = encoded(key) else { return true };
        self.keys.contains(&blob)
            || self.sha1.contains(Sha1::digest(&blob).as_slice())
            || self.sha256.contains(key.fingerprint(HashAlg::Sha256).as_bytes())
    }

    /// Whether a certificate is revoked: itself, its key, or its authority.
    #[must_use]
    pub fn has_certificate(&self, certificate: &Certificate) -> bool {
        let Some(authority) = encoded(certificate.signature_key()) else { return true };
        let by_authority = self.certificates.iter().any(|list| {
            list.authority.as_ref().is_none_or(|wanted| *wanted == authority)
                && list.has(certificate.serial(), certificate.key_id())
        });
        by_authority || self.has_key(certificate.public_key()) || self.has_key(certificate.signature_key())
    }
}

impl Certificates {
    fn has(&self, serial: u64, id: &str) -> bool {
        // Serial 0 is that of certificates without one, PROTOCOL.krl.
        let listed = serial != 0
            && (self.serials.iter().any(|(from, to)| (*from..=*to).contains(&serial))
                || self.bitmaps.iter().any(|(offset, bits)| has_bit(bits, serial.checked_sub(*offset))));
        listed || self.ids.contains(id.as_bytes())
    }
}

/// Whether bit `number` is set in a number whose most significant byte comes first.
fn has_bit(bits: &[u8], number: Option<u64>) -> bool {
    let Some(number) = number else { return false };
    let Ok(back) = usize::try_from(number / 8) else { return false };
    let byte = bits.len().checked_sub(back + 1).and_then(|index| bits.get(index));
    byte.is_some_and(|byte| byte >> (number % 8) & 1 == 1)
}

fn encoded(key: &KeyData) -> Option<Vec<u8>> {
    PublicKey::from(key.clone()).to_bytes().ok()
}

#[cfg(test)]
mod tests;
