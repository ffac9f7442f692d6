//! A member, a hub and another member, whose datagrams are carried by hand.

use super::super::{Newcomer, PeerChange, PeerSpec};
use super::*;
use crate::spec::PrivateKey;
use crate::wg::cookie::{Gate, Jar, MacKeys, Verdict};
use crate::wg::keypair::Sealer;
use crate::wg::message::receiver;

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
    /// So many of the next datagrams are lost.
    lost: usize,
    /// Messages of handshakes that were sent.
    handshakes: usize,
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
        Three { nodes, now, open: false, straight: 0, lost: 0, handshakes: 0 }
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
                    let kind = Kind::of(out.message());
                    self.handshakes += usize::from(matches!(kind, Some(Kind::Initiation | Kind::Response)));
                    if self.lost > 0 {
                        self.lost -= 1;
                        continue;
                    }
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
                Received::PassOn { to } => waiting.push_back((node, to.to, datagram)),
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
    three.nodes[HUB].change(vec![PeerChange::Remove(secret(TWO).public())], three.now).unwrap();
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert!(three.send(ONE, whole).is_empty());
    assert_eq!(three.dropped(HUB, Dropped::Relay), 1);
    let hub = secret(HUB).public();
    three.nodes[ONE].change(vec![PeerChange::Remove(hub)], three.now).unwrap();
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

/// Fails when: one lost message of a handshake makes a hub count as one that does not answer, which takes two seconds; or a
/// cookie of one that has too many handshakes is not answered at once, or more than once.
#[test]
fn a_hub_that_has_missed_one_message_is_asked_again() {
    let mut three = Three::new();
    let hub = three.id(ONE, HUB);
    three.nodes[ONE].initiate(hub, three.now);
    three.lost = 1;
    three.settle(Vec::new());
    for _ in 0..14 {
        three.pass(Duration::from_millis(100));
    }
    assert!(three.nodes[ONE].peers.get(hub).unwrap().current.is_some());

    let mut three = Three::new();
    while three.nodes[HUB].gate.judge(at(TWO), &crowd(&three), three.now.instant) == Verdict::Good {}
    three.nodes[ONE].initiate(hub, three.now);
    three.settle(Vec::new());
    assert!(three.nodes[ONE].peers.get(hub).unwrap().current.is_some(), "within the moment");
    // Whoever answers with cookies alone is asked as often as others.
    let mut three = Three::new();
    three.nodes[ONE].initiate(hub, three.now);
    for time in [0, 1] {
        let sent = three.nodes[ONE].outgoing().unwrap();
        let mut gate = Gate::new(secret(HUB).public().as_bytes());
        while gate.judge(at(TWO), &crowd(&three), three.now.instant) == Verdict::Good {}
        let Verdict::Reply(mut reply) = gate.judge(at(ONE), sent.message(), three.now.instant) else {
            panic!("a cookie")
        };
        three.nodes[ONE].receive(three.now, at(HUB), &mut reply);
        assert_eq!(three.nodes[ONE].outgoing().is_some(), time == 0);
        three.nodes[ONE].initiate(hub, three.now);
    }
}

/// A message of a handshake for the hub.
fn crowd(three: &Three) -> [u8; 148] {
    let mut message = [0; 148];
    let keys = MacKeys::of(secret(HUB).public().as_bytes());
    Jar::default().stamp(&keys, &mut message, three.now.instant);
    message
}

/// Fails when: a member that only sends through a hub, which has nothing to say itself, makes keys with it again and again.
#[test]
fn a_hub_acknowledges_what_it_passes_on() {
    let mut three = Three::new();
    three.meet();
    let before = three.handshakes;
    for _ in 0..100 {
        let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
        assert_eq!(three.send(ONE, whole).len(), 1);
        // As the sending thread notes it.
        let hub = three.nodes[ONE].peers.get(three.id(ONE, HUB)).unwrap();
        hub.activity.sent_packets(millis(three.nodes[ONE].epoch, three.now.instant), 1, 1);
        three.pass(Duration::from_millis(500));
    }
    assert_eq!(three.handshakes, before);
}

/// Fails when: a way through a hub that works is left because a member says where it is, or a name is found late; or is
/// stayed on when the hub has no keys.
#[test]
fn a_way_that_works_is_not_left_for_one_that_may() {
    let mut three = Three::new();
    three.meet();
    let elsewhere = SocketAddr::from(([192, 0, 2, 99], 9));
    let two = three.id(ONE, TWO);
    three.nodes[ONE].peers.get_mut(two).unwrap().endpoint = None;
    let newcomer = Newcomer::new(&secret(ONE), &spec(TWO, Some(elsewhere))).unwrap();
    let moves = [PeerChange::Put(newcomer), PeerChange::Endpoint(secret(TWO).public(), elsewhere)];
    for change in moves {
        three.nodes[ONE].change(vec![change], three.now).unwrap();
        assert!(three.through(ONE, TWO));
        assert_eq!(three.nodes[ONE].peers.get(two).unwrap().endpoint, Some(elsewhere));
    }
    let tried: Vec<SocketAddr> = std::iter::from_fn(|| three.nodes[ONE].outgoing()).map(|it| it.to).collect();
    assert_eq!(tried, [elsewhere], "it is tried there beside it");
    let hub = three.id(ONE, HUB);
    three.nodes[ONE].peers.get_mut(hub).unwrap().retire();
    let change = PeerChange::Endpoint(secret(TWO).public(), elsewhere);
    three.nodes[ONE].change(vec![change], three.now).unwrap();
    assert!(!three.through(ONE, TWO));
}

