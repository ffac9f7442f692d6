use std::net::Ipv4Addr;

use super::handshake::timestamp;
use super::*;
use crate::wg::message::{COOKIE_BYTES, RESPONSE_BYTES};

/// One side of two, and what its sending thread would know.
struct Node {
    sessions: Sessions,
    sealer: Option<Arc<Sealer>>,
    endpoint: Option<SocketAddr>,
    address: SocketAddr,
}

/// Two nodes, each other's only peer, and a clock.
struct Pair {
    nodes: [Node; 2],
    start: Instant,
    passed: Duration,
}

const PAST: Duration = Duration::from_secs(1_700_000_000);

fn secret(byte: u8) -> PrivateKey {
    PrivateKey::from_bytes(&[byte; 32]).unwrap()
}

fn cidr(text: &str) -> Cidr {
    let (ip, prefix) = text.split_once('/').unwrap();
    Cidr::new(ip.parse().unwrap(), prefix.parse().unwrap()).unwrap()
}

fn spec(byte: u8, prefix: &str, endpoint: Option<SocketAddr>) -> PeerSpec {
    PeerSpec {
        public_key: secret(byte).public(),
        preshared_key: PresharedKey::from_bytes(&[77; 32]),
        allowed_ips: vec![cidr(prefix)],
        endpoint,
        keepalive: None,
    }
}

fn packet(from: [u8; 4], length: u16) -> Vec<u8> {
    let mut bytes = vec![0; usize::from(length)];
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes[12..16].copy_from_slice(&from);
    bytes
}

impl Node {
    fn learn(&mut self) {
        while let Some(update) = self.sessions.update() {
            match update {
                Update::Keys(_, sealer) => self.sealer = sealer,
                Update::Endpoint(_, endpoint) => self.endpoint = Some(endpoint.to),
                Update::Gone(..) => (self.sealer, self.endpoint) = (None, None),
                Update::Peer(..) | Update::Routes(_) | Update::Through(..) => {}
            }
        }
    }

    fn dropped(&self, why: Dropped) -> u64 {
        self.sessions.counters().of(why)
    }
}

impl Pair {
    fn new() -> Pair {
        let start = Instant::now();
        let at = |last| SocketAddr::from(([192, 0, 2, last], 51820));
        let node = |own: u8, other: u8| {
            let peer = spec(other, &format!("10.0.0.{other}/32"), Some(at(other)));
            let sessions = Sessions::new(secret(own), &[peer], start).unwrap();
            Node { sessions, sealer: None, endpoint: None, address: at(own) }
        };
        Pair { nodes: [node(1, 2), node(2, 1)], start, passed: Duration::ZERO }
    }

    fn now(&self) -> Now {
        Now { instant: self.start + self.passed, unix: PAST + self.passed }
    }

    fn pass(&mut self, time: Duration) {
        self.passed += time;
        let now = self.now();
        for node in &mut self.nodes {
            node.sessions.tick(now);
        }
        self.settle();
    }

    /// Carries messages until there are none.
    fn settle(&mut self) -> usize {
        let (mut carried, now) = (0, self.now());
        loop {
            let mut some = false;
            for (one, other) in [(0, 1), (1, 0)] {
                while let Some(out) = self.nodes[one].sessions.outgoing() {
                    let (from, mut message) = (self.nodes[one].address, out.message().to_vec());
                    self.nodes[other].sessions.receive(now, from, &mut message);
                    (carried, some) = (carried + 1, true);
                }
                self.nodes[one].learn();
            }
            if !some {
                return carried;
            }
        }
    }

    fn connect(&mut self) {
        let now = self.now();
        self.nodes[0].sessions.initiate(PeerId(0), now);
        self.settle();
    }

