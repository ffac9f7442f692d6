//! `portway mesh check`: a network as it was understood.

use std::fmt::Write as _;

use portway_mesh::spec::{Here, Network, PortRights, RuleEntry, Spec, proxies};
use serde::Serialize;

use super::unusable;
use crate::cli::mesh::CheckArgs;
use crate::failure::{Outcome, printable};
use crate::output::{Out, csv};

/// A network, without its secrets.
#[derive(Serialize)]
struct Checked {
    public_key: String,
    addresses: Vec<String>,
    listen_port: Option<u16>,
    mtu: u16,
    dns: Vec<String>,
    peers: Vec<Peer>,
    rules: Vec<Rule>,
    proxies: Vec<Proxy>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Peer {
    public_key: String,
    preshared_key: bool,
    endpoint: Option<String>,
    allowed_ips: Vec<String>,
    keepalive_seconds: Option<u64>,
}

#[derive(Serialize)]
struct Rule {
    id: String,
    direction: &'static str,
    rule: String,
    place: String,
}

#[derive(Serialize)]
struct Proxy {
    kind: &'static str,
    listen: String,
    login: bool,
}

/// Reads everything and prints it.
pub(super) fn run(args: &CheckArgs) -> Outcome {
    let network = &args.network;
    let spec = Spec::load(&network.request(), &Here).map_err(|error| unusable(&error))?;
    let rights = PortRights::here();
    let allowed = spec.rules.allowed(rights).and_then(|()| proxies::allowed(&spec.proxies, rights));
    allowed.map_err(|error| unusable(&error))?;
    let checked = checked(&spec);
    Out::new().show(
        args.format.format,
        &checked,
        |_| text(&checked),
        || {
            let line = |rule: &Rule| {
                csv::line([rule.id.clone(), rule.direction.to_owned(), rule.rule.clone(), rule.place.clone()])
            };
            csv::line(["id", "direction", "rule", "place"])
                + &checked.rules.iter().map(line).collect::<String>()
        },
    )
}

fn checked(spec: &Spec) -> Checked {
    let Network { private_key, addresses, listen_port, mtu, dns, peers, .. } = &spec.network;
    let peer = |peer: &portway_mesh::spec::Peer| Peer {
        public_key: peer.public_key.to_string(),
        preshared_key: peer.preshared_key.is_some(),
        endpoint: peer.endpoint.as_ref().map(ToString::to_string),
        allowed_ips: peer.allowed_ips.iter().map(ToString::to_string).collect(),
        keepalive_seconds: peer.keepalive.map(|keepalive| keepalive.as_secs()),
    };
    let rule = |entry: &RuleEntry| Rule {
        id: entry.id.to_string(),
        direction: entry.rule.direction().as_str(),
        rule: entry.rule.to_string(),
        place: entry.place.to_string(),
    };
    let proxy = |proxy: &portway_mesh::spec::ProxyListen| Proxy {
        kind: proxy.kind.as_str(),
        listen: match proxy.address {
            None => format!(":{}", proxy.port),
            Some(ip) => std::net::SocketAddr::new(ip, proxy.port.get()).to_string(),
        },
        login: proxy.login.is_some(),
    };
    let search = dns.search.iter().map(ToString::to_string);
    Checked {
        public_key: private_key.public().to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        listen_port: listen_port.map(portway_model::Port::get),
        mtu: mtu.bytes(),
        dns: dns.servers.iter().map(ToString::to_string).chain(search).collect(),
        peers: peers.iter().map(peer).collect(),
        rules: spec.rules.iter().map(rule).collect(),
        proxies: spec.proxies.iter().map(proxy).collect(),
        warnings: spec.warnings.iter().map(ToString::to_string).collect(),
    }
}

/// One `key: value` line for each thing that is said.
fn text(checked: &Checked) -> String {
    let mut text = String::new();
    let mut put = |key: &str, value: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{key}: {}", printable(value));
    };
    put("public key", &checked.public_key);
    put("addresses", &checked.addresses.join(", "));
    put("listen port", &checked.listen_port.map_or_else(|| "any".to_owned(), |port| port.to_string()));
    put("mtu", &checked.mtu.to_string());
    if !checked.dns.is_empty() {
        put("dns", &checked.dns.join(", "));
    }
    for peer in &checked.peers {
        let mut line = peer.public_key.clone();
        if let Some(endpoint) = &peer.endpoint {
            let _infallible = write!(line, ", at {endpoint}");
        }
        let _infallible = match peer.allowed_ips.as_slice() {
            [] => write!(line, ", has no addresses"),
            blocks => write!(line, ", has {}", blocks.join(", ")),
        };
        put("peer", &line);
    }
    for rule in &checked.rules {
        put(rule.direction, &format!("{}  ({})", rule.rule, rule.id));
    }
    for proxy in &checked.proxies {
        put(proxy.kind, &proxy.listen);
    }
    for warning in &checked.warnings {
        put("warning", warning);
    }
    text
}
