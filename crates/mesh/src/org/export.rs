//! A membership as a file of wg-quick, for a host whose kernel is the peer.

use std::fmt::Write as _;

use portway_model::Port;
use zeroize::Zeroizing;

use super::change::peer;
use super::membership::Membership;
use crate::spec::Mtu;

/// The text, with the device's private key in it. `None` when the device is no member any more.
#[must_use]
pub fn wg_quick(member: &Membership, listen_port: Option<Port>) -> Option<Zeroizing<String>> {
    let own = member.own()?;
    let head = member.view().head();
    let mut text = Zeroizing::new(String::new());
    let mut line = |words: std::fmt::Arguments<'_>| {
        // Writing to a String cannot fail.
        let _infallible = writeln!(text, "{words}");
    };
    line(format_args!("# {} of organization {}, revision {}", own.name, head.org, head.revision));
    line(format_args!("[Interface]"));
    line(format_args!("PrivateKey = {}", member.key().reveal().as_str()));
    let pool = &head.settings.pool;
    line(format_args!("Address = {}/{}, {}/48", own.ip4, pool.block().prefix(), own.ip6));
    let said = own.endpoints.first().map(|endpoint| endpoint.port);
    if let Some(port) = listen_port.or(said) {
        line(format_args!("ListenPort = {port}"));
    }
    line(format_args!("MTU = {}", Mtu::DEFAULT));
    for device in member.view().devices().filter(|device| device.key != own.key) {
        let peer = peer(Some(own), device);
        line(format_args!("\n# {}\n[Peer]", device.name));
        line(format_args!("PublicKey = {}", peer.public_key));
        let blocks: Vec<String> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        line(format_args!("AllowedIPs = {}", blocks.join(", ")));
        if let Some(endpoint) = &peer.endpoint {
            line(format_args!("Endpoint = {endpoint}"));
        }
        if let Some(keepalive) = peer.keepalive {
            line(format_args!("PersistentKeepalive = {}", keepalive.as_secs()));
        }
    }
    Some(text)
}