    fn seal(&self, one: usize, inner: &[u8]) -> Vec<u8> {
        let sealer = self.nodes[one].sealer.as_ref().expect("a session");
        let mut message = [&[0; 16], inner, &[0; 16]].concat();
        sealer.seal(sealer.reserve(1).expect("counters are left"), &mut message);
        let millis = millis(self.start, self.now().instant);
        let (_, peer) = self.nodes[one].sessions.peers.iter().next().unwrap();
        peer.activity.sent_packets(millis, 1, message.len() as u64);
        message
    }

    fn receive(&mut self, one: usize, message: &[u8]) -> Received {
        let (now, from) = (self.now(), self.nodes[1 - one].address);
        self.nodes[one].sessions.receive(now, from, &mut message.to_vec())
    }

    /// A packet from `one` to the other; whether it arrives.
    fn passes(&mut self, one: usize) -> bool {
        let inner = packet([10, 0, 0, u8::try_from(one).unwrap() + 1], 60);
        let message = self.seal(one, &inner);
        let arrived = self.receive(1 - one, &message) == Received::Packet { peer: PeerId(0), place: 16..76 };
        self.settle();
        arrived
    }
}

/// Fails when: keys do not fit, the responder sends before the initiator has, or what is opened is another packet.
#[test]
fn two_meet_and_talk() {
    let mut pair = Pair::new();
    let now = pair.now();
    pair.nodes[0].sessions.initiate(PeerId(0), now);
    assert!(pair.nodes[1].sealer.is_none());
    assert_eq!(pair.settle(), 3, "initiation, response, and an empty message that confirms");
    assert!(pair.passes(0) && pair.passes(1) && pair.passes(0));
    let state = pair.nodes[1].sessions.states().remove(0);
    assert_eq!((state.received_packets, state.sent_packets), (3, 1));
    assert!(state.last_handshake.is_some());
}

