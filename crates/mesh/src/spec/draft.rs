//! What was said of a network, before it is checked: texts with their places, whichever file or variable they come
//! from. [`Draft::build`] is the one place where they become a [`Network`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use portway_model::{Cidr, Host, HostName, Port};

use super::error::SpecError;
use super::key::{KeyError, PresharedKey, PrivateKey, PublicKey};
use super::network::{Dns, Endpoint, InterfaceAddr, Mtu, Network, Peer, Peering, Rows};
use super::place::{Field, Place, Warning};
use super::proxies::ProxySaid;

/// A network as it was said.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) private_key: Option<Field>,
    /// One address or several in each.
    pub(super) addresses: Vec<Field>,
    pub(super) listen_port: Option<Field>,
    pub(super) mtu: Option<Field>,
    pub(super) udp_gso: Option<Field>,
    /// Servers and domains, one or several in each.
    pub(super) dns: Vec<Field>,
    pub(super) peers: Vec<PeerDraft>,
    pub(super) proxies: Vec<ProxySaid>,
    pub(super) proxy_user: Option<Field>,
    pub(super) proxy_password: Option<Field>,
}

/// A peer as it was said.
pub(super) struct PeerDraft {
    /// Where it begins.
    pub(super) place: Place,
    pub(super) public_key: Option<Field>,
    pub(super) preshared_key: Option<Field>,
    /// One block or several in each.
    pub(super) allowed_ips: Vec<Field>,
    pub(super) endpoint: Option<Field>,
    pub(super) keepalive: Option<Field>,
}

impl PeerDraft {
    pub(super) fn at(place: Place) -> PeerDraft {
        PeerDraft {
            place,
            public_key: None,
            preshared_key: None,
            allowed_ips: Vec::new(),
            endpoint: None,
            keepalive: None,
        }
    }
}

/// Fills what may be said once.
pub(super) fn once(slot: &mut Option<Field>, name: &str, field: Field) -> Result<(), SpecError> {
    match slot {
        Some(first) => {
            Err(SpecError::wrong(&field.place, format!("{name} stands twice, first at {}", first.place)))
        }
        None => {
            *slot = Some(field);
            Ok(())
        }
    }
}

impl Draft {
    /// Checks everything. `whole` is where something that is missing would have stood.
    pub(super) fn build(&self, whole: &Place, warnings: &mut Vec<Warning>) -> Result<Network, SpecError> {
        let Some(key) = &self.private_key else {
            return Err(
                SpecError::wrong(whole, "no private key").with_hint("`portway mesh genkey` makes one")
            );
        };
        let private_key: PrivateKey =
            key.text.parse().map_err(|error| wrong_key(key, "private key", error))?;
        let addresses = addresses(&self.addresses)?;
        if addresses.is_empty() {
            return Err(SpecError::wrong(whole, "no address of this node in the network"));
        }
        let mtu = self.mtu.as_ref().map(|field| mtu(field, &addresses)).transpose()?.unwrap_or_default();
        let rows = self.udp_gso.as_ref().map(rows).transpose()?.unwrap_or_default();
        let listen_port = self.listen_port.as_ref().map(listen_port).transpose()?.flatten();
        let dns = dns(&self.dns)?;
        let peers = peers(&self.peers, &private_key.public(), warnings)?;
        let peering = Peering::Fixed;
        let network = Network { private_key, addresses, listen_port, mtu, rows, dns, peers, peering };
        unreachable_peers(&network, &self.peers, warnings);
        Ok(network)
    }
}

fn wrong_key(field: &Field, what: &str, error: KeyError) -> SpecError {
    SpecError::wrong(&field.place, format!("{what}: {error}"))
}

/// A text for a message, cut and without what would steer a terminal.
pub(super) fn shown(text: &str) -> String {
    const SHOWN: usize = 48;
    let mut out: String = text.chars().take(SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN).is_some() {
        out.push('\u{2026}');
    }
    format!("`{out}`")
}

