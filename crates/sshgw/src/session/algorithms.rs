//! What SSH is made of here: the key exchange that is safe from later quantum computers first, strict key exchange,
//! nothing with SHA-1, CBC or compression, MACs encrypt-then-MAC alone: of the clients of the last ten years only libssh2
//! before 1.11 has no others and no cipher that needs none.

use std::borrow::Cow;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use russh::server::Config;
use russh::{Preferred, SshId, cipher, compression, kex, mac};

use super::login::method_set;
use crate::options::Method;

/// What identifies the program and not its version.
const SERVER_ID: &str = "SSH-2.0-Portway";

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::DH_G16_SHA512,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// Of people's keys, and of ours.
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

/// Whether a signature of a person may be of this kind: one of [`KEYS`], or a security key's, whose hash is SHA-256.
pub(super) fn is_signature(algorithm: &Algorithm) -> bool {
    KEYS.contains(algorithm) || matches!(algorithm, Algorithm::SkEd25519 | Algorithm::SkEcdsaSha2NistP256)
}

const CIPHERS: &[cipher::Name] = &[
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::AES_256_CTR,
    cipher::AES_192_CTR,
    cipher::AES_128_CTR,
];

const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM];

/// Until a refusal is told: the same for every reason.
const REJECTION: Duration = Duration::from_millis(50);

/// `MaxAuthTries` of sshd_config(5), and the question how to log in, which does not count there.
const AUTH_ATTEMPTS: usize = 7;

/// A client that says nothing for this long is asked whether it is there, three times.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What is sent to us on a channel before we say that there is room for more: two megabytes of a 100 ms round trip are
/// 20 MB/s.
pub(super) const WINDOW_BYTES: u32 = 2 << 20;

/// As OpenSSH has it.
const PACKET_BYTES: u32 = 32 << 10;

pub(super) fn config(keys: Vec<PrivateKey>, methods: &[Method]) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(SERVER_ID)),
        methods: method_set(methods),
        auth_rejection_time: REJECTION,
        // Clients ask for the methods by it.
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            cipher: Cow::Borrowed(CIPHERS),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::default()
        },
        max_auth_attempts: AUTH_ATTEMPTS,
        window_size: WINDOW_BYTES,
        maximum_packet_size: PACKET_BYTES,
        event_buffer_size: 32,
        inactivity_timeout: None,
        keepalive_interval: Some(KEEPALIVE),
        keepalive_max: 3,
        nodelay: true,
        ..Config::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when something old is offered again.
    #[test]
    fn nothing_old_is_offered() {
        let names = KEX.iter().map(AsRef::as_ref).chain(CIPHERS.iter().map(AsRef::as_ref));
        let names: Vec<&str> = names.chain(MACS.iter().map(AsRef::as_ref)).collect();
        assert_eq!(names[0], "mlkem768x25519-sha256");
        assert!(names.contains(&"kex-strict-s-v00@openssh.com"));
        for name in names {
            assert!(!name.contains("sha1") && !name.contains("cbc") && !name.contains("none"), "{name}");
        }
        for old in [Algorithm::Rsa { hash: None }, Algorithm::Dsa] {
            assert!(!is_signature(&old), "{old}");
        }
        assert!(is_signature(&Algorithm::Rsa { hash: Some(HashAlg::Sha256) }));
    }
}
