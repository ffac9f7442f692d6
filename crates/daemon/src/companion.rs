//! A program beside the daemon that outlives it, as workers do: the SSH gateway.
//!
//! At its start a daemon looks whether one runs. One of this very program is watched; one of another build is followed
//! by a new one, which takes its place. One that ends is started again, later each time while it does not last.

use std::fs;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portway_sys::{pidfd, process};
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use crate::watched::watched;

/// Pauses before it is started again, and how long it has to last for the shortest.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(60);
const LASTING: Duration = Duration::from_secs(30);

/// What runs beside the daemon.
#[derive(Debug, Clone)]
pub struct Companion {
    /// The daemon sees to it that it runs; if not, somebody else may.
    pub is_wanted: bool,
    /// Its arguments, behind the program's name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// Where it notes that it runs.
    pub dir: PathBuf,
    /// Its process, if it runs.
    pub running: fn(&std::path::Path) -> Option<i32>,
    /// What it counts, as Prometheus reads it.
    pub metrics: fn(&std::path::Path) -> io::Result<String>,
}

impl Companion {
    /// Ends it, if it runs.
    pub(crate) fn end(&self) {
        if let Some(pid) = (self.running)(&self.dir) {
            let ended = pidfd::open(pid).and_then(|fd| pidfd::send_signal(fd.as_fd(), libc::SIGTERM));
            if let Err(error) = ended {
                warn!(%error, pid, "the SSH gateway was not ended");
            }
        }
    }

    /// Sees to it that it runs, for ever.
    pub(crate) async fn keep(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let begin = Instant::now();
            match self.process() {
                Ok((pid, process)) => {
                    // A child of ours is to be reaped; another's is not there for us.
                    let _watched = ended(process).await;
                    let exit = process::reap(pid).ok().flatten();
                    warn!(pid, ?exit, "the SSH gateway has ended");
                }
                Err(error) => warn!(%error, "the SSH gateway is not started"),
            }
            if begin.elapsed() >= LASTING {
                pause = PAUSE_MIN;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The one that runs, or a new one.
    fn process(&self) -> io::Result<(i32, OwnedFd)> {
        let same = |pid: i32| {
            let of = |who: &str| fs::read_link(format!("/proc/{who}/exe")).ok();
            of(&pid.to_string()).is_some_and(|exe| of("self") == Some(exe))
        };
        if let Some(pid) = (self.running)(&self.dir).filter(|pid| same(*pid)) {
            info!(pid, "the SSH gateway runs");
            return Ok((pid, pidfd::open(pid)?));
        }
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let child = process::spawn_role(&args, Vec::new(), self.env.clone())?;
        info!(pid = child.pid, "the SSH gateway was started");
        Ok((child.pid, child.pidfd))
    }
}

fn ended(process: OwnedFd) -> impl Future<Output = io::Result<()>> {
    let process: io::Result<AsyncFd<OwnedFd>> = watched(process);
    async move {
        let process = process?;
        let _readable = process.readable().await?;
        Ok(())
    }
}
