//! Who did what: one line of JSON for each login, refusal, program, file and forward. Never a key, a password or what was typed.
//!
//! Lines are written in their order by a thread of their own, so that a slow disk holds nobody up. Lines that cannot
//! be written wait, up to a bound, and are tried again; how many were lost beyond it is a line too.

use std::collections::VecDeque;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use portway_model::rfc3339;
use serde::Serialize;

use crate::broker::Grant;
use crate::recording::End;
use crate::wire::{FileEnd, Forwarded};

/// Longest text of a stranger's in a line, characters.
const TEXT_CHARS: usize = 300;

/// Lines that wait for the disk. A line is below 2 kB, that of a file below 8.
const LINES: usize = 8192;

/// Pause after a line could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is tried at the end.
const LAST_TRIES: u32 = 3;

/// What happened.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(crate) enum Event<'a> {
    /// Somebody has logged in.
    Login {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
    },
    /// Somebody has not.
    Refused { login: String, reason: String },
    /// A program was started.
    Started {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        what: &'a str,
        terminal: bool,
        /// Name of the session that stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        keep: Option<&'a str>,
        /// Its recording, below their folder.
        #[serde(skip_serializing_if = "Option::is_none")]
        recording: Option<&'a str>,
        /// It is lent the client's agent.
        #[serde(skip_serializing_if = "is_not")]
        agent: bool,
        /// It is lent the client's display.
        #[serde(skip_serializing_if = "is_not")]
        x11: bool,
    },
    /// A recording has ended.
    Recorded {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        bytes: u64,
        end: End,
    },
    /// A program was not started.
    NotStarted {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        reason: String,
    },
    /// A program has ended. Without a status it was not looked after to its end.
    Ended {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        status: Option<u32>,
        bytes_in: u64,
        bytes_out: u64,
    },
    /// A line of the shell of Incus commands.
    IncusCommand {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        /// Its words, without what may be a secret.
        command: &'a [String],
        status: u8,
        millis: u64,
    },
    /// A file that was opened over SFTP, or was to be, and what became of it.
    File {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        channel: u32,
        /// As the client said it.
        path: &'a str,
        direction: Direction,
        bytes_in: u64,
        bytes_out: u64,
        millis: u64,
        result: FileEnd,
    },
    /// A connection that was forwarded has ended, or there was none.
    Forwarded {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        #[serde(flatten)]
        forwarded: &'a Forwarded,
    },
    /// More connections were forwarded, or refused, than have a line each.
    ForwardedMore {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        count: u64,
        refused: u64,
        bytes_in: u64,
        bytes_out: u64,
    },
    /// An instance was started for it, or could not be.
    InstanceStarted {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// A package was installed in its instance, or could not be: what keeps sessions that stay.
    PackageInstalled {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        package: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// An instance was made for it, or could not be.
    InstanceMade {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        image: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// An instance that the gateway has made was removed, or could not be.
    InstanceRemoved {
        /// Who had it made.
        owner: &'a str,
        remote: &'a str,
        project: &'a str,
        instance: &'a str,
        why: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        failed: Option<String>,
    },
    /// An operator has ended the connection by a command of the host.
    Killed {
        /// Who that was.
        uid: u32,
    },
    /// An operator has ended a session that stays by a command of the host.
    KeptEnded {
        /// Who that was.
        uid: u32,
        remote: &'a str,
        project: &'a str,
        instance: &'a str,
        instance_user: &'a str,
        /// Its name.
        keep: &'a str,
    },
    /// The connection's process asked for what it may not, and was killed.
    Breach { breach: String },
    /// The connection has ended.
    Left {
        #[serde(flatten, serialize_with = "Grant::identity")]
        grant: &'a Grant,
        seconds: u64,
    },
    /// Lines that could not be written, as many.
    Lost { lines: u64 },
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde has it")]
const fn is_not(value: &bool) -> bool {
    !*value
}

/// What a file was opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Direction {
    /// To be read by the client.
    Read,
    /// To be written.
    Write,
    /// Both.
    Both,
    /// Neither.
    None,
}

impl Direction {
    pub(crate) const fn of(reads: bool, writes: bool) -> Self {
        match (reads, writes) {
            (true, true) => Self::Both,
            (true, false) => Self::Read,
            (false, true) => Self::Write,
            (false, false) => Self::None,
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    session: &'a str,
    peer: &'a str,
    #[serde(flatten)]
    event: &'a Event<'a>,
}

/// The log. Dropping it waits until its lines are written, or cannot be.
#[derive(Debug)]
pub(crate) struct Audit {
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    lost: u64,
    is_ending: bool,
}

impl Audit {
    /// A log that can be written, in a folder that is made when it is not there.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        if let Some(dir) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
        }
        let shared = Arc::new(Shared { path, queue: Mutex::default(), changed: Condvar::new() });
        shared.file()?;
        let writing = Arc::clone(&shared);
        let writer = thread::Builder::new().name("portway-audit".to_owned()).spawn(move || writing.run())?;
        Ok(Self { shared, writer: Some(writer) })
    }

    /// Has a line written.
    pub(crate) fn write(&self, session: &str, peer: &str, event: &Event<'_>) {
        // A client opens files and connections as fast as it likes: logins and programs are not lost for that.
        let room =
            if matches!(event, Event::File { .. } | Event::Forwarded { .. }) { LINES / 2 } else { LINES };
        match line(session, peer, event) {
            Ok(line) => self.shared.put(line, room),
            Err(error) => tracing::error!(%error, "audit line lost"),
        }
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.shared.queue().is_ending = true;
        self.shared.changed.notify_one();
        if let Some(writer) = self.writer.take() {
            // It does not panic; if it did, there is nothing left to write with.
            let _ended = writer.join();
        }
    }
}

impl Shared {
    fn put(&self, line: Vec<u8>, room: usize) {
        let mut queue = self.queue();
        if queue.lines.len() < room {
            queue.lines.push_back(line);
        } else {
            queue.lost += 1;
        }
        drop(queue);
        self.changed.notify_one();
    }

    /// Writes what comes until the log is dropped.
    fn run(&self) {
        let mut tries = 0;
        loop {
            let (batch, is_ending) = self.batch();
            if batch.is_empty() {
                return;
            }
            match self.append(&batch) {
                Ok(()) => {
                    tries = 0;
                    self.written(batch.len());
                }
                Err(error) => {
                    tries += 1;
                    if tries == 1 {
                        tracing::error!(%error, path = %self.path.display(), "audit lines wait");
                    }
                    if is_ending && tries >= LAST_TRIES {
                        tracing::error!(lines = batch.len(), "audit lines lost");
                        return;
                    }
                    thread::sleep(if is_ending { RETRY / 10 } else { RETRY });
                }
            }
        }
    }

    /// What is to be written next; nothing at the end.
    fn batch(&self) -> (Vec<Vec<u8>>, bool) {
        let mut queue = self.queue();
        while queue.lines.is_empty() && !queue.is_ending {
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        (queue.lines.iter().cloned().collect(), queue.is_ending)
    }

    fn written(&self, lines: usize) {
        let mut queue = self.queue();
        queue.lines.drain(..lines);
        if queue.lost > 0
            && let Ok(line) = line("", "", &Event::Lost { lines: queue.lost })
        {
            queue.lost = 0;
            queue.lines.push_back(line);
        }
    }

    /// All of them or, as far as a file can be cut, none.
    fn append(&self, lines: &[Vec<u8>]) -> io::Result<()> {
        let mut file = self.file()?;
        let length = file.metadata()?.len();
        // One write, so that lines of several writers do not mix.
        let written = file.write_all(&lines.concat());
        if written.is_err() {
            // Half a line would spoil the next one. What cannot be cut stays.
            let _cut = file.set_len(length);
        }
        written
    }

    /// Opened for each batch, so that it can be moved away at any time.
    fn file(&self) -> io::Result<File> {
        let flags = nix::libc::O_NOFOLLOW;
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(&self.path)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn line(session: &str, peer: &str, event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
    let line = Line { time: rfc3339(SystemTime::now()), session, peer, event };
    let mut text = serde_json::to_vec(&line)?;
    text.push(b'\n');
    Ok(text)
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
        drop(audit);
        let text = std::fs::read_to_string(dir.path().join("log")).expect("a log");
        assert_eq!(text.lines().count(), 2);
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
            assert_eq!((value["event"].as_str(), value["session"].as_str()), (Some("refused"), Some("s")));
            assert!(line.len() < 1000 && !line.contains('\u{1b}'), "{line}");
        }
    }

    /// Fails when files displace what people did, or a name that is no text is no line.
    #[test]
    fn files_leave_room_for_people() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let audit = Audit::open(path.clone()).expect("a log");
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a folder");
        let grant = Grant::of_root();
        let file = Event::File {
            grant: &grant,
            channel: 0,
            path: "a\n\u{1b}\u{fffd}",
            direction: Direction::of(true, false),
            bytes_in: 0,
            bytes_out: 5,
            millis: 7,
            result: FileEnd::Closed,
        };
        (0..LINES).for_each(|_| audit.write("s", "192.0.2.1:1", &file));
        audit.write("s", "192.0.2.1:1", &Event::Left { grant: &grant, seconds: 1 });
        std::fs::remove_dir(&path).expect("removed");
        drop(audit);
        let text = std::fs::read_to_string(&path).expect("a log");
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
        assert_eq!((of("file"), of("left"), of("lost")), (LINES / 2, 1, 1));
        assert_eq!(lines[0]["path"], "a\n\u{1b}\u{fffd}");
        assert_eq!((&lines[0]["direction"], &lines[0]["result"]), (&"read".into(), &"closed".into()));
    }

    /// Fails when a disk that takes nothing loses a line, or holds up who writes.
    #[test]
    fn lines_wait_for_the_disk() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("log");
        let audit = Audit::open(path.clone()).expect("a log");
        // A folder of its name: nothing can be written until it has gone.
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("a folder");
        let event = Event::Refused { login: "c1".to_owned(), reason: "none".to_owned() };
        for _ in 0..LINES + 7 {
            audit.write("s", "192.0.2.1:1", &event);
        }
        std::fs::remove_dir(&path).expect("removed");
        let count = || std::fs::read_to_string(&path).unwrap_or_default().lines().count();
        portway_testkit::wait_for("the lines", || (count() == LINES + 1).then_some(())).expect("written");
        let text = std::fs::read_to_string(&path).expect("a log");
        assert!(
            text.lines().last().is_some_and(|line| line.contains("\"event\":\"lost\",\"lines\":7")),
            "{text:.200}"
        );
    }
}
