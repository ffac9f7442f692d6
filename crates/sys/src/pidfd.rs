//! Watching a process that is not our child.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::text::ProcPath;

/// `PF_EXITING` of linux/sched.h, in field 9 of /proc/PID/stat: the process has begun to exit.
const PF_EXITING: u64 = 0x4;

/// Longest /proc/PID/stat that is read: 52 numbers of at most 20 digits and the name.
const STAT_BYTES: usize = 2048;

/// Opens a pidfd of `pid`. It becomes readable when the process dies.
///
/// # Errors
/// `InvalidInput` for a pid below 1, `Unsupported` on a kernel before Linux 5.3 or below a filter of system calls that
/// is as old; otherwise those of pidfd_open(2): ESRCH when there is no such process.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "pid below 1"))?;
    pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| match errno {
        Errno::NOSYS => {
            io::Error::new(io::ErrorKind::Unsupported, "the kernel has no pidfd_open, Linux 5.3 has")
        }
        errno => errno.into(),
    })
}

/// Whether the process behind `pidfd` is dead, zombies included. A failing poll counts as dead.
#[must_use]
pub fn exited(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    match poll(&mut fds, Some(&now)) {
        Ok(ready) => ready > 0,
        Err(error) => error != Errno::INTR,
    }
}

/// Sends `signal` to the process behind `pidfd`; never to another one that got its pid later.
///
/// # Errors
/// ESRCH when it is gone, `PermissionDenied`, `InvalidInput` for a number that is no signal.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let signal = Signal::from_named_raw(signal)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "unknown signal"))?;
    Ok(pidfd_send_signal(pidfd, signal)?)
}

/// Whether `pid` has begun to exit, is a zombie, or is gone.
///
/// A dying init of a pid namespace first kills everything in it, so its services refuse
/// connections before its pidfd becomes readable; this sees that window. What cannot be looked at
/// counts as alive. Allocates nothing.
#[must_use]
pub fn dying(pid: i32) -> bool {
    let mut buffer = [0; STAT_BYTES];
    let fields = match stat_fields(pid, &mut buffer) {
        Ok(fields) => fields,
        // It says nothing about the process when there is no descriptor left to look with.
        Err(error) => {
            return error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH);
        }
    };
    let state = field(fields, 3);
    let flags = field(fields, 9).and_then(|text| text.parse::<u64>().ok());
    matches!(state, Some("Z" | "X" | "x")) || flags.is_none_or(|flags| flags & PF_EXITING != 0)
}

/// Field 22 of /proc/PID/stat: when the process was started, in clock ticks after boot.
/// With the pid it names one process for the whole boot.
///
/// # Errors
/// `NotFound` when there is no such process, `InvalidData` when the file cannot be read as documented.
pub fn start_time(pid: i32) -> io::Result<u64> {
    let mut buffer = [0; STAT_BYTES];
    let fields = stat_fields(pid, &mut buffer)?;
    field(fields, 22)
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "malformed /proc/PID/stat"))
}

/// What follows the command name in /proc/PID/stat.
fn stat_fields(pid: i32, buffer: &mut [u8; STAT_BYTES]) -> io::Result<&str> {
    let mut file = File::open(ProcPath::of_pid(pid, "stat").as_path())?;
    let mut length = 0;
    while length < buffer.len() {
        let more = file.read(buffer.get_mut(length..).unwrap_or_default())?;
        if more == 0 {
            break;
        }
        length += more;
    }
    after_name(buffer.get(..length).unwrap_or_default())
}

/// The fields after the command name, which may itself contain anything, also `)`.
fn after_name(text: &[u8]) -> io::Result<&str> {
    let after_name = text.iter().rposition(|byte| *byte == b')').map_or(0, |end| end + 1);
    str::from_utf8(text.get(after_name..).unwrap_or_default())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Field `number` counted as proc_pid_stat(5) does; 3 is the first after the name.
fn field(fields: &str, number: usize) -> Option<&str> {
    fields.split_ascii_whitespace().nth(number.checked_sub(3)?)
}

#[cfg(test)]
mod tests;