/// Rows 75 to 79 of what may come over the wire: dropped, counted, answered by nothing.
#[test]
fn what_does_not_belong_is_dropped_in_silence() {
    let mut pair = Pair::new();
    pair.connect();
    let forms: [(usize, [u8; 4]); 16] = [
        (0, [0; 4]),
        (1, [1, 0, 0, 0]),
        (3, [1, 0, 0, 0]),
        (148, [0, 0, 0, 0]),
        (148, [5, 0, 0, 0]),
        (148, [255, 0, 0, 0]),
        (148, [1, 1, 0, 0]),
        (148, [1, 0, 0, 9]),
        (147, [1, 0, 0, 0]),
        (149, [1, 0, 0, 0]),
        (91, [2, 0, 0, 0]),
        (93, [2, 0, 0, 0]),
        (65, [3, 0, 0, 0]),
        (31, [4, 0, 0, 0]),
        (65_507, [1, 0, 0, 0]),
        (65_507, [0, 0, 0, 0]),
    ];
    for (count, (length, head)) in forms.iter().enumerate() {
        let mut bytes = vec![0; *length];
        head.iter().zip(&mut bytes).for_each(|(from, to)| *to = *from);
        assert_eq!(pair.receive(1, &bytes), Received::Nothing);
        assert_eq!(pair.nodes[1].dropped(Dropped::Form), count as u64 + 1, "{length} {head:?}");
    }
    // A wrong first mac; a right one with rubbish behind it; a right one by a stranger.
    let initiation = |own: u8, pair: &Pair| {
        let peer = spec(2, "10.0.0.2/32", Some(pair.nodes[1].address));
        let mut sessions = Sessions::new(secret(own), &[peer], pair.start).unwrap();
        sessions.initiate(PeerId(0), pair.now());
        sessions.outgoing().unwrap().message().to_vec()
    };
    let mut bytes = initiation(3, &pair);
    assert_eq!(pair.receive(1, &bytes), Received::Nothing);
    assert_eq!(pair.nodes[1].dropped(Dropped::Stranger), 1);
    bytes[50] ^= 1;
    assert_eq!(pair.receive(1, &bytes), Received::Nothing);
    assert_eq!(pair.nodes[1].dropped(Dropped::Mac), 1);
    for ephemeral in [[0; 32], std::array::from_fn(|at| u8::from(at == 0))] {
        let mut bytes = initiation(1, &pair);
        bytes[8..40].copy_from_slice(&ephemeral);
        let keys = crate::wg::cookie::MacKeys::of(secret(2).public().as_bytes());
        crate::wg::cookie::Jar::default().stamp(&keys, &mut bytes, pair.start);
        pair.receive(1, &bytes);
    }
    assert_eq!(pair.nodes[1].dropped(Dropped::Stranger), 3);
    // Responses and cookies nobody waits for.
    pair.receive(1, &[[2, 0, 0, 0].as_slice(), &[0; RESPONSE_BYTES - 4]].concat());
    pair.receive(1, &[[3, 0, 0, 0].as_slice(), &[0; COOKIE_BYTES - 4]].concat());
    assert_eq!(pair.nodes[1].dropped(Dropped::Unasked), 2);
    // Data: of no session, seen before, forged, past the end of the counter.
    let good = pair.seal(0, &packet([10, 0, 0, 1], 60));
    let mut other = good.clone();
    other[4] ^= 1;
    pair.receive(1, &other);
    assert_eq!(pair.nodes[1].dropped(Dropped::NoSession), 1);
    let mut forged = good.clone();
    forged[40] ^= 1;
    pair.receive(1, &forged);
    assert_eq!(pair.nodes[1].dropped(Dropped::Forged), 1);
    assert_ne!(pair.receive(1, &good), Received::Nothing);
    pair.receive(1, &good);
    let mut last = good.clone();
    last[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    pair.receive(1, &last);
    assert_eq!(pair.nodes[1].dropped(Dropped::Replayed), 2);
    assert!(pair.nodes[1].sessions.outgoing().is_none(), "nobody was answered");
    assert!(pair.passes(0) && pair.passes(1));
}

/// An initiation is taken once, and none that is older; one from the future is taken, and then only later ones.
#[test]
fn initiations_are_newer_each_time() {
    let mut pair = Pair::new();
    let initiation = |pair: &mut Pair, unix| {
        let now = Now { unix, ..pair.now() };
        pair.nodes[0].sessions.initiate(PeerId(0), now);
        pair.nodes[0].sessions.outgoing().unwrap().message().to_vec()
    };
    let answered = |pair: &mut Pair, message: &[u8]| {
        pair.passed += Duration::from_millis(100);
        pair.receive(1, message);
        pair.nodes[1].sessions.outgoing().is_some()
    };
    let future = initiation(&mut pair, PAST * 2);
    let first = initiation(&mut pair, PAST);
    assert!(answered(&mut pair, &first) && !answered(&mut pair, &first));
    assert!(answered(&mut pair, &future));
    let second = initiation(&mut pair, PAST + Duration::from_secs(9));
    assert!(!answered(&mut pair, &second), "after one from the future it is old");
    assert_eq!(pair.nodes[1].dropped(Dropped::Stale), 2);
    let stamp = |nanos| timestamp(Duration::new(5, nanos));
    assert!(stamp(0) < stamp(999_999_999) && stamp(1) == stamp(0), "its end is not told");
}

/// Fails when: a peer's packet from another's more specific prefix is let in, or a moved prefix stays.
#[test]
fn the_most_specific_owner_wins_on_receipt() {
    let mut pair = Pair::new();
    pair.connect();
    let wide = [cidr("10.0.0.0/8")];
    allow(&mut pair, &wide);
    let from = [10, 1, 2, 3];
    let message = pair.seal(0, &packet(from, 40));
    assert_ne!(pair.receive(1, &message), Received::Nothing);
    let other = spec(9, "10.1.0.0/16", None);
    let now = pair.now();
    let newcomer = Newcomer::new(&secret(2), &other).unwrap();
    pair.nodes[1].sessions.change(vec![PeerChange::Put(newcomer)], now).unwrap();
    let message = pair.seal(0, &packet(from, 40));
    assert_eq!(pair.receive(1, &message), Received::Nothing);
    assert_eq!(pair.nodes[1].dropped(Dropped::Source), 1);
    allow(&mut pair, &[cidr("10.1.0.0/16")]);
    let message = pair.seal(0, &packet(from, 40));
    assert_ne!(pair.receive(1, &message), Received::Nothing);
    let message = pair.seal(0, &packet([10, 2, 0, 1], 40));
    assert_eq!(pair.receive(1, &message), Received::Nothing);
    let message = pair.seal(0, &[0; 48]);
    assert_eq!(pair.receive(1, &message), Received::Nothing);
    assert_eq!((pair.nodes[1].dropped(Dropped::Source), pair.nodes[1].dropped(Dropped::Inner)), (2, 1));
}

/// Makes these all that the first node may send to the second.
fn allow(pair: &mut Pair, prefixes: &[Cidr]) {
    let now = pair.now();
    let change = PeerChange::AllowedIps(secret(1).public(), prefixes.to_vec());
    pair.nodes[1].sessions.change(vec![change], now).unwrap();
}

/// Fails when: a peer that is gone is still heard or spoken to, by whoever has its keys too; its place is not given to
/// the next one; or the next one gets anything of it.
#[test]
fn a_peer_goes_and_another_one_comes() {
    let mut pair = Pair::new();
    pair.connect();
    assert!(pair.passes(0) && pair.passes(1));
    let late = pair.seal(0, &packet([10, 0, 0, 1], 60));
    let held = Arc::clone(pair.nodes[1].sealer.as_ref().unwrap());
    let now = pair.now();
    pair.nodes[1].sessions.change(vec![PeerChange::Remove(secret(1).public())], now).unwrap();
    assert!(
        !held.is_usable(now.instant) && held.reserve(1).is_none(),
        "at once, before the other thread is told"
    );
    pair.nodes[1].learn();
    assert!(pair.nodes[1].sealer.is_none() && pair.nodes[1].sessions.by_index.is_empty());
    assert_eq!(pair.receive(1, &late), Received::Nothing);
    assert_eq!(pair.nodes[1].dropped(Dropped::NoSession), 1);
    assert_eq!(pair.nodes[1].sessions.routes.owner([10, 0, 0, 1].into()), None);
    pair.passed += Duration::from_secs(1);
    pair.connect();
    assert_eq!(pair.nodes[1].dropped(Dropped::Stranger), 1, "its handshake is a stranger's");
    assert!(pair.nodes[1].sessions.states().is_empty());
    // Another one has the place, and nothing else; then the first comes back beside it.
    let put = |byte: u8, prefix: &str| {
        PeerChange::Put(Newcomer::new(&secret(2), &spec(byte, prefix, None)).unwrap())
    };
    let now = pair.now();
    pair.nodes[1].sessions.change(vec![put(9, "10.0.0.9/32")], now).unwrap();
    assert_eq!(pair.nodes[1].sessions.id_of(&secret(9).public()), Some(PeerId(0)));
    let state = pair.nodes[1].sessions.states().remove(0);
    assert_eq!((state.endpoint, state.received_packets, state.last_handshake), (None, 0, None));
    pair.nodes[1].sessions.change(vec![put(1, "10.0.0.1/32")], now).unwrap();
    assert_eq!(pair.nodes[1].sessions.id_of(&secret(1).public()), Some(PeerId(1)));
    pair.passed += Duration::from_secs(6);
    pair.connect();
    let message = pair.seal(0, &packet([10, 0, 0, 1], 60));
    assert_eq!(pair.receive(1, &message), Received::Packet { peer: PeerId(1), place: 16..76 });
}

/// Fails when: a node that has another key is heard or spoken to with the old one, or not with the new one.
#[test]
fn a_node_gets_another_key() {
    let mut pair = Pair::new();
    pair.connect();
    let late = pair.seal(1, &packet([10, 0, 0, 2], 60));
    let held = Arc::clone(pair.nodes[0].sealer.as_ref().unwrap());
    let now = pair.now();
    let put = |own: u8, byte: u8| {
        let at = SocketAddr::from(([192, 0, 2, 3 - own], 51820));
        let spec = spec(byte, &format!("10.0.0.{}/32", 3 - own), Some(at));
        // The first has the key of 9 instead of its own.
        let own = if own == 1 { 9 } else { own };
        PeerChange::Put(Newcomer::new(&secret(own), &spec).unwrap())
    };
    pair.nodes[0].sessions.change(vec![PeerChange::Own(secret(9)), put(1, 2)], now).unwrap();
    pair.nodes[0].learn();
    assert!(!held.is_usable(now.instant) && pair.nodes[0].sealer.is_none());
    assert_eq!(pair.receive(0, &late), Received::Nothing);
    // The other one does not know it yet.
    pair.passed += Duration::from_secs(1);
    pair.connect();
    assert!(pair.nodes[0].sealer.is_none());
    assert_eq!(pair.nodes[1].dropped(Dropped::Stranger), 1);
    let now = pair.now();
    let remove = PeerChange::Remove(secret(1).public());
    pair.nodes[1].sessions.change(vec![remove, put(2, 9)], now).unwrap();
    pair.nodes[1].learn();
    pair.passed += Duration::from_secs(6);
    pair.connect();
    assert!(pair.passes(0) && pair.passes(1));
}

/// Fails when: what is said of a peer anew ends its session, or moves it from where it was heard.
#[test]
fn a_peer_is_altered_in_mid_session() {
    let mut pair = Pair::new();
    pair.connect();
    let (now, old) = (pair.now(), pair.nodes[0].address);
    let elsewhere = SocketAddr::from(([198, 51, 100, 1], 9));
    let wider = PeerSpec { endpoint: Some(elsewhere), ..spec(1, "10.0.0.0/24", None) };
    let put = PeerChange::Put(Newcomer::new(&secret(2), &wider).unwrap());
    pair.nodes[1].sessions.change(vec![put], now).unwrap();
    pair.nodes[1].learn();
    assert_eq!(pair.nodes[1].endpoint, Some(old));
    assert!(pair.passes(0) && pair.passes(1));
    let message = pair.seal(0, &packet([10, 0, 0, 77], 60));
    assert_ne!(pair.receive(1, &message), Received::Nothing);
    let moved = PeerChange::Endpoint(secret(1).public(), elsewhere);
    pair.nodes[1].sessions.change(vec![moved], now).unwrap();
    pair.nodes[1].learn();
    assert_eq!(pair.nodes[1].endpoint, Some(elsewhere));
    assert!(pair.nodes[1].sealer.is_some() && pair.nodes[1].sessions.outgoing().is_none());
    // Nobody answers there while keys are tried: elsewhere they are tried at once.
    pair.nodes[1].sessions.initiate(PeerId(0), now);
    assert_eq!(pair.nodes[1].sessions.outgoing().unwrap().to, elsewhere);
    pair.nodes[1].sessions.change(vec![PeerChange::Endpoint(secret(1).public(), old)], now).unwrap();
    assert_eq!(pair.nodes[1].sessions.outgoing().unwrap().to, old);
}

/// Fails when: a peer ends another one's connections by errors about packets that it never saw.
#[test]
fn nobody_tells_of_another_ones_packets() {
    let mut pair = Pair::new();
    pair.connect();
    allow(&mut pair, &[cidr("10.0.0.0/8")]);
    let now = pair.now();
    let other = Newcomer::new(&secret(2), &spec(9, "10.1.0.0/16", None)).unwrap();
    pair.nodes[1].sessions.change(vec![PeerChange::Put(other)], now).unwrap();
    let error = |about: [u8; 4]| {
        let mut packet = packet([10, 2, 0, 1], 56);
        (packet[9], packet[20], packet[21], packet[28]) = (1, 3, 3, 0x45);
        packet[44..48].copy_from_slice(&about);
        packet
    };
    for (about, passes) in [([10, 2, 3, 4], true), ([10, 1, 3, 4], false), ([192, 0, 2, 1], false)] {
        let message = pair.seal(0, &error(about));
        assert_eq!(pair.receive(1, &message) != Received::Nothing, passes, "{about:?}");
    }
    assert_eq!(pair.nodes[1].dropped(Dropped::Source), 2);
}

/// Fails when: what is authentic does not move a peer, or what is not does; a cookie reply must not.
#[test]
fn a_peer_roams_with_what_is_authentic() {
    let mut pair = Pair::new();
    pair.connect();
    let old = pair.nodes[0].address;
    let new = SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), 40_000));
    let mut forged = pair.seal(0, &packet([10, 0, 0, 1], 60));
    forged[30] ^= 1;
    pair.nodes[0].address = new;
    pair.receive(1, &forged);
    pair.nodes[1].learn();
    assert_eq!(pair.nodes[1].endpoint, Some(old));
    assert!(pair.passes(0));
    assert_eq!(pair.nodes[1].endpoint, Some(new));
}

