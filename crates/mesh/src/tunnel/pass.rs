//! What a hub passes on, sent from where it was received: messages for one member that lie one behind the other are a row.

use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use portway_sys::mmsg::{BATCH, ROW_MAX, Train, TrainError, Trains};

use super::Shared;
use crate::segment::MOST_JOINED;
use crate::wg::Dropped;

/// See the module.
pub(super) struct Pass {
    system: Trains,
    trains: Vec<Train>,
    /// The kernel takes rows.
    rows: bool,
}

impl Pass {
    pub(super) fn new() -> Pass {
        Pass { system: Trains::new(), trains: Vec::with_capacity(MOST_JOINED.max(BATCH)), rows: true }
    }

    /// So many bytes from `begin` on go there.
    pub(super) fn add(&mut self, to: SocketAddr, begin: usize, bytes: usize) {
        let end = begin + bytes;
        let joins = |train: &&mut Train| {
            let length = train.place.len();
            self.rows
                && train.to == to
                && train.place.end == begin
                && bytes <= train.size
                && length.is_multiple_of(train.size)
                && length / train.size < ROW_MAX
        };
        match self.trains.last_mut().filter(joins) {
            Some(train) => train.place.end = end,
            None => self.trains.push(Train { to, place: begin..end, size: bytes }),
        }
    }

    /// Sends all of it, out of `bytes`. What there is no room for is dropped: who receives waits for nobody.
    pub(super) fn send(&mut self, shared: &Shared, bytes: &[u8]) {
        let mut done = 0;
        while let Some(rest) = self.trains.get(done..).filter(|rest| !rest.is_empty()) {
            let lost = rest.first().map_or(0, Train::count);
            match self.system.send(shared.udp.as_fd(), bytes, rest) {
                Ok(count) => {
                    let count = count.max(1);
                    let messages: usize = rest.iter().take(count).map(Train::count).sum();
                    shared.totals.passed_on.fetch_add(messages as u64, Ordering::Relaxed);
                    done += count;
                }
                Err(TrainError::Refused) => {
                    self.rows = false;
                    let Train { to, place, size } = self.trains.remove(done);
                    let begins = place.clone().step_by(size.max(1));
                    let single = |begin| Train { to, place: begin..place.end.min(begin + size), size };
                    self.trains.splice(done..done, begins.map(single));
                }
                Err(TrainError::Failed(_)) => {
                    shared.counters.add(Dropped::Unsent, lost as u64);
                    done += 1;
                }
            }
        }
        self.trains.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.trains.is_empty()
    }
}
