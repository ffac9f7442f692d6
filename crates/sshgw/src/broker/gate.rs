//! Who may be connected without having logged in: so many at a time, and nobody who has failed too often.
//!
//! Pure: time is passed in. A flood costs its sender the places, not others: when all are taken, the source that has
//! the most of them loses its oldest, and those that have not said a word lose theirs first. A place costs no more than a
//! socket until its connection has a turn: so many processes are started in a second, and few for the silent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use portway_proto::admission::{Bucket, Source, Sources};

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
    /// It held a place until somebody else needed it, or its time was over: `grace-exceeded` there.
    Slow,
    /// It went without having tried: `noauth` there.
    Nothing,
}

impl Fault {
    const fn penalty(self) -> Duration {
        match self {
            Self::Login => Duration::from_secs(5),
            Self::Crash => Duration::from_secs(90),
            Self::Slow => Duration::from_secs(10),
            Self::Nothing => Duration::from_secs(1),
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

/// Processes that are started in a second: half of what one processor core can do.
const STARTS: NonZeroU32 = NonZeroU32::new(60).expect("not 0");

/// Of those, for one source.
const SOURCE_STARTS: NonZeroU32 = NonZeroU32::new(30).expect("not 0");

/// For clients that have said nothing and wait for us: few do.
const SILENT_STARTS: NonZeroU32 = NonZeroU32::new(4).expect("not 0");

/// A bucket that was not asked for this long is full, and need not be kept.
const BUCKET_KEPT: Duration = Duration::from_secs(1);

/// Sources whose buckets are kept, before those that are full are thrown away.
const BUCKETS: usize = 1024;

/// Connections of one person, and of one source, that have logged in: `MaxSessions` of sshd_config(5) bounds
/// channels alone, which one connection here has 128 of.
const CROWD: u32 = 512;

/// A connection that has not logged in.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    source: Source,
    /// It has sent something.
    has_spoken: bool,
}

/// The places and the faults.
#[derive(Debug)]
pub(super) struct Gate {
    /// By number, which counts up: the first is the oldest.
    waiting: BTreeMap<u64, Waiting>,
    /// Until when a source is blamed.
    blamed: HashMap<Source, Instant>,
    /// The same by time, for the one that is forgotten first.
    blamed_until: BTreeSet<(Instant, Source)>,
    starts: Bucket,
    silent_starts: Bucket,
    source_starts: HashMap<Source, (Instant, Bucket)>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            blamed: HashMap::new(),
            blamed_until: BTreeSet::new(),
            starts: Bucket::new(STARTS),
            silent_starts: Bucket::new(SILENT_STARTS),
            source_starts: HashMap::new(),
        }
    }
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
        self.waiting.insert(id, Waiting { source, has_spoken: false });
        Entry::Open { instead_of }
    }

    /// Connection `id` has sent something.
    pub(super) fn speaks(&mut self, id: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.has_spoken = true;
        }
    }

    /// Whether connection `id` may have its process. One that has lost its place may not.
    pub(super) fn starts(&mut self, id: u64, now: Instant) -> bool {
        let Some(Waiting { source, has_spoken }) = self.waiting.get(&id).copied() else { return false };
        if self.source_starts.len() >= BUCKETS {
            self.source_starts.retain(|_, (asked, _)| now.saturating_duration_since(*asked) < BUCKET_KEPT);
        }
        let own = self.source_starts.entry(source).or_insert_with(|| (now, Bucket::new(SOURCE_STARTS)));
        // A token of one that has none of the other would be lost, so what is scarcer is asked first.
        (has_spoken || self.silent_starts.take(now)) && {
            own.0 = now;
            own.1.take(now) && self.starts.take(now)
        }
    }

    /// The oldest connection of the source with most of them, among those that are silent if there are any.
    fn greediest(&self) -> Option<u64> {
        let any_silent = self.waiting.values().any(|waiting| !waiting.has_spoken);
        let candidates = || self.waiting.iter().filter(|(_, waiting)| !(any_silent && waiting.has_spoken));
        let mut counts: HashMap<Source, (usize, u64)> = HashMap::new();
        for (id, waiting) in candidates() {
            counts.entry(waiting.source).or_insert((0, *id)).0 += 1;
        }
        // Of two that have as many, the one with the older connection.
        let most = candidates().filter_map(|(_, waiting)| counts.get(&waiting.source));
        most.max_by_key(|(count, oldest)| (*count, std::cmp::Reverse(*oldest))).map(|(_, oldest)| *oldest)
    }

    /// It has logged in, or has gone: its place is free.
    pub(super) fn leave(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// Blames a source. With too many of them the one whose penalty ends first is forgotten.
    pub(super) fn blame(&mut self, peer: IpAddr, fault: Fault, now: Instant) {
        let source = Source::from(peer);
        let before = self.blamed.remove(&source);
        if let Some(before) = before {
            self.blamed_until.remove(&(before, source));
        }
        if self.blamed.len() >= REMEMBERED
            && let Some((_, first)) = self.blamed_until.pop_first()
        {
            self.blamed.remove(&first);
        }
        let until = (before.unwrap_or(now).max(now) + fault.penalty()).min(now + PENALTY_MAX);
        self.blamed.insert(source, until);
        self.blamed_until.insert((until, source));
    }
}

