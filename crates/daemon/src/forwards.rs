//! Addresses of the host that a network forward of a server takes: a listener there would never be called.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use portway_control::api::{Failure, FailureKind};
use portway_incus::Forward;
use portway_model::{Bind, DeviceKey, DeviceSpec, Provider};
use tracing::debug;

use crate::hub::{Hub, failure};
use crate::state::with_sources;

/// Whether devices may listen where they want to, as far as their instances' servers know. A server is asked
/// once, and only when there is an address that a forward can have: one of its own, and not loopback.
///
/// # Errors
/// The forward that has the address of a device. A server that does not say is not in the way.
pub(crate) async fn check(hub: &Arc<Hub>, devices: &[(&DeviceKey, &DeviceSpec)]) -> Result<(), Failure> {
    let mut known: BTreeMap<&'static str, Vec<Forward>> = BTreeMap::new();
    for (key, spec) in devices {
        let provider = key.instance.provider();
        let Some(ip) = own_address(spec) else { continue };
        if !known.contains_key(provider.as_str()) {
            known.insert(provider.as_str(), forwards(hub, provider).await);
        }
        let forwards = known.get(provider.as_str()).into_iter().flatten();
        if let Some(forward) = forwards.into_iter().find(|forward| forward.address == ip) {
            return Err(taken(key, forward));
        }
    }
    Ok(())
}

/// The address of the host that a device listens at, if it is one that a forward can have.
fn own_address(spec: &DeviceSpec) -> Option<IpAddr> {
    let host = spec.listen.address().host().filter(|_| spec.bind == Bind::Host)?;
    let ip = host.ip();
    (!ip.is_unspecified() && !ip.is_loopback() && host.zone().is_none()).then_some(ip)
}

async fn forwards(hub: &Arc<Hub>, provider: Provider) -> Vec<Forward> {
    let client = hub.providers.endpoint(provider).and_then(|endpoint| endpoint.client());
    let Some(client) = client.filter(|_| hub.is_reachable(provider)) else { return Vec::new() };
    client.forwards().await.unwrap_or_else(|problem| {
        debug!(%provider, error = with_sources(&problem), "network forwards not known");
        Vec::new()
    })
}

fn taken(key: &DeviceKey, forward: &Forward) -> Failure {
    let (provider, Forward { network, address }) = (key.instance.provider(), forward);
    let text = format!(
        "{key}: {address} is the listen address of a network forward of network {network}, which takes its traffic"
    );
    let hint = format!(
        "listen at another address, or look at `{provider} network forward show {network} {address}`"
    );
    Failure { hint: Some(hint), ..failure(FailureKind::Refused, text) }
}
