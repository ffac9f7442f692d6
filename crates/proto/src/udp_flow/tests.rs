use super::*;

const IDLE: Duration = Duration::from_secs(10);

struct Clock(Instant);

impl Clock {
    fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }
}

fn table(capacity: u32) -> (FlowTable<&'static str, u32>, Clock) {
    (FlowTable::new(capacity, IDLE), Clock(Instant::now()))
}

#[test]
fn a_flow_lives_as_long_as_datagrams_pass() {
    let (mut flows, clock) = table(4);
    assert!(flows.is_empty() && flows.next_deadline().is_none());
    let id = flows.insert("a", 1, clock.at(0)).id;
    assert_eq!(flows.next_deadline(), Some(clock.at(10_000)));
    assert_eq!(flows.expire(clock.at(9_999)), []);
    assert_eq!(flows.touch(&"a", Dir::Up, clock.at(9_999)), Some(&mut 1));
    assert_eq!(flows.next_deadline(), Some(clock.at(19_999)));
    assert_eq!(flows.touch_id(id, Dir::Down, clock.at(12_000)), Some((&"a", &mut 1)));
    assert_eq!(flows.expire(clock.at(21_999)), []);
    assert_eq!(flows.expire(clock.at(22_000)), [("a", 1)]);
    assert_eq!((flows.len(), flows.next_deadline(), flows.find(&"a")), (0, None, None));
    assert_eq!(flows.touch(&"a", Dir::Up, clock.at(22_000)), None);
    assert_eq!(flows.touch_id(id, Dir::Up, clock.at(22_000)), None);
}

/// Fails when: flows of both kinds have the same life, or only one list is asked for its next to expire.
#[test]
fn a_flow_nobody_answers_ends_sooner() {
    let clock = Clock(Instant::now());
    let mut flows = FlowTable::new(4, Duration::from_secs(120));
    flows.insert("answered", 0, clock.at(0));
    flows.touch(&"answered", Dir::Down, clock.at(0));
    assert_eq!(flows.next_deadline(), Some(clock.at(120_000)));
    flows.insert("silent", 0, clock.at(1));
    flows.insert("late", 0, clock.at(2));
    assert_eq!(flows.next_deadline(), Some(clock.at(30_001)));
    // What it sends prolongs its life, an answer makes it a long one.
    flows.touch(&"silent", Dir::Up, clock.at(20_000));
    flows.touch(&"late", Dir::Down, clock.at(20_000));
    assert_eq!(flows.next_deadline(), Some(clock.at(50_000)));
    assert_eq!(flows.expire(clock.at(49_999)), []);
    assert_eq!(flows.expire(clock.at(50_000)), [("silent", 0)]);
    assert_eq!(flows.next_deadline(), Some(clock.at(120_000)));
    assert_eq!(flows.expire(clock.at(140_000)), [("answered", 0), ("late", 0)]);
    // A shorter life is one for all.
    flows.set_limits(4, IDLE);
    flows.insert("short", 0, clock.at(140_000));
    assert_eq!(flows.next_deadline(), Some(clock.at(150_000)));
}

#[test]
fn looking_does_not_prolong() {
    let (mut flows, clock) = table(4);
    let id = flows.insert("a", 1, clock.at(0)).id;
    flows.insert("b", 2, clock.at(1));
    assert_eq!(flows.get_mut(&"a"), Some(&mut 1));
    assert_eq!(flows.get(id), Some((&"a", &1)));
    assert_eq!(flows.find(&"a"), Some(id));
    assert_eq!(flows.expire(clock.at(10_000)), [("a", 1)]);
}

#[test]
fn one_way_flows_make_room_first() {
    let (mut flows, clock) = table(3);
    for (at, key) in [(0, "a"), (1, "b"), (2, "c")] {
        assert_eq!(flows.insert(key, 0, clock.at(at)).ended, None);
    }
    // `a` is the oldest but answered; `c` sent again after `b`.
    flows.touch(&"a", Dir::Down, clock.at(3));
    flows.touch(&"c", Dir::Up, clock.at(4));
    assert_eq!(flows.insert("d", 0, clock.at(5)).ended, Some(("b", 0)));
    assert_eq!(flows.insert("e", 0, clock.at(6)).ended, Some(("c", 0)));
    flows.touch(&"d", Dir::Down, clock.at(7));
    flows.touch(&"e", Dir::Down, clock.at(8));
    // All answered: the least recently used one.
    assert_eq!(flows.insert("f", 0, clock.at(9)).ended, Some(("a", 0)));
    // A flow of one direction stays one-way however much it sends.
    flows.touch(&"f", Dir::Up, clock.at(100));
    assert_eq!(flows.insert("g", 0, clock.at(101)).ended, Some(("f", 0)));
    assert_eq!(flows.len(), 3);
}

