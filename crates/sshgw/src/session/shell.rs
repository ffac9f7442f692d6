//! The shell of Incus commands as its client sees it: lines are typed, or come, here; the broker does them.
//!
//! What is typed while a line is done waits, but for Ctrl-C. A gateway that ends takes no shell with it: the next one is
//! asked. What it had begun to change is told as such and not asked for twice.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use bytes::Bytes;
use portway_proto::guest::Size;
use russh::ChannelWriteHalf;
use russh::server::Msg;

use super::inbox::{Outlet, Pieces, Steer, Steering};
use super::link::{Answer, Lost};
use super::program::{Counts, End, Gateway, STDERR, Unheard, Wanted};
use super::teller::{Teller, in_words};
use crate::shell::{Done, Editor, LINE_BYTES, USUAL_PROJECT};
use crate::wire::{Reply, Request, ShellAsked, ShellReply, ShellWhat, What};

/// Exit statuses: of a line that cannot be one, and where the gateway could not go on.
const USAGE: u8 = 2;
const FAILED: u8 = 255;

/// Ctrl-C.
const INTERRUPT: u8 = 3;

/// What is typed ahead, bytes; more is lost, as on a terminal.
const AHEAD_BYTES: usize = 16 << 10;

/// Bytes of an answer that are sent at a time.
const PIECE_BYTES: usize = 32 << 10;

/// How long somebody waits for what may follow.
const COMPLETION: Duration = Duration::from_secs(5);

/// What is said first to somebody at a terminal.
const GREETING: &str = "Incus commands of this gateway; `help` lists them.\n";

/// What a shell begins with.
#[derive(Debug)]
pub(super) struct Dialogue {
    pub(super) server: String,
    pub(super) project: String,
    pub(super) history: Vec<String>,
    /// The one line that it is for.
    pub(super) line: Option<Vec<u8>>,
    /// The client's terminal.
    pub(super) size: Option<Size>,
    /// Whether lines are typed there.
    pub(super) is_typed: bool,
}

impl Dialogue {
    /// Of what a client wants, at a server and in a project.
    pub(super) fn new(
        wanted: &Wanted,
        (server, project): (String, String),
        is_typed: bool,
        history: Vec<String>,
    ) -> Self {
        let line = (wanted.what == What::Command).then(|| wanted.command.clone());
        let size = wanted.screen.as_ref().map(|screen| screen.size);
        Self { server, project, history, line, size, is_typed }
    }
}

/// A shell that runs.
struct Shell<'s> {
    gateway: &'s Gateway,
    channel: &'s ChannelWriteHalf<Msg>,
    counts: &'s Counts,
    input: Pieces,
    steering: Steering,
    dialogue: Dialogue,
    ahead: VecDeque<u8>,
    /// The client has said that there is no more.
    is_over: bool,
}

/// What a line has come to.
struct Ran {
    status: u8,
    ends: bool,
}

/// Serves a shell to its end; `None`: nobody is there to be told.
pub(super) async fn converse(
    gateway: &Gateway,
    channel: &ChannelWriteHalf<Msg>,
    outlet: Outlet,
    mut dialogue: Dialogue,
    counts: &Counts,
) -> Option<End> {
    let Outlet { input, steering } = outlet;
    let line = dialogue.line.take();
    let mut shell =
        Shell { gateway, channel, counts, input, steering, dialogue, ahead: VecDeque::new(), is_over: false };
    let status = match line {
        Some(line) => shell.run(line, false, None).await.map(|ran| ran.status),
        None if shell.dialogue.is_typed => shell.typed().await,
        None => shell.script().await,
    };
    status.ok().map(End::Status)
}

