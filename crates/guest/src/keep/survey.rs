//! What sessions are kept in the whole instance, and the end of one of them: for who asks as root.
//!
//! Whose folder it is becomes a process of that user's, and that one asks: root follows nobody's paths and speaks with
//! nobody's sockets. What it says comes through here, checked and bounded; a user who says nothing is waited for so long
//! and no longer.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use portway_proto::guest::{COMMAND_MAX_BYTES, Environment, Listed, Says};
use portway_sys::process::program::{Ids, Image, Input, Program, spawn};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions};

use super::list::{self, Answer};
use super::{UMASK, place};
use crate::{environment, serve};

/// Most users that are asked, and most sessions of one that are told.
const USERS_MAX_COUNT: usize = 256;
const SESSIONS_MAX_COUNT: usize = 64;

/// How long a session may take to answer, all of a user, how long his process may take, and all of them.
const ANSWER: Duration = Duration::from_millis(500);
const ANSWERS: Duration = Duration::from_secs(4);
const USER: Duration = Duration::from_secs(5);
const ALL: Duration = Duration::from_secs(12);

/// How long an end may take: longer than a user's process takes to kill what hangs.
const END: Duration = Duration::from_secs(16);

/// Where users are, and how much of it is read.
const PASSWD: &str = "/etc/passwd";
const PASSWD_MAX_BYTES: u64 = 8 << 20;

/// Most entries of a folder for all users that are looked at.
const ENTRIES_MAX_COUNT: usize = 100_000;

/// Most that a user's process may say, bytes.
const SAID_MAX_BYTES: usize = 64 * 1024;

/// Longest beginning of a command line that is read, bytes.
const COMMAND_READ_BYTES: u64 = 4096;

/// `list UID` or `end UID NAME`, where UID may be a sign for everybody's in a list.
pub(crate) fn survey(words: &[&OsStr]) -> Result<u8, String> {
    let text: Vec<&str> = words.iter().map(|word| word.to_str()).collect::<Option<_>>().unwrap_or_default();
    let uid = |text: &str| text.parse().map_err(|_| format!("{text} is no user"));
    match text.as_slice() {
        ["list", "-"] => list(None).map(|()| 0),
        ["list", whose] => list(Some(uid(whose)?)).map(|()| 0),
        ["end", whose, name] => end(uid(whose)?, name),
        _ => Err("list UID or end UID NAME expected".to_owned()),
    }
}

/// Prints a line for each session of a user, or of all of them.
fn list(whose: Option<u32>) -> Result<(), String> {
    let (begin, mut text) = (Instant::now(), String::new());
    for user in users(whose) {
        let limit = USER.min(ALL.saturating_sub(begin.elapsed()));
        let (said, _) = as_user(&user, &[b"told"], limit).map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&said).into_owned();
        let lines =
            said.lines().filter(|line| Listed::read(line).is_some_and(|listed| listed.uid == user.uid));
        lines.take(SESSIONS_MAX_COUNT).for_each(|line| text.extend([line, "\n"]));
    }
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot say so: {error}"))
}

/// Ends a session; with which status, and says what its user's process says.
fn end(whose: u32, name: &str) -> Result<u8, String> {
    let user = users(Some(whose)).pop().ok_or_else(|| format!("there is no session {name}"))?;
    let ended = as_user(&user, &[b"end", name.as_bytes()], END).map_err(|error| error.to_string())?;
    let (said, status) = ended;
    io::stderr().write_all(&said).map_err(|error| format!("cannot say so: {error}"))?;
    status.ok_or_else(|| format!("session {name} does not end"))
}

/// Somebody who may have sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
struct User {
    uid: u32,
    /// Of his folder.
    gid: u32,
    /// By the instance's file of users.
    home: Option<Vec<u8>>,
}

