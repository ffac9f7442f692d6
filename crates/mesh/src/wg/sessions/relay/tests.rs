//! A member, a hub and another member, whose datagrams are carried by hand.

use super::super::PeerSpec;
use super::*;
use crate::spec::PrivateKey;
use crate::wg::keypair::Sealer;

const ONE: usize = 0;
const HUB: usize = 1;
const TWO: usize = 2;

fn secret(node: usize) -> PrivateKey {
    PrivateKey::from_bytes(&[u8::try_from(node).unwrap() + 1; 32]).unwrap()
}

fn at(node: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, u8::try_from(node).unwrap() + 1], 51820))
}

fn inner(node: usize) -> [u8; 4] {
    [10, 0, 0, u8::try_from(node).unwrap() + 1]
}

fn spec(node: usize, endpoint: Option<SocketAddr>) -> PeerSpec {
    PeerSpec {
        public_key: secret(node).public(),
        preshared_key: None,
        allowed_ips: vec![portway_model::Cidr::new(inner(node).into(), 32).unwrap()],
        endpoint,
        keepalive: None,
    }
}

/// What arrives at a node, by who sent it: a packet.
type Arrived = Vec<(usize, PeerId, Vec<u8>)>;

/// Three nodes and a clock. One and Two do not reach each other unless `open`.
struct Three {
    nodes: [Sessions; 3],
    now: Now,
    open: bool,
    /// Datagrams that go straight between One and Two.
    straight: usize,
}

impl Three {
    fn new() -> Three {
        let instant = Instant::now();
        let all = [ONE, HUB, TWO];
        let nodes = all.map(|own| {
            let endpoint = |node| (own != HUB).then(|| at(node));
            let peers: Vec<PeerSpec> =
                all.into_iter().filter(|node| *node != own).map(|node| spec(node, endpoint(node))).collect();
            let mut sessions = Sessions::new(secret(own), &peers, instant).unwrap();
            sessions.set_hubs(&[secret(HUB).public()], own == HUB);
            sessions
        });
        let now = Now { instant, unix: Duration::from_secs(1_700_000_000) };
        Three { nodes, now, open: false, straight: 0 }
    }

    fn id(&self, node: usize, of: usize) -> PeerId {
        self.nodes[node].id_of(&secret(of).public()).unwrap()
    }

    fn through(&self, node: usize, of: usize) -> bool {
        self.nodes[node].peers.get(self.id(node, of)).unwrap().through.is_some()
    }

    fn dropped(&self, node: usize, why: Dropped) -> u64 {
        self.nodes[node].counters().of(why)
    }

    fn pass(&mut self, time: Duration) -> Arrived {
        self.now.instant += time;
        self.now.unix += time;
        for node in &mut self.nodes {
            node.tick(self.now);
        }
        self.settle(Vec::new())
    }

    /// Carries datagrams, these first, until there are none.
    fn settle(&mut self, first: Vec<(usize, SocketAddr, Vec<u8>)>) -> Arrived {
        let mut waiting = VecDeque::from(first);
        let mut arrived = Vec::new();
        loop {
            for node in [ONE, HUB, TWO] {
                while let Some(out) = self.nodes[node].outgoing() {
                    waiting.push_back((node, out.to, out.message().to_vec()));
                }
            }
            let Some((from, to, mut datagram)) = waiting.pop_front() else { return arrived };
            let Some(node) = [ONE, HUB, TWO].into_iter().find(|node| at(*node) == to) else { continue };
            if from != HUB && node != HUB {
                if !self.open {
                    continue;
                }
                self.straight += 1;
            }
            match self.nodes[node].receive(self.now, at(from), &mut datagram) {
                Received::Nothing => {}
                Received::Packet { peer, place } => arrived.push((node, peer, datagram[place].to_vec())),
                Received::PassOn { to } => waiting.push_back((node, to, datagram)),
            }
        }
    }

