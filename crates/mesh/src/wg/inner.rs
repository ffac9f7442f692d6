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
}
