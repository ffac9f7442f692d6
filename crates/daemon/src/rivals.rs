//! Who takes what comes to a port of the host before any socket gets it: network forwards of a server, and
//! its proxy devices with `nat=true`. A listener of ours there would never be called.

use std::sync::Arc;
use std::time::Duration;

use portway_control::api::{Failure, FailureKind};
use portway_incus::LedProxy;
use portway_model::{
    Address, Bind, ConnectAddr, DeviceKey, DeviceSpec, IpHost, ListenAddr, PortRange, Provider,
};
use portway_nat::{Family, Led, Listen, Scope, Transport};
use tokio::sync::Notify;
use tracing::debug;

use crate::forwards;
use crate::hub::{Hub, failure};
use crate::provider::Endpoint;
use crate::state::with_sources;

/// Longest wait for a server that is asked for its proxy devices: it may be another one than the instance's.
const LIMIT: Duration = Duration::from_secs(2);

/// Pause between two readings without an event: a change of a profile has none.
const PAUSE: Duration = Duration::from_secs(30);

/// Pause after an event: they come in heaps.
const SOON: Duration = Duration::from_millis(500);

/// A proxy device of a server that leads by rules of the server's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rival {
    listen: ListenAddr,
    /// Whose it is, in words.
    text: String,
    /// What its rules lead, of datagrams: a client that keeps sending is led by them when they are no more.
    led: Vec<Led>,
}

/// The rivals of one server.
#[derive(Debug, Default)]
pub(crate) struct Rivals {
    /// Those that there are.
    pub(crate) present: Arc<Vec<Rival>>,
    /// Those that there were when they were read before.
    pub(crate) gone: Vec<Rival>,
}

impl Rival {
    /// One of a server's; `None` when it takes nothing that a device of ours could listen at.
    pub(crate) fn of(provider: Provider, proxy: &LedProxy) -> Option<Rival> {
        let LedProxy { project, instance, device, listen, .. } = proxy;
        let text = format!(
            "the proxy device {device} of {provider}:{project}/{instance} has nat=true and takes what comes to {listen}"
        );
        let led = led(proxy);
        Some(Rival { listen: listen.parse().ok()?, text, led })
    }

    /// Whether it takes what comes to a device.
    fn takes(&self, spec: &DeviceSpec) -> bool {
        spec.bind == Bind::Host && meet(self.listen.address(), spec.listen.address())
    }
}

/// What the rules of a proxy device lead, of datagrams.
fn led(proxy: &LedProxy) -> Vec<Led> {
    let (Ok(listen), Ok(connect)) =
        (proxy.listen.parse::<ListenAddr>(), proxy.connect.parse::<ConnectAddr>())
    else {
        return Vec::new();
    };
    let (Address::Udp { host: from, ports }, Address::Udp { host: to, ports: target_ports }) =
        (listen.address(), connect.address())
    else {
        return Vec::new();
    };
    let reserved = proxy.addresses.iter().filter_map(|text| text.parse().ok());
    let targets = if to.is_wildcard() { reserved.collect() } else { vec![to.ip()] };
    let ends = |range: &PortRange| (range.first().get(), range.last().get());
    let listen =
        if from.is_wildcard() { Listen::Every(Family::of(from.ip())) } else { Listen::Address(from.ip()) };
    let to_ports = |range: &PortRange| range.first().get()..=range.last().get();
    let led = |range: &PortRange| {
        let (first, last) = ends(range);
        let scope = Scope { transport: Transport::Udp, listen, first, last };
        Led { scope, targets: targets.clone(), ports: target_ports.ranges().iter().map(to_ports).collect() }
    };
    ports.ranges().iter().map(led).collect()
}

/// What takes the traffic of a device, in words.
pub(crate) fn in_the_way_of<'a>(spec: &DeviceSpec, rivals: &'a [Rival]) -> Option<&'a str> {
    rivals.iter().find(|rival| rival.takes(spec)).map(|rival| rival.text.as_str())
}

