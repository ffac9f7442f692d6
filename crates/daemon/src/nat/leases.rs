//! Follows the leases of networks that devices are led into. No event tells of a lease, so they are read
//! again and again: one request per network, however many instances are in it, and none without `nat`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portway_incus::Lease;
use portway_model::InstanceKey;
use tracing::debug;

use crate::hub::Hub;
use crate::instance::Command;
use crate::provider::Endpoint;
use crate::state::with_sources;

/// Pause between two readings: an instance that comes back with another address is reached within a second.
const PAUSE: Duration = Duration::from_millis(400);

/// Pauses as long as this many answers, at least: a server that takes its time is asked less often.
const PAUSE_ANSWERS: u32 = 10;

/// Between two rounds in which all instances of a network look, this much for each of them: anybody in the network can
/// have its leases change all the time, and each look asks the server several times.
const PER_INSTANCE: Duration = Duration::from_millis(50);

/// What was last seen of a network.
#[derive(Debug)]
struct Seen<L> {
    /// In an order of their own: the server's changes from answer to answer.
    leases: Vec<L>,
    /// Who has looked since.
    instances: Vec<InstanceKey>,
    /// When they may look again.
    due: Option<Instant>,
}

impl<L: Ord> Seen<L> {
    const fn nothing() -> Self {
        Self { leases: Vec::new(), instances: Vec::new(), due: None }
    }

    /// Takes in a reading; the instances that are to look: all when the leases have changed, else those that have
    /// come. A change that comes too soon after the last one stays one until the time has come.
    fn note(&mut self, mut leases: Vec<L>, instances: Vec<InstanceKey>, now: Instant) -> Vec<InstanceKey> {
        leases.sort_unstable();
        let came = |instance: &&InstanceKey| !self.instances.contains(instance);
        if leases == self.leases || self.due.is_some_and(|due| now < due) {
            let new = instances.iter().filter(came).cloned().collect();
            self.instances = instances;
            return new;
        }
        let count = u32::try_from(instances.len()).unwrap_or(u32::MAX);
        self.due = now.checked_add(PER_INSTANCE.saturating_mul(count));
        self.leases = leases;
        self.instances.clone_from(&instances);
        instances
    }
}

/// Has the instances of a network look when its leases have changed.
pub(crate) async fn follow(hub: Arc<Hub>, endpoint: Arc<Endpoint>) {
    let mut known: BTreeMap<(String, String), Seen<Lease>> = BTreeMap::new();
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = PAUSE;
        let watched = hub.watched_networks(endpoint.provider());
        known.retain(|network, _| watched.contains_key(network));
        let Some(client) = endpoint.client().filter(|_| !watched.is_empty()) else { continue };
        for (network, instances) in watched {
            let asked = Instant::now();
            let leases = client.leases(&network.0, &network.1).await;
            let now = Instant::now();
            pause = pause.max(now.saturating_duration_since(asked).saturating_mul(PAUSE_ANSWERS));
            let leases = match leases {
                // A network without leases is followed for those that may come.
                Ok(leases) => leases.unwrap_or_default(),
                Err(problem) => {
                    debug!(network = network.1, error = %with_sources(&problem), "leases not read");
                    continue;
                }
            };
            let looks = known.entry(network).or_insert_with(Seen::nothing).note(leases, instances, now);
            for handle in looks.iter().filter_map(|key| hub.known(key)) {
                // An actor that ends needs no poke.
                let _ = handle.send(Command::Poke).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instances(names: &str) -> Vec<InstanceKey> {
        names.split(' ').map(|name| format!("incus:default/{name}").parse().unwrap()).collect()
    }

    /// Fails when: the order of an answer counts, everybody looks because one came, or who came waits for a lease
    /// to change.
    #[test]
    fn only_a_change_is_looked_at_by_all() {
        let (mut seen, now) = (Seen::nothing(), Instant::now());
        assert_eq!(seen.note(vec![1, 2, 3], instances("a b"), now), instances("a b"));
        assert_eq!(seen.note(vec![3, 1, 2], instances("a b"), now), []);
        assert_eq!(seen.note(vec![2, 3, 1], instances("a b c"), now), instances("c"));
        let later = now + Duration::from_secs(1);
        assert_eq!(seen.note(vec![2, 3, 4], instances("a b c"), later), instances("a b c"));
        assert_eq!(seen.note(vec![4, 3, 2], instances("c"), later), []);
        assert_eq!(seen.note(vec![4, 3, 2], instances("a c"), later), instances("a"));
    }

    /// Fails when: leases that change all the time keep all of them looking, or a change is forgotten that came too
    /// soon.
    #[test]
    fn changes_are_looked_at_at_a_bounded_rate() {
        let (mut seen, begin) = (Seen::nothing(), Instant::now());
        let all: Vec<InstanceKey> = (0..40).flat_map(|number| instances(&format!("c{number}"))).collect();
        let rounds = (0..100_u32).filter(|round| {
            let now = begin + PAUSE * *round;
            !seen.note(vec![*round], all.clone(), now).is_empty()
        });
        // 40 seconds, at two seconds for 40 instances.
        assert_eq!(rounds.count(), 20);
        let now = begin + PAUSE * 100;
        assert_eq!(seen.note(vec![99], all.clone(), now), all);
        assert_eq!(seen.note(vec![7], all.clone(), now), []);
        assert_eq!(seen.note(vec![7], all.clone(), now + PER_INSTANCE * 40), all);
    }
}
