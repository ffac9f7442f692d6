//! Bytes that a program or a service has not taken yet.
//!
//! Mostly it takes them at once, and nothing is kept of them here.

use rustix::io::Errno;

/// Memory that is kept between two floods, bytes.
const KEPT_BYTES: usize = 16 << 10;

/// What waits, in order.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    bytes: Vec<u8>,
    /// Of them those that were taken; fewer than half, so that a byte is moved once at most for each that is taken.
    taken: usize,
}

/// What came of giving.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Given {
    /// Bytes that were taken.
    pub(crate) count: usize,
    /// Nothing will be taken any more.
    pub(crate) is_lost: bool,
}

impl Backlog {
    pub(crate) const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Gives bytes by `write`, after those that wait. What is not taken waits.
    pub(crate) fn put(&mut self, bytes: &[u8], write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Given {
        if !self.is_empty() {
            // Whoever takes again is seen to.
            self.bytes.extend_from_slice(bytes);
            return Given { count: 0, is_lost: false };
        }
        let given = give(bytes, write);
        self.bytes.extend_from_slice(bytes.get(given.count..).unwrap_or_default());
        given
    }

    /// Gives what waits.
    pub(crate) fn feed(&mut self, write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Given {
        let given = give(self.bytes.get(self.taken..).unwrap_or_default(), write);
        self.taken += given.count;
        if self.taken * 2 >= self.bytes.len() {
            self.bytes.drain(..self.taken);
            self.taken = 0;
        }
        if self.is_empty() {
            self.bytes.shrink_to(KEPT_BYTES);
        }
        given
    }

    /// Gives up what waits; how much that is.
    pub(crate) fn lose(&mut self) -> usize {
        let lost = self.bytes.len() - self.taken;
        *self = Self::default();
        lost
    }
}

/// Gives as much as is taken now.
fn give(bytes: &[u8], mut write: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Given {
    let mut count = 0;
    while let Some(rest) = bytes.get(count..).filter(|rest| !rest.is_empty()) {
        match write(rest) {
            Ok(taken) => count += taken,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(_) => return Given { count, is_lost: true },
        }
    }
    Given { count, is_lost: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes up to `room` bytes, and then says `then`.
    fn taker(room: usize, then: Errno, to: &mut Vec<u8>) -> impl FnMut(&[u8]) -> Result<usize, Errno> {
        let mut left = room;
        move |bytes| {
            // Never all at once, as a socket may do it.
            let count = bytes.len().min(left).min(7);
            left -= count;
            to.extend_from_slice(bytes.get(..count).unwrap_or_default());
            if count == 0 { Err(then) } else { Ok(count) }
        }
    }

    /// Fails when a byte is lost, doubled or overtaken, or memory stays that nothing waits in.
    #[test]
    fn bytes_come_in_order() {
        let (mut backlog, mut came, mut sent) = (Backlog::default(), Vec::new(), Vec::new());
        for round in 0..200_usize {
            let piece: Vec<u8> =
                (0..round * 3).map(|at| u8::try_from((at + round) % 251).unwrap_or(0)).collect();
            sent.extend_from_slice(&piece);
            let room = round * 5 % 97;
            let given = backlog.put(&piece, taker(room, Errno::AGAIN, &mut came));
            assert!(!given.is_lost && given.count <= room);
            let before = came.len();
            let given = backlog.feed(taker(room, Errno::AGAIN, &mut came));
            assert_eq!((given.count, given.is_lost), (came.len() - before, false));
            assert!(backlog.taken * 2 <= backlog.bytes.len());
        }
        assert!(!backlog.is_empty() && came.len() < sent.len());
        backlog.feed(taker(usize::MAX, Errno::AGAIN, &mut came));
        assert!(backlog.is_empty() && came == sent);
        assert!(backlog.bytes.capacity() <= KEPT_BYTES);
    }

    /// Fails when more or less is counted as lost than nobody took.
    #[test]
    fn what_nobody_takes_is_counted() {
        let (mut backlog, mut came) = (Backlog::default(), Vec::new());
        let given = backlog.put(&[1; 100], taker(30, Errno::PIPE, &mut came));
        assert_eq!((given, came.len(), backlog.lose()), (Given { count: 30, is_lost: true }, 30, 70));
        assert!(backlog.is_empty());
        backlog.put(&[1; 100], taker(0, Errno::AGAIN, &mut came));
        backlog.put(&[2; 50], taker(1000, Errno::AGAIN, &mut came));
        assert_eq!(came.len(), 30, "nothing overtakes");
        let given = backlog.feed(taker(20, Errno::PIPE, &mut came));
        assert_eq!((given, backlog.lose()), (Given { count: 20, is_lost: true }, 130));
    }
}
