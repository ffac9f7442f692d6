//! Follows the leases of networks that devices are led into. No event tells of a lease, so they are read
//! again and again: one request per network, however many instances are in it, and none without `nat`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portway_incus::Lease;
use tracing::debug;

use crate::hub::Hub;
use crate::instance::Command;
use crate::provider::Endpoint;
use crate::state::with_sources;

/// Pause between two readings: an instance that comes back with another address is reached within a second.
const PAUSE: Duration = Duration::from_millis(400);

/// Has the instances of a network look when its leases have changed.
pub(crate) async fn follow(hub: Arc<Hub>, endpoint: Arc<Endpoint>) {
    let mut known: BTreeMap<(String, String), Option<Vec<Lease>>> = BTreeMap::new();
    loop {
        tokio::time::sleep(PAUSE).await;
        let watched = hub.watched_networks(endpoint.provider());
        known.retain(|network, _| watched.contains_key(network));
        let Some(client) = endpoint.client().filter(|_| !watched.is_empty()) else { continue };
        for (network, instances) in watched {
            let leases = match client.leases(&network.0, &network.1).await {
                Ok(leases) => leases,
                Err(problem) => {
                    debug!(network = network.1, error = %with_sources(&problem), "leases not read");
                    continue;
                }
            };
            let before = known.insert(network, leases.clone());
            if before.is_none_or(|before| before != leases) {
                for handle in instances.iter().filter_map(|key| hub.known(key)) {
                    // An actor that ends needs no poke.
                    let _ = handle.send(Command::Poke).await;
                }
            }
        }
    }
}
