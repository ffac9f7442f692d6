//! What a service has said, a line each: `1763700000.123456789 o text`.

use std::fmt;

/// A time: since 1970, UTC. Ordered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// Whole seconds.
    pub seconds: u64,
    /// Below one thousand million.
    pub nanoseconds: u32,
}

impl Stamp {
    /// The next one.
    #[must_use]
    pub const fn after(self) -> Self {
        if self.nanoseconds < 999_999_999 {
            Self { nanoseconds: self.nanoseconds + 1, ..self }
        } else {
            Self { seconds: self.seconds.saturating_add(1), nanoseconds: 0 }
        }
    }

    /// Seconds, a point and nine digits; `None` for anything else.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let (seconds, nanoseconds) = text.split_once('.')?;
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(seconds) || !digits(nanoseconds) || nanoseconds.len() != 9 {
            return None;
        }
        Some(Self { seconds: seconds.parse().ok()?, nanoseconds: nanoseconds.parse().ok()? })
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.seconds, self.nanoseconds)
    }
}

/// Where a record is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Standard output.
    Out,
    /// Standard error.
    Error,
    /// The first process itself.
    Own,
}

/// A line, or a part of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was read from the service. No two of one service's are equal, and later ones are greater.
    pub at: Stamp,
    /// Where from.
    pub source: Source,
    /// The line goes on in the next record from there.
    pub goes_on: bool,
    /// Without the line's end. Any bytes but that.
    pub text: &'a [u8],
}

impl<'a> Record<'a> {
    /// Adds it with its line's end.
    pub fn write(&self, to: &mut Vec<u8>) {
        let letter = match (self.source, self.goes_on) {
            (Source::Out, false) => 'o',
            (Source::Out, true) => 'O',
            (Source::Error, false) => 'e',
            (Source::Error, true) => 'E',
            (Source::Own, _) => 'n',
        };
        to.extend_from_slice(format!("{} {letter} ", self.at).as_bytes());
        to.extend_from_slice(self.text);
        to.push(b'\n');
    }

    /// The reverse, of a line without its end; `None` for what is none.
    #[must_use]
    pub fn read(line: &'a [u8]) -> Option<Self> {
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let at = Stamp::read(str::from_utf8(parts.next()?).ok()?)?;
        let (source, goes_on) = match parts.next()? {
            b"o" => (Source::Out, false),
            b"O" => (Source::Out, true),
            b"e" => (Source::Error, false),
            b"E" => (Source::Error, true),
            b"n" => (Source::Own, false),
            _ => return None,
        };
        Some(Self { at, source, goes_on, text: parts.next()? })
    }

    /// The records of a log, what is none left out; the last line only when it has an end.
    pub fn all(log: &'a [u8]) -> impl Iterator<Item = Record<'a>> {
        let whole = log.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        log[..whole].split(|byte| *byte == b'\n').filter_map(Record::read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        let at = |nanoseconds| Stamp { seconds: 5, nanoseconds };
        let records = [
            Record { at: at(1), source: Source::Out, goes_on: false, text: b"" },
            Record { at: at(2), source: Source::Out, goes_on: true, text: b" a  b " },
            Record { at: at(3), source: Source::Error, goes_on: false, text: b"\xff\r\0" },
            Record { at: at(4), source: Source::Error, goes_on: true, text: b"o" },
            Record { at: at(5), source: Source::Own, goes_on: false, text: b"exited" },
        ];
        let mut log = Vec::new();
        for record in &records {
            record.write(&mut log);
        }
        assert!(log.starts_with(b"5.000000001 o \n"));
        assert_eq!(Record::all(&log).collect::<Vec<_>>(), records);
        // Cut anywhere, nothing is made up.
        for cut in 0..log.len() {
            let whole = log[..cut].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(Record::all(&log[..cut]).count(), whole, "{cut}");
        }
    }

    #[test]
    fn what_is_no_record_is_left_out() {
        let log = b"x\n1.5 o a\n1.000000000 x a\n1.000000000 o\n\n-1.000000000 o a\n+1.000000000 o a\n1.000000000 o a\n";
        assert_eq!(Record::all(log).count(), 1);
    }

    #[test]
    fn the_next_stamp_is_greater() {
        let last = Stamp { seconds: 1, nanoseconds: 999_999_999 };
        assert_eq!(last.after(), Stamp { seconds: 2, nanoseconds: 0 });
        assert!(last < last.after() && last.after() < last.after().after());
    }
}
