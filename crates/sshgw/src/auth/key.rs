//! Public keys: which are strong enough, and how one is named in the log.

use russh::keys::ssh_key::public::KeyData;
use russh::keys::ssh_key::{HashAlg, PublicKey};

/// Least size of an RSA key, bits: OpenSSH's `RequiredRSASize`.
pub const RSA_MIN_BITS: u32 = 1024;

/// Why a key is not used whatever file it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WeakKey {
    /// DSA: 1024 bits and SHA-1.
    #[error("DSA keys are not accepted")]
    Dsa,
    /// Too few bits.
    #[error("RSA key of {0} bits is too short")]
    Rsa(u32),
    /// A type that nothing here can verify.
    #[error("unknown key type")]
    Unknown,
    /// A certificate where a key belongs.
    #[error("a certificate stands where a key belongs")]
    Certificate,
}

/// Whether a key may be used at all.
///
/// # Errors
/// Why not.
pub fn check(key: &KeyData) -> Result<(), WeakKey> {
    match key {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) | KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            Ok(())
        }
        KeyData::Rsa(rsa) if rsa.key_size() >= RSA_MIN_BITS => Ok(()),
        KeyData::Rsa(rsa) => Err(WeakKey::Rsa(rsa.key_size())),
        KeyData::Dsa(_) => Err(WeakKey::Dsa),
        KeyData::Certificate(_) => Err(WeakKey::Certificate),
        _ => Err(WeakKey::Unknown),
    }
}

/// `SHA256:…`, as `ssh-keygen -l` prints it.
#[must_use]
pub fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}

/// Reads `TYPE BASE64` of a line; what follows is a comment.
///
/// # Errors
/// `None` when that is no key.
#[must_use]
pub fn parse(kind: &str, base64: &str) -> Option<KeyData> {
    let key = PublicKey::from_openssh(&format!("{kind} {base64}")).ok()?;
    Some(key.key_data().clone())
}

/// Whether a word is the name of a key's type, so that no options stand before it.
#[must_use]
pub fn is_type(word: &str) -> bool {
    const TYPES: [&str; 8] = [
        "ssh-ed25519",
        "ssh-rsa",
        "ssh-dss",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "sk-ssh-ed25519@openssh.com",
        "sk-ecdsa-sha2-nistp256@openssh.com",
    ];
    TYPES.contains(&word)
}
