//! What sessions are kept, and the end of one: asked of their holders.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portway_proto::guest::{HELD_VERSION, Held, HeldState, Inbox};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};

use super::mux::{self, Mux};
use super::place;
use crate::serve;

/// How long a holder may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// How long one that is to end may say nothing at all.
const HANGS: Duration = Duration::from_secs(5);

/// How long one may take to end: longer than it lets its shell.
const END: Duration = Duration::from_secs(12);

/// Prints a line for each session of this user, and for each that this program keeps for him.
pub(super) fn list(mux: Option<Mux>) -> Result<(), String> {
    let mut text = String::new();
    for (name, stream) in place::all() {
        let line = match state(stream, ANSWER) {
            Answer::State(state) => described(&state),
            Answer::Other(version) => format!("of another version, {version}"),
            // Its end, or it takes nobody more.
            Answer::Ended if place::find(&name).is_none() => continue,
            Answer::Ended | Answer::Nothing => "does not answer".to_owned(),
        };
        text.push_str(&format!("{name}\t{line}\n"));
    }
    text.extend(mux.map(mux::list));
    if text.is_empty() {
        text.push_str("no session is kept\n");
    }
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot say so: {error}"))
}

/// Ends the session of that name: ours, or that of this program. A holder that says nothing is killed, and its shell hung up by that.
pub(super) fn kill(name: &str, mux: Option<Mux>) -> Result<(), String> {
    let Some(found) = place::find(name) else {
        let was_there = mux.map_or(Ok(false), |mux| mux::kill(mux, name))?;
        return if was_there { Ok(()) } else { Err(format!("there is no session {name}")) };
    };
    let holder = Holder::of(&found, name);
    drop(found);
    let question = |said, patience| place::find(name).map(|stream| ask(stream, &said, patience));
    let answer = match question(Held::Ask { version: HELD_VERSION }, HANGS) {
        Some(Answer::Nothing) => Some(Answer::Nothing),
        _ => question(Held::Kill { version: HELD_VERSION }, END),
    };
    if place::find(name).is_none()
        || (matches!(answer, Some(Answer::Nothing)) && holder.is_some_and(Holder::kill))
    {
        return Ok(());
    }
    Err(format!("session {name} does not end"))
}

/// The process behind a socket.
#[derive(Debug)]
struct Holder {
    fd: OwnedFd,
    path: PathBuf,
}

impl Holder {
    /// `None` where whoever listens is no holder of that session.
    fn of(stream: &UnixStream, name: &str) -> Option<Self> {
        let pid = rustix::net::sockopt::socket_peercred(stream).ok()?.pid;
        let fd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // A number that has another owner since is none of a holder of this name.
        let said = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
        let is_one = said.split(|byte| *byte == 0).skip(1).take(2).eq([b"hold", name.as_bytes()]);
        let path = stream.peer_addr().ok()?.as_pathname()?.to_owned();
        is_one.then_some(Self { fd, path })
    }

    /// Whether it is gone.
    fn kill(self) -> bool {
        let _gone = rustix::process::pidfd_send_signal(&self.fd, Signal::KILL);
        let patience = serve::until(Instant::now() + ANSWER);
        let mut polled = [PollFd::new(&self.fd, PollFlags::IN)];
        let is_gone = rustix::event::poll(&mut polled, Some(&patience)) == Ok(1);
        if is_gone {
            place::remove(&self.path);
        }
        is_gone
    }
}

/// `pid 12, 80x24, 1 viewer, for 3 h: vi`.
fn described(state: &HeldState) -> String {
    let HeldState { pid, viewers, size, age_secs, title } = state;
    let viewers = looking(*viewers);
    let age = match age_secs {
        0..60 => format!("{age_secs} s"),
        60..3600 => format!("{} min", age_secs / 60),
        3600..86_400 => format!("{} h", age_secs / 3600),
        _ => format!("{} d", age_secs / 86_400),
    };
    let title = if title.is_empty() { String::new() } else { format!(": {title}") };
    format!("pid {pid}, {}x{}, {viewers}, for {age}{title}", size.columns, size.rows)
}

/// How many look.
pub(super) fn looking(viewers: u16) -> String {
    match viewers {
        0 => "nobody looks".to_owned(),
        1 => "1 viewer".to_owned(),
        many => format!("{many} viewers"),
    }
}

/// What a holder says.
pub(super) enum Answer {
    State(HeldState),
    /// It speaks this version.
    Other(u16),
    /// It has gone.
    Ended,
    Nothing,
}

/// What the holder on this stream says it is.
pub(super) fn state(stream: UnixStream, patience: Duration) -> Answer {
    ask(stream, &Held::Ask { version: HELD_VERSION }, patience)
}

fn ask(stream: UnixStream, question: &Held<'_>, patience: Duration) -> Answer {
    let mut bytes = Vec::new();
    let is_asked = question.write(&mut bytes).is_ok()
        && rustix::net::send(&stream, &bytes, rustix::net::SendFlags::NOSIGNAL) == Ok(bytes.len());
    if !is_asked {
        return Answer::Ended;
    }
    let (begin, mut inbox) = (Instant::now(), Inbox::default());
    while begin.elapsed() < patience {
        let mut polled = [PollFd::new(&stream, PollFlags::IN)];
        let left = serve::until(begin + patience);
        if !matches!(rustix::event::poll(&mut polled, Some(&left)), Ok(_) | Err(Errno::INTR)) {
            return Answer::Nothing;
        }
        match rustix::io::read(&stream, inbox.room()) {
            Ok(0) => return Answer::Ended,
            Ok(count) => inbox.filled(count),
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(_) => return Answer::Ended,
        }
        while let Ok(Some(frame)) = inbox.next() {
            match Held::read(frame) {
                Ok(Held::State(state)) => return Answer::State(state),
                Ok(Held::Other { version }) => return Answer::Other(version),
                _ => {}
            }
        }
    }
    Answer::Nothing
}

#[cfg(test)]
mod tests {
    use portway_proto::guest::Size;

    use super::*;

    #[test]
    fn a_session_is_a_line() {
        let size = Size { columns: 80, rows: 24, width: 0, height: 0 };
        let state = HeldState { pid: 12, viewers: 1, size, age_secs: 10_900, title: "vi".to_owned() };
        assert_eq!(described(&state), "pid 12, 80x24, 1 viewer, for 3 h: vi");
        let state = HeldState { viewers: 0, age_secs: 59, title: String::new(), ..state };
        assert_eq!(described(&state), "pid 12, 80x24, nobody looks, for 59 s");
    }
}
