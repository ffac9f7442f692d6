//! Sessions that another program keeps, the instance's own tmux or screen, where the gateway is told to use that.
//!
//! `mux PROGRAM NAME MODES` is on the client's terminal: it has the program make a session of that name if there is none, and
//! attach to it. Whatever is in the way is said in a line, and the session is one of ours. So is one that is there already:
//! what it was begun as it stays.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::list::looking;
use super::{NAME, place};
use crate::terminal;

/// How long the program may take to say something of its sessions.
const ANSWER: Duration = Duration::from_secs(5);

/// An end before this, and not a good one, is that of a terminal it does not know, or the like.
const SHORT: Duration = Duration::from_secs(2);

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(5);

/// How often a session that was made is looked for: screen(1) is ready before it is.
const TRIES: usize = 100;

/// Longest answer that is read, bytes.
const ANSWER_BYTES: u64 = 64 * 1024;

/// Where programs are if nobody says so.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Which program keeps sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mux {
    /// tmux(1).
    Tmux,
    /// screen(1).
    Screen,
}

impl Mux {
    /// By its name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Tmux, Self::Screen].into_iter().find(|mux| mux.name() == name)
    }

    /// Of its program.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tmux => "tmux",
            Self::Screen => "screen",
        }
    }
}

/// Whether the session of that name is such a program's, not one of ours, and looks at it until it ends; with which status.
/// `None`: the terminal is as a viewer of ours needs it.
///
/// # Errors
/// When there is no terminal.
pub(super) fn attach(mux: Mux, name: &str) -> io::Result<Option<u8>> {
    if place::find(name).is_none() {
        match through(mux, name) {
            Ok(status) => return Ok(Some(status)),
            Err(why) => {
                let text = format!("portway: {}: {why}; this session is kept without it\r\n", mux.name());
                io::stdout().write_all(text.as_bytes())?;
            }
        }
    }
    terminal::make_raw(io::stdin().as_fd())?;
    Ok(None)
}

fn through(mux: Mux, name: &str) -> Result<u8, String> {
    let program = find(mux).ok_or("it is not in this instance")?;
    let target = made(mux, &program, name)?;
    let begin = Instant::now();
    let mut command = match mux {
        // What comes is UTF-8, whatever the instance has for a locale.
        Mux::Tmux => with(&program, ["-u", "attach-session", "-t", &target]),
        Mux::Screen => with(&program, ["-x", &target]),
    };
    let ended = command.status().map_err(|error| error.to_string())?;
    match ended.code() {
        Some(0) => Ok(0),
        // It goes with its terminal.
        None => Ok(super::attach::HUNG_UP),
        Some(status) if begin.elapsed() < SHORT => Err(format!("it ends with status {status}")),
        Some(status) => Ok(u8::try_from(status).unwrap_or(u8::MAX)),
    }
}

/// What its session of that name is addressed by, which is made if it is not there.
fn made(mux: Mux, program: &OsStr, name: &str) -> Result<String, String> {
    if let Some(target) = target(mux, program, name)? {
        return Ok(target);
    }
    let mut command = match mux {
        // All of its sessions have the variables of the first.
        Mux::Tmux => with(program, ["new-session", "-d", "-s", name]),
        Mux::Screen => with(program, ["-s", &login_shell(), "-dmS", name]),
    };
    if mux == Mux::Screen {
        command.env(NAME, name);
    }
    let (status, said) = answer(&mut command)?;
    for _ in 0..TRIES {
        // Somebody else may have been faster.
        if let Some(target) = target(mux, program, name)? {
            return Ok(target);
        }
        if status != Some(0) {
            break;
        }
        thread::sleep(LOOK);
    }
    let line = said.lines().find(|line| !line.trim().is_empty()).unwrap_or("it makes no session");
    Err(line.chars().filter(|letter| !letter.is_control()).take(200).collect())
}

/// With a sign that says that it is one.
fn login_shell() -> String {
    format!("-{}", std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned()))
}

/// What its session of exactly that name is addressed by, if there is one.
fn target(mux: Mux, program: &OsStr, name: &str) -> Result<Option<String>, String> {
    match mux {
        Mux::Tmux => {
            let exact = format!("={name}");
            let (status, _) = answer(&mut with(program, ["has-session", "-t", &exact]))?;
            Ok((status == Some(0)).then_some(exact))
        }
        Mux::Screen => {
            // Its status says different things in different versions.
            let (_, said) = answer(&mut with(program, ["-ls"]))?;
            Ok(screens(&said).find(|(_, its, _)| *its == name).map(|(id, ..)| id.to_owned()))
        }
    }
}

/// Sessions of a `screen -ls`: what each is addressed by, its name, and what is said of it.
fn screens(said: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    said.lines().filter_map(|line| {
        let mut fields = line.strip_prefix('\t')?.split('\t');
        let id = fields.next()?;
        let (pid, name) = id.split_once('.')?;
        let is_one = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
        is_one.then(|| (id, name, fields.next_back().unwrap_or_default()))
    })
}

