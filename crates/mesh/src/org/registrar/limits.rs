//! How much of the registrar one source may have, and all of them together.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use portway_proto::admission::{Bucket, Source, Sources};
use tokio::sync::oneshot;

use super::hold;
use crate::spec::PublicKey;

/// Connections at once; a device that follows has one.
pub(super) const CONNECTIONS_MAX: usize = 8192;

/// Of them, those that follow.
pub(super) const WATCHERS_MAX: usize = 6144;

/// Connections of one source at once: a site's devices may stand behind one address.
const SOURCE_MAX: u32 = 512;

/// Requests of one source in a second.
const SOURCE_RATE: NonZeroU32 = NonZeroU32::new(50).expect("not zero");

/// Buckets of requests. Each source has one, by a secret hash; so it takes as long whoever asks, and whoever forges
/// sources must fill all of them, a million times in a second, to keep one other from an answer.
const BUCKETS: usize = 16_384;

/// Devices whose moves are remembered before those that have not moved lately are forgotten.
const REMEMBERED: usize = 16_384;

/// Connections of one device that follow: one, and those that it has lost and that are not over here.
const FOLLOWING_MAX: usize = 4;

/// How often a device may say in that time where it is reached: each is signed, stored, and told to all others.
const MOVES_MAX: usize = 10;
const MOVES_WITHIN: Duration = Duration::from_secs(60);

/// What one device may have. There are no more than members.
#[derive(Debug, Default)]
pub(super) struct Devices {
    following: Mutex<HashMap<PublicKey, VecDeque<oneshot::Sender<Infallible>>>>,
    moves: Mutex<HashMap<PublicKey, VecDeque<Instant>>>,
}

impl Devices {
    /// A member follows; what is returned ends when newer ones of it have taken the place of this.
    pub(super) fn follow(&self, key: PublicKey) -> oneshot::Receiver<Infallible> {
        let (place, ended) = oneshot::channel();
        let mut following = hold(&self.following);
        following.retain(|_, places| {
            places.retain(|place| !place.is_closed());
            !places.is_empty()
        });
        let places = following.entry(key).or_default();
        places.push_back(place);
        if places.len() > FOLLOWING_MAX {
            places.pop_front();
        }
        ended
    }

    /// Whether a member may say once more where it is reached.
    pub(super) fn may_move(&self, key: PublicKey, now: Instant) -> bool {
        let is_recent = |at: &Instant| now.duration_since(*at) < MOVES_WITHIN;
        let mut moves = hold(&self.moves);
        if moves.len() >= REMEMBERED {
            moves.retain(|_, times| times.back().is_some_and(is_recent));
        }
        let times = moves.entry(key).or_default();
        times.retain(is_recent);
        let may = times.len() < MOVES_MAX;
        if may {
            times.push_back(now);
        }
        may
    }
}

/// Who has how much.
#[derive(Debug)]
pub(super) struct Limits {
    connections: Mutex<Sources>,
    buckets: Mutex<Vec<Bucket>>,
    secret: RandomState,
}

/// A connection that counts as long as this is there.
pub(super) struct Pass<'a> {
    limits: &'a Limits,
    source: Source,
}

impl Default for Limits {
    fn default() -> Limits {
        let buckets = Mutex::new(vec![Bucket::new(SOURCE_RATE); BUCKETS]);
        Limits { connections: Mutex::default(), buckets, secret: RandomState::new() }
    }
}

impl Limits {
    /// One more connection; `None` when its source has enough.
    pub(super) fn enter(&self, from: IpAddr) -> Option<Pass<'_>> {
        let source = Source::from(from);
        let mut connections = hold(&self.connections);
        (connections.count(source) < SOURCE_MAX).then(|| {
            connections.enter(source);
            Pass { limits: self, source }
        })
    }

    /// Whether one more request is answered.
    pub(super) fn may_ask(&self, from: IpAddr, now: Instant) -> bool {
        let hash = usize::try_from(self.secret.hash_one(Source::from(from)) % BUCKETS as u64).unwrap_or(0);
        hold(&self.buckets).get_mut(hash).is_some_and(|bucket| bucket.take(now))
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        hold(&self.limits.connections).leave(self.source);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PrivateKey;

    /// Fails when: one device has any number of places, a newer one of it is turned away for an older one, or one that has
    /// ended counts.
    #[test]
    fn the_newest_follow() {
        let devices = Devices::default();
        let key = |byte: u8| PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
        let mut other = devices.follow(key(1));
        let mut places: Vec<_> = (0..FOLLOWING_MAX).map(|_| devices.follow(key(2))).collect();
        let empty = Err(oneshot::error::TryRecvError::Empty);
        assert!(places.iter_mut().all(|place| place.try_recv() == empty));
        drop(places.pop());
        let mut fifth = devices.follow(key(2));
        assert_eq!(places[0].try_recv(), empty);
        let mut sixth = devices.follow(key(2));
        assert_eq!(places[0].try_recv(), Err(oneshot::error::TryRecvError::Closed));
        for place in [&mut places[1], &mut fifth, &mut sixth, &mut other] {
            assert_eq!(place.try_recv(), empty);
        }
    }

    /// Fails when: requests under forged sources keep others from theirs, cost more the more there are, or one source may ask
    /// for ever.
    #[test]
    fn forged_sources_keep_nobody_out() {
        let (limits, begin) = (Limits::default(), Instant::now());
        let asked = (0..1000).filter(|_| limits.may_ask([192, 0, 2, 1].into(), begin)).count();
        assert_eq!(asked, 50);
        // Two hundred thousand in a second are a dozen to each bucket.
        for number in 0..200_000_u32 {
            limits.may_ask(number.to_be_bytes().into(), begin);
        }
        let others = (0..200).filter(|last| limits.may_ask([203, 0, 113, *last].into(), begin)).count();
        assert!(others > 190, "{others}");
        assert!(limits.may_ask([192, 0, 2, 1].into(), begin + Duration::from_secs(2)));
        assert_eq!(hold(&limits.buckets).len(), BUCKETS);
    }

    #[test]
    fn a_device_moves_so_often_and_no_more() {
        let devices = Devices::default();
        let key = PrivateKey::from_bytes(&[2; 32]).unwrap().public();
        let start = Instant::now();
        assert!((0..MOVES_MAX).all(|_| devices.may_move(key, start)));
        assert!(!devices.may_move(key, start + MOVES_WITHIN / 2));
        assert!(devices.may_move(key, start + MOVES_WITHIN));
    }
}
