//! Figures of a process, from `/proc`.

use std::fs;

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Resident memory in bytes: `VmRSS`, which counts shared pages too.
///
/// # Errors
/// When the process is gone.
pub fn rss_bytes(pid: i32) -> Result<u64> {
    let kib = status_field(pid, "VmRSS:")?;
    Ok(kib.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).context("VmRSS is no number")?
        * 1024)
}

/// Fields of `/proc/PID/smaps_rollup` in bytes, such as `Rss:`, and `Pss:`, which counts a page that others have too
/// in part.
///
/// # Errors
/// When the process is gone or not ours to see.
pub fn rollup_bytes<const N: usize>(pid: i32, names: [&str; N]) -> Result<[u64; N]> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("no memory map of {pid}"))?;
    let mut found = [0; N];
    for (bytes, name) in found.iter_mut().zip(names) {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        *bytes = kib.with_context(|| format!("no {name} of {pid}"))? * 1024;
    }
    Ok(found)
}

/// Number of open file descriptors.
///
/// # Errors
/// When the process is gone or not ours to see.
pub fn fd_count(pid: i32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("cannot list fds of {pid}"))?.count())
}

/// Raises this process's limit of open descriptors as far as it may: a test with a thousand clients
/// needs more than the usual 1,024.
///
/// # Errors
/// When the limit cannot be changed.
pub fn raise_nofile() -> Result<()> {
    let limits = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limits.maximum, maximum: limits.maximum };
    setrlimit(Resource::Nofile, raised).context("cannot raise the limit of open descriptors")
}

/// Number of threads.
///
/// # Errors
/// When the process is gone.
pub fn thread_count(pid: i32) -> Result<usize> {
    status_field(pid, "Threads:")?.trim().parse().context("Threads is no number")
}

/// Processor time used, user and system, in clock ticks of 10 ms.
///
/// # Errors
/// When the process is gone.
pub fn cpu_ticks(pid: i32) -> Result<u64> {
    let number = |at: usize| -> Result<u64> { stat_field(pid, at)?.parse().context("not a number") };
    Ok(number(14)? + number(15)?)
}

/// When it started, in clock ticks after boot: with the pid it names a process for good.
///
/// # Errors
/// When the process is gone.
pub fn start_time(pid: i32) -> Result<u64> {
    stat_field(pid, 22)?.parse().context("not a number")
}

/// Whether it exists and is no zombie.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    stat_field(pid, 3).is_ok_and(|state| state != "Z" && state != "X")
}

/// Whether a process has a handler for a signal. The first one of a pid namespace gets no signal
/// from inside or by name that it has none for.
///
/// # Errors
/// When the process is gone.
pub fn catches(pid: i32, signal: i32) -> Result<bool> {
    let mask =
        u64::from_str_radix(status_field(pid, "SigCgt:")?.trim(), 16).context("SigCgt is no number")?;
    let bit = u32::try_from(signal - 1).ok().and_then(|bit| 1_u64.checked_shl(bit)).context("no signal")?;
    Ok(mask & bit != 0)
}

/// Host uid and gid of root in the user namespace of a process.
///
/// # Errors
/// When the process is gone or maps no root.
pub fn root_ids(pid: i32) -> Result<(u32, u32)> {
    let id = |file: &str| -> Result<u32> {
        let map = fs::read_to_string(format!("/proc/{pid}/{file}"))
            .with_context(|| format!("cannot read {file}"))?;
        let root = map.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let mut root = root.filter(|words| words.first() == Some(&"0"));
        let words = root.next().with_context(|| format!("{file} has no root"))?;
        words.get(1).and_then(|word| word.parse().ok()).with_context(|| format!("{file} is not understood"))
    };
    Ok((id("uid_map")?, id("gid_map")?))
}

fn status_field(pid: i32, name: &str) -> Result<String> {
    let status =
        fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("no process {pid}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no {name} of {pid}"))?.to_owned())
}

/// Field of `/proc/PID/stat`, numbered as in proc_pid_stat(5), from 3 on.
fn stat_field(pid: i32, number: usize) -> Result<String> {
    stat_fields(pid)?.into_iter().nth(number - 3).with_context(|| format!("no field {number}"))
}

/// Fields of `/proc/PID/stat` from the third on, of proc_pid_stat(5): the second may hold spaces.
///
/// # Errors
/// When the process is gone.
pub fn stat_fields(pid: i32) -> Result<Vec<String>> {
    let stat =
        fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("no process {pid}"))?;
    let rest = stat.rsplit_once(')').context("stat is not understood")?.1;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_figures() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let [rss, pss] = rollup_bytes(pid, ["Rss:", "Pss:"]).unwrap();
        assert!(rss >= pss && pss > 100_000, "{rss} {pss}");
        assert!(rollup_bytes(pid, ["Nothing:"]).is_err());
        assert!(rss_bytes(pid).unwrap() > 100_000);
        assert!(fd_count(pid).unwrap() >= 3);
        assert!(thread_count(pid).unwrap() >= 1);
        assert!(start_time(pid).unwrap() > 0);
        assert!(cpu_ticks(pid).is_ok());
        assert!(is_alive(pid));
        assert_eq!(root_ids(pid).unwrap(), (0, 0));
        assert!(!is_alive(i32::MAX));
    }
}
