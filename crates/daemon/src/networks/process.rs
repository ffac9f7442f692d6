//! The process of a network: started, taken over, heard, ended.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use portway_sys::{pidfd, process};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::record::{self, Record};
use super::{Judged, Surroundings};
use crate::watched::watched;

/// Longest line that is heard, bytes; what is longer is cut.
const LINE_BYTES: usize = 4096;

/// Between two signals to one that is to end: the second one ends connections.
const AGAIN: Duration = Duration::from_millis(200);

/// How long it may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take to be tried.
const REHEARSAL: Duration = Duration::from_secs(20);

/// A network's process. It goes on when this is dropped.
pub(super) struct Process {
    pub(super) pid: i32,
    pidfd: AsyncFd<OwnedFd>,
    /// What it says; one that was taken over says nothing here.
    said: Option<pipe::Receiver>,
    begun: Vec<u8>,
    pub(super) since: Instant,
    /// It has said why it ends.
    pub(super) has_failed: bool,
}

/// What a network says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// Every port is open.
    Ready(String),
    /// Something went wrong and was mended, or is tried again.
    Trouble(String),
    /// It ends, and why.
    Failed(String),
}

impl Process {
    /// Starts one and records it. What cannot be recorded does not go on: nobody would know it.
    pub(super) async fn start(
        around: &Surroundings,
        name: &str,
        judged: &Judged,
    ) -> Result<(Process, Record), String> {
        let failed = |error: io::Error| format!("it cannot be started: {error}");
        let process = Process::spawn(around, None, judged).map_err(failed)?;
        let recorded = pidfd::start_time(process.pid).map_err(failed).and_then(|start_time| {
            let record = Record::of(process.pid, start_time, judged, &around.build);
            record.write(&around.run_dir, name).map(|()| record)
        });
        match recorded {
            Ok(record) => Ok((process, record)),
            Err(why) => {
                process.kill().await;
                Err(why)
            }
        }
    }

    /// Has one try what it would do and open nothing, as the user it would be.
    ///
    /// # Errors
    /// Why it could not be run.
    pub(super) async fn rehearse(around: &Surroundings, judged: &Judged) -> Result<(), String> {
        let spawned = Process::spawn(around, Some(around.role.rehearse), judged);
        let mut process = spawned.map_err(|error| format!("it cannot be started: {error}"))?;
        let heard = async {
            loop {
                match process.next().await.or_else(|| process.last_said()) {
                    Some(Said::Ready(_)) => return Ok(()),
                    Some(Said::Trouble(_)) => {}
                    Some(Said::Failed(why)) => return Err(why),
                    None => return Err("its process has ended before it said anything".to_owned()),
                }
            }
        };
        let tried = timeout(REHEARSAL, heard).await;
        process.kill().await;
        tried.unwrap_or_else(|_| Err(format!("it was not tried within {} s", REHEARSAL.as_secs())))
    }

    fn spawn(around: &Surroundings, first: Option<&str>, judged: &Judged) -> io::Result<Process> {
        let (sender, said) = pipe::pipe()?;
        let ids = around.ids.map_or_else(
            || ["-".to_owned(), "-".to_owned()],
            |ids| [ids.uid.to_string(), ids.gid.to_string()],
        );
        let ids = ids.iter().map(String::as_str);
        let words = ids.chain(first).chain(judged.flags.iter().map(String::as_str));
        let args: Vec<&str> = std::iter::once(around.role.role).chain(words).collect();
        let child = process::spawn_role(&args, vec![sender.into_nonblocking_fd()?], around.env.clone())?;
        let pid = child.pid;
        Process::of(pid, child.pidfd, Some(said)).inspect_err(|_| {
            // It is a child that nobody has waited for: the pid is its own.
            let _gone = pidfd::open(pid).and_then(|fd| pidfd::send_signal(fd.as_fd(), libc::SIGKILL));
        })
    }

    /// The one that is recorded, if it lives.
    pub(super) fn recorded(around: &Surroundings, name: &str) -> Option<(Process, Record)> {
        let record = Record::read(&around.run_dir, name)?;
        let is_of_now = record.boot == record::boot();
        let process =
            is_of_now.then(|| Process::found(around.role.role, name, record.pid, record.start_time));
        Some((process.flatten()?, record))
    }

    /// One that a daemon has started and not recorded, if there is one.
    pub(super) fn unrecorded(around: &Surroundings, name: &str) -> Option<Process> {
        let (pid, start_time) = record::holder(&around.run_dir, name)?;
        Process::found(around.role.role, name, pid, start_time)
    }

    /// The network of this name with that pid, if it lives.
    fn found(role: &str, name: &str, pid: i32, start_time: u64) -> Option<Process> {
        let process = pidfd::open(pid).ok()?;
        let is_same = pidfd::start_time(pid).is_ok_and(|found| found == start_time);
        let is_one = || {
            let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let mut words = arguments.split(|byte| *byte == 0);
            let named = format!("--name={name}");
            words.nth(1) == Some(role.as_bytes()) && words.any(|word| word == named.as_bytes())
        };
        let lives = is_same && !pidfd::exited(process.as_fd()) && is_one();
        lives.then(|| Process::of(pid, process, None).ok()).flatten()
    }

