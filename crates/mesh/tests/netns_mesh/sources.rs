//! A node with several addresses, of which its peer knows one: answers come from there.
//!
//! ```text
//!   node ── 192.0.2.1, 192.0.2.77, 2001:db8::1, ::77 ═══ 192.0.2.2, 2001:db8::2 ── wireguard-go, behind a firewall
//! ```

use std::process::Command;

use crate::bed::{Bed, Node, WireguardGo};
use crate::peers::meet;
use crate::ping;
use crate::pressure::there_and_back;

/// Lets in what answers, and counts the rest.
const FIREWALL: &str = "table inet f { chain i { type filter hook input priority 0; \
                        iifname cable meta l4proto udp ct state new counter drop; }; }";

fn bed() -> (Bed, WireguardGo) {
    let bed = Bed::new();
    for address in ["192.0.2.77/24", "2001:db8::1/64 nodad", "2001:db8::77/64 nodad"] {
        let (address, nodad) = address.split_once(' ').unwrap_or((address, ""));
        bed.ours.ip(&format!("addr add {address} dev cable {nodad}")).unwrap();
    }
    bed.theirs.ip("addr add 2001:db8::2/64 dev cable nodad").unwrap();
    bed.theirs.nft(FIREWALL).unwrap();
    let peer = bed.wireguard_go();
    (bed, peer)
}

/// The peer forgets what it knows, and seeks the node there.
fn seek(bed: &Bed, peer: &WireguardGo, endpoint: &str) {
    let key = bed.key.public();
    peer.set(&format!("peer {key} remove"));
    peer.set(&format!("peer {key} endpoint {endpoint} allowed-ips 10.9.0.1/32,fd09::1/128"));
}

/// Fails when: a message to who came here, of a handshake or with packets, in a row or not, leaves from another address
/// than the one that was asked, in either family.
pub(crate) fn answers_leave_from_where_it_was_asked(way: &str) {
    let (bed, peer) = bed();
    let mut node = Node::start(&bed.place(), way);
    assert_eq!(node.ask("serve 10.9.0.1:80 echo"), "ok");
    for endpoint in ["192.0.2.77:51820", "[2001:db8::77]:51820", "192.0.2.1:51820", "[2001:db8::1]:51820"] {
        seek(&bed, &peer, endpoint);
        ping(&peer.netns, "10.9.0.1");
        there_and_back(&peer.netns, "10.9.0.1:80");
        assert_eq!(peer.shown(2), endpoint);
    }
    let counted = bed.theirs.run(Command::new("nft").args(["list", "table", "inet", "f"])).unwrap();
    assert!(counted.contains("counter packets 0 bytes 0 drop"), "{counted}");
}

/// Fails when: a node holds on to an address that is gone, so that its peer hears nothing any more, or loses a message by
/// that.
pub(crate) fn an_address_is_gone(way: &str) {
    let (bed, peer) = bed();
    let mut node = Node::start(&bed.place(), way);
    seek(&bed, &peer, "192.0.2.77:51820");
    ping(&peer.netns, "10.9.0.1");
    bed.theirs.nft("delete table inet f").unwrap();
    bed.ours.ip("addr del 192.0.2.77/24 dev cable").unwrap();
    meet(&mut node);
    assert_eq!(peer.shown(2), "192.0.2.1:51820");
    assert_eq!(node.ask("dropped Unsent"), "0");
}