/// Under load, with its cookie, a handshake succeeds; the reply comes from elsewhere and moves nobody.
#[test]
fn under_load_a_peer_still_gets_in() {
    let mut pair = Pair::new();
    let now = pair.now();
    let macs = crate::wg::cookie::MacKeys::of(secret(2).public().as_bytes());
    for port in 1..=300_u16 {
        let mut rubbish = [0; 148];
        rubbish[0] = 1;
        crate::wg::cookie::Jar::default().stamp(&macs, &mut rubbish, now.instant);
        pair.nodes[1].sessions.receive(now, SocketAddr::from(([198, 51, 100, 1], port)), &mut rubbish);
    }
    while pair.nodes[1].sessions.outgoing().is_some() {}
    let endpoint = pair.nodes[0].sessions.states()[0].endpoint;
    pair.nodes[0].sessions.initiate(PeerId(0), now);
    let mut message = pair.nodes[0].sessions.outgoing().unwrap().message().to_vec();
    let from = pair.nodes[0].address;
    pair.nodes[1].sessions.receive(now, from, &mut message);
    let mut reply = pair.nodes[1].sessions.outgoing().unwrap().message().to_vec();
    assert_eq!(reply.len(), COOKIE_BYTES);
    pair.nodes[0].sessions.receive(now, SocketAddr::from(([198, 51, 100, 9], 9)), &mut reply);
    assert_eq!(pair.nodes[0].sessions.states()[0].endpoint, endpoint);
    // Not a second later, when all would get in again: with the cookie, and an initiation that is newer.
    let later = Now { instant: now.instant, unix: now.unix + Duration::from_secs(1) };
    pair.nodes[0].sessions.initiate(PeerId(0), later);
    let mut message = pair.nodes[0].sessions.outgoing().unwrap().message().to_vec();
    pair.nodes[1].sessions.receive(later, from, &mut message);
    assert_eq!(pair.nodes[1].sessions.outgoing().unwrap().message().len(), RESPONSE_BYTES);
}