/// Connections that have logged in, by person and by source.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    people: HashMap<String, u32>,
    sources: Sources,
}

impl Crowd {
    /// One more; false when there are too many.
    pub(super) fn enter(&mut self, person: &str, peer: IpAddr) -> bool {
        let own = self.people.get(person).copied().unwrap_or(0);
        let fits = own < CROWD && self.sources.count(peer.into()) < CROWD;
        if fits {
            self.add(person, peer);
        }
        fits
    }

    /// One that is in already, with another gateway.
    pub(super) fn add(&mut self, person: &str, peer: IpAddr) {
        *self.people.entry(person.to_owned()).or_insert(0) += 1;
        self.sources.enter(peer.into());
    }

    /// One less.
    pub(super) fn leave(&mut self, person: &str, peer: IpAddr) {
        self.sources.leave(peer.into());
        if let Some(count) = self.people.get_mut(person) {
            *count -= 1;
            if *count == 0 {
                self.people.remove(person);
            }
        }
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
        assert_eq!((gate.blamed.len(), gate.blamed_until.len()), (REMEMBERED, REMEMBERED));
        // A late one is blamed too, in the place of the first.
        let late = IpAddr::from(u32::MAX.to_be_bytes());
        gate.blame(late, Fault::Crash, now + Duration::from_secs(1));
        assert_eq!(gate.blamed.len(), REMEMBERED);
        assert_eq!(gate.enter(1, late, now + Duration::from_secs(1)), Entry::Penalised);
    }

    /// Fails when: the silent take the place of one that speaks, or its turn.
    #[test]
    fn whoever_speaks_goes_first() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        gate.enter(0, PEER, now);
        gate.speaks(0);
        for id in 1..=2000_u32 {
            let peer = IpAddr::from((id / 5).to_be_bytes());
            gate.enter(u64::from(id), peer, now);
        }
        assert!(gate.waiting.contains_key(&0), "it is the oldest");
        let silent: Vec<u64> = gate.waiting.keys().copied().filter(|id| *id != 0).collect();
        assert_eq!(silent.iter().filter(|id| gate.starts(**id, now)).count(), 4);
        assert!(gate.starts(0, now) && !gate.starts(1, now), "and the other has no place");
    }

    /// Fails when: one source's clients take all turns, or all of them more than there are.
    #[test]
    fn starts_are_bounded() {
        let (mut gate, now) = (Gate::default(), Instant::now());
        for id in 0..100 {
            gate.enter(id, if id < 50 { PEER } else { peer(u8::try_from(id).expect("small")) }, now);
            gate.speaks(id);
        }
        assert_eq!((0..50).filter(|id| gate.starts(*id, now)).count(), 30);
        assert_eq!((50..100).filter(|id| gate.starts(*id, now)).count(), 30);
        assert!(gate.starts(99, now + Duration::from_secs(1)));
    }

    #[test]
    fn a_crowd_is_bounded() {
        let mut crowd = Crowd::default();
        assert_eq!((0..1000).filter(|_| crowd.enter("ann", PEER)).count(), 512);
        assert!(!crowd.enter("bob", PEER) && !crowd.enter("ann", peer(1)) && crowd.enter("bob", peer(1)));
        crowd.leave("ann", PEER);
        assert!(crowd.enter("bob", PEER));
    }
}
