//! The TLVs of a binary header: type, length, value (section 2.2.1 to 2.2.7). They are checked and not used.

use super::decode::Malformed;

/// `PP2_TYPE_CRC32C`: CRC32c of the whole header, taken with zeroes in its place.
const TYPE_CRC32C: u8 = 0x03;

/// `PP2_TYPE_SSL`: a byte, a number of 32 bits, and TLVs of its own.
const TYPE_SSL: u8 = 0x20;

/// What stands in `PP2_TYPE_SSL` before its TLVs, bytes.
const SSL_HEAD_BYTES: usize = 5;

/// Type and length, bytes.
const HEAD_BYTES: usize = 3;

/// Checks the TLVs that begin at byte `start` of `header`.
///
/// # Errors
/// One does not fit, one that holds others is within another one, or the checksum is wrong.
pub(super) fn check(header: &[u8], start: usize) -> Result<(), Malformed> {
    let mut checksum = None;
    walk(header, start, header.len(), |kind, from, to| {
        match kind {
            TYPE_CRC32C if to - from != 4 || checksum.is_some() => return Err(Malformed::Tlv),
            TYPE_CRC32C => checksum = Some(from),
            TYPE_SSL => {
                let inner = from + SSL_HEAD_BYTES;
                if inner > to {
                    return Err(Malformed::Tlv);
                }
                // One level: what is in there holds no others.
                walk(
                    header,
                    inner,
                    to,
                    |kind, _, _| {
                        if kind == TYPE_SSL { Err(Malformed::Tlv) } else { Ok(()) }
                    },
                )?;
            }
            _ => {}
        }
        Ok(())
    })?;
    match checksum {
        Some(at) if sum(header, at) != header.get(at..at + 4).unwrap_or_default() => Err(Malformed::Checksum),
        Some(_) | None => Ok(()),
    }
}

/// Calls `each` with type, begin and end of every TLV between `at` and `end` of `bytes`.
fn walk(
    bytes: &[u8],
    mut at: usize,
    end: usize,
    mut each: impl FnMut(u8, usize, usize) -> Result<(), Malformed>,
) -> Result<(), Malformed> {
    while at < end {
        let Some(&[kind, high, low]) = bytes.get(at..(at + HEAD_BYTES).min(end)) else {
            return Err(Malformed::Tlv);
        };
        let from = at + HEAD_BYTES;
        let to = from + usize::from(u16::from_be_bytes([high, low]));
        if to > end {
            return Err(Malformed::Tlv);
        }
        each(kind, from, to)?;
        at = to;
    }
    Ok(())
}

/// CRC32c (RFC 3720, appendix B.4) of `bytes` with the four at `hole` as zeroes, as it is sent.
fn sum(bytes: &[u8], hole: usize) -> [u8; 4] {
    /// The polynomial 0x1EDC6F41, bits reversed.
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for (at, byte) in bytes.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&at) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
        }
    }
    (!crc).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check value of the "123456789" string, and 32 zeroes of RFC 3720, B.4.
    #[test]
    fn the_sum_is_crc32c() {
        assert_eq!(sum(b"123456789", 100), 0xe306_9283_u32.to_be_bytes());
        assert_eq!(sum(&[0; 32], 100), 0x8a91_36aa_u32.to_be_bytes());
        assert_eq!(sum(&[0xff; 32], 0)[..], sum(&[&[0; 4][..], &[0xff; 28]].concat(), 100)[..]);
    }
}
