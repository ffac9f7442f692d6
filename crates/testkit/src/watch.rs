//! The ends of things that are not ours: a process, a network namespace.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::{Container, Netns, wait_for};

/// A process that is watched for its end, whoever its parent is.
#[derive(Debug)]
pub struct Watch {
    pidfd: OwnedFd,
}

impl Watch {
    /// Watches a process.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn pid(pid: i32) -> Result<Self> {
        let pid = Pid::from_raw(pid).context("no pid")?;
        Ok(Self { pidfd: pidfd_open(pid, PidfdFlags::empty()).context("cannot watch a process")? })
    }

    /// Waits for its end and returns a moment after it: the earliest that could be seen from here.
    ///
    /// # Errors
    /// When it lives on.
    pub fn wait(&self, limit: Duration) -> Result<Instant> {
        let mut fds = [PollFd::new(&self.pidfd, PollFlags::IN)];
        let limit = Timespec::try_from(limit).context("a limit")?;
        match poll(&mut fds, Some(&limit)).context("cannot wait for a process")? {
            0 => bail!("the process lives on"),
            _ => Ok(Instant::now()),
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.wait(Duration::ZERO).is_ok()
    }
}

/// Tells when a container's network namespace is gone, which it is only once nothing holds it: no
/// process, no descriptor, no socket. It is one end of a link into it; the other end, in a namespace
/// of the test, goes with it.
#[derive(Debug)]
pub struct Canary {
    outside: Netns,
}

impl Canary {
    /// Puts one into a running container.
    ///
    /// # Errors
    /// When it does not run.
    pub fn put(container: &Container<'_>) -> Result<Self> {
        let outside = Netns::new()?;
        outside.veth("canary", &[], &container.netns()?, "canary-in", &[])?;
        Ok(Self { outside })
    }

    /// Waits until the namespace is gone.
    ///
    /// # Errors
    /// When something holds it.
    pub fn wait(&self) -> Result<()> {
        wait_for("the end of a network namespace", || self.is_gone().then_some(()))
    }

    /// Whether the namespace is gone.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        let interfaces = self.outside.enter(|| std::fs::read_to_string("/proc/self/net/dev"));
        !matches!(interfaces, Ok(Ok(text)) if text.contains("canary"))
    }
}
