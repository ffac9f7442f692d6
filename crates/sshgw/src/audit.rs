//! Who did what: one line of JSON for each login, refusal and program. Never a key, a password or what was typed.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::time::SystemTime;

use portway_model::rfc3339;
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

#[cfg(test)]
mod tests {
    use super::*;

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