/// An address and the length of its prefix, all of it when none is said.
fn block(field: &Field) -> Result<(IpAddr, u8), SpecError> {
    let wrong = |message: String| SpecError::wrong(&field.place, message);
    let (address, prefix) = match field.text.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix)),
        None => (field.text.as_str(), None),
    };
    let Ok(ip) = address.parse::<IpAddr>() else {
        return Err(wrong(format!("{} is no IP address", shown(address))));
    };
    let bits: u8 = if ip.is_ipv4() { 32 } else { 128 };
    let Some(digits) = prefix else { return Ok((ip, bits)) };
    match digits.parse::<u8>() {
        Ok(length) if length <= bits && digits.bytes().all(|byte| byte.is_ascii_digit()) => Ok((ip, length)),
        _ => Err(wrong(format!("prefix {} of {ip} is not from 0 to {bits}", shown(digits)))),
    }
}

fn addresses(said: &[Field]) -> Result<Vec<InterfaceAddr>, SpecError> {
    let mut addresses = Vec::new();
    let mut seen: BTreeMap<IpAddr, Place> = BTreeMap::new();
    for field in said.iter().flat_map(Field::items) {
        let (ip, prefix) = block(&field)?;
        let wrong = |message: String| Err(SpecError::wrong(&field.place, message));
        let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
        let mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() || broadcast || mapped {
            return wrong(format!("{ip} cannot be an address of this node"));
        }
        if let Some(first) = seen.insert(ip, field.place.clone()) {
            return wrong(format!("address {ip} stands twice, first at {first}"));
        }
        addresses.push(InterfaceAddr { ip, prefix });
    }
    Ok(addresses)
}

