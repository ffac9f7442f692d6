//! Recordings of sessions, as asciinema has them (asciicast, version 2): one line of JSON that says what it is, then one
//! for each thing that happened, with the seconds since the beginning.
//!
//! What a program wrote is in it, and how large the terminal was; what was typed is in it as far as it was shown.
//!
//! - here: what is written; `read`: what is read, believed as little as a stranger; `show`: on a terminal.

mod read;
mod show;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

pub use read::{Cast, CastError, Happened, Moment};
pub use show::{Calm, visible};

/// The only version that is written and read.
const VERSION: u32 = 2;

/// Size of what has no terminal: every player needs one.
const NO_TERMINAL: (u16, u16) = (80, 24);

/// How a recording is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terms {
    /// Longest file, bytes.
    pub(crate) most_bytes: u64,
    /// When it cannot go on, what is recorded goes on without it.
    pub(crate) goes_on: bool,
}

/// How a recording has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// With what it is of.
    Whole,
    /// It was as long as it may be.
    Full,
    /// The disk did not take it.
    Failed,
}

/// The first line.
pub(crate) fn header(
    size: Option<(u16, u16)>,
    began: u64,
    title: &str,
    kind: Option<&str>,
    command: Option<&str>,
) -> String {
    let (width, height) = size.unwrap_or(NO_TERMINAL);
    let mut header = json!({
        "version": VERSION,
        "width": width,
        "height": height,
        "timestamp": began,
        "title": title,
    });
    if let Some(kind) = kind {
        header["env"] = json!({ "TERM": kind });
    }
    if let Some(command) = command {
        header["command"] = json!(command);
    }
    header.to_string() + "\n"
}

/// Makes lines of what happens. Of each stream it keeps what is no whole character yet, three bytes at most.
#[derive(Debug, Default)]
pub(crate) struct Script {
    begun: [Vec<u8>; 2],
}

/// Where something was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// The terminal, or standard output.
    Out,
    /// Standard error.
    Error,
}

impl Script {
    /// Something was written. What is no text of UTF-8 is replaced: the format has no bytes.
    pub(crate) fn output(&mut self, at: Duration, stream: Stream, bytes: &[u8]) -> Option<String> {
        let begun = match stream {
            Stream::Out => &mut self.begun[0],
            Stream::Error => &mut self.begun[1],
        };
        begun.extend_from_slice(bytes);
        let mut text = String::with_capacity(begun.len());
        let mut rest: &[u8] = begun;
        let left = loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break Vec::new();
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    let Some(length) = error.error_len() else { break after.to_vec() };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(length..).unwrap_or_default();
                }
            }
        };
        *begun = left;
        (!text.is_empty()).then(|| line(at, "o", &text))
    }

    /// The terminal has another size.
    pub(crate) fn resize(at: Duration, columns: u16, rows: u16) -> String {
        line(at, "r", &format!("{columns}x{rows}"))
    }

    /// A remark of the gateway's.
    pub(crate) fn mark(at: Duration, text: &str) -> String {
        line(at, "m", text)
    }
}

fn line(at: Duration, kind: &str, text: &str) -> String {
    // Six digits behind the point, as many as a file of days has exactly.
    let mut line = format!("[{}.{:06}, \"{kind}\", ", at.as_secs(), at.subsec_micros());
    line += &json!(text).to_string();
    line += "]\n";
    line
}

#[cfg(test)]
mod tests;
