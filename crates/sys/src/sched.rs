//! How the scheduler treats the calling thread: sched(7). Neither needs a privilege, and neither changes the share of
//! the processor that a thread gets, only when it gets it. Threads that it starts begin the same way.

use std::io;
use std::time::Duration;

use rustix::process::getpriority_process;

use crate::check;

/// The shortest time on the processor a thread may ask for; since Linux 6.12 (`sched_setattr` in kernel/sched/fair.c).
const SHORTEST: Duration = Duration::from_micros(100);

/// Asks for short times on the processor and therefore soon: a thread that has slept is put before others that run
/// for longer at a time. Kernels before 6.12 take no notice.
///
/// # Errors
/// Those of sched_setattr(2).
pub fn promptly() -> io::Result<()> {
    set(libc::SCHED_OTHER, SHORTEST)
}

/// Lets others go first: a thread that wakes up waits until the one that runs has had its time (`SCHED_BATCH`).
///
/// # Errors
/// Those of sched_setattr(2).
pub fn in_batches() -> io::Result<()> {
    set(libc::SCHED_BATCH, Duration::ZERO)
}

/// `slice` of zero is the kernel's default.
fn set(policy: libc::c_int, slice: Duration) -> io::Result<()> {
    let attributes = libc::sched_attr {
        // Up to sched_period, which is all a kernel of any age knows (SCHED_ATTR_SIZE_VER0).
        size: 48,
        sched_policy: policy.cast_unsigned(),
        sched_flags: 0,
        // To be kept, it has to be named.
        sched_nice: getpriority_process(None)?,
        sched_priority: 0,
        sched_runtime: u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX),
        sched_deadline: 0,
        sched_period: 0,
    };
    let size = size_of_val(&attributes);
    debug_assert_eq!(size, 48, "the first version of the structure");
    // SAFETY: the structure is as long as it says and lives through the call, which only reads it; 0 is this thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    check(libc::c_int::try_from(result).unwrap_or(-1)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Policy and nice value of this thread, by proc_pid_stat(5).
    fn policy_and_nice() -> (String, String) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        (fields[38].to_owned(), fields[16].to_owned())
    }

    /// Fails when: the call is refused, or changes the nice value, or cannot be taken back.
    #[test]
    fn a_thread_changes_its_way_and_keeps_its_share() {
        std::thread::spawn(|| {
            let nice = rustix::process::nice(3).unwrap().to_string();
            in_batches().unwrap();
            assert_eq!(policy_and_nice(), ("3".into(), nice.clone()));
            promptly().unwrap();
            assert_eq!(policy_and_nice(), ("0".into(), nice));
        })
        .join()
        .unwrap();
    }
}
