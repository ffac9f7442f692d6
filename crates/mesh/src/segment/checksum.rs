//! The Internet checksum (RFC 1071). Sums are taken in the machine's byte order and turned round at the end, which comes
//! to the same (section 2, B).

/// Adds 16-bit words to a sum. `bytes` begins at an even place of what is summed, and only the last piece may be odd.
pub(crate) fn add(sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let total = words.iter().fold(sum, |sum, word| sum + u64::from(u32::from_ne_bytes(*word)));
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    total + u64::from(u32::from_ne_bytes(last))
}

/// The 16 bits of a sum, as they stand in a packet, not inverted.
pub(crate) fn fold(sum: u64) -> [u8; 2] {
    let mut sum = sum;
    while let high @ 1.. = sum >> 16 {
        sum = (sum & 0xffff) + high;
    }
    u16::try_from(sum).unwrap_or(u16::MAX).to_ne_bytes()
}

/// The checksum of a sum.
pub(crate) fn finish(sum: u64) -> [u8; 2] {
    fold(sum).map(|byte| !byte)
}

/// Whether what was summed, its checksum with it, holds.
pub(crate) fn holds(sum: u64) -> bool {
    fold(sum) == [0xff, 0xff]
}

/// What TCP and UDP sum beside themselves (RFC 9293, 3.1; RFC 8200, 8.1).
pub(crate) fn pseudo(addresses: &[u8], protocol: u8, length: usize) -> u64 {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    add(add(add(0, addresses), &length), &[0, protocol])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, 3: it sums to ddf2.
    #[test]
    fn as_in_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(add(0, &bytes)), [0xdd, 0xf2]);
        assert_eq!(finish(add(0, &bytes)), [0x22, 0x0d]);
        assert!(holds(add(add(0, &bytes), &[0x22, 0x0d])));
        let padded = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0x00];
        assert_eq!(fold(add(0, &bytes[..7])), fold(add(0, &padded)));
        assert_eq!(fold(add(0, &[0xff; 40_000])), [0xff, 0xff]);
    }
}
