//! Programs of the benchmark: started in a namespace, ended with all they started.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use portway_testkit::Netns;
use portway_testkit::process::{rollup_bytes, stat_fields};

/// How long a program may take to end when asked.
const END: Duration = Duration::from_secs(3);

/// A program and whatever it starts. Drop ends all of them; an interrupt from the terminal reaches them by itself.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) child: Child,
}

impl Program {
    /// Starts it in a namespace.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(netns: &Netns, command: &mut Command) -> Result<Self> {
        Ok(Self { child: netns.spawn(command)? })
    }

    /// Pids of it and of its children, and theirs.
    pub(crate) fn pids(&self) -> Vec<i32> {
        let parents: BTreeMap<i32, i32> =
            all_pids().into_iter().filter_map(|pid| Some((pid, parent_of(pid)?))).collect();
        let mut family = vec![i32::try_from(self.child.id()).unwrap_or_default()];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            family.extend(parents.iter().filter(|(_, of)| **of == parent).map(|(pid, _)| *pid));
            next += 1;
        }
        family
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let signal = |pids: &[i32], signal| {
            for pid in pids {
                // Who is gone needs none.
                let _ = kill(Pid::from_raw(*pid), signal);
            }
        };
        let family = self.pids();
        signal(&family, Signal::SIGTERM);
        let begin = Instant::now();
        while begin.elapsed() < END && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(Duration::from_millis(2));
        }
        if begin.elapsed() >= END {
            signal(&family, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// Pids of this machine.
pub(crate) fn all_pids() -> Vec<i32> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

fn parent_of(pid: i32) -> Option<i32> {
    stat_fields(pid).ok()?.get(1)?.parse().ok()
}

/// Clock ticks per second of `/proc`: USER_HZ, 100 on every architecture of Linux that Debian has.
const TICKS: f64 = 100.0;

/// Processor seconds of these processes and of their children that have ended.
pub(crate) fn cpu_seconds(pids: &[i32]) -> f64 {
    // utime, stime, cutime, cstime: fields 14 to 17.
    let of = |pid: &i32| -> f64 {
        let Ok(fields) = stat_fields(*pid) else { return 0.0 };
        fields.iter().skip(11).take(4).filter_map(|field| field.parse::<f64>().ok()).sum()
    };
    pids.iter().map(of).sum::<f64>() / TICKS
}

/// Processor seconds that the machine was busy: everything but idle and waiting for a disk.
///
/// # Errors
/// When `/proc/stat` cannot be read.
pub(crate) fn machine_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("cannot read /proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq: proc_stat(5).
    let busy: f64 = [0, 1, 2, 5, 6].iter().filter_map(|index| ticks.get(*index)).sum();
    Ok(busy / TICKS)
}

/// Memory of processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Memory {
    /// Sum of the resident set sizes.
    pub(crate) rss_bytes: u64,
    /// Sum of the proportional set sizes: shared pages divided by those who share them.
    pub(crate) pss_bytes: u64,
}

impl Memory {
    /// Of these processes; who is gone has none.
    pub(crate) fn of(pids: &[i32]) -> Self {
        let mut sum = Self::default();
        for pid in pids {
            let [rss, pss] = rollup_bytes(*pid, ["Rss:", "Pss:"]).unwrap_or_default();
            sum.rss_bytes += rss;
            sum.pss_bytes += pss;
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_a_parent() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let memory = Memory::of(&[pid, i32::MAX]);
        assert!(memory.rss_bytes >= memory.pss_bytes && memory.pss_bytes > 100_000, "{memory:?}");
        assert!(parent_of(pid).is_some());
        assert!(machine_seconds().unwrap() > 0.0);
        assert!(cpu_seconds(&[i32::MAX]).abs() < f64::EPSILON);
    }
}