/// Ten minutes of packets, one a second, both ways: keys change, nothing is lost, and only one side makes them.
#[test]
fn keys_change_under_way() {
    let mut pair = Pair::new();
    pair.connect();
    let (mut sealers, mut last) = (0, None);
    for second in 0..600 {
        assert!(pair.passes(0) && pair.passes(1), "second {second}");
        pair.pass(Duration::from_secs(1));
        let sealer = pair.nodes[0].sealer.as_ref().map(Arc::as_ptr);
        sealers += u32::from(sealer != last);
        last = sealer;
    }
    assert!((5..=6).contains(&sealers), "{sealers}");
    assert!(pair.nodes.iter().all(|node| node.sessions.by_index.len() <= 3), "old ones are forgotten");
}

/// Both begin at once: both sessions work, and packets that were under way in the other one arrive.
#[test]
fn both_at_once() {
    let mut pair = Pair::new();
    let now = pair.now();
    pair.nodes[0].sessions.initiate(PeerId(0), now);
    pair.nodes[1].sessions.initiate(PeerId(0), now);
    pair.settle();
    assert!(pair.passes(0) && pair.passes(1));
    for _ in 0..3 {
        pair.pass(Duration::from_secs(40));
        assert!(pair.passes(0) && pair.passes(1));
        let now = pair.now();
        pair.nodes[0].sessions.initiate(PeerId(0), now);
        pair.nodes[1].sessions.initiate(PeerId(0), now);
        pair.settle();
        assert!(pair.passes(0) && pair.passes(1));
    }
}

