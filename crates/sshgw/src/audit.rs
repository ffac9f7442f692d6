//! Who did what: one line of JSON for each login, refusal and program. Never a key, a password or what was typed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::broker::Grant;

/// Longest text of a stranger's in a line, characters.
const TEXT_CHARS: usize = 300;

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(crate) enum Event<'a> {
    /// Somebody has logged in.
    Login {
        #[serde(flatten)]
        grant: &'a Grant,
    },
    /// Somebody has not.
    Refused { login: String, reason: String },
    /// A program was started.
    Started {
        #[serde(flatten)]
        grant: &'a Grant,
        channel: u32,
        what: &'a str,
        terminal: bool,
    },
    /// A program was not started.
    NotStarted {
        #[serde(flatten)]
        grant: &'a Grant,
        channel: u32,
        reason: String,
    },
    /// A program has ended.
    Ended {
        #[serde(flatten)]
        grant: &'a Grant,
        channel: u32,
        status: Option<u32>,
        bytes_in: u64,
        bytes_out: u64,
    },
    /// The connection has ended.
    Left {
        #[serde(flatten)]
        grant: &'a Grant,
        seconds: u64,
    },
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    session: &'a str,
    peer: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The log.
#[derive(Debug)]
pub(crate) struct Audit {
    path: PathBuf,
}

impl Audit {
    /// A log that can be written, in a folder that is made when it is not there.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let audit = Self { path };
        audit.file()?;
        Ok(audit)
    }

    fn file(&self) -> io::Result<File> {
        let flags = nix::libc::O_NOFOLLOW;
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)
    }

    /// Writes a line. The file is opened for each, so that it can be moved away at any time.
    pub(crate) fn write(&self, session: &str, peer: &str, event: &Event<'_>) {
        if let Err(error) = self.try_write(session, peer, event) {
            tracing::error!(%error, path = %self.path.display(), "audit line lost");
        }
    }

    fn try_write(&self, session: &str, peer: &str, event: &Event<'_>) -> io::Result<()> {
        let line = Line { time: rfc3339(SystemTime::now()), session, peer, event };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        // One write, so that lines of several writers do not mix.
        self.file()?.write_all(&text)
    }
}

/// A stranger's text, bounded.
pub(crate) fn bounded(text: &str) -> String {
    text.chars().take(TEXT_CHARS).collect()
}

/// A time as RFC 3339 has it, in UTC, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", since.subsec_millis())
}

/// Year, month and day of the `days`th day after 1970-01-01, by the rules of the Gregorian calendar.
fn date(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        let at = |secs| rfc3339(UNIX_EPOCH + Duration::from_millis(secs));
        assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_399_999), "2000-02-28T23:59:59.999Z");
        assert_eq!(at(951_868_799_000), "2000-02-29T23:59:59.000Z");
        assert_eq!(at(1_709_251_200_000), "2024-03-01T00:00:00.000Z");
        assert_eq!(at(4_102_444_799_000), "2099-12-31T23:59:59.000Z");
    }

    /// Fails when a stranger's text can end a line or grow without bound.
    #[test]
    fn a_line_is_one_line() {
        let dir = tempfile::tempdir().expect("a folder");
        let audit = Audit::open(dir.path().join("log")).expect("a log");
        let login = bounded(&format!("c1\n{{\"event\":\"login\"}}\u{1b}[2J{}", "x".repeat(10_000)));
        let event = Event::Refused { login, reason: "none".to_owned() };
        audit.write("s", "192.0.2.1:1", &event);
        audit.write("s", "192.0.2.1:1", &event);
        let text = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((value["event"].as_str(), value["session"].as_str()), (Some("refused"), Some("s")));
            assert!(line.len() < 1000 && !line.contains('\u{1b}'), "{line}");
        }
    }
}
