//! Peers by their places and by their keys. A place that a peer has left is the next one's.

use std::collections::HashMap;

use super::SessionsError;
use crate::wg::PeerId;
use crate::wg::peer::Peer;

/// See the module.
#[derive(Default)]
pub(super) struct Places {
    places: Vec<Option<Peer>>,
    by_key: HashMap<[u8; 32], PeerId>,
}

impl Places {
    pub(super) fn id_of(&self, key: &[u8; 32]) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn get(&self, id: PeerId) -> Option<&Peer> {
        self.places.get(usize::from(id.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.places.get_mut(usize::from(id.0))?.as_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0..).map(PeerId).zip(&self.places).filter_map(|(id, place)| Some((id, place.as_ref()?)))
    }

    /// All places, those that are free too.
    pub(super) fn ids(&self) -> impl Iterator<Item = PeerId> + use<> {
        // As many as there are numbers, at most.
        (0..u16::try_from(self.places.len()).unwrap_or(u16::MAX)).map(PeerId)
    }

    /// Gives a peer the first free place. Its key has none yet.
    pub(super) fn add(&mut self, peer: Peer) -> Result<PeerId, SessionsError> {
        let free = if self.by_key.len() < self.places.len() {
            self.places.iter().position(Option::is_none)
        } else {
            None
        };
        let place = free.unwrap_or(self.places.len());
        let id = u16::try_from(place).ok().filter(|id| *id < u16::MAX).ok_or(SessionsError::TooMany)?;
        self.by_key.insert(*peer.public_key.as_bytes(), PeerId(id));
        match self.places.get_mut(place) {
            Some(place) => *place = Some(peer),
            None => self.places.push(Some(peer)),
        }
        Ok(PeerId(id))
    }

    pub(super) fn remove(&mut self, key: &[u8; 32]) -> Option<(PeerId, Peer)> {
        let id = self.by_key.remove(key)?;
        Some((id, self.places.get_mut(usize::from(id.0))?.take()?))
    }
}