    fn of(pid: i32, pidfd: OwnedFd, said: Option<pipe::Receiver>) -> io::Result<Process> {
        Ok(Process {
            pid,
            pidfd: watched(pidfd)?,
            said,
            begun: Vec::new(),
            since: Instant::now(),
            has_failed: false,
        })
    }

    /// Returns when it is dead.
    pub(super) async fn ended(&self) {
        // A failing poll counts as dead: it is looked at anew then.
        let _readable = self.pidfd.readable().await;
    }

    /// How it ended, if it was our child.
    pub(super) fn exit(&self) -> Option<process::Exit> {
        process::reap(self.pid).ok().flatten()
    }

    /// The next thing it says; `None` when it is dead. May be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Said> {
        let Process { pidfd, said, begun, .. } = self;
        tokio::select! {
            biased;
            said = hear(said, begun) => Some(said),
            // A failing poll counts as dead: it is looked at anew then.
            _ = pidfd.readable() => None,
        }
    }

    /// What it has said and nobody has heard, once it is dead.
    pub(super) fn last_said(&mut self) -> Option<Said> {
        let mut last = None;
        if let Some(pipe) = &mut self.said {
            let mut bytes = [0; LINE_BYTES];
            while let Ok(count) = pipe.try_read(&mut bytes)
                && count > 0
            {
                self.begun.extend(bytes.iter().take(count));
                if self.begun.len() > 4 * LINE_BYTES {
                    break;
                }
            }
        }
        while let Some(said) = line(&mut self.begun) {
            last = Some(said);
        }
        last
    }

    /// Has it take nobody new in, and end when its connections have.
    pub(super) fn drain(&self) {
        // It may have ended.
        let _gone = pidfd::send_signal(self.pidfd.get_ref().as_fd(), libc::SIGTERM);
    }

    /// Ends it, connections and all, and waits until it has.
    pub(super) async fn end(&self) {
        let asked = async {
            loop {
                self.drain();
                if timeout(AGAIN, self.ended()).await.is_ok() {
                    return;
                }
            }
        };
        if timeout(PATIENCE, asked).await.is_err() {
            return self.kill().await;
        }
        // Its worker and its stack end with it; their ports are free a moment later.
        sleep(Duration::from_millis(1)).await;
        let _exit = self.exit();
    }

    /// Ends it at once. One that the kernel does not let go of is not waited for.
    async fn kill(&self) {
        // As above.
        let _gone = pidfd::send_signal(self.pidfd.get_ref().as_fd(), libc::SIGKILL);
        if timeout(PATIENCE, self.ended()).await.is_err() {
            warn!(pid = self.pid, "process does not end, though it was killed");
        }
        let _exit = self.exit();
    }
}

/// The next thing that is said; never returns when there will be nothing more.
async fn hear(pipe: &mut Option<pipe::Receiver>, begun: &mut Vec<u8>) -> Said {
    loop {
        if let Some(said) = line(begun) {
            return said;
        }
        let Some(open) = pipe else { return std::future::pending().await };
        let mut bytes = [0; LINE_BYTES];
        match open.read(&mut bytes).await {
            Ok(count) if count > 0 => begun.extend(bytes.iter().take(count)),
            Ok(_) | Err(_) => *pipe = None,
        }
    }
}

/// Takes the first line out of what was read. A line of no kind that is known is passed over.
fn line(begun: &mut Vec<u8>) -> Option<Said> {
    loop {
        let end = begun.iter().position(|byte| *byte == b'\n');
        let end = end.or_else(|| (begun.len() >= LINE_BYTES).then_some(LINE_BYTES - 1))?;
        let line: Vec<u8> = begun.drain(..=end).collect();
        let line = String::from_utf8_lossy(&line);
        let Some((kind, text)) = line.trim_end().split_once(' ') else { continue };
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        match kind {
            "ready" => return Some(Said::Ready(text)),
            "trouble" => return Some(Said::Trouble(text)),
            "failed" => return Some(Said::Failed(text)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a process of another user steers a terminal, fills the memory, or what it does not end is waited for.
    #[test]
    fn lines_are_bounded_and_plain() {
        let mut begun = b"hello\nready engine\x1b[2J\nodd words\ntrouble ".to_vec();
        assert_eq!(line(&mut begun), Some(Said::Ready("engine [2J".to_owned())));
        assert_eq!(line(&mut begun), None);
        assert_eq!(begun, b"trouble ");
        begun.extend(vec![b'x'; 2 * LINE_BYTES]);
        let Some(Said::Trouble(text)) = line(&mut begun) else { panic!("a line") };
        assert!(text.len() < LINE_BYTES);
        assert_eq!(line(&mut begun), None);
        assert!(begun.len() < LINE_BYTES);
    }
}
