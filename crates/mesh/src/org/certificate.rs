//! The registrar's certificate: made of its key and of nothing else, so that the same key always has the same pin.
//!
//! X.509 v3 (RFC 5280) with an Ed25519 key (RFC 8410), signed by itself, without an end. Whoever trusts it has its pin from
//! a token; names and dates in it say nothing.

use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// 1.3.101.112, Ed25519.
const ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
/// 2.5.4.3, common name.
const COMMON_NAME: &[u8] = &[0x06, 0x03, 0x55, 0x04, 0x03];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const UTF8: u8 = 0x0c;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const VERSION: u8 = 0xa0;

/// One value of DER, of parts.
fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len().to_be_bytes();
    let length: Vec<u8> = length.into_iter().skip_while(|byte| *byte == 0).collect();
    let mut value = vec![tag];
    if content.len() < 0x80 {
        value.push(length.first().copied().unwrap_or_default());
    } else {
        value.push(0x80 | u8::try_from(length.len()).unwrap_or_default());
        value.extend(length);
    }
    value.extend(content);
    value
}

/// The certificate of the key with this seed.
///
/// # Panics
/// Never: any 32 bytes are a seed.
#[must_use]
pub(super) fn certificate(seed: &[u8; 32]) -> CertificateDer<'static> {
    let pair = Ed25519KeyPair::from_seed_unchecked(seed).expect("32 bytes are a seed");
    let public = pair.public_key().as_ref();
    let algorithm = der(SEQUENCE, &[ED25519]);
    let name = der(SEQUENCE, &[COMMON_NAME, &der(UTF8, &[b"portway registrar"])]);
    let name = der(SEQUENCE, &[&der(SET, &[&name])]);
    // RFC 5280, 4.1.2.5: years from 2050 on are written otherwise, and this is how "no end" is.
    let validity =
        [der(UTC_TIME, &[b"200101000000Z"]), der(GENERALIZED_TIME, &[b"99991231235959Z"])].concat();
    // Positive: its first byte is below 0x80.
    let hash = Sha256::digest(public);
    let serial = [&[0x01], hash.get(..8).unwrap_or_default()].concat();
    let to_sign = der(
        SEQUENCE,
        &[
            &der(VERSION, &[&der(INTEGER, &[&[2]])]),
            &der(INTEGER, &[&serial]),
            &algorithm,
            &name,
            &der(SEQUENCE, &[&validity]),
            &name,
            &der(SEQUENCE, &[&algorithm, &der(BIT_STRING, &[&[0], public])]),
        ],
    );
    let signature = pair.sign(&to_sign);
    let signed = der(SEQUENCE, &[&to_sign, &algorithm, &der(BIT_STRING, &[&[0], signature.as_ref()])]);
    CertificateDer::from(signed)
}

/// The key of this seed as TLS takes it (RFC 8410, 7).
#[must_use]
pub(super) fn private_key(seed: &[u8; 32]) -> PrivateKeyDer<'static> {
    let key = Zeroizing::new(der(OCTET_STRING, &[&Zeroizing::new(der(OCTET_STRING, &[seed]))]));
    let pkcs8 = der(SEQUENCE, &[&der(INTEGER, &[&[0]]), &der(SEQUENCE, &[ED25519]), &key]);
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8))
}