/// An unanswered initiation is repeated for 90 s and then no more; what was received is acknowledged after 10 s; keys end
/// after 180 s.
#[test]
fn times_are_kept() {
    let mut pair = Pair::new();
    let silent = |pair: &mut Pair, seconds: u64| {
        let mut sent = 0;
        for _ in 0..seconds * 2 {
            pair.passed += Duration::from_millis(500);
            let now = pair.now();
            pair.nodes[0].sessions.tick(now);
            while pair.nodes[0].sessions.outgoing().is_some() {
                sent += 1;
            }
        }
        sent
    };
    pair.nodes[0].sessions.peers.get_mut(PeerId(0)).unwrap().activity.want_session();
    let sent = silent(&mut pair, 200);
    assert!((14..=18).contains(&sent), "{sent} initiations in 90 s");
    assert_eq!(pair.nodes[0].sessions.by_index.len(), 0);
    pair.connect();
    // One packet that is not answered for 10 s makes an empty one.
    assert!(pair.passes(1));
    assert_eq!(silent(&mut pair, 9), 0);
    assert_eq!(silent(&mut pair, 3), 1, "an empty message, once");
    // A packet of ours that nothing follows makes a handshake after 15 s.
    pair.seal(0, &packet([10, 0, 0, 1], 60));
    assert_eq!(silent(&mut pair, 14), 0);
    assert_eq!(silent(&mut pair, 3), 1);
    silent(&mut pair, 170);
    pair.nodes[0].learn();
    assert!(pair.nodes[0].sealer.is_none(), "keys end");
    assert!(pair.nodes[0].sessions.by_index.is_empty());
}

