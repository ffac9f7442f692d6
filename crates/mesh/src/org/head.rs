//! The head of an organization: what it is, and by digests all that belongs to it at one revision.

use portway_model::Cidr;

use super::digest::Digest;
use super::label::OrgName;
use super::pool::Pool;
use super::signed::OrgPublicKey;
use super::wire::{Malformed, Reader, Writer, canonical};

const HEAD: &[u8; 4] = b"PWh1";

/// What is decided once, when an organization is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its addresses.
    pub pool: Pool,
    /// How long the address of a revoked device is given to nobody else, seconds.
    pub quarantine_seconds: u64,
}

impl Settings {
    /// 30 days: longer than most leave their rules and routes unlooked at.
    pub const QUARANTINE_SECONDS: u64 = 30 * 24 * 60 * 60;
}

/// The head. Whoever has it knows whether a record is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Its name.
    pub org: OrgName,
    /// Who signs.
    pub signer: OrgPublicKey,
    /// What was decided when it was made.
    pub settings: Settings,
    /// When it was made, seconds since 1970.
    pub created: u64,
    /// When this revision was, seconds since 1970.
    pub changed: u64,
    /// One more with each change.
    pub revision: u64,
    /// Of all records: members and those who were.
    pub records: Digest,
    /// Of all keys to join with, which no device sees.
    pub join_keys: Digest,
}

impl Head {
    /// What is signed.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new(HEAD);
        writer.text(self.org.as_str()).fixed(self.signer.as_bytes());
        let pool = &self.settings.pool;
        writer.block(&pool.block()).fixed(&pool.prefix6());
        writer.list(pool.reserved(), |writer, block: &Cidr| {
            writer.block(block);
        });
        writer.number(self.settings.quarantine_seconds);
        writer.number(self.created).number(self.changed).number(self.revision);
        writer.fixed(&self.records.0).fixed(&self.join_keys.0);
        writer.finish()
    }

    /// Reads them.
    ///
    /// # Errors
    /// They are not what [`Head::bytes`] writes.
    pub fn parse(bytes: &[u8]) -> Result<Head, Malformed> {
        const WHAT: &str = "head";
        let mut reader = Reader::new(bytes, HEAD, WHAT)?;
        let (org, signer) = (reader.parsed()?, OrgPublicKey::from_bytes(reader.fixed()?));
        let (block, prefix6) = (reader.block()?, reader.fixed()?);
        let reserved = reader.list(Reader::block)?;
        let pool = Pool::new(block, prefix6, reserved).map_err(|_| Malformed(WHAT))?;
        let settings = Settings { pool, quarantine_seconds: reader.number()? };
        let head = Head {
            org,
            signer,
            settings,
            created: reader.number()?,
            changed: reader.number()?,
            revision: reader.number()?,
            records: Digest(reader.fixed()?),
            join_keys: Digest(reader.fixed()?),
        };
        reader.end()?;
        canonical(bytes, WHAT, head, Head::bytes)
    }
}
