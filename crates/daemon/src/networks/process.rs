//! The process of a network: started, taken over, heard, ended.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use portway_sys::{pidfd, process};
use tokio::io::AsyncReadExt as _;
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::time::{sleep, timeout};

use super::record::Record;
use super::{Judged, Surroundings};
use crate::watched::watched;

/// Longest line that is heard, bytes; what is longer is cut.
const LINE_BYTES: usize = 4096;

/// Between two signals to one that is to end: the second one ends connections.
const AGAIN: Duration = Duration::from_millis(200);

/// How long it may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);

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
    /// Starts one.
    pub(super) fn start(around: &Surroundings, judged: &Judged) -> io::Result<(Process, Record)> {
        let (sender, said) = pipe::pipe()?;
        let ids = around.ids.map_or_else(
            || ["-".to_owned(), "-".to_owned()],
            |ids| [ids.uid.to_string(), ids.gid.to_string()],
        );
        let words = ids.iter().chain(&judged.flags).map(String::as_str);
        let args: Vec<&str> = std::iter::once(around.role.role).chain(words).collect();
        let child = process::spawn_role(&args, vec![sender.into_nonblocking_fd()?], around.env.clone())?;
        let record = Record {
            pid: child.pid,
            start_time: pidfd::start_time(child.pid)?,
            fingerprint: judged.fingerprint.clone(),
            rules: judged.rules.clone(),
        };
        Ok((Process::of(child.pid, child.pidfd, Some(said))?, record))
    }

    /// The one that is recorded, if it lives.
    pub(super) fn recorded(run_dir: &Path, name: &str) -> Option<(Process, Record)> {
        let record = Record::read(run_dir, name)?;
        let process = pidfd::open(record.pid).ok()?;
        let is_same = pidfd::start_time(record.pid).is_ok_and(|found| found == record.start_time);
        let lives = is_same && !pidfd::exited(process.as_fd());
        let process = lives.then(|| Process::of(record.pid, process, None).ok()).flatten()?;
        Some((process, record))
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

    /// Whether it runs this very program.
    pub(super) fn is_of_this_build(&self) -> bool {
        let of = |who: &str| fs::read_link(format!("/proc/{who}/exe")).ok();
        of(&self.pid.to_string()).is_some_and(|exe| of("self") == Some(exe))
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
            // As above.
            let _gone = pidfd::send_signal(self.pidfd.get_ref().as_fd(), libc::SIGKILL);
            self.ended().await;
        }
        // Its worker and its stack end with it; their ports are free a moment later.
        sleep(Duration::from_millis(1)).await;
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
