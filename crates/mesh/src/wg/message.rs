//! The four messages on the wire, by their lengths and first four bytes. Nothing is checked but the form.

use std::ops::Range;

/// Bytes of an initiation.
pub(super) const INITIATION_BYTES: usize = 148;
/// Bytes of a response.
pub(super) const RESPONSE_BYTES: usize = 92;
/// Bytes of a cookie reply.
pub(super) const COOKIE_BYTES: usize = 64;
/// Bytes before a packet.
pub(super) const HEADER_BYTES: usize = 16;
/// Bytes of a message around its packet.
pub(crate) const OVERHEAD_BYTES: usize = HEADER_BYTES + super::noise::TAG_BYTES;

/// First words of the messages: the type, and three bytes that are zero.
pub(super) const INITIATION: [u8; 4] = [1, 0, 0, 0];
pub(super) const RESPONSE: [u8; 4] = [2, 0, 0, 0];
pub(super) const COOKIE: [u8; 4] = [3, 0, 0, 0];
pub(super) const DATA: [u8; 4] = [4, 0, 0, 0];

/// First bytes of a message that is to be passed on, and of one that was, each inside a session with the hub: no packet
/// begins so, whose first four bits are 4 or 6.
pub(super) const PASS_ON: [u8; 4] = [5, 0, 0, 0];
pub(super) const PASSED_ON: [u8; 4] = [6, 0, 0, 0];
/// Bytes before that message: those, and the IPv4 address in the network of whom it is for, or from.
pub(crate) const ENVELOPE_BYTES: usize = 8;
/// What a way through a hub takes of the length of a packet.
pub(crate) const THROUGH_BYTES: usize = ENVELOPE_BYTES + OVERHEAD_BYTES;

/// Whether what stands in a session is one of those.
pub(super) fn is_enveloped(bytes: &[u8]) -> bool {
    bytes.starts_with(&PASS_ON) || bytes.starts_with(&PASSED_ON)
}

/// Writes what stands before a message that is to be passed on to `member`.
pub(crate) fn write_envelope(to: &mut [u8], member: std::net::Ipv4Addr) {
    put(to, 0, &PASS_ON);
    put(to, 4, &member.octets());
}

/// What a datagram is by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Initiation,
    Response,
    Cookie,
    Data,
}

impl Kind {
    /// `None`: no message of the protocol.
    pub(super) fn of(datagram: &[u8]) -> Option<Kind> {
        match (array(datagram, 0)?, datagram.len()) {
            (INITIATION, INITIATION_BYTES) => Some(Kind::Initiation),
            (RESPONSE, RESPONSE_BYTES) => Some(Kind::Response),
            (COOKIE, COOKIE_BYTES) => Some(Kind::Cookie),
            (DATA, OVERHEAD_BYTES..) => Some(Kind::Data),
            _ => None,
        }
    }
}

/// `N` bytes at `at`.
pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

pub(super) fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(room) = to.get_mut(at..at + bytes.len()) {
        room.copy_from_slice(bytes);
    }
}

/// The little-endian number at `at`; what is not there is 0.
pub(super) fn number(bytes: &[u8], at: usize) -> u32 {
    array(bytes, at).map_or(0, u32::from_le_bytes)
}

/// The session or attempt a data message or a cookie reply is for.
pub(super) fn receiver(message: &[u8]) -> u32 {
    number(message, 4)
}

/// First message of a handshake.
#[derive(Clone, Copy)]
pub(super) struct Initiation<'a>(&'a [u8; INITIATION_BYTES]);

impl<'a> Initiation<'a> {
    pub(super) const SENDER: usize = 4;
    pub(super) const EPHEMERAL: Range<usize> = 8..40;
    pub(super) const STATIC: Range<usize> = 40..88;
    pub(super) const TIMESTAMP: Range<usize> = 88..116;

    pub(super) const fn new(bytes: &'a [u8; INITIATION_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn sender(&self) -> u32 {
        number(self.0, Self::SENDER)
    }

    pub(super) fn ephemeral(&self) -> [u8; 32] {
        array(self.0, Self::EPHEMERAL.start).unwrap_or_default()
    }

    pub(super) fn sealed_static(&self) -> &'a [u8] {
        self.0.get(Self::STATIC).unwrap_or_default()
    }

    pub(super) fn sealed_timestamp(&self) -> &'a [u8] {
        self.0.get(Self::TIMESTAMP).unwrap_or_default()
    }
}

/// Second message of a handshake.
#[derive(Clone, Copy)]
pub(super) struct Response<'a>(&'a [u8; RESPONSE_BYTES]);

impl<'a> Response<'a> {
    pub(super) const SENDER: usize = 4;
    pub(super) const RECEIVER: usize = 8;
    pub(super) const EPHEMERAL: Range<usize> = 12..44;
    pub(super) const EMPTY: Range<usize> = 44..60;

    pub(super) const fn new(bytes: &'a [u8; RESPONSE_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn sender(&self) -> u32 {
        number(self.0, Self::SENDER)
    }

    pub(super) fn receiver(&self) -> u32 {
        number(self.0, Self::RECEIVER)
    }

    pub(super) fn ephemeral(&self) -> [u8; 32] {
        array(self.0, Self::EPHEMERAL.start).unwrap_or_default()
    }

    pub(super) fn sealed_empty(&self) -> &'a [u8] {
        self.0.get(Self::EMPTY).unwrap_or_default()
    }
}
