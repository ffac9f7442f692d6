//! Failures of a device: counted at once, reported to the daemon at most once a second.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::dial::is_shortage;
use crate::wire::FailureKind;

/// Shortest time between two reports of a device.
pub(super) const REPORT_EVERY: Duration = Duration::from_secs(1);

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Calling the target of this listen index.
    Connect(u32),
    /// Taking in a client at this listen index.
    Accept(u32),
    /// Taking in a datagram at this listen index.
    Receive(u32),
}

/// One failure; made into text only when it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) operation: Operation,
    pub(super) errno: Errno,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Failures {
    count: u64,
    last: Option<Failure>,
    reported: Option<Instant>,
    /// When its timer is set for.
    pub(super) timer: Option<Instant>,
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Report {
    /// Report at once.
    Now,
    /// Report at this time.
    At(Instant),
    /// A report is coming.
    Coming,
}

impl Failures {
    /// Takes in a failure at `now`.
    pub(super) fn add(&mut self, failure: Failure, now: Instant) -> Report {
        self.count += 1;
        self.last = Some(failure);
        if self.timer.is_some() {
            return Report::Coming;
        }
        match self.reported.map(|at| at + REPORT_EVERY) {
            Some(next) if next > now => {
                self.timer = Some(next);
                Report::At(next)
            }
            Some(_) | None => Report::Now,
        }
    }

    /// Takes what is to be reported: how many, and the last.
    pub(super) fn take(&mut self, now: Instant) -> Option<(u64, Failure)> {
        self.timer = None;
        let last = self.last.take()?;
        self.reported = Some(now);
        Some((std::mem::take(&mut self.count), last))
    }
}

/// What kind of failure of a dial `errno` is.
pub(super) fn kind(errno: Errno) -> FailureKind {
    match errno {
        Errno::CONNREFUSED => FailureKind::Refused,
        Errno::TIMEDOUT => FailureKind::TimedOut,
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN => FailureKind::Unreachable,
        Errno::CONNRESET | Errno::CONNABORTED | Errno::PIPE => FailureKind::Reset,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => FailureKind::Absent,
        Errno::ACCESS | Errno::PERM => FailureKind::Forbidden,
        errno if is_shortage(errno) => FailureKind::NoDescriptors,
        _ => FailureKind::Other,
    }
}

/// The system's words for `errno`, without its number.
pub(super) fn words(errno: Errno) -> String {
    let text = std::io::Error::from(errno).to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let mut chars = text.get(..end).unwrap_or_default().chars();
    let first = chars.next().map(|first| first.to_lowercase().to_string()).unwrap_or_default();
    first + chars.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::field;

    #[test]
    fn each_errno_has_one_kind_and_each_kind_a_field_of_its_own() {
        let kinds = [
            (Errno::CONNREFUSED, FailureKind::Refused),
            (Errno::TIMEDOUT, FailureKind::TimedOut),
            (Errno::HOSTUNREACH, FailureKind::Unreachable),
            (Errno::NETUNREACH, FailureKind::Unreachable),
            (Errno::CONNRESET, FailureKind::Reset),
            (Errno::NOENT, FailureKind::Absent),
            (Errno::ACCESS, FailureKind::Forbidden),
            (Errno::MFILE, FailureKind::NoDescriptors),
            (Errno::ADDRNOTAVAIL, FailureKind::NoDescriptors),
            (Errno::PROTOTYPE, FailureKind::Other),
        ];
        for (errno, wanted) in kinds {
            assert_eq!(kind(errno), wanted, "{errno}");
        }
        let fields: std::collections::BTreeSet<usize> =
            FailureKind::ALL.iter().map(|kind| kind.field()).collect();
        assert_eq!(fields, (field::FAILED..field::DIAL_TIMES).collect());
    }

    #[test]
    fn one_report_a_second() {
        let start = Instant::now();
        let failure = Failure { operation: Operation::Connect(0), errno: Errno::CONNREFUSED };
        let mut failures = Failures::default();
        assert_eq!(failures.add(failure, start), Report::Now);
        assert_eq!(failures.take(start), Some((1, failure)));
        let soon = start + Duration::from_millis(10);
        assert_eq!(failures.add(failure, soon), Report::At(start + REPORT_EVERY));
        assert_eq!(failures.add(failure, soon), Report::Coming);
        assert_eq!(failures.take(start + REPORT_EVERY), Some((2, failure)));
        assert_eq!(failures.add(failure, start + REPORT_EVERY * 3), Report::Now);
    }

    #[test]
    fn words_are_the_systems() {
        assert_eq!(words(Errno::CONNREFUSED), "connection refused");
    }
}
