//! What must not be left over: processes, files of workers, descriptors of an instance that is gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::{Daemon, wait_for};

impl Daemon {
    /// Waits until there is what there should be and nothing else: the daemon, one keeper, `workers`
    /// workers that it knows, and their files.
    ///
    /// # Errors
    /// When it does not come to that; the message says what there is.
    pub fn wait_until_tidy(&self, workers: usize) -> Result<()> {
        let mut last = String::new();
        let tidy = wait_for("tidiness", || match self.untidiness(workers) {
            Ok(None) => Some(()),
            Ok(Some(text)) => {
                last = text;
                None
            }
            Err(error) => {
                last = format!("{error:#}");
                None
            }
        });
        tidy.with_context(|| last)
    }

    fn untidiness(&self, workers: usize) -> Result<Option<String>> {
        let server = self.api().get("/1.0")?;
        let pid_of = |value: &serde_json::Value| value.as_i64().and_then(|pid| i32::try_from(pid).ok());
        let known: BTreeSet<i32> = server["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| pid_of(&one["pid"]))
            .collect();
        let found: BTreeSet<i32> = self.workers().into_iter().collect();
        if known != found || found.len() != workers {
            return Ok(Some(format!("workers: {workers} wanted, {known:?} known, {found:?} alive")));
        }
        let keepers = self.keepers();
        if keepers.len() != 1 || pid_of(&server["keeper_pid"]) != keepers.first().copied() {
            return Ok(Some(format!("keepers: {} known, {keepers:?} alive", server["keeper_pid"])));
        }
        let all = self.processes();
        if all.len() != workers + 2 {
            return Ok(Some(format!("processes: {all:?}")));
        }
        self.file_trouble(&found)
    }

    /// What is wrong with the files of workers, if anything.
    fn file_trouble(&self, workers: &BTreeSet<i32>) -> Result<Option<String>> {
        let (mut sockets, mut records) = (BTreeSet::new(), BTreeSet::new());
        let mut recorded = BTreeSet::new();
        for entry in fs::read_dir(self.dir().join("workers")).context("no folder of workers")? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match name.split_once('.') {
                Some(("keeper", "sock" | "pid")) => {}
                Some((worker, "sock")) => drop(sockets.insert(worker.to_owned())),
                Some((worker, "json")) => {
                    records.insert(worker.to_owned());
                    let record: serde_json::Value = serde_json::from_slice(&fs::read(entry.path())?)?;
                    recorded.extend(record["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()));
                }
                _ => return Ok(Some(format!("a file {name}"))),
            }
        }
        let is_right = sockets == records && recorded == *workers;
        Ok((!is_right).then(|| format!("files: {sockets:?} {records:?} {recorded:?}, workers {workers:?}")))
    }
}

/// What a running instance consists of that somebody else could hold on to.
#[derive(Debug, Clone)]
pub struct Belongings {
    netns: String,
    root: (u64, u64),
}

impl Belongings {
    /// Those of the instance of this init.
    ///
    /// # Errors
    /// When it is gone.
    pub fn of_init(pid: i32) -> Result<Self> {
        let netns = fs::read_link(format!("/proc/{pid}/ns/net")).context("no such init")?;
        let root = fs::metadata(format!("/proc/{pid}/root/")).context("no such init")?;
        Ok(Self { netns: netns.to_string_lossy().into_owned(), root: (root.dev(), root.ino()) })
    }

    /// Which of these processes hold any of it, and by what; a process that is gone holds nothing.
    #[must_use]
    pub fn holders(&self, pids: &[i32]) -> Vec<String> {
        let held = pids.iter().flat_map(|pid| {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
            let spaces = tasks.map(|task| task.path().join("ns/net"));
            let roots = ["root", "cwd"].map(|name| Path::new("/proc").join(pid.to_string()).join(name));
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            spaces.chain(roots).chain(files.map(|file| file.path()))
        });
        held.filter(|path| self.is_held_by(path)).map(|path| path.display().to_string()).collect()
    }

    fn is_held_by(&self, path: &Path) -> bool {
        let is_netns = fs::read_link(path).is_ok_and(|to| to.to_string_lossy() == self.netns);
        is_netns || fs::metadata(path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.root)
    }

    /// Waits until none of these processes holds any of it.
    ///
    /// # Errors
    /// When one still does; the message names what.
    pub fn wait_until_free(&self, pids: impl Fn() -> Vec<i32>) -> Result<()> {
        let mut last = Vec::new();
        let free = wait_for("the release of an instance", || {
            last = self.holders(&pids());
            last.is_empty().then_some(())
        });
        if free.is_err() { bail!("held by {last:?}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_its_own_namespace_and_root() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let belongings = Belongings::of_init(pid).unwrap();
        let holders = belongings.holders(&[pid]);
        assert!(holders.iter().any(|holder| holder.ends_with("ns/net")), "{holders:?}");
        assert!(holders.iter().any(|holder| holder.ends_with("/root")), "{holders:?}");
        assert!(belongings.holders(&[i32::MAX]).is_empty());
    }
}