/// Whether the same packet can come to both.
fn meet(theirs: &Address, ours: &Address) -> bool {
    match (theirs, ours) {
        (Address::Tcp { host: a, ports: p }, Address::Tcp { host: b, ports: q })
        | (Address::Udp { host: a, ports: p }, Address::Udp { host: b, ports: q }) => {
            hosts_meet(a, b) && p.shares(q)
        }
        _ => false,
    }
}

/// Their rules are of one family; `[::]` of ours is both.
fn hosts_meet(theirs: &IpHost, ours: &IpHost) -> bool {
    let (a, b) = (theirs.ip(), ours.ip());
    let every = |ip: std::net::IpAddr| ip.is_unspecified();
    a == b || (a.is_ipv4() == b.is_ipv4() && (every(a) || every(b))) || (b.is_ipv6() && every(b))
}

/// Whether nobody takes what comes to devices, as far as servers know.
///
/// # Errors
/// Who does. A server that does not say is not in the way.
pub(crate) async fn check(hub: &Arc<Hub>, devices: &[(&DeviceKey, &DeviceSpec)]) -> Result<(), Failure> {
    forwards::check(hub, devices).await?;
    let has_port = |spec: &DeviceSpec| spec.bind == Bind::Host && spec.listen.address().ports().is_some();
    if !devices.iter().any(|(_, spec)| has_port(spec)) {
        return Ok(());
    }
    for provider in [Provider::Incus, Provider::Lxd] {
        let Some(endpoint) = hub.providers.endpoint(provider).filter(|_| hub.is_reachable(provider)) else {
            continue;
        };
        let rivals = read(hub, endpoint).await;
        for (key, spec) in devices {
            if let Some(text) = in_the_way_of(spec, &rivals) {
                return Err(Failure {
                    hint: Some(format!(
                        "remove it there, or take it over with `portway device import`; or listen elsewhere than {}",
                        spec.listen
                    )),
                    ..failure(FailureKind::Refused, format!("{key}: {text}"))
                });
            }
        }
    }
    Ok(())
}

/// Takes note of what a server leads by rules, so that it is known when they go.
pub(crate) async fn note(hub: &Hub, provider: Provider) {
    if let Some(endpoint) = hub.providers.endpoint(provider) {
        read(hub, endpoint).await;
    }
}

/// The rivals of one server; what was known of them when it does not say. Of those that are gone the connections are
/// forgotten.
async fn read(hub: &Hub, endpoint: &Endpoint) -> Arc<Vec<Rival>> {
    match tokio::time::timeout(LIMIT, endpoint.read_rivals()).await {
        Ok(Ok(rivals)) => {
            if let Some(leader) = &hub.nat {
                leader.forget(rivals.gone.into_iter().flat_map(|rival| rival.led).collect()).await;
            }
            return rivals.present;
        }
        Ok(Err(problem)) => {
            debug!(provider = %endpoint.provider(), error = with_sources(&problem), "proxy devices not known");
        }
        Err(_) => debug!(provider = %endpoint.provider(), "proxy devices not known in time"),
    }
    endpoint.rivals()
}

