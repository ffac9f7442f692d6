//! The flow table against a plain list that is searched from end to end.

use std::time::{Duration, Instant};

use portway_proto::Dir;
use portway_proto::udp_flow::{FlowId, FlowTable, ONE_WAY_IDLE};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Op {
    Insert(u8),
    Touch(u8, Dir),
    /// By the id of the n-th insertion so far.
    TouchId(usize, Dir),
    Remove(u8),
    RemoveId(usize),
    Evict,
    Expire,
    Limits(u32, u64),
    /// Milliseconds; may be negative.
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let key = || 0..12u8;
    let dir = || prop_oneof![Just(Dir::Up), Just(Dir::Down)];
    prop_oneof![
        6 => key().prop_map(Op::Insert),
        6 => (key(), dir()).prop_map(|(key, dir)| Op::Touch(key, dir)),
        4 => (0..64usize, dir()).prop_map(|(n, dir)| Op::TouchId(n, dir)),
        2 => key().prop_map(Op::Remove),
        1 => (0..64usize).prop_map(Op::RemoveId),
        1 => Just(Op::Evict),
        3 => Just(Op::Expire),
        1 => (0..9u32, 1..120_000u64).prop_map(|(capacity, idle)| Op::Limits(capacity, idle)),
        5 => (-5_000..40_000i64).prop_map(Op::Wait),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Flow {
    key: u8,
    value: u64,
    used: Instant,
    two_way: bool,
}

impl Flow {
    fn ends(&self, idle: Duration) -> Instant {
        self.used + if self.two_way { idle } else { idle.min(ONE_WAY_IDLE) }
    }
}

/// Flows in order of last use.
struct Reference {
    flows: Vec<Flow>,
    capacity: usize,
    idle: Duration,
    latest: Instant,
}

impl Reference {
    fn now(&mut self, now: Instant) -> Instant {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn insert(&mut self, key: u8, value: u64, now: Instant) -> Option<(u8, u64)> {
        let now = self.now(now);
        let ended = match self.remove(key) {
            Some(value) => Some((key, value)),
            None if self.flows.len() >= self.capacity => self.evict(),
            None => None,
        };
        self.flows.push(Flow { key, value, used: now, two_way: false });
        ended
    }

    fn touch(&mut self, key: u8, dir: Dir, now: Instant) -> Option<u64> {
        let index = self.flows.iter().position(|flow| flow.key == key)?;
        let mut flow = self.flows.remove(index);
        flow.used = self.now(now);
        flow.two_way |= dir == Dir::Down;
        self.flows.push(flow.clone());
        Some(flow.value)
    }

    fn remove(&mut self, key: u8) -> Option<u64> {
        let index = self.flows.iter().position(|flow| flow.key == key)?;
        Some(self.flows.remove(index).value)
    }

    fn evict(&mut self) -> Option<(u8, u64)> {
        let one_way = self.flows.iter().position(|flow| !flow.two_way);
        let index = one_way.or((!self.flows.is_empty()).then_some(0))?;
        let flow = self.flows.remove(index);
        Some((flow.key, flow.value))
    }

    fn expire(&mut self, now: Instant) -> Vec<(u8, u64)> {
        let now = self.now(now);
        let idle = self.idle;
        let ended = self.flows.extract_if(.., |flow| flow.ends(idle) <= now);
        ended.map(|flow| (flow.key, flow.value)).collect()
    }

    fn by_value(&self, value: u64) -> Option<u8> {
        self.flows.iter().find(|flow| flow.value == value).map(|flow| flow.key)
    }
}

fn sorted(mut flows: Vec<(u8, u64)>) -> Vec<(u8, u64)> {
    flows.sort_unstable();
    flows
}

/// Both, and what is known from outside.
struct Pair {
    table: FlowTable<u8, u64>,
    plain: Reference,
    /// Id of each insertion; its value is its index.
    ids: Vec<FlowId>,
    now: Instant,
}

impl Pair {
    fn new(capacity: u32, idle: Duration) -> Self {
        let now = Instant::now() + Duration::from_secs(3600);
        let plain = Reference {
            flows: Vec::new(),
            capacity: usize::try_from(capacity).expect("small"),
            idle,
            latest: now,
        };
        let mut table = FlowTable::new(capacity, idle);
        table.expire(now);
        Self { table, plain, ids: Vec::new(), now }
    }

    fn apply(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let now = self.now;
        match *op {
            Op::Insert(key) => {
                let value = u64::try_from(self.ids.len()).expect("small");
                let inserted = self.table.insert(key, value, now);
                prop_assert_eq!(inserted.ended, self.plain.insert(key, value, now));
                prop_assert!(!self.ids.contains(&inserted.id));
                prop_assert_eq!(FlowId::from_u64(inserted.id.to_u64()), inserted.id);
                self.ids.push(inserted.id);
            }
            Op::Touch(key, dir) => {
                prop_assert_eq!(self.table.touch(&key, dir, now).copied(), self.plain.touch(key, dir, now));
            }
            Op::TouchId(n, dir) => {
                let Some(&id) = self.ids.get(n) else { return Ok(()) };
                let expected = self
                    .plain
                    .by_value(u64::try_from(n).expect("small"))
                    .and_then(|key| Some((key, self.plain.touch(key, dir, now)?)));
                let found = self.table.touch_id(id, dir, now).map(|(key, value)| (*key, *value));
                prop_assert_eq!(found, expected);
            }
            Op::Remove(key) => prop_assert_eq!(self.table.remove(&key), self.plain.remove(key)),
            Op::RemoveId(n) => {
                let Some(&id) = self.ids.get(n) else { return Ok(()) };
                let key = self.plain.by_value(u64::try_from(n).expect("small"));
                let expected = key.and_then(|key| Some((key, self.plain.remove(key)?)));
                prop_assert_eq!(self.table.remove_id(id), expected);
            }
            Op::Evict => prop_assert_eq!(self.table.evict(), self.plain.evict()),
            Op::Expire => prop_assert_eq!(sorted(self.table.expire(now)), sorted(self.plain.expire(now))),
            Op::Limits(capacity, idle_ms) => {
                self.plain.capacity = usize::try_from(capacity.max(1)).expect("small");
                self.plain.idle = Duration::from_millis(idle_ms);
                let mut ended = Vec::new();
                while self.plain.flows.len() > self.plain.capacity {
                    ended.extend(self.plain.evict());
                }
                prop_assert_eq!(self.table.set_limits(capacity, self.plain.idle), ended);
            }
            Op::Wait(ms) => {
                let step = Duration::from_millis(ms.unsigned_abs());
                self.now = if ms < 0 { now - step } else { now + step };
            }
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        prop_assert_eq!(self.table.len(), self.plain.flows.len());
        prop_assert!(self.table.len() <= self.plain.capacity);
        let deadline = self.plain.flows.iter().map(|flow| flow.ends(self.plain.idle)).min();
        prop_assert_eq!(self.table.next_deadline(), deadline);
        for flow in &self.plain.flows {
            let id = self.ids[usize::try_from(flow.value).expect("small")];
            prop_assert_eq!(self.table.find(&flow.key), Some(id));
            prop_assert_eq!(self.table.get(id), Some((&flow.key, &flow.value)));
            prop_assert_eq!(self.table.get_mut(&flow.key).copied(), Some(flow.value));
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn the_table_is_the_list(capacity in 1..9u32, idle_ms in 1..120_000u64, ops in prop::collection::vec(op(), 1..200)) {
        let mut pair = Pair::new(capacity, Duration::from_millis(idle_ms));
        for op in &ops {
            pair.apply(op)?;
        }
        prop_assert_eq!(sorted(pair.table.clear()), sorted(pair.plain.flows.iter().map(|flow| (flow.key, flow.value)).collect()));
    }
}
