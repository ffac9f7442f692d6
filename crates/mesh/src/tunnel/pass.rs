//! What a hub passes on, sent from where it was received: messages for one member that lie one behind the other are a row.
//! Those that are longer than their way takes go in fragments: what is sealed cannot be cut any more but by the kernel.

use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portway_sys::mmsg::{BATCH, ROW_MAX, Train, TrainError, Trains};
use portway_sys::path_mtu::{Oversize, set_oversize};

use super::rows::{FRAGMENTED, RowLength, is_too_long, may_be_source, narrow_way, singles};
use super::{Rows, Shared};
use crate::segment::MOST_JOINED;
use crate::wg::{Dropped, Reach};

/// How long no row is asked for that was refused: a way out may have been exchanged for another.
const ROWS_AGAIN: Duration = Duration::from_secs(60);

/// See the module.
pub(super) struct Pass {
    system: Trains,
    trains: Vec<Train>,
    rows: RowLength,
    /// When a row was last refused that its way would take.
    refused: Option<Instant>,
}

impl Pass {
    pub(super) fn new(rows: Rows) -> Pass {
        let trains = Vec::with_capacity(MOST_JOINED.max(BATCH));
        Pass { system: Trains::new(), trains, rows: RowLength::new(rows), refused: None }
    }

    /// So many bytes from `begin` on go there.
    pub(super) fn add(&mut self, reach: Reach, begin: usize, bytes: usize) {
        let Reach { to, from } = reach;
        let end = begin + bytes;
        let joins = |train: &&mut Train| {
            let length = train.place.len();
            self.rows.takes(train.size)
                && (train.to, train.from) == (to, from)
                && train.place.end == begin
                && bytes <= train.size
                && length.is_multiple_of(train.size)
                && length / train.size < ROW_MAX
        };
        match self.trains.last_mut().filter(joins) {
            Some(train) => train.place.end = end,
            None => self.trains.push(Train { to, from, place: begin..end, size: bytes }),
        }
    }

    /// Sends all of it, out of `bytes`. What there is no room for is dropped: who receives waits for nobody.
    pub(super) fn send(&mut self, shared: &Shared, bytes: &[u8], now: Instant) {
        let mut trains = std::mem::take(&mut self.trains);
        let (mut done, mut fragmented) = (0, 0);
        while let Some(rest) = trains.get(done..).filter(|rest| !rest.is_empty()) {
            let source = rest.first().and_then(|train| train.from);
            match self.system.send(shared.udp.as_fd(), bytes, rest) {
                Err(error)
                    if source.is_some_and(|source| may_be_source(&error) && !shared.udp.is_own(source)) =>
                {
                    trains.iter_mut().filter(|train| train.from == source).for_each(|it| it.from = None);
                }
                Ok(count) => {
                    let count = count.max(1);
                    let messages: usize = rest.iter().take(count).map(Train::count).sum();
                    shared.totals.passed_on.fetch_add(messages as u64, Ordering::Relaxed);
                    done += count;
                }
                Err(TrainError::Refused) => {
                    let size = rest.first().map_or(0, |train| train.size);
                    if rest.first().is_some_and(|train| narrow_way(train).is_none()) {
                        self.refuse(size, now);
                    }
                    shared.totals.rows_refused.fetch_add(1, Ordering::Relaxed);
                    let shorter = size.saturating_sub(1);
                    trains = rest.iter().flat_map(|train| singles(train, shorter)).collect();
                    done = 0;
                }
                Err(TrainError::Failed(error))
                    if is_too_long(&error)
                        && fragmented < FRAGMENTED
                        && set_oversize(shared.udp.as_fd(), Oversize::Cut).is_ok() =>
                {
                    fragmented += 1;
                }
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
        if self.refused.is_some_and(|at| now.saturating_duration_since(at) >= ROWS_AGAIN) {
            self.rows.widen();
            self.refused = None;
        }
    }

    /// Rows of messages so long are not taken by a way that would take the messages.
    fn refuse(&mut self, size: usize, now: Instant) {
        self.rows.refused(size);
        self.refused = Some(now);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn rows(pass: &mut Pass) -> Vec<usize> {
        let to = SocketAddr::from(([192, 0, 2, 1], 1));
        (0..4).for_each(|number| pass.add(to.into(), number * 100, 100));
        let counts = pass.trains.iter().map(Train::count).collect();
        pass.trains.clear();
        counts
    }

    /// Fails when: a hub makes rows though it is not to, or one row that was refused is the last one there was of any length.
    #[test]
    fn a_hub_makes_the_rows_that_are_taken() {
        assert_eq!(rows(&mut Pass::new(Rows::Off)), [1, 1, 1, 1]);
        let mut pass = Pass::new(Rows::Auto);
        assert_eq!(rows(&mut pass), [4]);
        pass.refuse(101, Instant::now());
        assert_eq!(rows(&mut pass), [4]);
        pass.refuse(100, Instant::now());
        assert_eq!(rows(&mut pass), [1, 1, 1, 1]);
    }
}
