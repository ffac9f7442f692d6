//! One at a time at each place: an instance is started, made and removed by one task, however many ask for it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::OwnedMutexGuard;

use super::grant::Grant;
use super::lock;

/// Server, project and name.
pub(super) type Place = (String, String, String);

/// The place of a grant.
pub(super) fn place(grant: &Grant) -> Place {
    (grant.remote.clone(), grant.project.clone(), grant.instance.clone())
}

/// The places where somebody has, or waits for, his turn.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<BTreeMap<Place, Arc<tokio::sync::Mutex<()>>>>);

/// A turn; over with drop.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    of: &'a Turns,
    place: Place,
    lock: Arc<tokio::sync::Mutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn at a place. Whoever does not wait to the end has none, and holds nobody up.
    pub(super) async fn take(&self, place: &Place) -> Turn<'_> {
        let of_place = Arc::clone(lock(&self.0).entry(place.clone()).or_default());
        let mut turn = Turn { of: self, place: place.clone(), lock: of_place, guard: None };
        let guard = Arc::clone(&turn.lock).lock_owned().await;
        turn.guard = Some(guard);
        turn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut all = lock(&self.of.0);
        // The table's and ours: nobody else waits.
        if Arc::strong_count(&self.lock) == 2 {
            all.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Fails when two have the same turn, one place holds another up, or a place is kept that nobody is at.
    #[tokio::test(start_paused = true)]
    async fn one_at_a_time() {
        let turns = Turns::default();
        let at = |name: &str| ("r".to_owned(), "p".to_owned(), name.to_owned());
        let (a, b) = (at("a"), at("b"));
        let first = turns.take(&a).await;
        let other = turns.take(&b).await;
        let late = tokio::time::timeout(Duration::from_secs(1), turns.take(&a)).await;
        assert!(late.is_err(), "two at a time");
        drop((first, other));
        drop(turns.take(&a).await);
        assert!(lock(&turns.0).is_empty());
    }
}
