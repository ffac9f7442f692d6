//! The shell of Incus commands: lines that somebody types, or sends, are read, judged and done here, one at a time on a
//! channel, by our own client of the server's API.
//!
//! Nothing is run on the host for it, neither a shell nor the server's client: so there is no program that could be talked
//! into a file, an editor or a pager, the policy is asked about each instance that is named or listed, and what a server
//! elsewhere is asked goes the way that logins go. A line is a session's word and reads as a stranger's. What it has begun
//! goes on when nobody waits for it any more.
//!
//! - here: a line from its question to its answer; `fence`: who may what; `changes`, `answers`: what is done.

mod answers;
mod changes;
mod fence;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, SealFlags};
use tokio::sync::{Notify, Semaphore, watch};

use super::Child;
use crate::audit::{Event, bounded};
use crate::broker::count::bump;
use crate::broker::grant::{Errand, Grant};
use crate::broker::open::{ABSENT, Order as Program, Refusal};
use crate::broker::recordings::Made;
use crate::broker::{Broker, lock};
use crate::shell::{self, redacted};
use crate::wire::{Reply, ShellAsked, ShellReply, ShellWhat};
use fence::Fence;

/// Exit statuses: of a line that says nothing that is here, of one nobody waited for (128 and SIGINT), and of the gateway's
/// own.
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;
const FAILED: u8 = 255;

/// Lines of a connection that are being done, waited for or not.
const AT_ONCE: usize = 16;

/// Longest answer, bytes.
const ANSWER_BYTES: usize = 32 << 20;

/// Longest text of what is wrong, bytes.
const ERRORS_BYTES: usize = 32 << 10;

/// How long somebody waits for what may follow.
const COMPLETION: Duration = Duration::from_secs(3);

/// Longest list of words in the audit log, bytes.
const NOTED_BYTES: usize = 1200;

/// Lines that are being done.
#[derive(Debug)]
pub(super) struct Shells {
    /// Those that are waited for, by their channels, each with the way not to wait.
    waiting: Mutex<BTreeMap<u32, Arc<Notify>>>,
    room: Arc<Semaphore>,
    /// Instances that were made and go with the connection.
    guests: Mutex<Vec<Grant>>,
}

impl Default for Shells {
    fn default() -> Self {
        Self { waiting: Mutex::default(), room: Arc::new(Semaphore::new(AT_ONCE)), guests: Mutex::default() }
    }
}

impl Shells {
    /// The connection has ended.
    pub(super) fn leave(&self, broker: &Arc<Broker>) {
        for guest in std::mem::take(&mut *lock(&self.guests)) {
            broker.depart(&guest);
        }
    }
}

/// What a line has come to.
#[derive(Debug, Default)]
struct Done {
    status: u8,
    text: String,
    errors: Vec<String>,
    project: Option<String>,
    ends: bool,
}

impl Done {
    fn said(text: String) -> Self {
        Self { text, ..Self::default() }
    }

    fn failed(status: u8, why: impl Into<String>) -> Self {
        Self { status, errors: vec![why.into()], ..Self::default() }
    }
}

impl From<Refusal> for Done {
    fn from(refusal: Refusal) -> Self {
        Self::failed(refusal.status, refusal.message)
    }
}

/// A line that is to be done.
struct Line {
    channel: u32,
    grant: Grant,
    /// Where it names none.
    project: String,
    text: String,
}

