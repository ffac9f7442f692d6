//! The keys of our own: as they stand in a TOML file, and in capitals behind `PORTWAY_MESH_` in the environment.

use portway_model::{Direction, nearest};

use super::draft::{Draft, PeerDraft, once};
use super::error::SpecError;
use super::place::Field;
use super::proxies::{ProxyKind, ProxySaid};
use super::rules::Said;

/// Keys of a network.
pub(super) const NETWORK: &[&str] = &[
    "private_key",
    "addresses",
    "listen_port",
    "mtu",
    "udp_gso",
    "dns",
    "ingress",
    "egress",
    "socks5",
    "http_connect",
    "proxy_user",
    "proxy_password",
];

/// Keys of a peer.
pub(super) const PEER: &[&str] = &["public_key", "preshared_key", "allowed_ips", "endpoint", "keepalive"];

/// Keys whose value is a list, which may be empty.
const LISTS: &[&str] = &["addresses", "dns", "ingress", "egress", "socks5", "http_connect", "allowed_ips"];

/// Whether a key takes a list.
pub(super) fn takes_list(key: &str) -> bool {
    LISTS.contains(&key)
}

/// Whether the value of a key may stand in a file of its own, which `KEY_file` names.
pub(super) fn is_secret(key: &str) -> bool {
    matches!(key, "private_key" | "preshared_key" | "proxy_password")
}

/// Enters what one key of a network says. `false` when there is no such key.
pub(super) fn network(
    draft: &mut Draft,
    rules: &mut Vec<Said>,
    key: &str,
    field: Field,
) -> Result<bool, SpecError> {
    match key {
        "private_key" => once(&mut draft.private_key, key, field)?,
        "addresses" => draft.addresses.push(field),
        "listen_port" => once(&mut draft.listen_port, key, field)?,
        "mtu" => once(&mut draft.mtu, key, field)?,
        "udp_gso" => once(&mut draft.udp_gso, key, field)?,
        "dns" => draft.dns.push(field),
        "ingress" => rules.push(Said { direction: Direction::Ingress, field }),
        "egress" => rules.push(Said { direction: Direction::Egress, field }),
        "socks5" => draft.proxies.push(ProxySaid { kind: ProxyKind::Socks5, field }),
        "http_connect" => draft.proxies.push(ProxySaid { kind: ProxyKind::Http, field }),
        "proxy_user" => once(&mut draft.proxy_user, key, field)?,
        "proxy_password" => once(&mut draft.proxy_password, key, field)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Enters what one key of a peer says. `false` when there is no such key.
pub(super) fn peer(peer: &mut PeerDraft, key: &str, field: Field) -> Result<bool, SpecError> {
    match key {
        "public_key" => once(&mut peer.public_key, key, field)?,
        "preshared_key" => once(&mut peer.preshared_key, key, field)?,
        "allowed_ips" => peer.allowed_ips.push(field),
        "endpoint" => once(&mut peer.endpoint, key, field)?,
        "keepalive" => once(&mut peer.keepalive, key, field)?,
        _ => return Ok(false),
    }
    Ok(true)
}

/// The known key nearest to one that is not.
pub(super) fn meant(key: &str) -> Option<&'static str> {
    let files = ["private_key_file", "preshared_key_file", "proxy_password_file", "peers"];
    nearest(key, NETWORK.iter().chain(PEER).copied().chain(files))
}
