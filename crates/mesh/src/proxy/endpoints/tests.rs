use super::*;

fn endpoint(text: &str) -> Endpoint {
    crate::org::endpoint(text).unwrap()
}

fn state(at: Option<&str>, handshake: Option<Instant>, trying_since: Option<Instant>) -> PeerState {
    PeerState {
        public_key: crate::spec::PrivateKey::from_bytes(&[7; 32]).unwrap().public(),
        allowed_ips: Vec::new(),
        endpoint: at.map(|at| at.parse().unwrap()),
        last_handshake: handshake,
        trying_since,
        received_packets: 0,
        received_bytes: 0,
        sent_packets: 0,
        sent_bytes: 0,
        through: None,
        longest_packet: None,
    }
}

/// Fails when: a peer that is reached is looked up, one that is not is never looked up again, or at every turn.
#[test]
fn names_are_looked_up_while_nobody_answers() {
    let now = Instant::now() + Duration::from_secs(1000);
    let ago = |seconds| now - Duration::from_secs(seconds);
    let sought = |tried: Option<u64>| Sought {
        endpoints: vec![endpoint("a.example:1")],
        tried: tried.map(ago),
        ..Sought::default()
    };
    let state =
        |known: bool, handshake: Option<u64>| state(known.then_some("192.0.2.1:1"), handshake.map(ago), None);
    for (tried, known, handshake, due) in [
        (None, false, None, true),
        (Some(1), false, None, false),
        (Some(2), false, None, true),
        (None, true, None, true),
        (Some(2), true, None, false),
        (Some(15), true, None, true),
        (Some(900), true, Some(134), false),
        (Some(900), true, Some(135), true),
    ] {
        assert_eq!(
            sought(tried).is_due(&state(known, handshake), false, now),
            due,
            "{tried:?} {known} {handshake:?}"
        );
    }
}

/// Fails when: the places of a peer are not all tried, not in their order, while it is reached, or for nothing.
#[test]
fn places_are_tried_one_after_the_other() {
    let now = Instant::now() + Duration::from_secs(1000);
    let whereabouts = Whereabouts::default();
    let key = state(None, None, None).public_key;
    let places = vec![endpoint("10.0.0.5:1"), endpoint("192.0.2.9:2")];
    whereabouts.put(key, places.clone());
    let at = |seconds| now + Duration::from_secs(seconds);
    let tried = |state: PeerState, now| -> Vec<String> {
        let text = |(_, next)| match next {
            Try::Place(endpoint, _) => endpoint.to_string(),
            other => format!("{other:?}"),
        };
        whereabouts.due(&[state], now).into_iter().map(text).collect()
    };
    assert_eq!(tried(state(None, None, None), at(0)), ["10.0.0.5:1"]);
    let here = Some("10.0.0.5:1");
    assert!(tried(state(here, None, None), at(9)).is_empty(), "nothing is sent to it");
    assert!(tried(state(here, None, Some(at(8))), at(9)).is_empty(), "not yet");
    assert_eq!(tried(state(here, None, Some(at(7))), at(9)), ["192.0.2.9:2"]);
    assert!(tried(state(here, None, Some(at(7))), at(10)).is_empty());
    let there = Some("192.0.2.9:2");
    assert_eq!(tried(state(there, Some(at(1)), Some(at(7))), at(11)), ["10.0.0.5:1"]);
    // What is said again changes nothing; what is new is tried from its first place on.
    whereabouts.put(key, places);
    assert!(tried(state(here, None, Some(at(7))), at(12)).is_empty());
    whereabouts.put(key, vec![endpoint("192.0.2.9:3"), endpoint("192.0.2.9:2")]);
    assert_eq!(tried(state(here, None, Some(at(7))), at(12)), ["192.0.2.9:3"]);
    // One that has moved is not waited for until its keys are old.
    whereabouts.put(key, vec![endpoint("192.0.2.9:4")]);
    assert_eq!(tried(state(here, Some(at(10)), Some(at(12))), at(14)), ["192.0.2.9:4"]);
    assert!(tried(state(Some("192.0.2.9:4"), Some(at(10)), Some(at(12))), at(99)).is_empty());
    whereabouts.remove(&key);
    assert!(tried(state(None, None, None), at(99)).is_empty());
}

