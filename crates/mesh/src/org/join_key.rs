//! Keys to join with: who has the secret of one may become a member on its terms. The registrar keeps a hash.

use std::fmt;
use std::str::FromStr;

use portway_model::Cidr;

use super::label::Tag;
use super::record::Device;
use super::wire::{Malformed, Reader, Writer, canonical};

const JOIN_KEY: &[u8; 4] = b"PWk1";

/// What a key to join with is called: the first 8 bytes of the hash of its secret, as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(u64);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for KeyId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<KeyId, Malformed> {
        let plain = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let id = plain.then(|| u64::from_str_radix(text, 16).ok()).flatten();
        id.map(KeyId).ok_or(Malformed("key id, expected 16 hexadecimal digits"))
    }
}

/// What joining with a key means.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// How many devices may still join; `None` for any number.
    pub uses_left: Option<u32>,
    /// The last second it may be used in, since 1970; `None` for ever.
    pub not_after: Option<u64>,
    /// Groups of the devices.
    pub tags: Vec<Tag>,
    /// What lies behind the device.
    pub routes: Vec<Cidr>,
}

/// A key to join with, as the registrar knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinKey {
    /// SHA-256 of the secret.
    pub hash: [u8; 32],
    /// Its terms.
    pub terms: Terms,
    /// When it was made, seconds since 1970.
    pub created: u64,
}

impl JoinKey {
    /// What it is called.
    #[must_use]
    pub fn id(&self) -> KeyId {
        let mut first = [0; 8];
        first.iter_mut().zip(self.hash).for_each(|(to, from)| *to = from);
        KeyId(u64::from_be_bytes(first))
    }

    /// What is stored, and enters the head's digest.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(JOIN_KEY);
        // One more, so that 0 is free to say that there is no bound.
        let bound = |bound: Option<u64>| bound.map_or(0, |bound| bound.saturating_add(1));
        writer.fixed(&self.hash).number(bound(self.terms.uses_left.map(u64::from)));
        writer.number(bound(self.terms.not_after));
        writer.list(&self.terms.tags, |writer, tag| {
            writer.text(tag.as_str());
        });
        writer.list(&self.terms.routes, |writer, route| {
            writer.block(route);
        });
        writer.number(self.created);
        writer.finish()
    }

    /// Reads them.
    ///
    /// # Errors
    /// They are not what [`JoinKey::bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Result<JoinKey, Malformed> {
        const WHAT: &str = "key to join with";
        let mut reader = Reader::new(bytes, JOIN_KEY, WHAT)?;
        let hash = reader.fixed()?;
        let uses_left = reader.number()?.checked_sub(1);
        let uses_left = uses_left.map(u32::try_from).transpose().map_err(|_| Malformed(WHAT))?;
        let terms = Terms {
            uses_left,
            not_after: reader.number()?.checked_sub(1),
            tags: reader.list(Reader::parsed)?,
            routes: reader.list(Reader::block)?,
        };
        let key = JoinKey { hash, terms, created: reader.number()? };
        reader.end()?;
        if key.terms.tags.len().max(key.terms.routes.len()) > Device::LIST_MAX {
            return Err(Malformed(WHAT));
        }
        canonical(bytes, WHAT, key, JoinKey::bytes)
    }
}