/// Looks again and again whether a server has begun to take what comes to devices of ours; `told` says that
/// something has happened there.
pub(crate) async fn follow(hub: Arc<Hub>, endpoint: Arc<Endpoint>, told: Arc<Notify>) {
    let mut before = endpoint.rivals();
    loop {
        if hub.listens_on_ports() {
            let present = read(&hub, &endpoint).await;
            if *present != *before {
                hub.poke_all().await;
            }
            before = present;
        }
        if tokio::time::timeout(PAUSE, told.notified()).await.is_ok() {
            tokio::time::sleep(SOON).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: ports, protocols, families or who is a wildcard are mixed up.
    #[test]
    fn who_is_in_the_way() {
        for (theirs, ours, expected) in [
            ("tcp:0.0.0.0:80", "tcp:192.0.2.1:80", true),
            ("tcp:192.0.2.1:80", "tcp:0.0.0.0:80", true),
            ("tcp:192.0.2.1:80", "tcp:[::]:80", true),
            ("tcp:[2001:db8::1]:80", "tcp:[::]:80", true),
            ("tcp:[::]:80", "tcp:[2001:db8::1]:80", true),
            ("tcp:192.0.2.1:70-90", "tcp:192.0.2.1:1,80", true),
            ("tcp:192.0.2.1:70-90", "tcp:192.0.2.1:1,91", false),
            ("udp:192.0.2.1:80", "tcp:192.0.2.1:80", false),
            ("tcp:192.0.2.1:80", "tcp:192.0.2.2:80", false),
            ("tcp:0.0.0.0:80", "tcp:[2001:db8::1]:80", false),
            ("tcp:[::]:80", "tcp:192.0.2.1:80", false),
            ("tcp:0.0.0.0:80", "unix:/run/s", false),
        ] {
            let (a, b): (ListenAddr, ListenAddr) = (theirs.parse().unwrap(), ours.parse().unwrap());
            assert_eq!(meet(a.address(), b.address()), expected, "{theirs} {ours}");
        }
        let keys = [("listen", "tcp:0.0.0.0:80"), ("connect", "tcp:0.0.0.0:80"), ("bind", "instance")];
        let inside = DeviceSpec::from_keys(keys).unwrap();
        let proxy = LedProxy {
            project: "p".into(),
            instance: "c1".into(),
            device: "web".into(),
            listen: "tcp:0.0.0.0:80".into(),
            connect: "tcp:10.0.0.5:80".into(),
            addresses: Vec::new(),
        };
        let rivals = [Rival::of(Provider::Incus, &proxy).unwrap()];
        assert_eq!(in_the_way_of(&inside, &rivals), None);
        let host = DeviceSpec::from_keys(keys[..2].iter().copied()).unwrap();
        assert_eq!(
            in_the_way_of(&host, &rivals),
            Some("the proxy device web of incus:p/c1 has nat=true and takes what comes to tcp:0.0.0.0:80")
        );
        assert_eq!(rivals[0].led, []);
        let odd = LedProxy { listen: "tcp:localhost:x".into(), ..proxy };
        assert_eq!(Rival::of(Provider::Incus, &odd), None);
    }

    /// Fails when: tcp is forgotten too, or a wildcard target is not the instance's address.
    #[test]
    fn what_rules_have_led() {
        let proxy = |listen: &str, connect: &str| LedProxy {
            project: "p".into(),
            instance: "c1".into(),
            device: "dns".into(),
            listen: listen.into(),
            connect: connect.into(),
            addresses: vec!["10.0.0.5".into(), "none".into()],
        };
        assert_eq!(led(&proxy("tcp:192.0.2.1:80", "tcp:10.0.0.5:80")), []);
        let scope = |listen, first, last| Scope { transport: Transport::Udp, listen, first, last };
        let address = Listen::Address("192.0.2.1".parse().unwrap());
        let to = |ip: &str| vec![ip.parse().unwrap()];
        let found = led(&proxy("udp:192.0.2.1:53,60-61", "udp:10.0.0.6:5,7-8"));
        let ports = vec![5..=5, 7..=8];
        let expected = [(53, 53), (60, 61)].map(|(first, last)| Led {
            scope: scope(address, first, last),
            targets: to("10.0.0.6"),
            ports: ports.clone(),
        });
        assert_eq!(found, expected);
        let found = led(&proxy("udp:0.0.0.0:53", "udp:0.0.0.0:53"));
        let scope = scope(Listen::Every(Family::V4), 53, 53);
        assert_eq!(found, [Led { scope, targets: to("10.0.0.5"), ports: vec![53..=53] }]);
    }
}
