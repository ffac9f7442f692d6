//! Canonical bytes: one text for each value, so that what is signed is what was meant.
//!
//! Four bytes name the kind and version. Numbers are eight bytes, big end first; texts and lists have their length, one byte,
//! before them. [`canonical`] refuses any bytes that would not be written again just so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use portway_model::{Cidr, Host, Port};
use thiserror::Error;

use crate::spec::{Endpoint, PublicKey};

/// The bytes are none of ours, or not written as we write them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("malformed {0}")]
pub struct Malformed(pub &'static str);

/// Writes one value.
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn new(kind: &[u8; 4]) -> Writer {
        Writer(kind.to_vec())
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }

    /// As many as the reader expects.
    pub(super) fn fixed(&mut self, bytes: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn number(&mut self, number: u64) -> &mut Writer {
        self.fixed(&number.to_be_bytes())
    }

    /// A length. What is longer than one byte can say is written as 255, and then read back as something else, which the
    /// reader refuses; no type here allows it.
    fn length(&mut self, length: usize) -> &mut Writer {
        self.fixed(&[u8::try_from(length).unwrap_or(u8::MAX)])
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Writer {
        self.length(text.len()).fixed(text.as_bytes())
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut one: impl FnMut(&mut Writer, &T)) -> &mut Writer {
        self.length(items.len());
        for item in items {
            one(self, item);
        }
        self
    }

    pub(super) fn block(&mut self, block: &Cidr) -> &mut Writer {
        match block.ip() {
            IpAddr::V4(ip) => self.fixed(&[4]).fixed(&ip.octets()),
            IpAddr::V6(ip) => self.fixed(&[6]).fixed(&ip.octets()),
        };
        self.fixed(&[block.prefix()])
    }
}

/// Reads one value.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Of a value that begins with `kind`.
    pub(super) fn new(bytes: &'a [u8], kind: &[u8; 4], what: &'static str) -> Result<Reader<'a>, Malformed> {
        let rest = bytes.strip_prefix(kind).ok_or(Malformed(what))?;
        Ok(Reader { rest, what })
    }

    pub(super) fn malformed(&self) -> Malformed {
        Malformed(self.what)
    }

    pub(super) fn fixed<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], Malformed> {
        let (bytes, rest) = self.rest.split_first_chunk::<COUNT>().ok_or(self.malformed())?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        self.fixed().map(u64::from_be_bytes)
    }

    fn length(&mut self) -> Result<usize, Malformed> {
        self.fixed::<1>().map(|[length]| length.into())
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        let length = self.length()?;
        let (text, rest) = self.rest.split_at_checked(length).ok_or(self.malformed())?;
        self.rest = rest;
        std::str::from_utf8(text).map_err(|_| self.malformed())
    }

    /// A text that means something.
    pub(super) fn parsed<T: FromStr>(&mut self) -> Result<T, Malformed> {
        self.text()?.parse().map_err(|_| self.malformed())
    }

    pub(super) fn list<T>(
        &mut self,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.length()?;
        (0..count).map(|_| one(self)).collect()
    }

    pub(super) fn public_key(&mut self) -> Result<PublicKey, Malformed> {
        PublicKey::from_bytes(self.fixed()?).map_err(|_| self.malformed())
    }

    pub(super) fn ip4(&mut self) -> Result<Ipv4Addr, Malformed> {
        self.fixed::<4>().map(Ipv4Addr::from)
    }

    pub(super) fn ip6(&mut self) -> Result<Ipv6Addr, Malformed> {
        self.fixed::<16>().map(Ipv6Addr::from)
    }

    pub(super) fn block(&mut self) -> Result<Cidr, Malformed> {
        let ip: IpAddr = match self.fixed()? {
            [4] => self.ip4()?.into(),
            [6] => self.ip6()?.into(),
            _ => return Err(self.malformed()),
        };
        let [prefix] = self.fixed()?;
        Cidr::new(ip, prefix).ok_or(self.malformed())
    }

    /// Nothing may be left.
    pub(super) fn end(self) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.malformed()) }
    }
}

/// `value`, if `bytes` is how it is written.
pub(super) fn canonical<T>(
    bytes: &[u8],
    what: &'static str,
    value: T,
    write: impl FnOnce(&T) -> Vec<u8>,
) -> Result<T, Malformed> {
    if write(&value) == bytes { Ok(value) } else { Err(Malformed(what)) }
}

/// Reads `HOST:PORT`; IPv6 addresses have brackets, and wildcards reach nobody.
#[must_use]
pub fn endpoint(text: &str) -> Option<Endpoint> {
    let (host, digits) = text.rsplit_once(':')?;
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = plain.then(|| digits.parse().ok()).flatten().and_then(Port::new)?;
    match host.parse::<Host>().ok()? {
        Host::Ip(ip) if ip.is_wildcard() || ip.ip().is_multicast() || ip.zone().is_some() => None,
        host => Some(Endpoint { host, port }),
    }
}
