//! What is sealed and not sent yet: messages one behind the other, in rows that the kernel cuts.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use portway_sys::mmsg::{BATCH, LocalAddr, ROW_MAX, ROW_MAX_BYTES, Train, TrainError, Trains};
use portway_sys::path_mtu::{Oversize, set_oversize};

use super::rows::{FRAGMENTED, RowLength, is_too_long, may_be_source, narrow_way, singles};
use super::{Rows, Shared, wait_for_room};
use crate::engine::FRAME_BYTES;
use crate::wg::{Dropped, Reach};

/// Room for what is sealed and not sent yet, bytes: four of the longest packets.
const LOAD_BYTES: usize = 4 * (FRAME_BYTES + ROW_MAX_BYTES / 8);

/// More sealed than this is sent before the next packet is looked at.
const ENOUGH_BYTES: usize = LOAD_BYTES / 2;

/// Room that is left for the next message: the longest there is.
const MESSAGE_BYTES: usize = FRAME_BYTES + 64;

/// See the module.
pub(super) struct Load {
    bytes: Box<[u8]>,
    used: usize,
    trains: Vec<Train>,
    system: Trains,
    rows: RowLength,
    /// Whose messages were longer than their way takes, and what it takes. They were sent in fragments.
    too_long: Vec<(SocketAddr, usize)>,
    /// Addresses that are this host's no more.
    gone: Vec<LocalAddr>,
}

impl Load {
    pub(super) fn new(rows: Rows) -> Load {
        Load {
            bytes: vec![0; LOAD_BYTES].into_boxed_slice(),
            used: 0,
            trains: Vec::with_capacity(BATCH),
            system: Trains::new(),
            rows: RowLength::new(rows),
            too_long: Vec::new(),
            gone: Vec::new(),
        }
    }

    /// Rows of any length may be taken again.
    pub(super) fn try_rows(&mut self) {
        self.rows.widen();
    }

    /// Whether it should be sent before more is put to it.
    pub(super) fn is_enough(&self) -> bool {
        self.used >= ENOUGH_BYTES
    }

    /// The next one whose messages were too long, and the longest packet its way takes.
    pub(super) fn too_long(&mut self) -> Option<(SocketAddr, usize)> {
        self.too_long.pop()
    }

    /// The next address that nothing can be sent from any more.
    pub(super) fn gone(&mut self) -> Option<LocalAddr> {
        self.gone.pop()
    }