    /// Sessions of both with the hub, and each reached through it.
    fn meet(&mut self) {
        for node in [ONE, TWO] {
            let hub = self.id(node, HUB);
            self.nodes[node].initiate(hub, self.now);
        }
        self.settle(Vec::new());
        let (one, two, hub) = (ONE, self.id(ONE, TWO), self.id(ONE, HUB));
        self.nodes[one].lead_through(two, hub, self.now);
        self.nodes[one].initiate(two, self.now);
        self.settle(Vec::new());
    }

    fn sealer(&self, node: usize, of: usize) -> std::sync::Arc<Sealer> {
        let peer = self.nodes[node].peers.get(self.id(node, of)).unwrap();
        std::sync::Arc::clone(&peer.current.as_ref().expect("a session").sealer)
    }

    /// A packet from the address `source` in a message for `to`, as it is sent through the hub; `kind` stands before it.
    fn enveloped(&self, node: usize, to: usize, source: [u8; 4], kind: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0; 64];
        (packet[0], packet[3]) = (0x45, 64);
        packet[12..16].copy_from_slice(&source);
        packet[16..20].copy_from_slice(&inner(to));
        let mut message = [&[0; 16][..], &packet, &[0; 16]].concat();
        let sealer = self.sealer(node, to);
        sealer.seal(sealer.reserve(1).unwrap(), &mut message);
        self.in_envelope(node, kind, inner(to), &message)
    }

    fn in_envelope(&self, node: usize, kind: [u8; 4], whom: [u8; 4], message: &[u8]) -> Vec<u8> {
        let mut whole = [&[0; 16][..], &kind, &whom, message, &[0; 16]].concat();
        let sealer = self.sealer(node, HUB);
        sealer.seal(sealer.reserve(1).unwrap(), &mut whole);
        whole
    }

    /// Sends one from `node` to the hub.
    fn send(&mut self, node: usize, whole: Vec<u8>) -> Arrived {
        self.settle(vec![(node, at(HUB), whole)])
    }
}

/// Fails when: members do not agree on keys through a hub, a packet does not arrive both ways, the hub reads one, or who
/// was called through a hub does not answer that way.
#[test]
fn two_that_cannot_meet_meet_at_a_hub() {
    let mut three = Three::new();
    three.meet();
    assert!(three.through(ONE, TWO) && three.through(TWO, ONE));
    for (from, to) in [(ONE, TWO), (TWO, ONE)] {
        let whole = three.enveloped(from, to, inner(from), PASS_ON);
        let arrived = three.send(from, whole);
        let [(node, peer, packet)] = &arrived[..] else { panic!("{arrived:?}") };
        assert_eq!((*node, *peer, packet.len()), (to, three.id(to, from), 64));
    }
    assert_eq!(three.straight, 0);
}

/// Fails when: another's source address passes, or is not counted; a message that was passed on is passed on again, or
/// back, or to nobody; anybody but a hub passes on; or a hub passes on what is no message.
#[test]
fn a_hub_passes_on_from_whom_it_is_and_once() {
    let mut three = Three::new();
    three.meet();
    // The address of the hub, and one of nobody: the receiver drops it, whoever has passed it on.
    for source in [inner(HUB), [10, 0, 0, 9], inner(TWO)] {
        let before = three.dropped(TWO, Dropped::Source);
        let whole = three.enveloped(ONE, TWO, source, PASS_ON);
        assert!(three.send(ONE, whole).is_empty(), "{source:?}");
        assert_eq!(three.dropped(TWO, Dropped::Source), before + 1, "{source:?}");
    }
    let dropped = |three: &mut Three, node: usize, whole: Vec<u8>| {
        let before = three.dropped(HUB, Dropped::Relay);
        assert!(three.send(node, whole).is_empty());
        assert_eq!(three.dropped(HUB, Dropped::Relay), before + 1);
    };
    let said = three.enveloped(ONE, TWO, inner(ONE), PASSED_ON);
    dropped(&mut three, ONE, said);
    let message = vec![4; 80];
    let mut data = message.clone();
    data[..4].copy_from_slice(&[4, 0, 0, 0]);
    let cases = [
        (inner(ONE), &data),
        (inner(HUB), &data),
        ([10, 0, 0, 9], &data),
        (inner(TWO), &message),
        (inner(TWO), &vec![]),
    ];
    for (whom, message) in cases {
        let whole = three.in_envelope(ONE, PASS_ON, whom, message);
        dropped(&mut three, ONE, whole);
    }
    // Cut off behind its first bytes.
    let mut short = [&[0; 16][..], &PASS_ON, &[10, 0], &[0; 16]].concat();
    let sealer = three.sealer(ONE, HUB);
    sealer.seal(sealer.reserve(1).unwrap(), &mut short);
    dropped(&mut three, ONE, short);
    // It is no hub any more: it passes nothing on, and nobody believes that it has.
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    three.nodes[HUB].set_hubs(&[], false);
    dropped(&mut three, ONE, whole);
    three.nodes[HUB].set_hubs(&[], true);
    three.nodes[TWO].set_hubs(&[], false);
    assert!(!three.through(TWO, ONE));
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    let before = three.dropped(TWO, Dropped::Relay);
    assert!(three.send(ONE, whole).is_empty());
    assert_eq!(three.dropped(TWO, Dropped::Relay), before + 1);
}