/// A number without sign or blanks.
fn number(field: &Field) -> Option<u16> {
    let digits = field.text.as_str();
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

fn mtu(field: &Field, addresses: &[InterfaceAddr]) -> Result<Mtu, SpecError> {
    let Some(mtu) = number(field).and_then(Mtu::new) else {
        let message = format!("MTU {} is not from {} to {}", shown(&field.text), Mtu::MIN, Mtu::MAX);
        return Err(SpecError::wrong(&field.place, message));
    };
    let least = Mtu::MIN_V6;
    match addresses.iter().find(|address| address.ip.is_ipv6()) {
        Some(address) if mtu < least => {
            let message = format!("MTU {mtu} is below {least}, which the IPv6 address {} needs", address.ip);
            Err(SpecError::wrong(&field.place, message))
        }
        _ => Ok(mtu),
    }
}

fn rows(field: &Field) -> Result<Rows, SpecError> {
    match field.text.as_str() {
        "auto" => Ok(Rows::Auto),
        "off" => Ok(Rows::Off),
        other => {
            let message = format!("udp_gso is auto or off, not {}", shown(other));
            Err(SpecError::wrong(&field.place, message))
        }
    }
}

fn listen_port(field: &Field) -> Result<Option<Port>, SpecError> {
    match number(field) {
        // What WireGuard calls any port.
        Some(port) => Ok(Port::new(port)),
        None => {
            let message = format!("listen port {} is not from 0 to 65535", shown(&field.text));
            Err(SpecError::wrong(&field.place, message))
        }
    }
}

fn dns(said: &[Field]) -> Result<Dns, SpecError> {
    let mut dns = Dns::default();
    for field in said.iter().flat_map(Field::items) {
        if let Ok(ip) = field.text.parse::<IpAddr>() {
            dns.servers.push(ip);
            continue;
        }
        match field.text.parse::<HostName>() {
            Ok(name) => dns.search.push(name),
            Err(error) => {
                let message = format!("DNS {}: {}", shown(&field.text), error.kind);
                return Err(SpecError::wrong(&field.place, message));
            }
        }
    }
    Ok(dns)
}

fn peers(said: &[PeerDraft], own: &PublicKey, warnings: &mut Vec<Warning>) -> Result<Vec<Peer>, SpecError> {
    let mut peers = Vec::with_capacity(said.len());
    let mut keys: BTreeMap<PublicKey, &Place> = BTreeMap::new();
    let mut owners: BTreeMap<Cidr, (PublicKey, Place)> = BTreeMap::new();
    for draft in said {
        let Some(field) = &draft.public_key else {
            return Err(SpecError::wrong(&draft.place, "peer without a public key"));
        };
        let public_key: PublicKey =
            field.text.parse().map_err(|error| wrong_key(field, "public key", error))?;
        if public_key == *own {
            return Err(SpecError::wrong(&field.place, "this peer has the key of this node"));
        }
        if let Some(first) = keys.insert(public_key, &field.place) {
            let message = format!("peer {public_key} stands twice, first at {first}");
            return Err(SpecError::wrong(&field.place, message));
        }
        let preshared_key = match &draft.preshared_key {
            Some(field) => {
                PresharedKey::parse(&field.text).map_err(|error| wrong_key(field, "preshared key", error))?
            }
            None => None,
        };
        peers.push(Peer {
            public_key,
            preshared_key,
            allowed_ips: allowed_ips(draft, public_key, &mut owners, warnings)?,
            endpoint: draft.endpoint.as_ref().map(endpoint).transpose()?,
            keepalive: draft.keepalive.as_ref().map(keepalive).transpose()?.flatten(),
        });
    }
    Ok(peers)
}

fn allowed_ips(
    draft: &PeerDraft,
    peer: PublicKey,
    owners: &mut BTreeMap<Cidr, (PublicKey, Place)>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<Cidr>, SpecError> {
    let mut blocks = Vec::new();
    for field in draft.allowed_ips.iter().flat_map(Field::items) {
        let (ip, prefix) = block(&field)?;
        let Some(cidr) = Cidr::around(ip, prefix) else {
            return Err(SpecError::wrong(
                &field.place,
                format!("{} is no address block", shown(&field.text)),
            ));
        };
        if cidr.ip() != ip.to_canonical() {
            let message = format!("{ip}/{prefix} has host bits set, {cidr} is meant");
            warnings.push(Warning { place: field.place.clone(), message });
        }
        match owners.get(&cidr) {
            // wg takes it as said once.
            Some((owner, _)) if *owner == peer => continue,
            Some((_, first)) => {
                let message = format!("allowed IPs {cidr} belong to the peer at {first} already");
                return Err(SpecError::wrong(&field.place, message));
            }
            None => {}
        }
        owners.insert(cidr, (peer, draft.place.clone()));
        blocks.push(cidr);
    }
    Ok(blocks)
}

/// Reads `HOST:PORT`; IPv6 addresses have brackets.
fn endpoint(field: &Field) -> Result<Endpoint, SpecError> {
    let wrong = |message: String| SpecError::wrong(&field.place, message);
    let text = field.text.as_str();
    let split = text.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let Some((host, digits)) = split else {
        return Err(wrong(format!("endpoint {} has no port, expected HOST:PORT", shown(text))));
    };
    let host: Host = host.parse().map_err(|error: portway_model::HostError| {
        wrong(format!("endpoint {}: {}", shown(text), error.kind))
    })?;
    if let Host::Ip(ip) = &host
        && (ip.is_wildcard() || ip.ip().is_multicast())
    {
        return Err(wrong(format!("endpoint {} is no host's address", shown(text))));
    }
    let port = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
    match port.and_then(Port::new) {
        Some(port) => Ok(Endpoint { host, port }),
        None => {
            Err(wrong(format!("endpoint {}: port {} is not from 1 to 65535", shown(text), shown(digits))))
        }
    }
}

fn keepalive(field: &Field) -> Result<Option<Duration>, SpecError> {
    if field.text.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    match number(field) {
        Some(0) => Ok(None),
        Some(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
        None => {
            let message = format!("keepalive {} is neither off nor from 0 to 65535", shown(&field.text));
            Err(SpecError::wrong(&field.place, message))
        }
    }
}

/// Peers nobody can send to: neither an endpoint here, nor a port that they would know.
fn unreachable_peers(network: &Network, said: &[PeerDraft], warnings: &mut Vec<Warning>) {
    if network.listen_port.is_some() {
        return;
    }
    for (peer, draft) in network.peers.iter().zip(said) {
        if peer.endpoint.is_none() {
            let message = format!(
                "peer {} has no endpoint, and this node has no listen port: neither can find the other",
                peer.public_key
            );
            warnings.push(Warning { place: draft.place.clone(), message });
        }
    }
}