#[test]
fn a_flood_does_not_end_conversations() {
    let clock = Clock(Instant::now());
    let mut flows: FlowTable<u32, ()> = FlowTable::new(100, IDLE);
    for key in 0..50 {
        flows.insert(key, (), clock.at(0));
        flows.touch(&key, Dir::Down, clock.at(0));
    }
    for key in 1000..101_000 {
        let ended = flows.insert(key, (), clock.at(u64::from(key / 1000))).ended;
        assert!(ended.is_none_or(|(key, ())| key >= 1000));
    }
    assert!((0..50).all(|key| flows.find(&key).is_some()));
    assert_eq!(flows.len(), 100);
}

#[test]
fn inserting_a_known_key_ends_its_flow() {
    let (mut flows, clock) = table(2);
    let old = flows.insert("a", 1, clock.at(0)).id;
    flows.insert("b", 2, clock.at(1));
    let new = flows.insert("a", 3, clock.at(2));
    assert_eq!(new.ended, Some(("a", 1)));
    assert_eq!((flows.get(old), flows.get(new.id)), (None, Some((&"a", &3))));
    assert_eq!(flows.len(), 2);
}

#[test]
fn an_id_never_means_another_flow() {
    let (mut flows, clock) = table(1);
    let mut ids = Vec::new();
    for round in 0..5 {
        ids.push(flows.insert("a", round, clock.at(0)).id);
        assert_eq!(flows.remove(&"a"), Some(round));
    }
    let last = flows.insert("a", 9, clock.at(0)).id;
    for id in ids {
        assert_ne!(id, last);
        assert_eq!(flows.get(id), None);
        assert_eq!(flows.remove_id(id), None);
        assert_eq!(flows.touch_id(id, Dir::Up, clock.at(0)), None);
    }
    assert_eq!(FlowId::from_u64(last.to_u64()), last);
    assert_eq!(flows.remove_id(last), Some(("a", 9)));
    assert_eq!(flows.remove(&"a"), None);
    let odd = FlowId { index: u32::MAX, generation: u32::MAX - 1 };
    assert_eq!(FlowId::from_u64(odd.to_u64()), odd);
    assert_eq!(flows.get(odd), None);
}

#[test]
fn limits_change_under_load() {
    let (mut flows, clock) = table(4);
    for (at, key) in [(0, "a"), (1, "b"), (2, "c"), (3, "d")] {
        flows.insert(key, 0, clock.at(at));
    }
    flows.touch(&"a", Dir::Down, clock.at(4));
    assert_eq!(flows.set_limits(2, Duration::from_secs(1)), [("b", 0), ("c", 0)]);
    assert_eq!((flows.capacity(), flows.idle(), flows.len()), (2, Duration::from_secs(1), 2));
    assert_eq!(flows.next_deadline(), Some(clock.at(1003)));
    assert_eq!(flows.expire(clock.at(1003)), [("d", 0)]);
    assert_eq!(flows.insert("e", 0, clock.at(1003)).ended, None);
    assert_eq!(flows.insert("f", 0, clock.at(1003)).ended, Some(("e", 0)));
    let mut rest = flows.clear();
    rest.sort_unstable();
    assert_eq!(rest, [("a", 0), ("f", 0)]);
    assert!(flows.is_empty() && flows.evict().is_none());
}

#[test]
fn a_capacity_of_none_is_one() {
    let clock = Clock(Instant::now());
    let mut flows: FlowTable<u8, ()> = FlowTable::new(0, IDLE);
    assert_eq!(flows.insert(1, (), clock.at(0)).ended, None);
    assert_eq!(flows.insert(2, (), clock.at(0)).ended, Some((1, ())));
    assert_eq!(flows.set_limits(0, IDLE), []);
    assert_eq!(flows.len(), 1);
}

#[test]
fn time_does_not_run_back() {
    let (mut flows, clock) = table(4);
    flows.insert("a", 0, clock.at(5000));
    flows.insert("b", 0, clock.at(0));
    assert_eq!(flows.next_deadline(), Some(clock.at(15_000)));
    assert_eq!(flows.expire(clock.at(14_999)), []);
    assert_eq!(flows.expire(clock.at(15_000)), [("a", 0), ("b", 0)]);
}

#[test]
fn an_endless_idle_time_never_ends_a_flow() {
    let clock = Clock(Instant::now());
    let mut flows: FlowTable<u8, ()> = FlowTable::new(4, Duration::MAX);
    flows.insert(1, (), clock.at(0));
    flows.touch(&1, Dir::Down, clock.at(0));
    assert_eq!(flows.next_deadline(), None);
    assert_eq!(flows.expire(clock.at(u64::from(u32::MAX))), []);
}

#[test]
fn slots_are_used_again() {
    let (mut flows, clock) = table(2);
    for round in 0..1000 {
        let id = flows.insert("a", round, clock.at(0)).id;
        flows.insert("b", round, clock.at(0));
        assert!(id.index < 2);
        flows.remove(&"a");
        flows.remove(&"b");
    }
}
