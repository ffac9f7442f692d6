//! A file of keys, as `authorized_keys` of sshd(8) is written: `[OPTIONS] TYPE BASE64 [COMMENT]` on each line.
//!
//! A line that cannot be read costs that line. A key whose options cannot all be honoured is known and refused. As in
//! OpenSSH the first line of the offered key that allows the login decides; those that refuse it do not hide it.

use russh::keys::ssh_key::Certificate;
use russh::keys::ssh_key::public::KeyData;

use super::certificate::{self, CertificateError};
use super::grant::{Circumstances, Grant};
use super::key::{self, WeakKey};

mod options;

pub use options::{KeyOptions, OptionError};

/// Longest line, bytes.
pub const LINE_MAX_BYTES: usize = 64 * 1024;

/// Longest file, bytes; the rest of a longer one is not read.
pub const FILE_MAX_BYTES: usize = 1024 * 1024;

/// Most faults that are kept to be told.
const FAULTS_MAX: usize = 16;

/// The keys of one file.
#[derive(Debug, Clone, Default)]
pub struct AuthorizedKeys {
    entries: Vec<Entry>,
    /// Lines that are no keys: their numbers from 1, and why. The first few.
    pub faults: Vec<(usize, LineFault)>,
    /// How many such lines there are.
    pub fault_count: usize,
}

#[derive(Debug, Clone)]
struct Entry {
    line: usize,
    key: KeyData,
    options: Result<KeyOptions, OptionError>,
}

/// Why a line is no key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// Over [`LINE_MAX_BYTES`].
    #[error("line is longer than {LINE_MAX_BYTES} bytes")]
    TooLong,
    /// Neither a key nor options before one.
    #[error("not a key")]
    NotAKey,
    /// Options that do not end.
    #[error(transparent)]
    Options(OptionError),
    /// A key that is not used.
    #[error(transparent)]
    Weak(#[from] WeakKey),
}

/// A key that may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Number of its line, from 1.
    pub line: usize,
    /// What it allows.
    pub grant: Grant,
}

/// Why no line lets somebody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyRefusal {
    /// The key does not stand there.
    #[error("the key is not listed")]
    Unknown,
    /// It does, and its options cannot be honoured.
    #[error("line {line}: {error}")]
    Options {
        /// Its line.
        line: usize,
        /// Why.
        error: OptionError,
    },
    /// It may not be used from there.
    #[error("line {line}: not allowed from {client}")]
    Source {
        /// Its line.
        line: usize,
        /// Where the client is.
        client: std::net::IpAddr,
    },
    /// Its time is over.
    #[error("line {line}: the key has expired")]
    Expired {
        /// Its line.
        line: usize,
    },
    /// The certificate of the authority on that line is not good.
    #[error("line {line}: {error}")]
    Certificate {
        /// The authority's line.
        line: usize,
        /// Why.
        error: CertificateError,
    },
}

impl AuthorizedKeys {
    /// Reads a file. Whatever stands in it, this ends, and needs memory in proportion to the file.
    #[must_use]
    pub fn parse(text: &[u8]) -> Self {
        let mut keys = Self::default();
        let text = text.get(..FILE_MAX_BYTES).unwrap_or(text);
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            match parse_line(line) {
                Ok(None) => {}
                Ok(Some((key, options))) => keys.entries.push(Entry { line: index + 1, key, options }),
                Err(fault) => {
                    keys.fault_count += 1;
                    if keys.faults.len() < FAULTS_MAX {
                        keys.faults.push((index + 1, fault));
                    }
                }
            }
        }
        keys
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether some line is an authority, which signs certificates.
    #[must_use]
    pub fn has_authority(&self) -> bool {
        let is_authority = |entry: &Entry| entry.options.as_ref().is_ok_and(|options| options.cert_authority);
        self.entries.iter().any(is_authority)
    }

    /// Whether a key stands there alone, without options that would have to be honoured.
    #[must_use]
    pub fn has_plain(&self, key: &KeyData) -> bool {
        let plain = Ok(KeyOptions::default());
        self.entries.iter().any(|entry| entry.key == *key && entry.options == plain)
    }