impl Child {
    /// Begins a shell of Incus commands.
    pub(super) async fn open_shell(
        &self,
        id: u64,
        channel: u32,
        grant: &Grant,
        program: &Program,
    ) -> Result<(), Refusal> {
        self.may_have_shell(grant)?;
        let recording = self.record(grant, program)?;
        lock(&self.running).insert(channel);
        bump(&self.broker.count.started);
        let terminal = program.terminal.is_some() && grant.options.pty;
        let name = recording.as_ref().map(Made::name);
        let (what, recorded) = ("incus-shell", name.as_deref());
        self.note(&Event::Started {
            grant,
            channel,
            what,
            terminal,
            keep: None,
            recording: recorded,
            agent: false,
            x11: false,
        });
        let server = if grant.remote == crate::remotes::LOCAL { String::new() } else { grant.remote.clone() };
        let history = if terminal { self.broker.history.of(&grant.person) } else { Vec::new() };
        let project = grant.project.clone();
        let reply = Reply::Shell(ShellReply::Dialogue { server, project, typed: terminal, history });
        self.say_recorded(id, reply, recording, Vec::new()).await;
        Ok(())
    }

    /// Whether a login is one that has a shell: asked for each line too, of which the session says whose it is.
    fn may_have_shell(&self, grant: &Grant) -> Result<(), Refusal> {
        if grant.errand != Some(Errand::Shell) || grant.options.command.is_some() {
            return Err(Refusal::new(ABSENT, "this login has no shell of Incus commands"));
        }
        // What anybody could have is no person's.
        if self.broker.options.options.auth.none {
            let text = "there is no shell of Incus commands where nobody proves who he is";
            return Err(Refusal::new(ABSENT, text));
        }
        let decision = self.broker.judge.has_shell(grant);
        if decision.allowed {
            return Ok(());
        }
        let text = format!("the shell of Incus commands is not allowed: {}", decision.reason);
        Err(Refusal::new(ABSENT, text))
    }

    /// Answers a question about a line.
    pub(super) fn shell_asked(
        self: &Arc<Self>,
        id: u64,
        asked: ShellAsked,
        raw: Vec<u8>,
        grant: Option<Grant>,
    ) {
        let Some(grant) = grant else { return };
        let (child, channel) = (Arc::clone(self), asked.channel);
        if asked.what == ShellWhat::Interrupt {
            if let Some(stop) = lock(&self.shells.waiting).get(&channel) {
                stop.notify_one();
            }
            return;
        }
        let may = self.may_have_shell(&grant);
        let line = String::from_utf8(raw).map(|text| Line { channel, grant, project: asked.project, text });
        self.broker.starting.spawn(async move {
            match (may, line, asked.what) {
                (Err(refusal), ..) => child.ran(id, Done { ends: true, ..refusal.into() }).await,
                (Ok(()), Ok(line), ShellWhat::Line { typed }) => child.line(id, line, typed).await,
                (Ok(()), Ok(line), _) => child.completed(id, &line).await,
                (Ok(()), Err(_), _) => child.ran(id, Done::failed(USAGE, "the line is not UTF-8")).await,
            }
        });
    }

    /// Does a line, and answers.
    async fn line(self: &Arc<Self>, id: u64, line: Line, typed: bool) {
        let channel = line.channel;
        let stop = Arc::new(Notify::new());
        // One at a time: the session asks no sooner.
        let is_busy = lock(&self.shells.waiting).contains_key(&channel);
        let room = Arc::clone(&self.shells.room).try_acquire_owned();
        let (false, Ok(room)) = (is_busy, room) else {
            return self.ran(id, Done::failed(FAILED, "too many commands are still being done")).await;
        };
        lock(&self.shells.waiting).insert(channel, Arc::clone(&stop));
        if typed {
            self.broker.history.add(&line.grant.person, &line.text);
        }
        let order = shell::read(&line.text);
        let is_change = matches!(&order, Ok(Some(order)) if order.is_change());
        if is_change {
            // Whoever is asked after this broker is not to do it once more.
            self.say(id, Reply::Starting, Vec::new()).await;
        }
        let (say, heard) = watch::channel(String::new());
        let asked = Instant::now();
        let (child, line) = (Arc::clone(self), Arc::new(line));
        let done_line = Arc::clone(&line);
        let mut doing = self.broker.starting.spawn(async move {
            let done = match order {
                Ok(Some(order)) => Fence::new(&child, &done_line, &say).run(order).await,
                Ok(None) => return Done::default(),
                Err(error) => Done::failed(USAGE, error.to_string()),
            };
            child.note_line(&done_line, done.status, asked.elapsed());
            drop(room);
            done
        });
        let done = tokio::select! {
            done = &mut doing => done.unwrap_or_else(|_| Done::failed(FAILED, "the gateway could not do it")),
            () = self.tell(id, heard) => Done::default(),
            () = stop.notified() => {
                if is_change {
                    Done::failed(INTERRUPTED, "not waited for: what the server has begun it brings to its end")
                } else {
                    doing.abort();
                    self.note_line(&line, INTERRUPTED, asked.elapsed());
                    Done::failed(INTERRUPTED, "interrupted")
                }
            }
        };
        lock(&self.shells.waiting).remove(&channel);
        self.ran(id, done).await;
    }

