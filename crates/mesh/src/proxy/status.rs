//! What a network is like, for people and for Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use portway_control::api::{
    Failure, FailureKind, MeshMapping, MeshOrg, MeshPeer, MeshProxyStatus, MeshRuleStatus, MeshStatus,
};
use portway_relay::wire::field;
use portway_sys::shm::FIELD_COUNT;

use super::control::failure;
use super::org::Organization;
use super::serve::Shared;
use super::table::{Gate, Served, Table};

/// Age of a handshake at which a peer counts as silent.
const SILENT_SECONDS: u64 = 180;

/// All of it, at this moment.
pub(super) async fn read(shared: Arc<Shared>) -> Result<MeshStatus, Failure> {
    let asked = Arc::clone(&shared);
    let gathered = shared.room.read(move || Ok(gather(&asked))).await.ok().flatten();
    gathered.ok_or_else(|| failure(FailureKind::Internal, "the tunnel does not answer"))
}

fn gather(shared: &Shared) -> Option<MeshStatus> {
    let about = &shared.about;
    let now = Instant::now();
    let states = shared.tunnel.peers()?;
    let organization = shared.organization.as_ref();
    let peer = |table: &Table, state: crate::wg::PeerState| MeshPeer {
        name: organization.and_then(|organization| organization.name_of(&state.public_key)),
        public_key: state.public_key.to_string(),
        endpoint: state.endpoint.map(|endpoint| endpoint.to_string()),
        through: state.through.map(|hub| {
            let name = organization.and_then(|organization| organization.name_of(&hub));
            name.unwrap_or_else(|| hub.to_string())
        }),
        trying_seconds: state.trying_since.map(|since| now.saturating_duration_since(since).as_secs()),
        allowed_ips: state.allowed_ips.iter().map(ToString::to_string).collect(),
        handshake_seconds: state.last_handshake.map(|at| now.saturating_duration_since(at).as_secs()),
        received_bytes: state.received_bytes,
        sent_bytes: state.sent_bytes,
        connections_now: table.shares.of(&state.public_key).now,
        connections_refused: table.shares.of(&state.public_key).refused,
    };
    let mut dropped: std::collections::BTreeMap<String, u64> =
        shared.tunnel.counters().seen().map(|(why, count)| (snake(&format!("{why:?}")), count)).collect();
    let lost = shared.engine.packets_lost().unwrap_or(0) + shared.tunnel.packets_lost().unwrap_or(0);
    if lost > 0 {
        dropped.insert("between_stack_and_tunnel".to_owned(), lost);
    }
    let own = organization.map_or_else(|| about.network.private_key.public(), Organization::key);
    let link = shared.link();
    let table = shared.table();
    let (mut rules, mut proxies) = (Vec::new(), Vec::new());
    for served in table.served() {
        let mut counted = served.before;
        if let Some(link) = &link {
            let present = link.line(served.slot.index);
            counted.iter_mut().zip(present).for_each(|(total, more)| *total = total.saturating_add(more));
        }
        proxies.extend(served.gate.as_ref().map(|gate| proxy(&table, served, gate, counted)));
        let lines = |line| link.as_ref().map_or([0; FIELD_COUNT], |link| link.line(line));
        rules.extend(served.rules.iter().map(|entry| {
            let bytes = table.account(entry.id).bytes(&lines);
            rule(&table, served, entry, (counted, bytes), now)
        }));
    }
    Some(MeshStatus {
        name: about.name.clone(),
        pid: std::process::id(),
        organization: organization.map(|organization| organization.status(now)),
        engine: shared.engine.name().to_owned(),
        engine_reason: about.why.clone(),
        udp_port: shared.tunnel.udp().address.port(),
        public_key: own.to_string(),
        addresses: about.network.addresses.iter().map(ToString::to_string).collect(),
        uptime_seconds: now.saturating_duration_since(about.since).as_secs(),
        peers: states.into_iter().map(|state| peer(&table, state)).collect(),
        passed_on: shared.tunnel.totals().passed_on.load(std::sync::atomic::Ordering::Relaxed),
        rules,
        proxies,
        dropped,
    })
}

