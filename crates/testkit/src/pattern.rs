//! Bytes that tell where they belong: any loss, repetition or swap shows, and says where.

use std::io::{self, Read, Write};

use anyhow::{Context as _, Result, bail};

/// An endless sequence of bytes, one per seed; two connections with different seeds cannot be
/// mixed up unseen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern {
    seed: u64,
}

/// How much is written or read at once.
const CHUNK: usize = 64 << 10;

impl Pattern {
    /// The sequence of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// Fills `buffer` with what stands at `offset` and after.
    pub fn fill(self, offset: u64, buffer: &mut [u8]) {
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let word = self.word(at / 8);
            let from = &word[usize::try_from(at % 8).unwrap_or_default()..];
            let length = from.len().min(rest.len());
            let (now, later) = rest.split_at_mut(length);
            now.copy_from_slice(&from[..length]);
            (at, rest) = (at + length as u64, later);
        }
    }

    /// The first `length` bytes.
    #[must_use]
    pub fn bytes(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.fill(0, &mut bytes);
        bytes
    }

    /// Writes the first `length` bytes.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(self, length: u64, mut to: impl Write) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        while done < length {
            let size = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            self.fill(done, &mut buffer[..size]);
            to.write_all(&buffer[..size])?;
            done += size as u64;
        }
        Ok(())
    }

    /// Reads to the end and checks that it is exactly the first `length` bytes.
    ///
    /// # Errors
    /// When reading fails, or anything differs; the message says at which byte.
    pub fn check_to_end(self, length: u64, mut from: impl Read) -> Result<()> {
        self.check(length, &mut from)?;
        let more = from.read(&mut [0]).context("no end of stream")?;
        if more != 0 { bail!("more than {length} bytes") } else { Ok(()) }
    }

    /// Reads `length` bytes and checks them.
    ///
    /// # Errors
    /// When reading fails, ends early, or anything differs.
    pub fn check(self, length: u64, mut from: impl Read) -> Result<()> {
        let (mut buffer, mut wanted) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut done = 0;
        while done < length {
            let size = usize::try_from(length - done).unwrap_or(CHUNK).min(CHUNK);
            let read = from
                .read(&mut buffer[..size])
                .with_context(|| format!("broke after {done} of {length} bytes"))?;
            if read == 0 {
                bail!("ended after {done} of {length} bytes");
            }
            self.fill(done, &mut wanted[..read]);
            if buffer[..read] != wanted[..read] {
                let at = (0..read).find(|at| buffer[*at] != wanted[*at]).unwrap_or_default();
                bail!("byte {} of {length} is wrong", done + at as u64);
            }
            done += read as u64;
        }
        Ok(())
    }

    /// Every 8 bytes are a hash of their number and the seed (the finisher of splitmix64).
    fn word(self, number: u64) -> [u8; 8] {
        let mut x = number.wrapping_add(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^= x >> 31;
        x.to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_accepted_and_nothing_else() {
        let (pattern, length) = (Pattern::new(7), 100_003);
        let mut bytes = Vec::new();
        pattern.write(length, &mut bytes).unwrap();
        assert_eq!(bytes, pattern.bytes(100_003));
        pattern.check_to_end(length, &bytes[..]).unwrap();
        let error = |bytes: &[u8]| pattern.check_to_end(length, bytes).unwrap_err().to_string();
        assert_eq!(error(&bytes[..70_000]), "ended after 70000 of 100003 bytes");
        let mut wrong = bytes.clone();
        wrong[99_999] ^= 1;
        assert_eq!(error(&wrong), "byte 99999 of 100003 is wrong");
        wrong = bytes.clone();
        wrong.push(0);
        assert_eq!(error(&wrong), "more than 100003 bytes");
        // Eight bytes lost: everything after them is elsewhere.
        wrong = [&bytes[..4096], &bytes[4104..]].concat();
        assert!(error(&wrong).contains("is wrong"));
        assert!(Pattern::new(8).check(8, &bytes[..]).is_err());
    }
}
