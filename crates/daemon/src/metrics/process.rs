//! Memory, descriptors, threads and processor time of the daemon and of the processes it has, as `/proc` says.

use std::fs;

use super::page::{Page, seconds};

/// A process that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Watched {
    /// Its labels, as [`super::page::labels`] makes them: no two processes have the same.
    pub(crate) labels: String,
    /// Its pid.
    pub(crate) pid: u32,
}

/// What `/proc` says of one.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Usage {
    resident_bytes: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
    threads: Option<u64>,
    cpu_micros: Option<u64>,
}

/// Units of the times in `/proc/PID/stat`: `USER_HZ`, 100 on every architecture Linux runs on today.
const TICKS_PER_SECOND: u64 = 100;

type Value = fn(&Usage) -> Option<String>;

const FAMILIES: [(&str, &str, &str, Value); 5] = [
    ("portway_process_resident_bytes", "gauge", "Memory that a process has in use.", |usage| {
        usage.resident_bytes.map(|bytes| bytes.to_string())
    }),
    ("portway_process_open_fds", "gauge", "Descriptors that a process has open.", |usage| {
        usage.open_fds.map(|count| count.to_string())
    }),
    ("portway_process_max_fds", "gauge", "Descriptors that a process may have open.", |usage| {
        usage.max_fds.map(|count| count.to_string())
    }),
    ("portway_process_threads", "gauge", "Threads of a process.", |usage| {
        usage.threads.map(|count| count.to_string())
    }),
    ("portway_process_cpu_seconds_total", "counter", "Processor time that a process has used.", |usage| {
        usage.cpu_micros.map(seconds)
    }),
];

/// The page of `processes`. One that has ended meanwhile is left out. Reads files: not for a thread that others wait for.
pub(crate) fn page(processes: &[Watched]) -> String {
    let used: Vec<(&Watched, Usage)> = processes.iter().map(|one| (one, usage(one.pid))).collect();
    let mut page = Page::default();
    for (name, kind, help, value) in FAMILIES {
        page.family(name, kind, help);
        for (process, usage) in &used {
            if let Some(value) = value(usage) {
                page.sample(name, &process.labels, value);
            }
        }
    }
    page.into_text()
}

fn usage(pid: u32) -> Usage {
    let file = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let status = file("status").unwrap_or_default();
    let of_status = |field: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        line.split_whitespace().next()?.parse().ok()
    };
    Usage {
        resident_bytes: of_status("VmRSS").map(|kilobytes| kilobytes.saturating_mul(1024)),
        threads: of_status("Threads"),
        open_fds: fs::read_dir(format!("/proc/{pid}/fd"))
            .ok()
            .map(|entries| u64::try_from(entries.count()).unwrap_or(u64::MAX)),
        max_fds: file("limits").as_deref().and_then(max_fds),
        cpu_micros: file("stat").as_deref().and_then(cpu_micros),
    }
}

/// The soft limit of open files in `/proc/PID/limits`.
fn max_fds(limits: &str) -> Option<u64> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// User and system time in `/proc/PID/stat` (proc_pid_stat(5), fields 14 and 15). The name before them may hold anything.
fn cpu_micros(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()?.checked_add(fields.next()?.parse().ok()?)?;
    ticks.checked_mul(1_000_000 / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proc_says_is_read() {
        let stat = "12 (a ) b (c) S 1 2 3 4 5 6 7 8 9 10 150 25 0 0 20 0 4 0 1";
        assert_eq!(cpu_micros(stat), Some(1_750_000));
        assert_eq!(cpu_micros("12 (x"), None);
        let limits = "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 524288               files\n";
        assert_eq!(max_fds(limits), Some(1024));
        assert_eq!(max_fds("Max open files  unlimited unlimited files\n"), None);
    }

    #[test]
    fn this_process_is_measured_and_one_that_is_gone_is_left_out() {
        let open = [fs::File::open("/").unwrap(), fs::File::open("/").unwrap()];
        let own = usage(std::process::id());
        assert!(own.resident_bytes.is_some_and(|bytes| bytes > 100_000), "{own:?}");
        assert!(own.open_fds.is_some_and(|count| count >= 2) && own.max_fds >= own.open_fds, "{own:?}");
        assert!(own.threads.is_some_and(|count| count >= 1) && own.cpu_micros.is_some(), "{own:?}");
        drop(open);
        let gone = Watched { labels: "process=\"x\"".to_owned(), pid: u32::MAX };
        assert!(page(&[gone]).lines().all(|line| line.starts_with('#')));
    }
}