fn rule(
    table: &Table,
    served: &Served,
    entry: &crate::spec::RuleEntry,
    (counted, [bytes_in, bytes_out]): ([u64; FIELD_COUNT], [u64; 2]),
    now: Instant,
) -> MeshRuleStatus {
    let account = table.account(entry.id);
    MeshRuleStatus {
        id: entry.id.to_string(),
        direction: entry.rule.direction().to_string(),
        rule: entry.rule.to_string(),
        place: entry.place.to_string(),
        aside: served.balancer.is_aside(entry.id, now),
        connections_now: served.balancer.live(entry.id),
        connections_total: account.opened,
        failures: account.failed,
        last_error: account.last_error,
        bytes_in,
        bytes_out,
        port_bytes_in: counted.get(field::BYTES_IN).copied().unwrap_or(0),
        port_bytes_out: counted.get(field::BYTES_OUT).copied().unwrap_or(0),
    }
}

fn proxy(table: &Table, served: &Served, gate: &Gate, counted: [u64; FIELD_COUNT]) -> MeshProxyStatus {
    let account = table.account(gate.id);
    MeshProxyStatus {
        kind: gate.kind.as_str().to_owned(),
        listen: served.listen.to_string(),
        login: gate.is_guarded,
        connections_now: served.balancer.live(gate.id),
        connections_total: account.opened,
        failures: account.failed,
        last_error: account.last_error,
        bytes_in: counted.get(field::BYTES_IN).copied().unwrap_or(0),
        bytes_out: counted.get(field::BYTES_OUT).copied().unwrap_or(0),
    }
}

/// Whether it is ready, and what there is to say of it. Members of an organization are only spoken to when there is
/// something to say, so their silence means nothing; a registrar that is away leaves what is verified in force.
pub(super) fn readiness(status: &MeshStatus) -> (bool, String) {
    if let Some(organization) = &status.organization {
        let text = match &organization.error {
            None => "ready\n".to_owned(),
            Some(error) => {
                format!("ready, with the members of revision {}: {error}\n", organization.revision)
            }
        };
        return (true, text);
    }
    let silent = |peer: &&MeshPeer| {
        peer.endpoint.is_some() && peer.handshake_seconds.is_none_or(|age| age >= SILENT_SECONDS)
    };
    let silent: Vec<&str> = status.peers.iter().filter(silent).map(|peer| peer.public_key.as_str()).collect();
    match silent.is_empty() {
        true => (true, "ready\n".to_owned()),
        false => (false, format!("no answer from {}\n", silent.join(", "))),
    }
}

