//! Reader of server-sent events: bytes in, the data of whole events out. No I/O.
//!
//! Follows the stream format of the HTML standard, section 9.2.6, for what the control API needs: `data` lines,
//! joined by a line feed; every other field and every comment is passed over. Lines end in LF or CRLF (a lone CR,
//! which the standard allows too, is data here: JSON never holds one).

use thiserror::Error;

/// An event is longer than the reader accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("an event is longer than {limit_bytes} bytes")]
pub struct TooLong {
    /// The limit.
    pub limit_bytes: usize,
}

/// Collects bytes until an event is whole.
#[derive(Debug)]
pub struct Reader {
    /// Bytes of lines that have not ended.
    line: Vec<u8>,
    /// Data of the event that has not ended; `None` before its first `data` line.
    data: Option<Vec<u8>>,
    limit_bytes: usize,
}

impl Reader {
    /// A reader that accepts events of up to `limit_bytes`.
    #[must_use]
    pub fn new(limit_bytes: usize) -> Reader {
        Reader { line: Vec::new(), data: None, limit_bytes }
    }

    /// Takes bytes in and returns the data of each event that they complete, in order.
    ///
    /// # Errors
    /// [`TooLong`]; the stream cannot be read on after it.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut whole = Vec::new();
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            self.grow_line(line)?;
            rest = &after[1..];
            whole.extend(self.end_line()?);
        }
        self.grow_line(rest)?;
        Ok(whole)
    }

    fn grow_line(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        self.fits(self.line.len() + bytes.len())?;
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    /// Acts on the line collected so far: an empty one ends the event.
    fn end_line(&mut self) -> Result<Option<Vec<u8>>, TooLong> {
        let mut line = std::mem::take(&mut self.line);
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.is_empty() {
            return Ok(self.data.take());
        }
        let Some(value) = line.strip_prefix(b"data") else { return Ok(None) };
        let value = match value {
            [b':', b' ', value @ ..] | [b':', value @ ..] => value,
            [] => value,
            _ => return Ok(None),
        };
        let before = self.data.as_ref().map_or(0, Vec::len);
        self.fits(before + value.len() + 1)?;
        match &mut self.data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            none => *none = Some(value.to_vec()),
        }
        Ok(None)
    }

    fn fits(&self, bytes: usize) -> Result<(), TooLong> {
        if bytes > self.limit_bytes { Err(TooLong { limit_bytes: self.limit_bytes }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