/// Fails when: a hub that was removed can still be in the way: keys that were agreed on through it are used, or a member is
/// still reached at its address.
#[test]
fn a_hub_that_is_removed_is_in_nobodys_way() {
    let mut three = Three::new();
    three.meet();
    // It sends on straight, from its own address, what it was given for One.
    let two = three.id(ONE, TWO);
    let message = sealed(&three, TWO, ONE);
    let mut late = message(1);
    three.nodes[ONE].set_hubs(&[], false);
    assert!(matches!(three.nodes[ONE].receive(three.now, at(HUB), &mut late), Received::Packet { .. }));
    assert_eq!(three.nodes[ONE].peers.get(two).unwrap().endpoint, Some(at(HUB)), "as WireGuard's peers move");
    let mut later = message(2);
    three.nodes[ONE].change(vec![PeerChange::Remove(secret(HUB).public())], three.now).unwrap();
    assert_eq!(three.nodes[ONE].peers.get(two).unwrap().endpoint, None);
    assert_eq!(three.nodes[ONE].receive(three.now, at(HUB), &mut later), Received::Nothing);
    assert_eq!(three.nodes[ONE].peers.get(two).unwrap().endpoint, None);
    // They agree on new keys as soon as they know where.
    three.open = true;
    let place = PeerChange::Endpoint(secret(TWO).public(), at(TWO));
    three.nodes[ONE].change(vec![place], three.now).unwrap();
    three.pass(Duration::from_secs(1));
    let peer = three.nodes[ONE].peers.get(two).unwrap();
    assert!(peer.current.is_some() && peer.through.is_none() && peer.endpoint == Some(at(TWO)));
    // One that is no hub any more, and a member still, ends nothing.
    let mut three = Three::new();
    three.meet();
    three.nodes[ONE].set_hubs(&[], false);
    assert!(three.nodes[ONE].peers.get(two).unwrap().current.is_some());
}

/// Packets of a session, each sealed once.
fn sealed(three: &Three, from: usize, to: usize) -> impl Fn(u8) -> Vec<u8> + use<> {
    let sealer = three.sealer(from, to);
    move |last| {
        let mut packet = vec![0; 64];
        (packet[0], packet[3], packet[63]) = (0x45, 64, last);
        packet[12..16].copy_from_slice(&inner(from));
        packet[16..20].copy_from_slice(&inner(to));
        let mut message = [&[0; 16][..], &packet, &[0; 16]].concat();
        sealer.seal(sealer.reserve(1).unwrap(), &mut message);
        message
    }
}

/// Fails when: a hub that says of a message that it is somebody else's changes anything: keys, the place, the newest
/// initiation, what was received.
#[test]
fn a_hub_cannot_give_one_members_message_for_anothers() {
    let mut three = Three::new();
    three.meet();
    let (hub, two) = (three.id(ONE, HUB), three.id(ONE, TWO));
    // The hub is the only one that could be named: as if Two's message were its own.
    let wrong = Way::Through { hub, member: hub };
    let right = Way::Through { hub, member: two };
    let mut data = sealed(&three, TWO, ONE)(1);
    let before = three.nodes[ONE].peers.get(two).unwrap().received_packets;
    let now = three.now;
    assert_eq!(three.nodes[ONE].take(now, wrong, &mut data.clone()), Received::Nothing);
    assert_eq!(three.nodes[ONE].peers.get(two).unwrap().received_packets, before);
    assert!(
        matches!(three.nodes[ONE].take(now, right, &mut data), Received::Packet { .. }),
        "not seen before"
    );

    three.pass(Duration::from_secs(1));
    let (now, one) = (three.now, three.id(TWO, ONE));
    let (_, initiation) = three.nodes[TWO].prepare(one, now).unwrap();
    let mut initiation = initiation.to_vec();
    let keys = MacKeys::of(secret(ONE).public().as_bytes());
    Jar::default().stamp(&keys, &mut initiation, now.instant);
    let newest = three.nodes[ONE].peers.get(two).unwrap().newest;
    three.nodes[ONE].take(now, wrong, &mut initiation.clone());
    let peer = three.nodes[ONE].peers.get(two).unwrap();
    assert!(peer.newest == newest && peer.next.is_none());
    three.nodes[ONE].take(now, right, &mut initiation);
    assert!(three.nodes[ONE].peers.get(two).unwrap().next.is_some());
    assert_eq!(three.dropped(ONE, Dropped::Relay), 2);
}