/// `NoRoute` as `no_route`.
fn snake(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !text.is_empty() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// The text that Prometheus reads.
pub(super) fn metrics(status: &MeshStatus) -> String {
    let mut text = String::new();
    peers_metrics(&mut text, &status.peers);
    let mut family = |name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>| {
        put_family(&mut text, name, kind, help, samples);
    };
    let of_rules = |value: &dyn Fn(&MeshRuleStatus) -> u64| -> Vec<(String, u64)> {
        let sample = |rule: &MeshRuleStatus| {
            let labels =
                format!("direction=\"{}\",rule=\"{}\",id=\"{}\"", rule.direction, rule.rule, rule.id);
            (labels, value(rule))
        };
        status.rules.iter().map(sample).collect()
    };
    let dropped = status.dropped.iter().map(|(why, count)| (format!("reason=\"{why}\""), *count)).collect();
    family("portway_mesh_dropped_packets_total", "counter", "Packets that were dropped.", dropped);
    family(
        "portway_mesh_rule_connections",
        "gauge",
        "Live connections and flows of a rule.",
        of_rules(&|rule| rule.connections_now),
    );
    family(
        "portway_mesh_rule_connections_total",
        "counter",
        "Connections and flows of a rule.",
        of_rules(&|rule| rule.connections_total),
    );
    family(
        "portway_mesh_rule_received_bytes_total",
        "counter",
        "Bytes that clients of a rule have sent.",
        of_rules(&|rule| rule.bytes_in),
    );
    family(
        "portway_mesh_rule_sent_bytes_total",
        "counter",
        "Bytes that clients of a rule have got.",
        of_rules(&|rule| rule.bytes_out),
    );
    family(
        "portway_mesh_rule_failures_total",
        "counter",
        "Failures of a rule's destination.",
        of_rules(&|rule| rule.failures),
    );
    hub_metrics(&mut text, status);
    proxies_metrics(&mut text, &status.proxies);
    organization_metrics(&mut text, status.organization.as_ref());
    text
}

fn hub_metrics(text: &mut String, status: &MeshStatus) {
    let through =
        |peer: &MeshPeer| (format!("peer=\"{}\"", peer.public_key), u64::from(peer.through.is_some()));
    let help = "Whether a peer is reached through a hub.";
    put_family(text, "portway_mesh_through_hub", "gauge", help, status.peers.iter().map(through).collect());
    let help = "Messages between members that this device has passed on as a hub.";
    let passed_on = vec![(format!("network=\"{}\"", status.name), status.passed_on)];
    put_family(text, "portway_mesh_passed_on_messages_total", "counter", help, passed_on);
}

fn peers_metrics(text: &mut String, peers: &[MeshPeer]) {
    type Value = fn(&MeshPeer) -> Option<u64>;
    let families: [(&str, &str, &str, Value); 5] = [
        ("handshake_age_seconds", "gauge", "Since keys were agreed on with a peer.", |peer| {
            peer.handshake_seconds
        }),
        ("received_bytes_total", "counter", "Bytes from a peer.", |peer| Some(peer.received_bytes)),
        ("sent_bytes_total", "counter", "Bytes to a peer.", |peer| Some(peer.sent_bytes)),
        ("peer_connections", "gauge", "Live connections from a peer to ports of this node.", |peer| {
            Some(peer.connections_now)
        }),
        (
            "peer_refused_connections_total",
            "counter",
            "Those refused because a peer had its share.",
            |peer| Some(peer.connections_refused),
        ),
    ];
    for (name, kind, help, value) in families {
        let sample = |peer: &MeshPeer| Some((format!("peer=\"{}\"", peer.public_key), value(peer)?));
        let samples = peers.iter().filter_map(sample).collect();
        put_family(text, &format!("portway_mesh_{name}"), kind, help, samples);
    }
}

fn proxies_metrics(text: &mut String, proxies: &[MeshProxyStatus]) {
    type Value = fn(&MeshProxyStatus) -> u64;
    let families: [(&str, &str, &str, Value); 3] = [
        ("connections", "gauge", "Live connections of a proxy.", |proxy| proxy.connections_now),
        ("connections_total", "counter", "Connections of a proxy.", |proxy| proxy.connections_total),
        ("failures_total", "counter", "Requests to a proxy that came to nothing.", |proxy| proxy.failures),
    ];
    for (name, kind, help, value) in families {
        let sample = |proxy: &MeshProxyStatus| {
            (format!("kind=\"{}\",listen=\"{}\"", proxy.kind, proxy.listen), value(proxy))
        };
        let samples = proxies.iter().map(sample).collect();
        put_family(text, &format!("portway_mesh_proxy_{name}"), kind, help, samples);
    }
}

fn organization_metrics(text: &mut String, organization: Option<&MeshOrg>) {
    let Some(organization) = organization else { return };
    let sample = |value| vec![(format!("organization=\"{}\"", organization.organization), value)];
    let reachable = sample(u64::from(organization.reachable));
    let help = "Whether the organization's registrar is followed.";
    put_family(text, "portway_mesh_registrar_reachable", "gauge", help, reachable);
    let is = |mapping| organization.outside.iter().any(|seen| seen.mapping == mapping);
    let symmetric = match (is(MeshMapping::Symmetric), is(MeshMapping::Same)) {
        (true, _) => Some(1),
        (false, true) => Some(0),
        (false, false) => None,
    };
    let help = "Whether a NAT takes another port for each destination; absent while nobody knows.";
    let symmetric = symmetric.map(sample).unwrap_or_default();
    put_family(text, "portway_mesh_symmetric_nat", "gauge", help, symmetric);
    let help = "Revision of the organization that is in force.";
    put_family(text, "portway_mesh_organization_revision", "gauge", help, sample(organization.revision));
}

fn put_family(text: &mut String, name: &str, kind: &str, help: &str, samples: Vec<(String, u64)>) {
    // Writing to a String cannot fail.
    let _infallible = write!(text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    for (labels, value) in samples {
        let _infallible = writeln!(text, "{name}{{{labels}}} {value}");
    }
}