impl Shell<'_> {
    fn prompt(&self) -> String {
        let Dialogue { server, project, .. } = &self.dialogue;
        let server = if server.is_empty() { String::new() } else { format!("{server}:") };
        let project = if project == USUAL_PROJECT { "" } else { project };
        let at = format!("{server}{project}");
        if at.is_empty() { "incus> ".to_owned() } else { format!("incus {at}> ") }
    }

    /// Lines that somebody types.
    async fn typed(&mut self) -> Result<u8, Unheard> {
        self.say(GREETING).await?;
        let columns = self.dialogue.size.map_or(80, |size| size.columns);
        let history = std::mem::take(&mut self.dialogue.history);
        let mut editor = Editor::new(&self.prompt(), history, columns);
        loop {
            self.send(editor.output().into_bytes()).await?;
            let Some(byte) = self.byte(&mut editor).await? else { return Ok(0) };
            match editor.byte(byte) {
                None => {}
                Some(Done::Leave) => {
                    self.send(editor.output().into_bytes()).await?;
                    return Ok(0);
                }
                Some(Done::Complete(text)) => {
                    if let Some((start, words)) = self.complete(&text).await {
                        editor.complete(start, &words);
                    }
                }
                Some(Done::Line(line)) => {
                    self.send(editor.output().into_bytes()).await?;
                    if !line.trim().is_empty() {
                        let ran = self.run(line.into_bytes(), true, Some(&mut editor)).await?;
                        if ran.ends {
                            return Ok(ran.status);
                        }
                    }
                    let prompt = self.prompt();
                    editor.begin(&prompt);
                }
            }
        }
    }

    /// The next byte that is typed; `None`: there is no more.
    async fn byte(&mut self, editor: &mut Editor) -> Result<Option<u8>, Unheard> {
        loop {
            if let Some(byte) = self.ahead.pop_front() {
                return Ok(Some(byte));
            }
            tokio::select! {
                piece = self.input.next() => match piece {
                    Some(piece) => self.ahead.extend(piece),
                    None => return Ok(None),
                },
                steer = self.steering.next() => match steer {
                    Steer::Resize(size) => {
                        self.counts.resized(size);
                        editor.resize(size.columns);
                        self.send(editor.output().into_bytes()).await?;
                    }
                    Steer::Signal(number) if number == nix::libc::SIGINT => return Ok(Some(INTERRUPT)),
                    Steer::Signal(_) => return Ok(None),
                    Steer::Hangup => return Err(Unheard),
                },
            }
        }
    }

    /// Lines that come, until one fails or there are no more. The last one needs no end.
    async fn script(&mut self) -> Result<u8, Unheard> {
        let mut waiting: Vec<u8> = Vec::new();
        loop {
            let piece = tokio::select! {
                piece = self.input.next() => piece,
                () = self.steering.hangup() => return Err(Unheard),
            };
            let is_last = piece.is_none();
            if is_last && !self.input.is_whole() {
                return Err(Unheard);
            }
            waiting.extend_from_slice(&piece.unwrap_or_default());
            while let Some(end) = waiting.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
                let line: Vec<u8> = waiting.drain(..=end).take(end).collect();
                if let Some(status) = self.script_line(line).await? {
                    return Ok(status);
                }
            }
            if is_last || waiting.len() > LINE_BYTES {
                let ended = self.script_line(std::mem::take(&mut waiting)).await?;
                return Ok(ended.unwrap_or(0));
            }
        }
    }

    /// Does a line of a script; `Some`: it was the last, with this status.
    async fn script_line(&mut self, line: Vec<u8>) -> Result<Option<u8>, Unheard> {
        let text = line.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            return Ok(None);
        }
        let ran = self.run(text.to_vec(), false, None).await?;
        Ok((ran.ends || ran.status != 0).then_some(ran.status))
    }

    /// Has a line done.
    async fn run(&mut self, line: Vec<u8>, typed: bool, editor: Option<&mut Editor>) -> Result<Ran, Unheard> {
        if line.len() > LINE_BYTES {
            self.complain(&format!("the line is longer than {LINE_BYTES} bytes\n")).await?;
            return Ok(Ran { status: USAGE, ends: false });
        }
        self.counts.came(line.len());
        let answer = self.answered(&line, typed, editor).await?;
        match answer {
            Ok((Reply::Shell(ShellReply::Ran { status, errors, project, ends }), mut fds)) => {
                if let Some(sheet) = fds.pop() {
                    self.read_out(File::from(sheet)).await?;
                }
                self.complain(&errors).await?;
                if let Some(project) = project {
                    self.dialogue.project = project;
                }
                Ok(Ran { status, ends })
            }
            Ok((Reply::Refused { status, message }, _)) => {
                self.complain(&format!("{message}\n")).await?;
                Ok(Ran { status, ends: false })
            }
            Ok(_) => {
                self.complain("the gateway does not understand the shell: it is another version\n").await?;
                Ok(Ran { status: FAILED, ends: true })
            }
            Err(lost) => {
                let text = format!("{lost}; what was begun may be done, and `list` and `info` show it\n");
                self.complain(&text).await?;
                Ok(Ran { status: FAILED, ends: false })
            }
        }
    }

    /// Asks for a line to be done. Whoever types can have it not waited for.
    async fn answered(
        &mut self,
        line: &[u8],
        typed: bool,
        mut editor: Option<&mut Editor>,
    ) -> Result<Result<Answer, Lost>, Unheard> {
        let asked = self.asked(ShellWhat::Line { typed });
        let stop = self.asked(ShellWhat::Interrupt);
        let link = &self.gateway.link;
        let mut teller = Teller::new(self.channel, self.dialogue.size.is_some());
        let answer = {
            let asking = link.ask_telling(asked, line, Some(&mut teller));
            tokio::pin!(asking);
            loop {
                tokio::select! {
                    answer = &mut asking => break answer,
                    piece = self.input.next(), if typed && !self.is_over => {
                        let Some(piece) = piece else {
                            self.is_over = true;
                            continue;
                        };
                        if keep(&mut self.ahead, &piece) {
                            link.tell(stop.clone()).await;
                        }
                    }
                    steer = self.steering.next() => match steer {
                        Steer::Resize(size) => {
                            self.counts.resized(size);
                            if let Some(editor) = editor.as_deref_mut() {
                                editor.resize(size.columns);
                            }
                        }
                        Steer::Signal(_) => link.tell(stop.clone()).await,
                        Steer::Hangup => return Err(Unheard),
                    },
                }
            }
        };
        teller.end().await;
        Ok(answer)
    }

    fn asked(&self, what: ShellWhat) -> Request {
        let (channel, project) = (u32::from(self.channel.id()), self.dialogue.project.clone());
        Request::Shell(ShellAsked { channel, project, what })
    }

    async fn complete(&self, text: &str) -> Option<(usize, Vec<String>)> {
        let asking = self.gateway.link.ask(self.asked(ShellWhat::Complete), text.as_bytes());
        match tokio::time::timeout(COMPLETION, asking).await {
            Ok(Ok((Reply::Shell(ShellReply::Candidates { start, words }), _))) => Some((start, words)),
            _ => None,
        }
    }

    /// Sends an answer, until somebody has enough of it.
    async fn read_out(&mut self, mut sheet: File) -> Result<(), Unheard> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = match sheet.read(&mut piece) {
                Ok(0) | Err(_) => return Ok(()),
                Ok(count) => count,
            };
            self.send(self.ended(piece.get(..count).unwrap_or_default())).await?;
            // What has come meanwhile, without waiting for it.
            let typed = self.dialogue.is_typed && !self.is_over;
            if typed
                && let Ok(Some(more)) = tokio::time::timeout(Duration::ZERO, self.input.next()).await
                && keep(&mut self.ahead, &more)
            {
                return self.say("^C\n").await;
            }
        }
    }

    /// Lines as the client's terminal takes them, if it has one.
    fn ended(&self, bytes: &[u8]) -> Vec<u8> {
        if self.dialogue.size.is_none() {
            return bytes.to_vec();
        }
        let each = bytes
            .iter()
            .flat_map(|byte| if *byte == b'\n' { &b"\r\n"[..] } else { std::slice::from_ref(byte) });
        each.copied().collect()
    }

    async fn say(&self, text: &str) -> Result<(), Unheard> {
        self.send(self.ended(text.as_bytes())).await
    }

    /// Says what is wrong: on standard error where there is one.
    async fn complain(&self, text: &str) -> Result<(), Unheard> {
        let mut said = String::new();
        for line in in_words(text).lines() {
            said.push_str("portway: ");
            said.push_str(line);
            said.push('\n');
        }
        let ext = self.dialogue.size.is_none().then_some(STDERR);
        self.send_to(ext, self.ended(said.as_bytes())).await
    }

    async fn send(&self, bytes: Vec<u8>) -> Result<(), Unheard> {
        self.send_to(None, bytes).await
    }

    async fn send_to(&self, ext: Option<u32>, bytes: Vec<u8>) -> Result<(), Unheard> {
        if bytes.is_empty() {
            return Ok(());
        }
        let count = bytes.len();
        if !self.counts.shows(ext, &bytes) {
            return Err(Unheard);
        }
        let sent = match ext {
            None => self.channel.data_bytes(Bytes::from(bytes)).await,
            Some(ext) => self.channel.extended_data_bytes(ext, Bytes::from(bytes)).await,
        };
        sent.map_err(|_| Unheard)?;
        self.counts.went(count);
        Ok(())
    }
}

/// Keeps what is typed ahead. Whether there is a Ctrl-C in it: then nothing before it counts.
fn keep(ahead: &mut VecDeque<u8>, piece: &[u8]) -> bool {
    let after = match piece.iter().rposition(|byte| *byte == INTERRUPT) {
        Some(at) => {
            ahead.clear();
            piece.get(at + 1..).unwrap_or_default()
        }
        None => piece,
    };
    let room = AHEAD_BYTES.saturating_sub(ahead.len());
    ahead.extend(after.iter().take(room));
    after.len() < piece.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when what is typed ahead is lost, is done after it was called off, or grows.
    #[test]
    fn what_is_typed_ahead() {
        let mut ahead = VecDeque::new();
        assert!(!keep(&mut ahead, b"list\r"));
        assert!(keep(&mut ahead, b"stop c1\r\x03inf\x03info"));
        assert_eq!(ahead.iter().copied().collect::<Vec<_>>(), b"info");
        assert!(!keep(&mut ahead, &vec![b'x'; 2 * AHEAD_BYTES]));
        assert_eq!(ahead.len(), AHEAD_BYTES);
    }
}