    fn note_line(&self, line: &Line, status: u8, time: Duration) {
        let mut room = NOTED_BYTES;
        let mut command = Vec::new();
        for word in redacted(&line.text).words {
            let word = bounded(&word);
            let Some(left) = room.checked_sub(word.len()) else {
                command.push("...".to_owned());
                break;
            };
            room = left;
            command.push(word);
        }
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let (grant, channel, command) = (&line.grant, line.channel, command.as_slice());
        self.note(&Event::IncusCommand { grant, channel, command, status, millis });
    }

    /// Answers with what a line has come to.
    async fn ran(&self, id: u64, mut done: Done) {
        let mut fds = Vec::new();
        if done.text.len() > ANSWER_BYTES {
            done = Done::failed(FAILED, format!("the answer is longer than {} MiB", ANSWER_BYTES >> 20));
        } else if !done.text.is_empty() {
            match sheet(&done.text) {
                Ok(sheet) => fds.push(sheet),
                Err(error) => {
                    tracing::error!(%error, "an answer is lost");
                    done = Done::failed(FAILED, "the gateway has no room for the answer");
                }
            }
        }
        let Done { status, errors, project, ends, .. } = done;
        let errors = cut(errors);
        self.say(id, Reply::Shell(ShellReply::Ran { status, errors, project, ends }), fds).await;
    }

    /// Answers with what may follow a line.
    async fn completed(&self, id: u64, line: &Line) {
        let (say, _heard) = watch::channel(String::new());
        let fence = Fence::new(self, line, &say);
        let found = tokio::time::timeout(COMPLETION, fence.complete(&line.text)).await;
        let (start, words) = found.ok().flatten().unwrap_or_default();
        self.say(id, Reply::Shell(ShellReply::Candidates { start, words }), Vec::new()).await;
    }
}

/// Lines of what is wrong, as many as fit.
fn cut(errors: Vec<String>) -> String {
    let mut text = String::new();
    for error in errors {
        if text.len() + error.len() > ERRORS_BYTES {
            text.push_str("and more\n");
            break;
        }
        text.push_str(&shell::calm(&error));
        text.push('\n');
    }
    text
}

/// A file in memory that can be read and not changed: whoever gets it may be slow.
fn sheet(text: &str) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("portway-answer", flags)?);
    file.write_all(text.as_bytes())?;
    file.rewind()?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Fails when an answer can be changed by who gets it, or is not whole.
    #[test]
    fn a_sheet_is_read() {
        let text = "x".repeat(300_000);
        let mut file = File::from(sheet(&text).expect("a file"));
        let mut read = String::new();
        file.read_to_string(&mut read).expect("it is read");
        assert!(read == text && file.write_all(b"y").is_err() && file.set_len(0).is_err());
    }

    /// Fails when what is wrong fills a packet, or does something to a terminal.
    #[test]
    fn what_is_wrong_is_bounded() {
        assert_eq!(cut(vec!["a\u{1b}[2J\n".to_owned(), "b".to_owned()]), "a\u{fffd}[2J\u{fffd}\nb\n");
        assert!(cut(vec!["x".repeat(1000); 100]).len() <= ERRORS_BYTES + 1000);
    }
}
