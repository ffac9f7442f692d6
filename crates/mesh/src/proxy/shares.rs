//! How many connections each peer may have into the ports of this node: as many as there are places left. So one alone
//! has half of them at most, several have less each. A dozen by halves have all of them: beside these an eighth as many are
//! for those who have hardly any, so that there is room for who has none.
//!
//! Flows are not counted: one too many ends another one of who has most.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use portway_model::{Direction, Transport};
use portway_relay::wire::Slot;
use tracing::warn;

use super::serve::Shared;
use crate::spec::PublicKey;

/// How often it is told of a peer that it has its share.
const TOLD: Duration = Duration::from_secs(10);

/// Peers without connections that are remembered for what was refused.
const REMEMBERED: usize = 4096;

/// Whoever has fewer may take one of those that are beside the others.
const FEW: u64 = 4;

/// See the module.
#[derive(Debug)]
pub(super) struct Shares {
    most: u64,
    all: u64,
    of: BTreeMap<PublicKey, Share>,
}

/// What one peer has.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Share {
    pub(super) now: u64,
    pub(super) refused: u64,
    told: Option<Instant>,
}

/// A peer has its share already.
#[derive(Debug, PartialEq, Eq)]
struct Refused {
    /// It was not told lately.
    is_news: bool,
}

impl Shares {
    /// Of so many places.
    pub(super) fn new(most: usize) -> Shares {
        Shares { most: u64::try_from(most).unwrap_or(u64::MAX), all: 0, of: BTreeMap::new() }
    }

    fn enter(&mut self, peer: PublicKey, now: Instant) -> Result<(), Refused> {
        let free = self.most.saturating_sub(self.all);
        let share = self.of.entry(peer).or_default();
        let spare = self.most.saturating_add(self.most / 8).saturating_sub(self.all);
        let has_room = share.now < free || (share.now < FEW && spare > 0);
        if !has_room {
            share.refused += 1;
            let is_news = share.told.is_none_or(|at| now.saturating_duration_since(at) >= TOLD);
            share.told = if is_news { Some(now) } else { share.told };
            return Err(Refused { is_news });
        }
        share.now += 1;
        self.all += 1;
        Ok(())
    }

    /// A connection of a peer is over.
    pub(super) fn leave(&mut self, peer: PublicKey) {
        let crowded = self.of.len() > REMEMBERED;
        let Some(share) = self.of.get_mut(&peer).filter(|share| share.now > 0) else { return };
        share.now -= 1;
        self.all -= 1;
        if share.now == 0 && (share.refused == 0 || crowded) {
            self.of.remove(&peer);
        }
    }

    /// A peer has another key.
    pub(super) fn rename(&mut self, former: PublicKey, peer: PublicKey) {
        let Some(had) = self.of.remove(&former) else { return };
        let share = self.of.entry(peer).or_default();
        share.now += had.now;
        share.refused += had.refused;
    }

    /// While there are fewer connections than this, nobody has to be asked whether there may be another one: whoever is
    /// refused has as many as there are places left, so that half of them are taken at least. The other quarter is for
    /// those that are not told of yet.
    pub(super) fn unasked(&self) -> u32 {
        u32::try_from(self.most / 4).unwrap_or(u32::MAX)
    }

    pub(super) fn of(&self, peer: &PublicKey) -> Share {
        self.of.get(peer).copied().unwrap_or_default()
    }
}

impl Shared {
    /// Takes a place for a connection to the port of `slot`; returns whose it is, if a peer's.
    ///
    /// # Errors
    /// The peer has its share.
    pub(super) fn admit(&self, slot: Slot, client: Option<SocketAddr>) -> Result<Option<PublicKey>, ()> {
        let Some((listen, _)) = self.table().port(slot) else { return Ok(None) };
        if (listen.direction, listen.transport) != (Direction::Ingress, Transport::Tcp) {
            return Ok(None);
        }
        let Some(peer) = client.and_then(|client| self.tunnel.owner(client.ip())) else { return Ok(None) };
        let entered = self.table().shares.enter(peer, Instant::now());
        entered.map(|()| Some(peer)).map_err(|Refused { is_news }| {
            if is_news {
                warn!(%peer, %listen, "peer has its share of connections");
                let text = format!("has its share of connections; another one to {listen} was refused");
                self.events.tell("peer-refused", Some(peer.to_string()), None, text);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::PrivateKey;

    /// Fails when: one has all places, a newcomer has none, or a place that is free again is not given again.
    #[test]
    fn there_is_always_room_for_who_has_none() {
        let key = |byte: u8| PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
        let (begin, mut shares) = (Instant::now(), Shares::new(120));
        let enter =
            |shares: &mut Shares, peer| (0..1000).filter(|_| shares.enter(peer, begin).is_ok()).count();
        assert_eq!(enter(&mut shares, key(1)), 60);
        assert_eq!(enter(&mut shares, key(2)), 30);
        assert_eq!(enter(&mut shares, key(3)), 15);
        assert_eq!((shares.of(&key(1)).now, shares.of(&key(1)).refused), (60, 940));
        // The first has more than there are left, and gets no other until it has less.
        (0..30).for_each(|_| shares.leave(key(1)));
        assert_eq!(enter(&mut shares, key(1)), 8);
        assert!(shares.enter(key(4), begin).is_ok());
        // With another key it has what it had.
        shares.rename(key(2), key(5));
        assert_eq!((shares.of(&key(2)).now, shares.of(&key(5)).now), (0, 30));
        assert_eq!(shares.of(&key(5)).refused, 970);
        shares.rename(key(5), key(2));
        // It is told now and then, not each time.
        assert_eq!(shares.enter(key(1), begin + TOLD / 2), Err(Refused { is_news: false }));
        assert_eq!(shares.enter(key(1), begin + TOLD), Err(Refused { is_news: true }));
        for (peer, count) in [(1, 38), (2, 30), (3, 15), (4, 1)] {
            (0..count + 1).for_each(|_| shares.leave(key(peer)));
        }
        assert_eq!((shares.all, shares.of(&key(1)).now, shares.of.len()), (0, 0, 3));
        // Those that nobody was asked about are let in, and as many again.
        for most in [4, 16, 119, 120] {
            let mut shares = Shares::new(most);
            let unasked = usize::try_from(shares.unasked()).unwrap();
            assert!(unasked > 0 && enter(&mut shares, key(1)) >= 2 * unasked, "{most}");
        }
        assert_eq!(enter(&mut shares, key(4)), 60);
    }

    /// Fails when: thirteen peers have all places by halves, and the fourteenth and those behind it have none; one of them
    /// has more than a few; or there is no end to them.
    #[test]
    fn the_fourteenth_of_many_has_room() {
        let key = |byte: u8| PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
        let (begin, mut shares) = (Instant::now(), Shares::new(4096));
        let enter =
            |shares: &mut Shares, peer| (0..5000).filter(|_| shares.enter(peer, begin).is_ok()).count();
        let first: usize = (1..=13).map(|byte| enter(&mut shares, key(byte))).sum();
        assert!(first >= 4096, "{first}");
        for byte in 14..=114 {
            assert_eq!(enter(&mut shares, key(byte)), 4, "{byte}");
        }
        let rest: usize = (115..=250).map(|byte| enter(&mut shares, key(byte))).sum();
        assert_eq!((shares.all, rest), (4096 + 512, 4096 + 512 - first - 404));
    }
}