    /// What the file allows whoever has proven to hold `key`.
    ///
    /// # Errors
    /// Why it allows nothing: of several lines the last refusal.
    pub fn find_key(&self, key: &KeyData, circumstances: &Circumstances) -> Result<Found, KeyRefusal> {
        let mut refusal = KeyRefusal::Unknown;
        for entry in self.entries.iter().filter(|entry| entry.key == *key) {
            match entry.usable(circumstances) {
                Ok(options) if options.cert_authority => {}
                Ok(options) => return Ok(Found { line: entry.line, grant: options.grant.clone() }),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// What the file allows whoever has proven to hold the key of `certificate`, as the user `name`: some line must be
    /// the authority that signed it. The options of that line and those of the certificate both hold.
    ///
    /// # Errors
    /// As [`AuthorizedKeys::find_key`].
    pub fn find_certificate(
        &self,
        certificate: &Certificate,
        name: &str,
        circumstances: &Circumstances,
    ) -> Result<Found, KeyRefusal> {
        let mut refusal = KeyRefusal::Unknown;
        for entry in self.entries.iter().filter(|entry| entry.key == *certificate.signature_key()) {
            let line = entry.line;
            let options = match entry.usable(circumstances) {
                Ok(options) if options.cert_authority => options,
                Ok(_) => continue,
                Err(error) => {
                    refusal = error;
                    continue;
                }
            };
            let own = [name.to_owned()];
            let names = options.principals.as_deref().unwrap_or(&own);
            let checked = certificate::check(certificate, &entry.key, names, circumstances);
            match checked
                .and_then(|grant| options.grant.clone().and(grant).ok_or(CertificateError::CommandsDiffer))
            {
                Ok(grant) => return Ok(Found { line, grant }),
                Err(error) => refusal = KeyRefusal::Certificate { line, error },
            }
        }
        Err(refusal)
    }
}

impl Entry {
    /// The options, when they let the key be used here and now.
    fn usable(&self, circumstances: &Circumstances) -> Result<&KeyOptions, KeyRefusal> {
        let line = self.line;
        let options = match &self.options {
            Ok(options) => options,
            Err(error) => return Err(KeyRefusal::Options { line, error: error.clone() }),
        };
        let client = circumstances.client;
        if options.from.as_ref().is_some_and(|from| !from.allow(client)) {
            return Err(KeyRefusal::Source { line, client });
        }
        let Circumstances { now_seconds, local_offset_seconds, .. } = *circumstances;
        if options.expiry.is_some_and(|expiry| expiry.is_over(now_seconds, local_offset_seconds)) {
            return Err(KeyRefusal::Expired { line });
        }
        Ok(options)
    }
}

type Line = (KeyData, Result<KeyOptions, OptionError>);

/// `None` for an empty line or a comment.
fn parse_line(line: &[u8]) -> Result<Option<Line>, LineFault> {
    if line.len() > LINE_MAX_BYTES {
        return Err(LineFault::TooLong);
    }
    let line = line.trim_ascii();
    if line.is_empty() || line.starts_with(b"#") {
        return Ok(None);
    }
    // Comments may be in any encoding; what stands before them may not.
    let text = String::from_utf8_lossy(line);
    let (options, rest) = match text.split_once([' ', '\t']) {
        Some((kind, rest)) if key::is_type(kind) => (None, (kind, rest)),
        Some(_) => {
            let end = options::end(&text).map_err(LineFault::Options)?;
            let (options, rest) = text.split_at(end);
            let (kind, rest) = rest.trim_ascii_start().split_once([' ', '\t']).ok_or(LineFault::NotAKey)?;
            (Some(options), (kind, rest))
        }
        None => return Err(LineFault::NotAKey),
    };
    let (kind, rest) = rest;
    let base64 = rest.split_ascii_whitespace().next().unwrap_or_default();
    let key = key::parse(kind, base64).ok_or(LineFault::NotAKey)?;
    key::check(&key)?;
    let options = match options {
        Some(text) if text.contains(char::REPLACEMENT_CHARACTER) => Err(OptionError::NotText),
        Some(text) => options::parse(text),
        None => Ok(KeyOptions::default()),
    };
    // Whether it was touched cannot be seen from here, and that is what a line without the word asks for.
    let options = options.and_then(|options| match key {
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) if !options.untouched => Err(
            OptionError::Unsupported("touch-required, which a security key has without no-touch-required"),
        ),
        _ => Ok(options),
    });
    Ok(Some((key, options)))
}

#[cfg(test)]
mod tests;
