//! The token that a device joins with: whom it may trust, and the secret that lets it in.
//!
//! `portway1_` and base64 without padding: a version, the organization's name, the registrar's pin, the organization's key, the
//! secret, and four bytes that show a slip of who copied it. It is shown once; only a hash of the secret is kept.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sha2::{Digest as _, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use super::label::OrgName;
use super::signed::OrgPublicKey;
use super::view::Trust;
use super::wire::{Reader, Writer};

const PREFIX: &str = "portway1_";
const TOKEN: &[u8; 4] = b"PWt1";

/// Longest token, characters: with the longest name it has 233.
const MAX_CHARS: usize = 400;

/// Bytes at the end that show a slip.
const CHECK_BYTES: usize = 4;

/// Why a text is no token. The text is not repeated: it may be most of a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It does not begin as one.
    #[error("a token begins with {PREFIX}")]
    Prefix,
    /// Not all of it, or something else.
    #[error("the token is not whole, or was changed on its way")]
    Damaged,
}

/// SHA-256 of the certificate that the registrar has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

impl Pin {
    /// Of a certificate, DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Pin {
        Pin(Sha256::digest(certificate).into())
    }
}

/// What lets a device in. Never printed but in its token.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel has no random numbers to give.
    pub fn generate() -> Result<Secret, getrandom::Error> {
        let mut secret = Secret(Zeroizing::new([0; 32]));
        getrandom::fill(secret.0.as_mut_slice())?;
        Ok(secret)
    }

    /// The secret of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Secret {
        Secret(Zeroizing::new(bytes))
    }

    /// Its bytes, for the registrar.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// What the registrar keeps. 256 random bits need no salt.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_slice()).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A token, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Which organization, and who signs for it.
    pub trust: Trust,
    /// Which registrar.
    pub pin: Pin,
    /// What lets the device in.
    pub secret: Secret,
}

impl Token {
    /// Its text: for who is to join, and for nobody else.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        let mut writer = Writer::new(TOKEN);
        writer.text(self.trust.org.as_str()).fixed(&self.pin.0);
        writer.fixed(self.trust.signer.as_bytes()).fixed(self.secret.as_bytes());
        let mut bytes = Zeroizing::new(writer.finish());
        let check = check(&bytes);
        bytes.extend_from_slice(&check);
        let text = Zeroizing::new(Base64UrlUnpadded::encode_string(&bytes));
        Zeroizing::new([PREFIX, text.as_str()].concat())
    }
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = Sha256::digest(bytes);
    let mut check = [0; CHECK_BYTES];
    check.iter_mut().zip(hash).for_each(|(to, from)| *to = from);
    check
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Token, TokenError> {
        let text = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if text.len() > MAX_CHARS {
            return Err(TokenError::Damaged);
        }
        let bytes = Base64UrlUnpadded::decode_vec(text).map_err(|_| TokenError::Damaged)?;
        let bytes = Zeroizing::new(bytes);
        let (bytes, found) = bytes.split_last_chunk::<CHECK_BYTES>().ok_or(TokenError::Damaged)?;
        if check(bytes) != *found {
            return Err(TokenError::Damaged);
        }
        read(bytes).map_err(|_| TokenError::Damaged)
    }
}

fn read(bytes: &[u8]) -> Result<Token, super::wire::Malformed> {
    let mut reader = Reader::new(bytes, TOKEN, "token")?;
    let org: OrgName = reader.parsed()?;
    let pin = Pin(reader.fixed()?);
    let trust = Trust { org, signer: OrgPublicKey::from_bytes(reader.fixed()?) };
    let secret = Secret::from_bytes(reader.fixed()?);
    reader.end().map(|()| Token { trust, pin, secret })
}
