//! Datagrams between a client and its association (RFC 1928, 7): each has a header that says where it goes, or where it
//! is from.

use std::net::SocketAddr;

use super::{Malformed, put_address, target};
use crate::target::Target;

/// Longest header that is read: that of a name of 255 bytes.
pub const HEADER_MAX_BYTES: usize = 3 + 1 + 1 + 255 + 2;

/// A datagram of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrapped<'a> {
    /// Where it goes.
    pub target: Target,
    /// What it carries; may be empty.
    pub payload: &'a [u8],
}

/// Reads a client's datagram.
///
/// # Errors
/// What is to be dropped; RFC 1928 has no answer to it.
pub fn unwrap(bytes: &[u8]) -> Result<Wrapped<'_>, Malformed> {
    let Some((reserved, rest)) = bytes.split_first_chunk::<3>() else { return Err(Malformed::Datagram) };
    match reserved {
        [0, 0, 0] => {
            let (target, length) = target(rest)?;
            Ok(Wrapped { target, payload: rest.get(length..).unwrap_or_default() })
        }
        [0, 0, _] => Err(Malformed::Fragment),
        _ => Err(Malformed::Datagram),
    }
}

/// The header of a datagram to a client.
#[must_use]
pub fn wrap(from: SocketAddr) -> Vec<u8> {
    let mut bytes = vec![0; 3];
    put_address(&mut bytes, from);
    bytes
}
