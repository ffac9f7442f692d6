//! Datagrams in a byte stream: before each its length, 16 bits, high byte first. So does DNS over TCP (RFC 1035,
//! 4.2.2; RFC 7766, 8).
//!
//! A segment of the stream may hold several frames and parts of some. A frame that is whole in what was read is
//! returned from there; the beginning of one that is not is kept until the rest has come, as far as it has come: a
//! length alone takes no memory.

/// Length of a header, bytes.
pub const HEADER_BYTES: usize = 2;

/// Longest payload of a frame, bytes.
pub const PAYLOAD_MAX_BYTES: usize = 0xffff;

/// Memory that a decoder keeps from one frame to the next of those that came together, bytes.
const SPARE_BYTES: usize = 2048;

/// The header of a frame with `length` bytes of payload; `None` when that is too long.
#[must_use]
pub fn header(length: usize) -> Option<[u8; HEADER_BYTES]> {
    u16::try_from(length).ok().map(u16::to_be_bytes)
}

/// Finds the frames of one stream.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The beginning of a frame, header included.
    partial: Vec<u8>,
    /// The frame in `partial` is whole and has been returned.
    returned: bool,
}

impl Decoder {
    /// Takes the next frame from `input`, what was read from the stream, and returns its payload. `None`: `input` is
    /// used up, and the beginning of a frame that it ended with is kept.
    pub fn next<'s, 'i: 's>(&'s mut self, input: &mut &'i [u8]) -> Option<&'s [u8]> {
        if self.returned {
            self.returned = false;
            self.partial.clear();
            // A stream that has said all it had to say holds nothing.
            self.partial.shrink_to(if input.is_empty() { 0 } else { SPARE_BYTES });
        }
        if self.partial.is_empty()
            && let Some(frame) = whole(input)
        {
            *input = input.get(HEADER_BYTES + frame.len()..).unwrap_or_default();
            return Some(frame);
        }
        self.fill(HEADER_BYTES, input);
        let length = self.partial.first_chunk().map(|header| usize::from(u16::from_be_bytes(*header)))?;
        self.fill(HEADER_BYTES + length, input);
        if self.partial.len() < HEADER_BYTES + length {
            return None;
        }
        self.returned = true;
        self.partial.get(HEADER_BYTES..)
    }

    /// Memory that it holds, bytes.
    #[must_use]
    pub fn kept_bytes(&self) -> usize {
        self.partial.capacity()
    }

    /// Whether a frame has begun that is not whole.
    #[must_use]
    pub fn is_amid(&self) -> bool {
        !self.returned && !self.partial.is_empty()
    }

    /// Moves bytes from `input` until `length` are kept.
    fn fill(&mut self, length: usize, input: &mut &[u8]) {
        let wanted = length.saturating_sub(self.partial.len());
        let (taken, rest) = input.split_at(wanted.min(input.len()));
        self.partial.extend_from_slice(taken);
        *input = rest;
    }
}

/// The payload of the frame that `input` begins with, if all of it is there.
fn whole(input: &[u8]) -> Option<&[u8]> {
    let length = usize::from(u16::from_be_bytes(*input.first_chunk()?));
    input.get(HEADER_BYTES..HEADER_BYTES + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_big_endian_and_end_at_16_bits() {
        assert_eq!(header(0), Some([0, 0]));
        assert_eq!(header(258), Some([1, 2]));
        assert_eq!(header(PAYLOAD_MAX_BYTES), Some([0xff, 0xff]));
        assert_eq!(header(PAYLOAD_MAX_BYTES + 1), None);
    }

    #[test]
    fn several_in_a_segment_and_one_over_several() {
        let mut decoder = Decoder::default();
        let mut input: &[u8] = b"\0\x02ab\0\0\0\x03c";
        assert_eq!(decoder.next(&mut input), Some(&b"ab"[..]));
        assert_eq!(decoder.next(&mut input), Some(&b""[..]));
        assert_eq!(decoder.next(&mut input), None);
        assert!(decoder.is_amid());
        let mut input: &[u8] = b"de\0";
        assert_eq!(decoder.next(&mut input), Some(&b"cde"[..]));
        assert!(!decoder.is_amid());
        assert_eq!(decoder.next(&mut input), None);
        assert!(decoder.is_amid(), "half a header");
        assert!(decoder.kept_bytes() > 0);
        let mut input: &[u8] = b"\0";
        assert_eq!(decoder.next(&mut input), Some(&b""[..]));
        assert_eq!(decoder.next(&mut input), None);
        assert_eq!(decoder.kept_bytes(), 0);
    }

    /// Fails when: the length that a header announces is reserved.
    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.next(&mut &b"\xff\xffx"[..]), None);
        assert!(decoder.kept_bytes() <= SPARE_BYTES);
        let long = vec![0; PAYLOAD_MAX_BYTES];
        let mut input = &long[..];
        assert_eq!(decoder.next(&mut input).map(<[u8]>::len), Some(PAYLOAD_MAX_BYTES));
        assert_eq!(decoder.next(&mut &b"\0"[..]), None);
        assert!(decoder.kept_bytes() <= SPARE_BYTES, "the long frame's memory is given back");
    }
}
