//! Where a client or a server of a test stands: on the host, in a namespace, in a container.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use crate::{Netns, process};

/// A network namespace, a root folder, and who makes files below it.
///
/// The test's own program does not run in a busybox container, so its threads go there: the
/// container's network namespace for sockets, `/proc/PID/root` for paths.
#[derive(Debug, Clone)]
pub struct Site {
    netns: Netns,
    root: PathBuf,
    /// Host uid and gid that own new files; the host's root cannot make any on an idmapped mount
    /// (EOVERFLOW).
    owner: Option<(u32, u32)>,
}

impl Site {
    /// The host itself.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub fn host() -> Result<Self> {
        Ok(Self::netns(&Netns::host()?))
    }

    /// A network namespace, with the host's files.
    #[must_use]
    pub fn netns(netns: &Netns) -> Self {
        Self { netns: netns.clone(), root: PathBuf::from("/"), owner: None }
    }

    /// Inside what this process, a container's init, sees; until it dies.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn of_init(pid: i32) -> Result<Self> {
        let owner = process::root_ids(pid)?;
        Ok(Self { netns: Netns::of_pid(pid)?, root: format!("/proc/{pid}/root").into(), owner: Some(owner) })
    }

    /// Its network namespace.
    #[must_use]
    pub fn network(&self) -> &Netns {
        &self.netns
    }

    /// A path of this site as the test's own process sees it.
    #[must_use]
    pub fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Runs `work` on a thread in this network namespace, where new files belong to the site.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    ///
    /// # Panics
    /// With `work`.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns
            .enter(|| {
                if let Some((uid, gid)) = self.owner {
                    // Of this thread alone; they return the former id and never fail visibly.
                    setfsgid(Gid::from_raw(gid));
                    setfsuid(Uid::from_raw(uid));
                }
                work()
            })
            .context("cannot go to the site")
    }
}
