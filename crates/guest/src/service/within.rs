//! A program beside the service that leaves nothing behind: in time or not, it ends with all that it has started.
//!
//! Two processes see to it. The server starts the first and kills it, and nothing else, when nobody waits any more. The
//! second looks after the program: it is the parent of whatever has lost its own there, and hears when the first is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use portway_proto::service::NOT_RUN;
use portway_sys::process::program::{Ids, Image, Input, Program, ProgramError, spawn};
use portway_sys::signals::Signals;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

use super::beside::Place;
use super::{CHILD, UMASK};
use crate::status;

/// This program's own file.
const OWN: &CStr = c"/proc/self/exe";

/// Longest time that the end of what was killed is waited for: it cannot refuse, but the kernel may be at something.
const LAST: Duration = Duration::from_secs(2);

/// Status of a program that took too long, as of timeout(1).
const LATE: u8 = 124;

/// Starts the second process and waits for it.
pub(super) fn guarded(dir: &Path, limit: &OsStr, words: &[&OsStr]) -> Result<u8, (u8, String)> {
    let own = [OsStr::new("portway-guest"), OsStr::new("within"), dir.as_os_str(), limit];
    let args = strings(own.into_iter().chain(words.iter().copied()));
    let started = start(OWN, &args, &[], c"/", None).map_err(|error| (NOT_RUN[0], told(&error)))?;
    loop {
        match rustix::process::waitpid(Some(started), WaitOptions::empty()) {
            Ok(Some((_, ended))) => return Ok(code(ended)),
            Ok(None) | Err(Errno::INTR) => {}
            Err(error) => return Err((status::FAILED, format!("cannot wait: {error}"))),
        }
    }
}

/// Runs the program that `words` say beside the service of `dir` for at most so many milliseconds, and ends with all that
/// it has started. Its status.
pub(crate) fn within(dir: &Path, millis: &str, words: &[&OsStr]) -> Result<u8, (u8, String)> {
    let failed = |what: &str, error: io::Error| (status::FAILED, format!("cannot {what}: {error}"));
    let limit = millis.parse().map(Duration::from_millis);
    let limit = limit.map_err(|_| (status::USAGE, format!("{millis} is no time")))?;
    // Before anything is started, and before who has started this one can end unheard.
    let mut signals = Signals::take().map_err(|error| failed("take signals", error))?;
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own))
        .map_err(|error| failed("take in orphans", error.into()))?;
    let place = Place::of(dir, words)?;
    let ids = Ids { uid: place.who.uid, gid: place.who.gid, groups: &place.who.groups };
    let ids = if place.is_ours() { None } else { Some(ids) };
    let cwd = CString::new(place.cwd.clone()).unwrap_or_default();
    let args = strings(words.iter().copied());
    let program = start(&place.path, &args, &place.env, &cwd, ids).map_err(|error| {
        let is_missing =
            matches!(&error, ProgramError::Exec(error) if error.kind() == io::ErrorKind::NotFound);
        (NOT_RUN[usize::from(is_missing)], format!("{}: {}", words[0].to_string_lossy(), told(&error)))
    })?;
    let late = Instant::now().checked_add(limit);
    let ended = attend(&mut signals, program, late).map_err(|error| failed("wait", error));
    clear(own);
    let ended = ended?;
    if ended.is_none() {
        // Nobody may be left to tell.
        let _ = writeln!(io::stderr(), "not over after {millis} ms");
    }
    Ok(ended.unwrap_or(LATE))
}

/// Waits for the program; `None` when it takes too long, or nobody wants to know any more.
fn attend(signals: &mut Signals, program: Pid, late: Option<Instant>) -> io::Result<Option<u8>> {
    loop {
        if let Some(code) = reap(program) {
            return Ok(Some(code));
        }
        let left = late.map(|late| late.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(None);
        }
        let limit = left.map(|left| Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().max(1_000_000).into(),
        });
        match poll(&mut [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)], limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        while let Some(number) = signals.read()? {
            if number != CHILD {
                return Ok(None);
            }
        }
    }
}

/// Reaps whatever has ended; the status of the program when it is among them.
fn reap(program: Pid) -> Option<u8> {
    let mut own = None;
    while let Ok(Some((pid, ended))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == program {
            own = Some(code(ended));
        }
    }
    own
}

/// Kills all that descend from this process, until none are left.
fn clear(own: Pid) {
    let late = Instant::now().checked_add(LAST);
    loop {
        for pid in descendants(own) {
            // It may have ended.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) => break,
                // There are no children, and so no others.
                Err(_) => return,
            }
        }
        if late.is_none_or(|late| Instant::now() >= late) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Processes that descend from `own`, without it.
fn descendants(own: Pid) -> Vec<Pid> {
    let mut parents: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(pid) = pid else { continue };
        let Ok(stat) = fs::read(entry.path().join("stat")) else { continue };
        if let Some(parent) = parent(&stat) {
            parents.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut next) = (BTreeSet::new(), vec![own.as_raw_nonzero().get()]);
    while let Some(pid) = next.pop() {
        for child in parents.get(&pid).into_iter().flatten() {
            if found.insert(*child) {
                next.push(*child);
            }
        }
    }
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// The parent in a line of `/proc/PID/stat` (proc_pid_stat(5)): the second field after the name, which may hold
/// anything.
fn parent(stat: &[u8]) -> Option<i32> {
    let at = stat.iter().rposition(|byte| *byte == b')')?;
    str::from_utf8(stat.get(at + 1..)?).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn start(
    path: &CStr,
    args: &[CString],
    env: &[CString],
    cwd: &CStr,
    ids: Option<Ids<'_>>,
) -> Result<Pid, ProgramError> {
    let [input, out, error] = [io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()]
        .map(|fd| fd.try_clone_to_owned().map_err(ProgramError::Streams));
    let (input, out, error) = (input?, out?, error?);
    let running = spawn(&Program {
        image: Image::Path(path),
        args,
        env,
        cwd,
        ids,
        umask: UMASK,
        stdio: [input.as_fd(), out.as_fd(), error.as_fd()],
        input: Input::Stream,
    })?;
    Pid::from_raw(running.child.pid).ok_or_else(|| ProgramError::Process(io::ErrorKind::NotFound.into()))
}

fn strings<'a>(words: impl Iterator<Item = &'a OsStr>) -> Vec<CString> {
    words.filter_map(|word| CString::new(word.as_bytes()).ok()).collect()
}

fn told(error: &ProgramError) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    format!("{error}: {source}")
}

/// A status as of a shell.
fn code(ended: WaitStatus) -> u8 {
    let code = ended.exit_status().or_else(|| Some(128 + ended.terminating_signal()?));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_found_whatever_the_name() {
        assert_eq!(parent(b"12 (sh) S 7 12 12 0"), Some(7));
        assert_eq!(parent(b"12 (a) S 9) R 8 12"), Some(8));
        assert_eq!(parent(b"12 (sh) S"), None);
        assert_eq!(parent(b""), None);
    }
}