/// Counters are not used to their end, and never twice.
#[test]
fn a_worn_session_is_replaced() {
    let mut pair = Pair::new();
    pair.connect();
    let sealer = Arc::clone(pair.nodes[0].sealer.as_ref().unwrap());
    sealer.set_counter(u64::MAX - (1 << 13) - 2);
    assert_eq!(sealer.reserve(3), None);
    assert!(sealer.reserve(2).is_some());
    assert_eq!(sealer.reserve(1), None);
    assert!(!sealer.is_usable(pair.now().instant));
    pair.pass(Duration::from_secs(1));
    assert!(pair.passes(0) && pair.passes(1), "there are new keys");
}

/// A peer that is to be kept alive is spoken to at once, and then at least that often.
#[test]
fn kept_alive() {
    let mut pair = Pair::new();
    pair.nodes[0].sessions.peers.get_mut(PeerId(0)).unwrap().keepalive = Some(Duration::from_secs(25));
    pair.pass(Duration::ZERO);
    assert!(pair.nodes[0].sealer.is_some() && pair.nodes[1].sealer.is_some());
    let before = pair.nodes[1].sessions.states()[0].received_packets;
    for _ in 0..100 {
        pair.pass(Duration::from_secs(1));
    }
    let after = pair.nodes[1].sessions.states()[0].received_packets;
    assert!((3..=4).contains(&(after - before)), "{}", after - before);
}