/// Fails when: a way that opens is not found, what is still on its way through the hub leads back there, or a way that
/// closes without a word is stayed on by the other side.
#[test]
fn the_straight_way_is_taken_when_it_opens_and_left_when_it_closes() {
    let mut three = Three::new();
    three.meet();
    let two = three.id(ONE, TWO);
    three.nodes[ONE].probe(two, &[at(TWO)], three.now);
    three.settle(Vec::new());
    assert!(three.through(ONE, TWO) && three.through(TWO, ONE), "it is closed");
    three.open = true;
    three.pass(Duration::from_secs(1));
    let late = three.enveloped(TWO, ONE, inner(TWO), PASS_ON);
    three.nodes[ONE].probe(two, &[SocketAddr::from(([192, 0, 2, 77], 1)), at(TWO)], three.now);
    three.settle(Vec::new());
    assert!(!three.through(ONE, TWO) && !three.through(TWO, ONE));
    assert_eq!(three.send(TWO, late).len(), 1, "it arrives");
    assert!(!three.through(ONE, TWO), "and changes nothing");
    // One goes through the hub again; Two hears nothing straight any more, and follows.
    three.open = false;
    let hub = three.id(ONE, HUB);
    three.nodes[ONE].lead_through(two, hub, three.now);
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert_eq!(three.send(ONE, whole).len(), 1);
    assert!(!three.through(TWO, ONE));
    three.pass(WAY_SILENT);
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert_eq!(three.send(ONE, whole).len(), 1);
    assert!(three.through(TWO, ONE));
}

/// Fails when: what is passed on goes to a member that was removed, its sender's session outlives it at the hub, or who
/// went through a hub that is gone still does.
#[test]
fn who_is_removed_is_passed_on_to_no_more() {
    let mut three = Three::new();
    three.meet();
    three.nodes[HUB].change(vec![super::super::PeerChange::Remove(secret(TWO).public())], three.now).unwrap();
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert!(three.send(ONE, whole).is_empty());
    assert_eq!(three.dropped(HUB, Dropped::Relay), 1);
    let hub = secret(HUB).public();
    three.nodes[ONE].change(vec![super::super::PeerChange::Remove(hub)], three.now).unwrap();
    assert!(!three.through(ONE, TWO));
    // One that has no session with the hub yet is asked for one, and the message is lost.
    let mut three = Three::new();
    three.meet();
    let two = three.id(HUB, TWO);
    three.nodes[HUB].peers.get_mut(two).unwrap().retire();
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert!(three.send(ONE, whole).is_empty());
    assert_eq!(three.dropped(HUB, Dropped::RelayAway), 1);
    three.pass(Duration::from_millis(10));
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert_eq!(three.send(ONE, whole).len(), 1);
}