/// Users with a folder for sessions.
fn users(whose: Option<u32>) -> Vec<User> {
    let mut passwd = Vec::new();
    // An instance without the file has no homes that are known.
    let _none = File::open(PASSWD).and_then(|file| file.take(PASSWD_MAX_BYTES).read_to_end(&mut passwd));
    let mut homes = homes(&passwd);
    homes.retain(|uid, _| whose.is_none_or(|whose| whose == *uid));
    let mut found = BTreeMap::new();
    for folder in place::FOLDERS {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten().take(ENTRIES_MAX_COUNT) {
            let name = entry.file_name();
            let uid =
                name.to_str().and_then(place::whose).filter(|uid| whose.is_none_or(|whose| whose == *uid));
            // Of the entry itself: a link is nobody's folder.
            if let (Some(uid), Ok(entry)) = (uid, entry.metadata())
                && entry.is_dir()
                && entry.uid() == uid
            {
                found.insert(uid, entry.gid());
            }
        }
    }
    for (uid, home) in &homes {
        // Nothing is done with it here: it is looked into by its user.
        let at_home = fs::metadata(place::at_home_of(home)).ok();
        if let Some(at_home) = at_home.filter(|dir| dir.is_dir() && dir.uid() == *uid) {
            found.entry(*uid).or_insert(at_home.gid());
        }
    }
    let users = found.into_iter().map(|(uid, gid)| User { uid, gid, home: homes.remove(&uid) });
    users.take(USERS_MAX_COUNT).collect()
}

/// Homes by the numbers of their users, of a text as passwd(5) has it; of several the first.
fn homes(passwd: &[u8]) -> BTreeMap<u32, Vec<u8>> {
    let mut homes = BTreeMap::new();
    for line in passwd.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let uid = fields.get(2).and_then(|uid| std::str::from_utf8(uid).ok()?.parse().ok());
        if let (Some(uid), Some(home)) = (uid, fields.get(5))
            && home.starts_with(b"/")
        {
            homes.entry(uid).or_insert_with(|| home.to_vec());
        }
    }
    homes
}

/// Runs this program as a user: what it says on both outputs, and its status if it has ended by itself in time.
fn as_user(user: &User, words: &[&[u8]], limit: Duration) -> io::Result<(Vec<u8>, Option<u8>)> {
    let own = File::open("/proc/self/exe")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    let (reads, writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reads, OFlags::NONBLOCK)?;
    let words = [&b"portway-guest"[..]].into_iter().chain(words.iter().copied());
    let args: Vec<CString> = words.filter_map(|word| CString::new(word).ok()).collect();
    let home = user.home.as_ref().map(|home| [b"HOME=", home.as_slice()].concat());
    let running = spawn(&Program {
        image: Image::File(own.as_fd()),
        args: &args,
        env: &environment::build(Environment::Empty, home.into_iter().collect()),
        cwd: c"/",
        ids: Some(Ids { uid: user.uid, gid: user.gid, groups: &[] }),
        umask: UMASK,
        stdio: [null.as_fd(), writes.as_fd(), writes.as_fd()],
        input: Input::Stream,
    })
    .map_err(io::Error::other)?;
    drop(writes);
    let (said, is_over) = read(&reads, limit);
    let Some(pid) = Pid::from_raw(running.child.pid) else { return Ok((said, None)) };
    if !is_over {
        // It is a child of ours, which has not been taken in.
        let _gone = rustix::process::kill_process(pid, Signal::KILL);
    }
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    let status = ended.ok().flatten().and_then(|(_, status)| status.exit_status());
    Ok((said, status.and_then(|status| u8::try_from(status).ok())))
}

