//! What is read of a packet in the tunnel before it is believed: version, length, addresses.

use std::net::IpAddr;

use super::message::array;

/// Bytes of an IPv4 header without options, and of an IPv6 header.
const V4_BYTES: usize = 20;
const V6_BYTES: usize = 40;

/// A packet's own words about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Inner {
    /// Who sent it.
    pub(crate) source: IpAddr,
    /// Whom it is for.
    pub(crate) destination: IpAddr,
    /// Its bytes; what lies behind them is padding.
    pub(crate) length: usize,
}

/// `None`: no packet, or one that is longer than what there is.
pub(crate) fn read(bytes: &[u8]) -> Option<Inner> {
    let (inner, header) = match bytes.first()? >> 4 {
        4 => {
            let header = usize::from(bytes.first()? & 15) * 4;
            if header < V4_BYTES {
                return None;
            }
            let source = IpAddr::from(array::<4>(bytes, 12)?);
            let destination = IpAddr::from(array::<4>(bytes, 16)?);
            let length = usize::from(u16::from_be_bytes(array(bytes, 2)?));
            (Inner { source, destination, length }, header)
        }
        6 => {
            let source = IpAddr::from(array::<16>(bytes, 8)?);
            let destination = IpAddr::from(array::<16>(bytes, 24)?);
            let length = usize::from(u16::from_be_bytes(array(bytes, 4)?)) + V6_BYTES;
            (Inner { source, destination, length }, V6_BYTES)
        }
        _ => return None,
    };
    (inner.length >= header && inner.length <= bytes.len()).then_some(inner)
}

/// ICMP, and ICMP for IPv6.
const ICMP4: u8 = 1;
const ICMP6: u8 = 58;

/// Whom a packet, which [`read`] has read, says something of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nobody.
    None,
    /// Of a packet to this address: it was not delivered, or is to go another way.
    Of(IpAddr),
    /// It cannot be known of whom.
    Hidden,
}

/// An error of ICMP repeats the beginning of the packet that it is about (RFC 792; RFC 4443, 2.4).
pub(crate) fn news(bytes: &[u8]) -> News {
    let found =
        if bytes.first().is_some_and(|first| first >> 4 == 4) { error4(bytes) } else { error6(bytes) };
    let Some(message) = found else { return News::None };
    let quoted = message.get(8..).unwrap_or_default();
    let destination = match quoted.first().map(|first| first >> 4) {
        Some(4) => array::<4>(quoted, 16).map(IpAddr::from),
        Some(6) => array::<16>(quoted, 24).map(IpAddr::from),
        _ => None,
    };
    destination.map_or(News::Hidden, News::Of)
}

/// The message, if it is an error: unreachable, source quench, redirect, time exceeded, parameter problem. Of a packet in
/// pieces it is in the first one.
fn error4(bytes: &[u8]) -> Option<&[u8]> {
    let piece = u16::from_be_bytes(array(bytes, 6)?) & 0x1fff;
    let header = usize::from(bytes.first()? & 15) * 4;
    let message = bytes.get(header..)?;
    let is_error = bytes.get(9) == Some(&ICMP4) && piece == 0;
    (is_error && message.first().is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12))).then_some(message)
}

fn error6(bytes: &[u8]) -> Option<&[u8]> {
    let (mut next, mut at) = (*bytes.get(6)?, V6_BYTES);
    // Headers that may stand before it (RFC 8200, 4.1). A chain that goes on for longer than a packet ends with it.
    loop {
        let header = bytes.get(at..)?;
        let length = match next {
            0 | 43 | 60 => (usize::from(*header.get(1)?) + 1) * 8,
            44 if u16::from_be_bytes(array(header, 2)?) >> 3 == 0 => 8,
            ICMP6 => {
                let is_error = header.first().is_none_or(|kind| *kind < 128 || *kind == 137);
                return is_error.then_some(header);
            }
            _ => return None,
        };
        next = *header.first()?;
        at += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(length: u16) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 0x45;
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        bytes
    }

    /// Fails when: a length is trusted that there is not, or padding is taken for the packet.
    #[test]
    fn lengths_are_checked() {
        assert_eq!(read(&v4(24)).unwrap().length, 24);
        assert_eq!(read(&v4(40)).unwrap().destination, IpAddr::from([10, 0, 0, 2]));
        assert_eq!((read(&v4(41)), read(&v4(19)), read(&[]), read(&[0x45])), (None, None, None, None));
        for first in [0x05, 0x15, 0x41, 0x44, 0x55, 0x4b] {
            let mut bytes = v4(40);
            bytes[0] = first;
            assert_eq!(read(&bytes), None, "{first:x}");
        }
        let mut bytes = vec![0; 60];
        bytes[0] = 0x60;
        bytes[5] = 20;
        assert_eq!(read(&bytes).unwrap().length, 60);
        bytes[5] = 21;
        assert_eq!(read(&bytes), None);
        assert_eq!(read(&bytes[..39]), None);
    }

    /// Fails when: an error is not seen as one, behind other headers or in a first piece, or anything else is.
    #[test]
    fn errors_say_of_whom_they_are() {
        let mut error = v4(40);
        error.resize(48, 0);
        (error[3], error[9], error[20], error[28]) = (48, 1, 3, 0x45);
        error[44..48].copy_from_slice(&[10, 0, 0, 9]);
        assert_eq!(news(&error), News::Of(IpAddr::from([10, 0, 0, 9])));
        for (at, byte, wanted) in [
            (9, 6, News::None),
            (20, 0, News::None),
            (20, 11, News::Of(IpAddr::from([10, 0, 0, 9]))),
            (28, 0x15, News::Hidden),
            (7, 1, News::None),
            (6, 0x20, News::Of(IpAddr::from([10, 0, 0, 9]))),
        ] {
            let mut other = error.clone();
            other[at] = byte;
            assert_eq!(news(&other), wanted, "{at} {byte}");
        }
        assert_eq!(news(&error[..47]), News::Hidden);
        // Of IPv6, by itself and behind two headers of eight bytes.
        for chain in [&[58][..], &[0, 60, 58], &[44, 58]] {
            let mut error = vec![0; V6_BYTES];
            (error[0], error[6]) = (0x60, chain[0]);
            for next in &chain[1..] {
                error.extend([*next, 0, 0, 0, 0, 0, 0, 0]);
            }
            let at = error.len();
            error.extend([1, 4, 0, 0, 0, 0, 0, 0, 0x60]);
            error.extend([0; 39]);
            error[at + 8 + 24] = 0xfd;
            let whom = IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 0]);
            assert_eq!(news(&error), News::Of(whom), "{chain:?}");
            error[at] = 128;
            assert_eq!(news(&error), News::None, "{chain:?}");
            error[at] = 137;
            assert_eq!(news(&error), News::Of(whom), "{chain:?}");
            assert_eq!(news(&error[..at + 20]), News::Hidden, "{chain:?}");
        }
        let mut endless = vec![0; 100];
        endless[0] = 0x60;
        assert_eq!(news(&endless), News::None);
    }
}
