//! Connections that are over and whose peer may not know it yet: TIME-WAIT (RFC 9293, 3.3.2) in a few bytes, so that no
//! buffer is kept for it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::packet::{ACK, FIN, Pair, RST, SYN, Segment, bare_tcp};

/// How long: smoltcp's own. Linux waits a minute; a number is chosen anew for each call here, by chance.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many are known at a time. One that has been forgotten is answered with a reset.
const MOST: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Late {
    known: HashMap<Pair, Instant>,
    order: VecDeque<(Instant, Pair)>,
}

/// What a segment of a connection that is over gets.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is none.
    Unknown,
    /// It begins a new one.
    Begins,
    Nothing,
    Packet(Vec<u8>),
}

impl Late {
    pub(super) fn add(&mut self, now: Instant, pair: Pair) {
        self.expire(now);
        if self.order.len() >= MOST
            && let Some((_, oldest)) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.known.insert(pair, now + PATIENCE);
        self.order.push_back((now + PATIENCE, pair));
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, pair)) = self.order.front().copied()
            && until <= now
        {
            self.order.pop_front();
            if self.known.get(&pair) == Some(&until) {
                self.known.remove(&pair);
            }
        }
    }

    pub(super) fn has(&self, pair: Pair) -> bool {
        self.known.contains_key(&pair)
    }

    /// What `segment` gets. What takes room in the sequence is acknowledged again, by its own numbers.
    pub(super) fn answer(&mut self, now: Instant, pair: Pair, segment: &Segment) -> Answer {
        self.expire(now);
        if !self.known.contains_key(&pair) {
            return Answer::Unknown;
        }
        let flags = segment.flags & (SYN | FIN | RST | ACK);
        if flags & RST != 0 || flags & (SYN | ACK) == SYN {
            self.known.remove(&pair);
            return if flags & RST != 0 { Answer::Nothing } else { Answer::Begins };
        }
        if segment.takes == 0 || flags & ACK == 0 {
            return Answer::Nothing;
        }
        let next = segment.sequence.wrapping_add(segment.takes);
        Answer::Packet(bare_tcp(pair, segment.acknowledged, next, ACK, u16::MAX))
    }
}
