//! Where this device is reached, found out and said: its address on the way to the registrar, and what the registrar sees
//! of the tunnel's socket (STUN), and whether others see the same. The local one comes first: who is in the same network has the shorter way.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use portway_model::Host;
use tokio::net::lookup_host;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::org::Order;
use super::outside::{Outside, Seen};
use super::serve::Shared;
use crate::org::RegistrarUrl;
use crate::spec::Endpoint;

/// How often it is asked: less than the 30 s after which many a translation of addresses forgets (RFC 4787, REQ-5), and up
/// to so much more, so that devices that were started together do not ask together.
const EVERY: Duration = Duration::from_secs(20);
const JITTER_MILLIS: u64 = 5000;

/// How long a lookup may take.
const LOOKUP: Duration = Duration::from_secs(10);

/// Asks again and again, for ever, and says what has changed.
pub(super) async fn run(
    shared: Arc<Shared>,
    registrar: RegistrarUrl,
    found: watch::Sender<Vec<Endpoint>>,
    orders: mpsc::Sender<Order>,
) {
    let (mut before, mut outside) = (Vec::new(), Outside::default());
    loop {
        let seen = look(&shared, &registrar).await;
        let endpoints = endpoints(&seen);
        // Without an answer nothing is known, which is no reason to unsay anything. What comes once may be a change of
        // the way that is not over.
        if !endpoints.is_empty() && endpoints != *found.borrow() && (before.is_empty() || endpoints == before)
        {
            debug!(?endpoints, "this device is reached elsewhere");
            found.send_replace(endpoints.clone());
        }
        let is_sure = endpoints.is_empty() || endpoints == *found.borrow();
        before = endpoints;
        let outside = outside.look(&shared, &seen).await;
        if let Some(organization) = &shared.organization
            && let Some(said) = organization.see(outside)
            && orders.send(Order::Say(said)).await.is_err()
        {
            // The network is ending.
            return;
        }
        let mut random = [0; 2];
        // Without one all is as well, but for a crowd.
        let _kept = getrandom::fill(&mut random);
        let jitter = Duration::from_millis(u64::from(u16::from_le_bytes(random)) % JITTER_MILLIS);
        sleep(if is_sure { EVERY + jitter } else { Duration::from_secs(1) }).await;
    }
}

async fn look(shared: &Arc<Shared>, registrar: &RegistrarUrl) -> Vec<Seen> {
    let Endpoint { host, port } = registrar.at();
    let servers = match host {
        Host::Ip(ip) => vec![SocketAddr::new(ip.ip(), port.get())],
        Host::Name(name) => match timeout(LOOKUP, lookup_host((name.as_str(), port.get()))).await {
            Ok(Ok(servers)) => servers.collect(),
            _ => return Vec::new(),
        },
    };
    // One of each family.
    let of = |v4: bool| servers.iter().copied().find(|server| server.is_ipv4() == v4);
    let mut seen = Vec::new();
    for server in [of(true), of(false)].into_iter().flatten() {
        let asked = Arc::clone(shared);
        let Ok(Some(told)) = spawn_blocking(move || asked.tunnel.mapped(server)).await else { continue };
        let port = shared.tunnel.udp().address.port();
        let local = own_address(server).map(|ip| SocketAddr::new(ip, port));
        seen.push(Seen { server, local, told });
    }
    seen
}

/// Where this device is to be tried, after what was seen.
fn endpoints(seen: &[Seen]) -> Vec<Endpoint> {
    let addresses = seen.iter().flat_map(|seen| seen.local.into_iter().chain([seen.told.address]));
    let mut endpoints = Vec::new();
    for address in addresses.filter(|address| !is_near(address.ip())) {
        let endpoint = endpoint(address);
        endpoints.extend(endpoint.filter(|endpoint| !endpoints.contains(endpoint)));
    }
    endpoints
}

/// The address that this host has on its way to `server`; nothing is sent.
fn own_address(server: SocketAddr) -> Option<IpAddr> {
    let any: SocketAddr =
        if server.is_ipv4() { ([0; 4], 0).into() } else { (std::net::Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(server).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Whether an address is of no use to anybody elsewhere.
const fn is_near(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local(),
    }
}

fn endpoint(address: SocketAddr) -> Option<Endpoint> {
    // As it is written it is read: an address and a port are an endpoint.
    crate::org::endpoint(&address.to_string())
}
