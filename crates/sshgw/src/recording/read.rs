//! A recording that is read: of ours, or of any other program that writes the format.

use std::io::{self, BufRead, Read as _};
use std::time::Duration;

use serde::Deserialize;

use super::VERSION;

/// Longest line, bytes: of what one read of a program brought, every byte escaped.
const LINE_BYTES: u64 = 2 << 20;

/// Latest moment: a year.
const LATEST_SECS: f64 = 366.0 * 86_400.0;

/// Why it is none, or none any more.
#[derive(Debug, thiserror::Error)]
pub enum CastError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    /// Its first line says no such thing.
    #[error("line 1: this is no recording of asciinema's format")]
    Header(#[source] serde_json::Error),
    /// It is of another version.
    #[error("line 1: it is of version {0} of the format, and {VERSION} is read")]
    Version(u32),
    /// A line that says nothing that could happen.
    #[error("line {line}: {what}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// A line that is no JSON.
    #[error("line {line}: it is no JSON")]
    Json {
        /// From 1.
        line: u64,
        /// Why.
        source: serde_json::Error,
    },
}

/// Its first line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Header {
    version: u32,
    width: u16,
    height: u16,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(default)]
    title: Option<String>,
}

/// A recording, moment by moment.
#[derive(Debug)]
pub struct Cast<R> {
    lines: R,
    number: u64,
    header: Header,
    /// No moment is before the last one.
    last: Duration,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// Since the beginning.
    pub at: Duration,
    /// What.
    pub what: Happened,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Happened {
    /// A program wrote something.
    Output(String),
    /// The terminal got another size: columns, rows.
    Resize(u16, u16),
    /// Somebody has marked the place.
    Mark(String),
}

impl<R: BufRead> Cast<R> {
    /// Reads the first line.
    ///
    /// # Errors
    /// [`CastError`].
    pub fn new(mut lines: R) -> Result<Self, CastError> {
        let text = next_line(&mut lines, 1)?.unwrap_or_default();
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let of: Versioned = serde_json::from_str(&text).map_err(CastError::Header)?;
        if of.version != VERSION {
            return Err(CastError::Version(of.version));
        }
        let header = serde_json::from_str(&text).map_err(CastError::Header)?;
        Ok(Self { lines, number: 1, header, last: Duration::ZERO })
    }

    /// Columns and rows at the beginning.
    #[must_use]
    pub fn size(&self) -> (u16, u16) {
        (self.header.width, self.header.height)
    }

    /// When it began, seconds since 1970.
    #[must_use]
    pub fn began(&self) -> Option<u64> {
        self.header.timestamp
    }

    /// What it is of.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.header.title.as_deref()
    }

    /// The next moment; `None` at the end. A last line without its end is one that was being written: it is left out.
    ///
    /// # Errors
    /// [`CastError`]; what comes after it is not read.
    pub fn next_moment(&mut self) -> Result<Option<Moment>, CastError> {
        loop {
            self.number += 1;
            let line = self.number;
            let Some(text) = next_line(&mut self.lines, line)? else { return Ok(None) };
            if text.trim().is_empty() {
                continue;
            }
            let (at, kind, data): (f64, String, String) =
                serde_json::from_str(&text).map_err(|source| CastError::Json { line, source })?;
            if !(0.0..=LATEST_SECS).contains(&at) {
                return Err(CastError::Line { line, what: "its time is none" });
            }
            self.last = self.last.max(Duration::from_secs_f64(at));
            let what = match kind.as_str() {
                "o" => Happened::Output(data),
                "m" => Happened::Mark(data),
                "r" => match data.split_once('x').map(|(one, two)| (one.parse(), two.parse())) {
                    Some((Ok(columns), Ok(rows))) => Happened::Resize(columns, rows),
                    _ => return Err(CastError::Line { line, what: "its size is none" }),
                },
                // Input, and what later versions know.
                _ => continue,
            };
            return Ok(Some(Moment { at: self.last, what }));
        }
    }
}

fn next_line(lines: &mut impl BufRead, line: u64) -> Result<Option<String>, CastError> {
    let mut bytes = Vec::new();
    lines.by_ref().take(LINE_BYTES).read_until(b'\n', &mut bytes).map_err(CastError::Read)?;
    if bytes.last() != Some(&b'\n') {
        let is_long = u64::try_from(bytes.len()).is_ok_and(|length| length >= LINE_BYTES);
        return if is_long { Err(CastError::Line { line, what: "it is too long" }) } else { Ok(None) };
    }
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| CastError::Line { line, what: "it is no text" })
}
