//! Peers that come and go, and whose an address is.
//!
//! ```text
//!   node 10.9.0.1 ── 192.0.2.1 ═══ 192.0.2.2 ── A, wireguard-go, 10.9.0.2 and, not its own, 10.1.2.3
//!                 └─ 192.0.3.1 ═══ 192.0.3.2 ── B, wireguard-go, 10.1.0.1
//! ```

use std::process::Command;
use std::time::Instant;

use portway_mesh::spec::PrivateKey;
use portway_testkit::Netns;

use crate::bed::{Bed, Node, WireguardGo};
use crate::ping;

/// The second peer, which the node does not know yet.
pub(crate) struct Second {
    pub(crate) peer: WireguardGo,
    pub(crate) key: PrivateKey,
}

impl Second {
    pub(crate) fn new(bed: &Bed, name: &str) -> Second {
        let netns = Netns::new().unwrap();
        bed.ours.veth("second", &["192.0.3.1/24"], &netns, "second", &["192.0.3.2/24"]).unwrap();
        let key = PrivateKey::generate().unwrap();
        let peer = WireguardGo::start(&netns, name, &key, &["10.1.0.1/16"]);
        netns.ip(&format!("route add 10.9.0.0/24 dev {name}")).unwrap();
        let node = bed.key.public();
        peer.set(&format!("listen-port 51820 peer {node} allowed-ips 10.9.0.1/32 endpoint 192.0.3.1:51820"));
        Second { peer, key }
    }

    /// `put` with these prefixes.
    pub(crate) fn put(&self, prefixes: &str) -> String {
        format!("put {} {prefixes} 192.0.3.2:51820", self.key.public())
    }
}

pub(crate) fn name() -> String {
    format!("wg{}s", std::process::id())
}

/// The first peer waits for the node.
pub(crate) fn meet(node: &mut Node) {
    assert_eq!(node.ask("dial 10.9.0.2:1 echo 0"), "ConnectionRefused");
}

fn dropped(node: &mut Node) -> u64 {
    node.ask("dropped Source").parse().unwrap()
}

/// One echo from `source`; whether it is answered.
fn answered(from: &Netns, source: &str) -> bool {
    from.run(Command::new("ping").args(["-c", "1", "-W", "1", "-I", source, "10.9.0.1"])).is_ok()
}

/// Row 19. Fails when: a peer with a wide prefix may speak for an address in another's narrow one, is dropped without
/// being counted, or prefixes do not move from one peer to another while both have their sessions.
pub(crate) fn prefixes_of_two_peers(way: &str) {
    let bed = Bed::new();
    let first = bed.wireguard_go();
    first.netns.ip(&format!("addr add 10.1.2.3/32 dev {}", first.name)).unwrap();
    let second = Second::new(&bed, &name());
    let mut node = Node::start(&bed.place(), way);
    meet(&mut node);
    assert_eq!(node.ask("allow 10.0.0.0/8"), "true");
    assert!(
        answered(&first.netns, "10.9.0.2") && answered(&first.netns, "10.1.2.3"),
        "all of it is the first one's"
    );
    assert_eq!(node.ask(&second.put("10.1.0.0/16")), "true");
    let before = dropped(&mut node);
    assert!(!answered(&first.netns, "10.1.2.3"), "it is in the other one's prefix");
    assert_eq!(dropped(&mut node), before + 1);
    assert!(answered(&first.netns, "10.9.0.2") && answered(&second.peer.netns, "10.1.0.1"));
    // The narrow prefix moves to the first, and what is not anybody's narrow one is the wide one's.
    let handshake = second.peer.shown(4);
    assert_eq!(node.ask("allow 10.0.0.0/8,10.1.0.0/16"), "true");
    assert!(answered(&first.netns, "10.1.2.3"));
    assert!(!answered(&second.peer.netns, "10.1.0.1"));
    assert_eq!(dropped(&mut node), before + 2);
    // And back, without a new handshake.
    assert_eq!(node.ask(&second.put("10.1.0.0/16")), "true");
    assert!(answered(&second.peer.netns, "10.1.0.1") && !answered(&first.netns, "10.1.2.3"));
    assert_eq!(second.peer.shown(4), handshake);
}

/// Fails when: a peer that comes while it runs is not reached, one that is removed is heard or spoken to after the answer,
/// or the other one's packets are lost by it.
pub(crate) fn peers_come_and_go(way: &str) {
    let bed = Bed::new();
    let first = bed.wireguard_go();
    let second = Second::new(&bed, &name());
    let mut node = Node::start(&bed.place(), way);
    meet(&mut node);
    ping(&first.netns, "10.9.0.1");
    let stays = first.shown(4);
    for _ in 0..2 {
        assert_eq!(node.ask(&second.put("10.1.0.0/16")), "true");
        // It still has keys of before, of which the node knows nothing.
        assert_eq!(node.ask("dial 10.1.0.1:1 echo 0"), "ConnectionRefused");
        assert!(answered(&second.peer.netns, "10.1.0.1"));
        let begin = Instant::now();
        assert_eq!(node.ask(&format!("remove {}", second.key.public())), "true");
        println!("removed in {:?}", begin.elapsed());
        let sent = || -> u64 { second.peer.shown(5).parse().unwrap() };
        let before = sent();
        let dropped: u64 = node.ask("dropped NoSession").parse().unwrap();
        assert!(!answered(&second.peer.netns, "10.1.0.1"));
        assert_eq!(sent(), before, "nothing comes from the node any more");
        assert!(node.ask("dropped NoSession").parse::<u64>().unwrap() > dropped);
        ping(&first.netns, "10.9.0.1");
    }
    assert_eq!(first.shown(4), stays, "its keys are the same all along");
}
