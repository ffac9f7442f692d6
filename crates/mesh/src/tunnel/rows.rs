//! Rows as the kernel takes them: how long their messages may be, and what is done about those it refuses.

use std::io;

use portway_sys::mmsg::{Train, TrainError};
use portway_sys::path_mtu::path_mtu;
use rustix::io::Errno;

use super::Rows;

/// How often fragments are asked for in one sending: the other thread may have forbidden them again meanwhile.
pub(super) const FRAGMENTED: usize = 8;

/// Longest messages that the kernel takes rows of.
#[derive(Debug)]
pub(super) struct RowLength {
    rows: Rows,
    longest: usize,
}

impl RowLength {
    pub(super) fn new(rows: Rows) -> RowLength {
        RowLength { rows, longest: if rows == Rows::Auto { usize::MAX } else { 0 } }
    }

    /// Rows of any length may be taken again.
    pub(super) fn widen(&mut self) {
        *self = RowLength::new(self.rows);
    }

    /// Rows of messages of this length are refused (EIO: the way cannot cut), so that no way out is asked twice in vain.
    pub(super) fn refused(&mut self, size: usize) {
        self.longest = self.longest.min(size.saturating_sub(1));
    }

    /// Whether messages of this length may be a row.
    pub(super) fn takes(&self, size: usize) -> bool {
        size <= self.longest
    }
}

/// What the way of a row takes, if its messages are longer than that, as far as the kernel knows. Then it is that way which
/// is narrow, and rows are taken elsewhere.
pub(super) fn narrow_way(train: &Train) -> Option<usize> {
    let mtu = path_mtu(train.to).ok()?;
    let headers = if train.to.ip().to_canonical().is_ipv4() { 28 } else { 48 };
    (train.size + headers > mtu).then_some(mtu)
}

/// A message is longer than its way takes, and may not be cut.
pub(super) fn is_too_long(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error())
}

/// Whether it may be that nothing can be sent from the address that was asked for. The kernel says so as it says other
/// things.
pub(super) fn may_be_source(error: &TrainError) -> bool {
    match error {
        TrainError::Refused => true,
        TrainError::Failed(error) => {
            // The third of IPv4, the first of IPv6.
            let errnos = [Errno::INVAL, Errno::ADDRNOTAVAIL, Errno::NETUNREACH, Errno::HOSTUNREACH];
            errnos.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
        }
    }
}

/// The datagrams of a row, each for itself if they are longer than `longest`.
pub(super) fn singles(train: &Train, longest: usize) -> impl Iterator<Item = Train> + use<> {
    let Train { to, from, .. } = *train;
    let (size, end) = (train.size.max(1), train.place.end);
    let step = if size > longest { size } else { train.place.len().max(1) };
    let begins = train.place.clone().step_by(step);
    begins.map(move |begin| Train { to, from, place: begin..end.min(begin + step), size })
}
