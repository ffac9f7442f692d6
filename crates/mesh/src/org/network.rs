//! An organization as a network for one of its devices.

use std::net::IpAddr;

use portway_model::Port;

use super::change::peer;
use super::membership::{Identity, Membership};
use crate::spec::{Dns, InterfaceAddr, Mtu, Network, Peering, Rows};

/// Length of an organization's IPv6 prefix, bits (RFC 4193, 3).
const PREFIX6: u8 = 48;

/// The network of `member`, with the peers that are known. `None` when it is no member any more. Without `listen_port` it
/// is the one that the device says it is reached at.
#[must_use]
pub fn network(member: &Membership, listen_port: Option<Port>) -> Option<Network> {
    let own = member.own()?;
    let pool = &member.view().head().settings.pool;
    let address = |ip: IpAddr, prefix| InterfaceAddr { ip, prefix };
    let said = own.endpoints.first().map(|endpoint| endpoint.port).filter(|_| !member.is_found());
    let others = member.view().devices().filter(|device| device.key != own.key);
    Some(Network {
        private_key: member.key().clone(),
        addresses: vec![address(own.ip4.into(), pool.block().prefix()), address(own.ip6.into(), PREFIX6)],
        listen_port: listen_port.or(said),
        mtu: Mtu::DEFAULT,
        rows: Rows::Auto,
        dns: Dns::default(),
        peers: others.map(|device| peer(Some(own), device)).collect(),
        peering: Peering::Changing,
    })
}

/// The same before anything is read that a registrar has said: without addresses and peers.
#[must_use]
pub fn unread(identity: &Identity, listen_port: Option<Port>) -> Network {
    Network {
        private_key: identity.key().clone(),
        addresses: Vec::new(),
        listen_port,
        mtu: Mtu::DEFAULT,
        rows: Rows::Auto,
        dns: Dns::default(),
        peers: Vec::new(),
        peering: Peering::Unread,
    }
}