/// A line for each of its sessions, as ours are listed.
pub(super) fn list(mux: Mux) -> String {
    let Some(program) = find(mux) else { return String::new() };
    let said = match mux {
        Mux::Tmux => {
            answer(&mut with(&program, ["list-sessions", "-F", "#{session_attached} #{session_name}"]))
        }
        Mux::Screen => answer(&mut with(&program, ["-ls"])),
    };
    match (mux, said) {
        (Mux::Tmux, Ok((Some(0), said))) => {
            let lines = said.lines().filter_map(|line| line.split_once(' '));
            let lines = lines.filter_map(|(viewers, name)| Some((viewers.parse().ok()?, name)));
            lines.map(|(viewers, name)| format!("{name}\ttmux, {}\n", looking(viewers))).collect()
        }
        (Mux::Screen, Ok((_, said))) => {
            screens(&said).map(|(_, name, state)| format!("{name}\tscreen, {state}\n")).collect()
        }
        // Nobody keeps any.
        (Mux::Tmux, _) | (_, Err(_)) => String::new(),
    }
}

/// Ends its session of that name. Whether there was one.
///
/// # Errors
/// When it does not say.
pub(super) fn kill(mux: Mux, name: &str) -> Result<bool, String> {
    let Some(program) = find(mux) else { return Ok(false) };
    let Some(target) = target(mux, &program, name)? else { return Ok(false) };
    let (status, said) = match mux {
        Mux::Tmux => answer(&mut with(&program, ["kill-session", "-t", &target]))?,
        Mux::Screen => answer(&mut with(&program, ["-S", &target, "-X", "quit"]))?,
    };
    if status == Some(0) { Ok(true) } else { Err(said.trim().to_owned()) }
}

fn with<'a>(program: &OsStr, words: impl IntoIterator<Item = &'a str>) -> Command {
    let mut command = Command::new(program);
    command.args(words);
    command
}

/// Its path, as the user's own shell would find it.
fn find(mux: Mux) -> Option<OsString> {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_else(|| PATH.into());
    let files = std::env::split_paths(&path).map(|dir| dir.join(mux.name()));
    let is_program = |file: &PathBuf| {
        file.is_absolute()
            && file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    files.into_iter().find(is_program).map(PathBuf::into_os_string)
}

/// Runs it without a terminal: its status, and what it says on both outputs.
fn answer(command: &mut Command) -> Result<(Option<i32>, String), String> {
    let failed = |error: io::Error| error.to_string();
    // What it leaves behind must not have the outputs.
    let (reads, writes) = io::pipe().map_err(failed)?;
    let copy = writes.try_clone().map_err(failed)?;
    let mut child = command.stdin(Stdio::null()).stdout(copy).stderr(writes).spawn().map_err(failed)?;
    // Its other ends.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None if begin.elapsed() > ANSWER => {
                let _gone = child.kill();
                let _reaped = child.wait();
                return Err("it does not answer".to_owned());
            }
            None => thread::sleep(LOOK),
        }
    };
    rustix::fs::fcntl_setfl(&reads, rustix::fs::OFlags::NONBLOCK).map_err(|error| failed(error.into()))?;
    let mut said = Vec::new();
    // A server that it has started may have them still: what is there is all there is.
    let _more_to_come = reads.take(ANSWER_BYTES).read_to_end(&mut said);
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a session whose name begins as another's is taken for that.
    #[test]
    fn screens_are_known_by_their_whole_names() {
        let said = "There are screens on:\n\t12.work\t(11/22/26 12:00:00)\t(Attached)\n\t7.work2\t(Detached)\n\
                    \tx.odd\t(Detached)\n2 Sockets in /run/screen/S-bob.\n";
        let all: Vec<_> = screens(said).collect();
        assert_eq!(all, [("12.work", "work", "(Attached)"), ("7.work2", "work2", "(Detached)")]);
    }

    /// Fails when a program that does not end, or leaves somebody behind, is waited for.
    #[test]
    fn an_answer_is_all_that_is_there() {
        let said = |script| answer(&mut with(OsStr::new("/bin/sh"), ["-c", script]));
        assert_eq!(said("echo a; echo b >&2; exit 3"), Ok((Some(3), "a\nb\n".to_owned())));
        let begin = Instant::now();
        assert_eq!(said("sleep 30 & echo c"), Ok((Some(0), "c\n".to_owned())));
        assert!(begin.elapsed() < ANSWER);
    }

    #[test]
    fn programs_have_names() {
        assert_eq!((Mux::named("tmux"), Mux::named("screen")), (Some(Mux::Tmux), Some(Mux::Screen)));
        assert_eq!(Mux::named("sh"), None);
    }
}