    /// Where the next message goes: room for the longest there is.
    pub(super) fn room(&mut self, shared: &Shared) -> &mut [u8] {
        let full = LOAD_BYTES - self.used < MESSAGE_BYTES;
        if full || self.trains.len() >= BATCH {
            self.send(shared);
        }
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// What was written there is a message of so many bytes. It joins the last row if it may.
    pub(super) fn add(&mut self, reach: Reach, bytes: usize) {
        let Reach { to, from } = reach;
        let begin = self.used;
        self.used += bytes;
        let joins = |train: &&mut Train| {
            let length = train.place.len();
            self.rows.takes(train.size)
                && (train.to, train.from) == (to, from)
                && bytes <= train.size
                && length.is_multiple_of(train.size)
                && length + bytes <= ROW_MAX_BYTES
                && length / train.size < ROW_MAX
        };
        match self.trains.last_mut().filter(joins) {
            Some(train) => train.place.end = self.used,
            None => self.trains.push(Train { to, from, place: begin..self.used, size: bytes }),
        }
    }

    /// Sends all of it. When there is no room it waits: nothing that was taken from the stack is dropped for that.
    pub(super) fn send(&mut self, shared: &Shared) {
        let mut trains = std::mem::take(&mut self.trains);
        let (mut done, mut fragmented) = (0, 0);
        while let Some(rest) = trains.get(done..).filter(|rest| !rest.is_empty()) {
            let source = rest.first().and_then(|train| train.from);
            match self.system.send(shared.udp.as_fd(), &self.bytes, rest) {
                Err(error)
                    if source.is_some_and(|source| may_be_source(&error) && !shared.udp.is_own(source)) =>
                {
                    trains
                        .iter_mut()
                        .filter(|train| train.from == source)
                        .for_each(|train| train.from = None);
                    self.gone.extend(source);
                }
                Ok(count) => {
                    shared.totals.rows_out.fetch_add(count as u64, Ordering::Relaxed);
                    done += count.max(1);
                }
                Err(TrainError::Refused) => {
                    let shorter = rest.first().map_or(0, |train| train.size).saturating_sub(1);
                    let is_narrow = rest.first().is_some_and(|train| self.is_narrow(train));
                    if !is_narrow {
                        self.rows.refused(shorter + 1);
                    }
                    shared.totals.rows_refused.fetch_add(1, Ordering::Relaxed);
                    trains = rest.iter().flat_map(|train| singles(train, shorter)).collect();
                    done = 0;
                }
                Err(TrainError::Failed(error)) if is_too_long(&error) && fragmented < FRAGMENTED => {
                    rest.first().map(|train| self.is_narrow(train));
                    // What is sealed cannot be cut any more but by the kernel.
                    fragmented += 1;
                    if set_oversize(shared.udp.as_fd(), Oversize::Cut).is_err() {
                        shared.counters.add(Dropped::Unsent, 1);
                        done += 1;
                    }
                }
                Err(TrainError::Failed(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    if shared.stop.load(Ordering::Acquire) {
                        break;
                    }
                    wait_for_room(&shared.udp);
                }
                Err(TrainError::Failed(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(TrainError::Failed(_)) => {
                    let lost = rest.first().map_or(0, Train::count);
                    shared.counters.add(Dropped::Unsent, lost as u64);
                    done += 1;
                }
            }
        }
        if fragmented > 0 {
            // If it cannot be undone messages go in fragments where they must.
            set_oversize(shared.udp.as_fd(), Oversize::Refused).ok();
        }
        trains.clear();
        self.trains = trains;
        self.used = 0;
    }

    /// Whether the messages of a row are longer than their way takes. If so it is noted.
    fn is_narrow(&mut self, train: &Train) -> bool {
        let Some(mtu) = narrow_way(train) else { return false };
        if self.too_long.iter().all(|(to, _)| *to != train.to) {
            self.too_long.push((train.to, mtu));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: a row is continued behind a shorter message, by a longer one, to somebody else, or past its bounds.
    #[test]
    fn rows_are_equally_long() {
        let mut load = Load::new(Rows::Auto);
        let to = |last| Reach::from(SocketAddr::from(([10, 0, 0, last], 1)));
        let (one, two) = (to(1), to(2));
        let messages = [(one, 100), (one, 100), (one, 60), (one, 60), (one, 100), (two, 100), (two, 100)];
        messages.into_iter().for_each(|(to, bytes)| load.add(to, bytes));
        let rows: Vec<_> =
            load.trains.iter().map(|train| (train.to.into(), train.place.clone(), train.size)).collect();
        let expected = [(one, 0..260, 100), (one, 260..320, 60), (one, 320..420, 100), (two, 420..620, 100)];
        assert_eq!(rows, expected);
        let single: Vec<_> =
            singles(&load.trains[0], 99).map(|train| (train.place.clone(), train.count())).collect();
        assert_eq!(single, [(0..100, 1), (100..200, 1), (200..260, 1)]);
        assert_eq!(singles(&load.trains[0], 100).collect::<Vec<_>>(), load.trains[..1]);
        load.trains.clear();
        (0..130).for_each(|_| load.add(one, 48));
        assert_eq!(load.trains.iter().map(Train::count).collect::<Vec<_>>(), [64, 64, 2]);
        load.trains.clear();
        (0..46).for_each(|_| load.add(one, 1452));
        assert_eq!(load.trains.iter().map(Train::count).collect::<Vec<_>>(), [45, 1]);
        load.rows.refused(48);
        load.trains.clear();
        (0..3).for_each(|_| load.add(one, 48));
        assert_eq!(load.trains.len(), 3);
    }
}
