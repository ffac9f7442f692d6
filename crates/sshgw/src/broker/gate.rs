//! Who may be connected without having logged in: so many at a time, and nobody who has failed too often.
//!
//! Pure: time is passed in. A flood costs its sender the places, not others: when all are taken, the source that has
//! the most of them loses its oldest.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use portway_proto::admission::Source;

/// Places of connections that have not logged in: `MaxStartups` of sshd_config(5), where all are refused.
pub(super) const PLACES: usize = 100;

/// Sources whose faults are remembered: `PerSourcePenalties max-sources` of sshd_config(5).
const REMEMBERED: usize = 65_536;

/// A penalty counts from here on: `min` there.
const PENALTY_MIN: Duration = Duration::from_secs(15);

/// And never lasts longer: `max` there.
const PENALTY_MAX: Duration = Duration::from_secs(600);

/// What a connection is blamed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// It tried to log in and could not: `authfail` there. Once per connection.
    Login,
    /// Its process died of what it was sent, or asked for what it may not: `crash` there.
    Crash,
}

impl Fault {
    const fn penalty(self) -> Duration {
        match self {
            Self::Login => Duration::from_secs(5),
            Self::Crash => Duration::from_secs(90),
        }
    }
}

/// Whether a connection may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// It may; another has to go, if there is one.
    Open {
        /// The other.
        instead_of: Option<u64>,
    },
    /// It may not: its source has failed too often.
    Penalised,
}

/// The places and the faults.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// By number, which counts up: the first is the oldest.
    waiting: BTreeMap<u64, Source>,
    /// Until when a source is blamed.
    blamed: HashMap<Source, Instant>,
}

impl Gate {
    /// Connection `id`, greater than any before it, asks for a place.
    pub(super) fn enter(&mut self, id: u64, peer: IpAddr, now: Instant) -> Entry {
        let source = Source::from(peer);
        if self.blamed.get(&source).is_some_and(|until| until.saturating_duration_since(now) > PENALTY_MIN) {
            return Entry::Penalised;
        }
        let instead_of = if self.waiting.len() < PLACES { None } else { self.greediest() };
        if let Some(other) = instead_of {
            self.waiting.remove(&other);
        }
        self.waiting.insert(id, source);
        Entry::Open { instead_of }
    }

    /// The oldest connection of the source with most of them.
    fn greediest(&self) -> Option<u64> {
        let mut counts: HashMap<Source, (usize, u64)> = HashMap::new();
        for (id, source) in &self.waiting {
            counts.entry(*source).or_insert((0, *id)).0 += 1;
        }
        // Of two that have as many, the one with the older connection.
        let most = self.waiting.values().filter_map(|source| counts.get(source));
        most.max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest))).map(|(_, oldest)| *oldest)
    }

    /// It has logged in, or has gone: its place is free.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// Blames a source.
    pub(super) fn blame(&mut self, peer: IpAddr, fault: Fault, now: Instant) {
        let source = Source::from(peer);
        if self.blamed.len() >= REMEMBERED && !self.blamed.contains_key(&source) {
            self.blamed.retain(|_, until| *until > now);
            if self.blamed.len() >= REMEMBERED {
                return;
            }
        }
        let until = self.blamed.entry(source).or_insert(now);
        *until = ((*until).max(now) + fault.penalty()).min(now + PENALTY_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, number])
    }

    /// Fails when a flood from one source takes the place of anybody else.
    #[test]
    fn a_flood_displaces_itself() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        assert_eq!(gate.enter(0, peer(7), now), Entry::Open { instead_of: None });
        for id in 1..100 {
            assert_eq!(gate.enter(id, PEER, now), Entry::Open { instead_of: None }, "{id}");
        }
        for id in 100..5000 {
            assert_eq!(gate.enter(id, PEER, now), Entry::Open { instead_of: Some(id - 99) }, "{id}");
        }
        assert_eq!(gate.enter(5000, peer(8), now), Entry::Open { instead_of: Some(4901) });
        gate.leave(4950);
        assert_eq!(gate.enter(5001, peer(9), now), Entry::Open { instead_of: None });
        // Many sources with one each: the oldest goes.
        let mut gate = Gate::default();
        for id in 0..250_u8 {
            let instead_of = (id >= 100).then(|| u64::from(id) - 100);
            assert_eq!(gate.enter(u64::from(id), peer(id), now), Entry::Open { instead_of });
        }
    }

    #[test]
    fn faults_add_up_and_pass() {
        let (mut gate, start) = (Gate::default(), Instant::now());
        let later = |secs| start + Duration::from_secs(secs);
        for _ in 0..3 {
            gate.blame(PEER, Fault::Login, start);
            assert!(matches!(gate.enter(1, PEER, start), Entry::Open { .. }), "three may fail");
        }
        gate.blame(PEER, Fault::Login, start);
        assert_eq!(gate.enter(2, PEER, start), Entry::Penalised);
        assert!(matches!(gate.enter(2, peer(1), start), Entry::Open { .. }), "others are not meant");
        assert!(matches!(gate.enter(3, PEER, later(6)), Entry::Open { .. }));
        for _ in 0..100 {
            gate.blame(PEER, Fault::Crash, later(6));
        }
        assert_eq!(gate.enter(4, PEER, later(500)), Entry::Penalised);
        assert!(
            matches!(gate.enter(4, PEER, later(592)), Entry::Open { .. }),
            "never longer than ten minutes"
        );
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for number in 0..70_000_u32 {
            gate.blame(IpAddr::from(number.to_be_bytes()), Fault::Crash, now);
        }
        assert_eq!(gate.blamed.len(), REMEMBERED);
        gate.blame(IpAddr::from(u32::MAX.to_be_bytes()), Fault::Crash, now + Duration::from_secs(91));
        assert_eq!(gate.blamed.len(), 1, "what has passed makes room");
    }
}
