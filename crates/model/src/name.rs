//! Names of hosts, and what may stand where a host is wanted: such a name or an address. Nothing is looked up.

use std::fmt;
use std::str::FromStr;

use crate::at::{AddrErrorKind, At};
use crate::host::IpHost;
use crate::text::{quote, serde_by_text};

/// What is wrong with a host, and where.
pub type HostError = At<HostErrorKind>;

/// What can be wrong with a host. Texts in variants are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostErrorKind {
    /// Nothing there.
    #[error("host is empty")]
    Empty,
    /// Longer than DNS takes.
    #[error("name is longer than {0} characters")]
    TooLong(usize),
    /// Two dots in a row, or one at the beginning.
    #[error("name has an empty part")]
    PartEmpty,
    /// A part longer than DNS takes.
    #[error("part {found} of a name is longer than {max} characters")]
    PartTooLong {
        /// The part.
        found: String,
        /// Greatest length.
        max: usize,
    },
    /// A character no name has.
    #[error("unexpected {0} in a name")]
    Character(String),
    /// A hyphen at an end of a part.
    #[error("part {0} of a name begins or ends with a hyphen")]
    Hyphen(String),
    /// A letter beyond ASCII.
    #[error("unexpected {0} in a name, write it as DNS has it (xn--...)")]
    Foreign(String),
    /// A last part of digits, which makes it an address to some readers.
    #[error("{0} is neither a name nor an IPv4 address")]
    Digits(String),
    /// Meant as an address, and is none.
    #[error(transparent)]
    Address(#[from] AddrErrorKind),
}

/// Name of a host: letters, digits, hyphens and underscores, dots between parts, in lower case. A dot at the end stays:
/// it says that no domain is put behind the name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostName(String);

impl HostName {
    /// Longest name, characters, a dot at the end not counted (RFC 1035, 2.3.4, less its first and last byte).
    pub const MAX_CHARS: usize = 253;

    /// Longest part (RFC 1035, 2.3.4).
    pub const PART_MAX_CHARS: usize = 63;

    /// The name, in lower case.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is `localhost` or below it, which means this host and nothing else (RFC 6761, 6.3).
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        let name = self.0.trim_end_matches('.');
        name == "localhost" || name.ends_with(".localhost")
    }

    /// Reads `text[start..start + name.len()]`.
    pub(crate) fn parse_at(text: &str, start: usize, name: &str) -> Result<Self, HostError> {
        let fail = |position, kind| Err(HostError::new(text, position, kind));
        if name.is_empty() {
            return fail(start, HostErrorKind::Empty);
        }
        if let Some((offset, c)) = name.char_indices().find(|(_, c)| !is_of_a_name(*c)) {
            let found = quote(c.encode_utf8(&mut [0; 4]));
            let kind = if c.is_alphanumeric() { HostErrorKind::Foreign } else { HostErrorKind::Character };
            return fail(start + offset, kind(found));
        }
        let parts = name.strip_suffix('.').unwrap_or(name);
        if parts.len() > Self::MAX_CHARS {
            return fail(start, HostErrorKind::TooLong(Self::MAX_CHARS));
        }
        let (mut place, mut last) = (start, "");
        for part in parts.split('.') {
            let max = Self::PART_MAX_CHARS;
            if part.is_empty() {
                return fail(place, HostErrorKind::PartEmpty);
            } else if part.len() > max {
                return fail(place, HostErrorKind::PartTooLong { found: quote(part), max });
            } else if part.starts_with('-') || part.ends_with('-') {
                return fail(place, HostErrorKind::Hyphen(quote(part)));
            }
            place += part.len() + 1;
            last = part;
        }
        let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
        if last.bytes().all(|byte| byte.is_ascii_digit())
            || hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()))
        {
            return fail(start, HostErrorKind::Digits(quote(name)));
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

fn is_of_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl FromStr for HostName {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse_at(text, 0, text)
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host by its address or its name. IPv6 addresses have brackets in text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address.
    Ip(IpHost),
    /// A name.
    Name(HostName),
}

impl Host {
    /// Reads `text[start..start + host.len()]`.
    pub(crate) fn parse_at(text: &str, start: usize, host: &str) -> Result<Self, HostError> {
        let fail = |position, kind: AddrErrorKind| Err(HostError::new(text, position, kind.into()));
        let wrapped = |error: At<AddrErrorKind>| HostError::new(text, error.position, error.kind.into());
        if let Some(inner) = host.strip_prefix('[') {
            let Some(inner) = inner.strip_suffix(']') else {
                return fail(start, AddrErrorKind::BracketOpen);
            };
            return IpHost::parse_v6(text, start + 1, inner).map(Host::Ip).map_err(wrapped);
        }
        if host.contains(':') {
            return fail(start, AddrErrorKind::Ipv6Bare);
        }
        let numeric = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if numeric {
            return IpHost::parse_v4(text, start, host).map(Host::Ip).map_err(wrapped);
        }
        HostName::parse_at(text, start, host).map(Host::Name)
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        Self::parse_at(text, 0, text)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

serde_by_text!(HostName, Host);

#[cfg(test)]
mod tests;
