//! A packet that is longer than its way takes, in fragments of IP. Whoever sends here is the packet's source, so that
//! it may cut IPv6 too, and what says that a packet is not to be cut on its way.

use super::header::{V4_BYTES, V4_ID, V6_BYTES, byte, length, put, word};
use crate::segment::checksum;

/// Bytes of the header of a fragment of IPv6, and its number.
const V6_FRAGMENT_BYTES: usize = 8;
const V6_FRAGMENT: u8 = 44;

/// Headers of IPv6 that go before that of a fragment: hop by hop, routing.
const BEFORE: [u8; 2] = [0, 43];

/// Flags and offset of IPv4: more come, offset in words of eight bytes.
const MORE: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const OFFSET: u16 = 0x1fff;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub struct Fragments<'a> {
    packet: &'a [u8],
    is_v4: bool,
    /// Where what is divided begins.
    begin: usize,
    /// Bytes of headers of each fragment.
    header: usize,
    /// Bytes of each but the last, a multiple of eight.
    size: usize,
    number: u32,
}

impl<'a> Fragments<'a> {
    /// Fragments of at most `limit` bytes, called `number` where the packet has no number yet. `None`: no packet, or one
    /// that cannot be divided.
    #[must_use]
    pub fn new(packet: &'a [u8], limit: usize, number: u32) -> Option<Fragments<'a>> {
        let is_v4 = byte(packet, 0) >> 4 == 4;
        let (begin, header) = if is_v4 {
            let header = usize::from(byte(packet, 0) & 15) * 4;
            (header >= V4_BYTES).then_some((header, header))?
        } else {
            match byte(packet, 6) {
                V6_FRAGMENT => (V6_BYTES + V6_FRAGMENT_BYTES, V6_BYTES + V6_FRAGMENT_BYTES),
                next if BEFORE.contains(&next) => return None,
                _ => (V6_BYTES, V6_BYTES + V6_FRAGMENT_BYTES),
            }
        };
        let size = limit.checked_sub(header)? & !7;
        let whole = packet.len() > begin && size > 0;
        whole.then_some(Fragments { packet, is_v4, begin, header, size, number })
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        (self.packet.len() - self.begin).div_ceil(self.size)
    }

    /// Writes one to the front of `to` and returns its length; 0 when there is no such one or no room.
    pub fn write(&self, place: usize, to: &mut [u8]) -> usize {
        let from = self.begin + place * self.size;
        let part = self.packet.get(from..self.packet.len().min(from + self.size)).unwrap_or_default();
        let total = self.header + part.len();
        let (Some(to), false) = (to.get_mut(..total), part.is_empty()) else { return 0 };
        let Some((header, payload)) = to.split_at_mut_checked(self.header) else { return 0 };
        payload.copy_from_slice(part);
        let is_last = place + 1 >= self.count();
        if self.is_v4 {
            self.v4(header, total, place, is_last)
        } else {
            self.v6(header, total, place, is_last)
        }
        total
    }

    fn v4(&self, header: &mut [u8], total: usize, place: usize, is_last: bool) {
        header.copy_from_slice(self.packet.get(..self.header).unwrap_or_default());
        let before = word(self.packet, 6);
        let more = if is_last { before & MORE } else { MORE };
        let offset = (before & OFFSET).wrapping_add(words(place * self.size)) & OFFSET;
        put(header, 2, &length(total));
        if before & DONT_FRAGMENT != 0 {
            // With that flag the identification says nothing (RFC 6864, 4.1): many such packets have the same.
            put(header, V4_ID, &low(self.number).to_be_bytes());
        }
        put(header, 6, &(more | offset).to_be_bytes());
        put(header, 10, &[0, 0]);
        let sum = checksum::finish(checksum::add(0, header));
        put(header, 10, &sum);
    }

    fn v6(&self, header: &mut [u8], total: usize, place: usize, is_last: bool) {
        put(header, 0, self.packet.get(..V6_BYTES).unwrap_or_default());
        put(header, 4, &length(total - V6_BYTES));
        let again = self.begin > V6_BYTES;
        let (next, before) = if again {
            (byte(self.packet, V6_BYTES), word(self.packet, V6_BYTES + 2))
        } else {
            (byte(self.packet, 6), 0)
        };
        let number = match self.packet.get(V6_BYTES + 4..V6_BYTES + V6_FRAGMENT_BYTES) {
            Some(number) if again => number.try_into().unwrap_or_default(),
            _ => self.number.to_be_bytes(),
        };
        let more = if is_last { before & 1 } else { 1 };
        let offset = (before & !7).wrapping_add(words(place * self.size) << 3);
        put(header, 6, &[V6_FRAGMENT]);
        put(header, V6_BYTES, &[next, 0]);
        put(header, V6_BYTES + 2, &(offset | more).to_be_bytes());
        put(header, V6_BYTES + 4, &number);
    }
}

fn words(bytes: usize) -> u16 {
    u16::try_from(bytes / 8).unwrap_or(u16::MAX)
}

/// Numbers of IPv4 are modulo 2^16.
fn low(number: u32) -> u16 {
    u16::try_from(number & 0xffff).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A packet with so many bytes behind its header.
    fn packet(is_v4: bool, payload: usize) -> Vec<u8> {
        let mut bytes = vec![0; if is_v4 { V4_BYTES } else { V6_BYTES }];
        bytes[0] = if is_v4 { 0x45 } else { 0x60 };
        bytes[6] = if is_v4 { 0x40 } else { 17 };
        bytes.extend((0..payload).map(|at| at.to_le_bytes()[0]));
        bytes
    }

    fn all(fragments: &Fragments<'_>) -> Vec<Vec<u8>> {
        let write = |place| {
            let mut room = vec![0xee; 2000];
            let length = fragments.write(place, &mut room);
            room.truncate(length);
            room
        };
        (0..fragments.count()).map(write).collect()
    }

    /// Puts fragments together by the offsets they have, and looks at lengths, numbers and flags.
    fn together(fragments: &[Vec<u8>], is_v4: bool, limit: usize) -> Vec<u8> {
        let mut whole = Vec::new();
        let mut more = true;
        for fragment in fragments {
            assert!(fragment.len() <= limit && more);
            let (header, at) = if is_v4 {
                assert!(checksum::holds(checksum::add(0, &fragment[..20])));
                assert_eq!((usize::from(word(fragment, 2)), word(fragment, 4)), (fragment.len(), 0xbeef));
                more = word(fragment, 6) & MORE != 0;
                (20, usize::from(word(fragment, 6) & OFFSET) * 8)
            } else {
                assert_eq!(usize::from(word(fragment, 4)) + 40, fragment.len());
                assert_eq!((fragment[6], fragment[40], &fragment[44..48]), (44, 17, &[0, 1, 0xbe, 0xef][..]));
                more = fragment[43] & 1 != 0;
                (48, usize::from(word(fragment, 42) & !7))
            };
            assert_eq!(at, whole.len());
            whole.extend(&fragment[header..]);
        }
        assert!(!more);
        whole
    }

    /// Fails when: a byte is lost or doubled, or fragments that are cut again do not fit together.
    #[test]
    fn fragments_are_the_packet() {
        for is_v4 in [true, false] {
            for payload in [1, 8, 1160, 1161, 1200, 1400] {
                let whole = packet(is_v4, payload);
                let begin = if is_v4 { V4_BYTES } else { V6_BYTES };
                let once = all(&Fragments::new(&whole, 1220, 0x1_beef).unwrap());
                assert_eq!(together(&once, is_v4, 1220), whole[begin..], "{payload}");
                let cut = |part: &Vec<u8>| all(&Fragments::new(part, 700, 7).unwrap());
                let twice: Vec<_> = once.iter().flat_map(cut).collect();
                // Their numbers are those of the first time.
                assert_eq!(together(&twice, is_v4, 700), whole[begin..], "{payload}");
            }
        }
        assert!(Fragments::new(&packet(true, 100), 24, 0).is_none());
        assert!(Fragments::new(&[], 1220, 0).is_none());
        let mut options = packet(false, 100);
        options[6] = 0;
        assert!(Fragments::new(&options, 60, 0).is_none());
    }
}
