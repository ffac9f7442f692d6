//! The files of two nodes that find each other.

use std::fmt::Write as _;
use std::net::IpAddr;

use portway_model::{Cidr, CidrList, Host, Port, Transport};
use thiserror::Error;
use zeroize::Zeroizing;

use super::key::{PresharedKey, PrivateKey};
use super::network::Endpoint;

/// Where WireGuard listens when nobody says otherwise.
const PORT: u16 = 51820;

/// How often a node sends that nobody can send to first: well below the 30 s that routers keep a way back open.
const KEEPALIVE_SECONDS: u16 = 25;

/// Why no pair can be made of what was said. Texts are quoted for display.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PairError {
    /// Not two of them.
    #[error("a pair has two nodes, not {0}")]
    Count(usize),
    /// A name no file should have.
    #[error("node name {0} is not made of letters, digits, `-` and `_`")]
    Name(String),
    /// Both have the same name.
    #[error("both nodes are called {0}")]
    SameName(String),
    /// What stands behind `=`.
    #[error("node {name}: {endpoint} is not HOST or HOST:PORT")]
    Endpoint {
        /// Its name.
        name: String,
        /// What stands there.
        endpoint: String,
    },
    /// Neither can be reached.
    #[error("neither node has a host: one of them has to be reached by the other, as in a=HOST")]
    NoEndpoint,
    /// Not a block of addresses with room for two.
    #[error("{0} is not a block of addresses with room for two")]
    Network(String),
    /// Not `PROTOCOL:PORT`.
    #[error("service {0} is not tcp:PORT or udp:PORT")]
    Service(String),
    /// The kernel has none.
    #[error("no random numbers: {0}")]
    Random(String),
}

/// A file to be written.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// Name of its node.
    pub name: String,
    /// What is in it, secrets and all.
    pub text: Zeroizing<String>,
}

struct Node {
    name: String,
    endpoint: Option<Endpoint>,
    key: PrivateKey,
    ip: IpAddr,
}

fn quoted(text: &str) -> String {
    super::draft::shown(text)
}

/// Makes a pair with new keys.
///
/// # Errors
/// [`PairError`].
pub fn make(nodes: &[String], network: &str, service: Option<&str>) -> Result<[Made; 2], PairError> {
    let [one, two] = nodes else { return Err(PairError::Count(nodes.len())) };
    let (block, [first, second]) = addresses(network)?;
    let service = service.map(service_of).transpose()?;
    let (one, two) = (node(one, first)?, node(two, second)?);
    if one.name == two.name {
        return Err(PairError::SameName(quoted(&one.name)));
    }
    if one.endpoint.is_none() && two.endpoint.is_none() {
        return Err(PairError::NoEndpoint);
    }
    let shared = PresharedKey::generate().map_err(|error| PairError::Random(error.to_string()))?;
    let (ingress, egress) = match service {
        Some((transport, port)) => (
            format!("ingress = [\"{transport}:{port}:127.0.0.1:{port}\"]\n"),
            format!("egress = [\"{transport}:127.0.0.1:{port}:{}:{port}\"]\n", bracketed(one.ip)),
        ),
        None => (String::new(), String::new()),
    };
    Ok([file(&one, &two, block, &shared, &ingress), file(&two, &one, block, &shared, &egress)])
}

fn file(own: &Node, peer: &Node, block: Cidr, shared: &PresharedKey, rules: &str) -> Made {
    let mut text = Zeroizing::new(String::new());
    let mut put = |line: &str| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{line}");
    };
    put(&format!("# The node {} of a network of two; the other one is {}.", own.name, peer.name));
    put(&Zeroizing::new(format!("private_key = \"{}\"", *own.key.reveal())));
    put(&format!("addresses = [\"{}/{}\"]", own.ip, block.prefix()));
    if let Some(endpoint) = &own.endpoint {
        put(&format!("listen_port = {}", endpoint.port));
    }
    if !rules.is_empty() {
        put(rules.trim_end());
    }
    put("\n[[peers]]");
    put(&format!("public_key = \"{}\"", peer.key.public()));
    put(&Zeroizing::new(format!("preshared_key = \"{}\"", *shared.reveal())));
    put(&format!("allowed_ips = [\"{}/{}\"]", peer.ip, if peer.ip.is_ipv4() { 32 } else { 128 }));
    if let Some(endpoint) = &peer.endpoint {
        put(&format!("endpoint = \"{endpoint}\""));
    }
    if own.endpoint.is_none() {
        put(&format!("keepalive = {KEEPALIVE_SECONDS}"));
    }
    Made { name: own.name.clone(), text }
}

fn bracketed(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Reads `NAME[=HOST[:PORT]]`.
fn node(text: &str, ip: IpAddr) -> Result<Node, PairError> {
    let (name, host) = match text.split_once('=') {
        Some((name, host)) => (name, Some(host)),
        None => (text, None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || name.starts_with('-') || !name.chars().all(plain) {
        return Err(PairError::Name(quoted(name)));
    }
    let endpoint = host.map(|host| endpoint(name, host)).transpose()?;
    let key = PrivateKey::generate().map_err(|error| PairError::Random(error.to_string()))?;
    Ok(Node { name: name.to_owned(), endpoint, key, ip })
}

fn endpoint(name: &str, text: &str) -> Result<Endpoint, PairError> {
    let wrong = || PairError::Endpoint { name: name.to_owned(), endpoint: quoted(text) };
    let (host, port) = match text.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((host, port)) => (host, port.parse().ok().and_then(Port::new).ok_or_else(wrong)?),
        None => (text, Port::new(PORT).ok_or_else(wrong)?),
    };
    match host.parse::<Host>().map_err(|_| wrong())? {
        Host::Ip(ip) if ip.is_wildcard() || ip.ip().is_multicast() => Err(wrong()),
        host => Ok(Endpoint { host, port }),
    }
}

/// The block and its first two addresses for nodes.
fn addresses(text: &str) -> Result<(Cidr, [IpAddr; 2]), PairError> {
    let wrong = || PairError::Network(quoted(text));
    let list: CidrList = text.parse().map_err(|_| wrong())?;
    let [block] = list.blocks() else { return Err(wrong()) };
    let special = block.ip().is_loopback() || block.ip().is_multicast() || block.is_everybody();
    let nth = |n: u8| match block.ip() {
        IpAddr::V4(ip) => u32::from(ip).checked_add(n.into()).map(|ip| IpAddr::from(ip.to_be_bytes())),
        IpAddr::V6(ip) => u128::from(ip).checked_add(n.into()).map(|ip| IpAddr::from(ip.to_be_bytes())),
    };
    // The first one names the network, and of IPv4 the last one everybody in it.
    let last = if block.ip().is_ipv4() { nth(3) } else { nth(2) };
    match (nth(1), nth(2)) {
        (Some(one), Some(two)) if !special && last.is_some_and(|last| block.contains(last)) => {
            Ok((*block, [one, two]))
        }
        _ => Err(wrong()),
    }
}

/// Reads `PROTOCOL:PORT`.
fn service_of(text: &str) -> Result<(Transport, Port), PairError> {
    let wrong = || PairError::Service(quoted(text));
    let (protocol, digits) = text.split_once(':').ok_or_else(wrong)?;
    let transport = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => return Err(wrong()),
    };
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let port = digits.parse().ok().filter(|_| plain).and_then(Port::new).ok_or_else(wrong)?;
    Ok((transport, port))
}

#[cfg(test)]
mod tests;