/// Reads to the end, for so long and so much; whether it was the end.
fn read(from: &OwnedFd, limit: Duration) -> (Vec<u8>, bool) {
    let (mut said, mut scratch, end) = (Vec::new(), [0; 4096], Instant::now() + limit);
    while said.len() < SAID_MAX_BYTES && Instant::now() < end {
        match rustix::io::read(from, &mut scratch) {
            Ok(0) => return (said, true),
            Ok(count) => said.extend_from_slice(scratch.get(..count).unwrap_or_default()),
            Err(Errno::AGAIN | Errno::INTR) => {
                let mut polled = [PollFd::new(from, PollFlags::IN)];
                if !matches!(
                    rustix::event::poll(&mut polled, Some(&serve::until(end))),
                    Ok(_) | Err(Errno::INTR)
                ) {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    (said, false)
}

/// Prints a line for each session of the user this is.
pub(crate) fn told() -> Result<(), String> {
    let (uid, begin) = (rustix::process::geteuid().as_raw(), Instant::now());
    let mut text = String::new();
    for (name, stream) in place::all().into_iter().take(SESSIONS_MAX_COUNT) {
        let says = match list::state(stream, ANSWER.min(ANSWERS.saturating_sub(begin.elapsed()))) {
            Answer::State(state) => {
                let command = in_front(state.pid).unwrap_or_default();
                Says::State { state, command }
            }
            Answer::Other(version) => Says::Other(version),
            // Its end, or it takes nobody more.
            Answer::Ended if place::find(&name).is_none() => continue,
            Answer::Ended | Answer::Nothing => Says::Silence,
        };
        text.extend([Listed { uid, name, says }.write(), "\n".to_owned()]);
    }
    io::stdout().write_all(text.as_bytes()).map_err(|error| format!("cannot say so: {error}"))
}

/// What runs in front on the terminal of a shell: its command line, or that of the shell where that one has none.
fn in_front(shell: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{shell}/stat")).ok()?;
    let group = foreground(&stat)?;
    command(group).or_else(|| command(shell))
}

/// The group in front on the terminal of a process (proc(5), stat, field 8). What stands in parentheses may hold any.
fn foreground(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(5)?.parse().ok()
}

fn command(pid: u32) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/cmdline")).ok()?.take(COMMAND_READ_BYTES).read_to_end(&mut bytes).ok()?;
    Some(printable(&bytes)).filter(|text| !text.is_empty())
}

/// Arguments on one line: control characters are blanks, and it has an end.
fn printable(arguments: &[u8]) -> String {
    let text = String::from_utf8_lossy(arguments);
    let plain = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut room = COMMAND_MAX_BYTES;
    let cut =
        plain.take_while(|letter| room.checked_sub(letter.len_utf8()).inspect(|left| room = *left).is_some());
    cut.collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_in_front_is_found() {
        assert_eq!(foreground("12 (a) b (c) S 1 12 12 34816 99 4194304 1"), Some(99));
        assert_eq!(foreground("12 (sh) S 1 12 12 34816 -1 0"), None);
        assert_eq!(foreground("12"), None);
    }

    #[test]
    fn homes_are_those_of_users() {
        let homes = homes(
            b"root:x:0:0::/root:/bin/sh\nbob:x:7:8::/home/bob:\ntoor:x:0:0::/other:\nodd:x:9:9::home:\nx\n",
        );
        assert_eq!(homes, BTreeMap::from([(0, b"/root".to_vec()), (7, b"/home/bob".to_vec())]));
    }

    /// Fails when a command's words are more than one line, or have no end.
    #[test]
    fn a_command_is_one_short_line() {
        assert_eq!(printable(b"vi\0my notes\0\x1b[2J\xff\0"), "vi my notes  [2J\u{fffd}");
        assert_eq!(printable("\u{e4}".repeat(300).as_bytes()).len(), COMMAND_MAX_BYTES);
    }

    /// Fails when a process that says nothing is waited for without an end, or its status is another's.
    #[test]
    fn nobody_is_waited_for_for_ever() {
        let (reads, _writes) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).expect("a pipe");
        rustix::fs::fcntl_setfl(&reads, OFlags::NONBLOCK).expect("set");
        let begin = Instant::now();
        assert_eq!(read(&reads, Duration::from_millis(20)), (Vec::new(), false));
        assert!(begin.elapsed() < Duration::from_secs(5));
    }
}