/// Fails when: a hub is used before the places, one that is silent is used or stayed with, a peer that nobody talks to
/// is looked for, or the tries do not become fewer.
#[test]
fn who_is_reached_nowhere_is_reached_through_a_hub() {
    let now = Instant::now() + Duration::from_secs(1000);
    let at = |seconds| now + Duration::from_secs(seconds);
    let key = |byte| crate::spec::PrivateKey::from_bytes(&[byte; 32]).unwrap().public();
    let whereabouts = Whereabouts::default();
    let peer = state(Some("10.0.0.5:1"), None, Some(at(0)));
    whereabouts.put(peer.public_key, vec![endpoint("10.0.0.5:1"), endpoint("192.0.2.9:2")]);
    whereabouts.set_hubs(vec![key(1), key(2)]);
    let hub = |byte, trying| PeerState { public_key: key(byte), ..state(None, Some(now), trying) };
    let tried = |peer: &PeerState, hubs: [PeerState; 2], now| -> Option<Try> {
        let [one, two] = hubs;
        whereabouts.due(&[peer.clone(), one, two], now).pop().map(|(_, next)| next)
    };
    let hubs = || [hub(1, None), hub(2, None)];
    let mut order = [key(1), key(2)];
    order.sort_unstable();
    let [first, second] = order;
    assert_eq!(tried(&peer, hubs(), at(2)), Some(Try::Place(endpoint("192.0.2.9:2"), 0)));
    let there = PeerState { endpoint: Some("192.0.2.9:2".parse().unwrap()), ..peer.clone() };
    assert_eq!(tried(&there, hubs(), at(3)), None);
    assert_eq!(tried(&there, hubs(), at(4)), Some(Try::Hub(first)));
    let through = |hub, trying: Option<Instant>, packets| PeerState {
        through: Some(hub),
        trying_since: trying,
        sent_packets: packets,
        ..there.clone()
    };
    // It is tried straight in all its places, ever more seldom, as long as somebody talks to it.
    let places = |known: &[&str]| Places {
        known: known.iter().map(|place| place.parse().unwrap()).collect(),
        named: Vec::new(),
    };
    let places = places(&["192.0.2.9:2", "10.0.0.5:1"]);
    let tries: Vec<u64> = (5..120)
        .filter(|second| {
            tried(&through(first, None, *second), hubs(), at(*second)) == Some(Try::Straight(places.clone()))
        })
        .collect();
    assert_eq!(tries, [6, 10, 18, 34, 59, 84, 109]);
    assert_eq!(tried(&through(first, None, 119), hubs(), at(178)), Some(Try::Straight(places.clone())));
    assert_eq!(tried(&through(first, None, 119), hubs(), at(179)), None);
    // The hub is silent: another one; both are: it is stayed on, and the places are tried beside it.
    let silent = |byte| hub(byte, (key(byte) == first).then(|| at(1000)));
    let hubs_then = [silent(1), silent(2)].map(|hub| PeerState { last_handshake: Some(at(999)), ..hub });
    assert_eq!(tried(&through(first, None, 119), hubs_then, at(1002)), Some(Try::Hub(second)));
    let both = || [1, 2].map(|byte| PeerState { last_handshake: Some(at(999)), ..hub(byte, Some(at(1000))) });
    assert_eq!(tried(&through(second, None, 120), both(), at(1003)), Some(Try::Straight(places.clone())));
    assert_eq!(tried(&through(second, None, 121), both(), at(1004)), None);
    // Nobody answers there either: the places, and if there were another hub that one.
    let in_vain = through(second, Some(at(1000)), 122);
    assert_eq!(tried(&in_vain, both(), at(1006)), Some(Try::Straight(places.clone())));
    let fresh = || [1, 2].map(|byte| PeerState { last_handshake: Some(at(999)), ..hub(byte, None) });
    let mut both_ways = [1010, 1014].map(|second| tried(&in_vain, fresh(), at(second)));
    both_ways.sort_by_key(|next| matches!(next, Some(Try::Straight(_))));
    assert_eq!(both_ways, [Some(Try::Hub(first)), Some(Try::Straight(places))]);
    // Their keys are too old: as if it were new.
    let lost = [hub(1, None), hub(2, None)];
    assert_eq!(
        tried(&through(second, None, 123), lost, at(1015)),
        Some(Try::Place(endpoint("10.0.0.5:1"), 0))
    );
    // A hub is never led through the other.
    let stuck = PeerState { trying_since: Some(at(1000)), ..hub(1, None) };
    whereabouts.put(key(1), vec![endpoint("10.0.0.9:1"), endpoint("10.0.0.9:2")]);
    let other = PeerState { last_handshake: Some(at(1000)), ..hub(2, None) };
    for second in (1016..1040).step_by(2) {
        let due = whereabouts.due(&[stuck.clone(), other.clone()], at(second));
        assert!(matches!(&due[..], [(_, Try::Place(..))]), "{due:?}");
    }
}

/// Fails when: a peer that is reached through a hub is not tried at names, not first where it was last heard of, or in
/// the same few places each time.
#[test]
fn who_is_reached_through_a_hub_is_tried_everywhere_in_turn() {
    let mut sought = Sought {
        endpoints: (1..=12).map(|last| endpoint(&format!("10.0.0.{last}:1"))).collect(),
        ..Sought::default()
    };
    sought.endpoints.insert(1, endpoint("a.example:1"));
    let at = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
    let state = state(Some("10.0.0.12:1"), None, None);
    let first = sought.places(&state).unwrap();
    assert_eq!(first.named, [endpoint("a.example:1")]);
    assert_eq!(first.known, [12, 1, 2, 3, 4, 5, 6].map(at));
    let second = sought.places(&state).unwrap();
    assert_eq!(second.known, [12, 7, 8, 9, 10, 11, 1].map(at));
    assert_eq!(second.named, first.named);
}