/// Fails when: a try to reach a peer straight, while another handshake with it is under way, leaves the two sides with other
/// keys than the other's; or a try takes the answer from a handshake.
#[test]
fn one_handshake_at_a_time() {
    let mut three = Three::new();
    three.meet();
    three.open = true;
    three.pass(Duration::from_secs(1));
    let two = three.id(ONE, TWO);
    // Both ways at once: one and the same.
    three.nodes[ONE].initiate(two, three.now);
    three.nodes[ONE].probe(two, &[at(TWO)], three.now);
    three.lost = 1;
    three.settle(Vec::new());
    assert_eq!(
        three.nodes[ONE].peers.get(two).unwrap().attempt.as_ref().map(|it| it.made),
        Some(three.now.instant)
    );
    three.pass(Duration::from_millis(50));
    three.nodes[ONE].probe(two, &[at(TWO)], three.now);
    three.settle(Vec::new());
    let same = |three: &Three| {
        let of = |node: usize, other| three.nodes[node].peers.get(three.id(node, other)).unwrap();
        let ours = of(ONE, TWO).current.as_ref().unwrap().index;
        assert!(of(TWO, ONE).next.is_none() && of(ONE, TWO).next.is_none());
        let mut message = sealed(three, TWO, ONE)(1);
        assert_eq!(receiver(&message), ours, "both use the same keys");
        message = sealed(three, ONE, TWO)(1);
        assert_eq!(receiver(&message), of(TWO, ONE).current.as_ref().unwrap().index);
    };
    same(&three);
    let hub = three.id(ONE, HUB);
    three.nodes[ONE].lead_through(two, hub, three.now);
    three.pass(Duration::from_secs(1));
    // The answer to a try comes while another handshake has begun.
    three.nodes[ONE].probe(two, &[at(TWO)], three.now);
    let tried = three.nodes[ONE].outgoing().unwrap();
    three.nodes[TWO].receive(three.now, at(ONE), &mut tried.message().to_vec());
    let answer = three.nodes[TWO].outgoing().unwrap();
    three.pass(Duration::from_millis(50));
    three.nodes[ONE].initiate(two, three.now);
    three.settle(vec![(TWO, at(ONE), answer.message().to_vec())]);
    same(&three);
    // Two has just agreed on keys that One has not used yet: it does not begin anew.
    let peer =
        three.nodes[TWO].peers.get_mut(three.nodes[TWO].id_of(&secret(ONE).public()).unwrap()).unwrap();
    peer.next = peer.current.take();
    let (one, hub) = (three.id(TWO, ONE), three.id(TWO, HUB));
    three.nodes[TWO].lead_through(one, hub, three.now);
    three.nodes[TWO].probe(one, &[at(ONE)], three.now);
    assert!(three.nodes[TWO].outgoing().is_none());
}

/// Fails when: a hub sends for longer than a moment to where a member was half a minute ago, does not ask whether it is
/// still there, or loses what is for one that is; or one member has all that a hub can do.
#[test]
fn a_hub_sends_to_nobody_who_does_not_answer() {
    let mut three = Three::new();
    three.meet();
    three.pass(SEAT_SILENT);
    three.pass(SEAT_SILENT);
    let handshakes = three.handshakes;
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert_eq!(three.send(ONE, whole).len(), 1, "it is there");
    assert_eq!(three.handshakes, handshakes + 2, "as it was asked");
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert_eq!((three.send(ONE, whole).len(), three.handshakes), (1, handshakes + 2));

    three.pass(SEAT_SILENT);
    three.pass(SEAT_SILENT);
    let (two, now) = (three.id(HUB, TWO), three.now);
    let sent = |three: &mut Three, after: Duration| {
        let now = Now { instant: now.instant + after, unix: now.unix + after };
        let mut whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
        let taken = three.nodes[HUB].receive(now, at(ONE), &mut whole);
        while three.nodes[HUB].outgoing().is_some() {}
        matches!(taken, Received::PassOn { .. })
    };
    assert!(sent(&mut three, Duration::ZERO) && three.nodes[HUB].peers.get(two).unwrap().attempt.is_some());
    assert!(sent(&mut three, SEAT_ASKED / 2));
    assert!(!sent(&mut three, SEAT_ASKED));

    let mut three = Three::new();
    three.meet();
    let one = three.id(HUB, ONE);
    let mut count = 0_u32;
    while three.nodes[HUB].peers.get_mut(one).unwrap().passing.take(three.now.instant) {
        count += 1;
    }
    let whole = three.enveloped(ONE, TWO, inner(ONE), PASS_ON);
    assert!(three.send(ONE, whole).is_empty() && count > 50_000);
    assert_eq!(three.dropped(HUB, Dropped::Relay), 1);
    let whole = three.enveloped(TWO, ONE, inner(TWO), PASS_ON);
    assert_eq!(three.send(TWO, whole).len(), 1, "others have their own");
}
