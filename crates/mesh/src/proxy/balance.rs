//! Which of the rules of a port takes a connection: pure, the time is passed in.
//!
//! A destination that refuses or does not answer is put aside for a while, longer each time it happens again; meanwhile
//! the others go before it. Nothing is ever given up for good: when all are aside they are tried all the same, and what
//! cannot be reached then is refused.

use std::time::{Duration, Instant};

use crate::spec::RuleId;

/// How long a destination is put aside: the first time, and at most.
const ASIDE_FIRST: Duration = Duration::from_secs(1);
const ASIDE_MOST: Duration = Duration::from_secs(30);

/// In which order rules are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// One after the other, the first connection to the first.
    #[default]
    RoundRobin,
    /// The one with the fewest connections; among equals as above.
    LeastConnections,
}

#[derive(Debug)]
struct Target {
    rule: RuleId,
    live: u64,
    /// Failures since it last worked.
    failures: u32,
    aside_until: Option<Instant>,
}

/// The rules of one port.
#[derive(Debug, Default)]
pub struct Balancer {
    policy: Policy,
    targets: Vec<Target>,
    /// Place of the one whose turn is next.
    next: usize,
}

impl Balancer {
    /// Without rules.
    #[must_use]
    pub fn new(policy: Policy) -> Balancer {
        Balancer { policy, ..Balancer::default() }
    }

    /// Adds a rule behind the others. One that is there stays as it is.
    pub fn add(&mut self, rule: RuleId) {
        if self.target(rule).is_none() {
            self.targets.push(Target { rule, live: 0, failures: 0, aside_until: None });
        }
    }

    /// Takes a rule out. The turn stays with who has it.
    pub fn remove(&mut self, rule: RuleId) {
        let Some(place) = self.targets.iter().position(|target| target.rule == rule) else { return };
        self.targets.remove(place);
        if place < self.next {
            self.next -= 1;
        }
        if self.next >= self.targets.len() {
            self.next = 0;
        }
    }

    /// The rule for a connection that those in `tried` could not serve. `None`: there is no other.
    pub fn choose(&mut self, now: Instant, tried: &[RuleId]) -> Option<RuleId> {
        let count = self.targets.len();
        // By the turns from the next on; the first of the least is taken.
        let turns = (0..count).map(|turn| (self.next + turn) % count);
        let rank = |place: &usize| {
            let target = self.targets.get(*place)?;
            let aside = target.aside_until.filter(|until| *until > now);
            let live = if self.policy == Policy::LeastConnections { target.live } else { 0 };
            // Of those that are aside the one goes first that comes back first.
            Some((aside, live))
        };
        let open = |place: &usize| self.targets.get(*place).is_some_and(|it| !tried.contains(&it.rule));
        let place = turns.filter(open).min_by_key(rank)?;
        // Another try for the same connection takes nobody's turn.
        if tried.is_empty() {
            self.next = (place + 1) % count;
        }
        self.targets.get(place).map(|target| target.rule)
    }

    /// A connection to it begins.
    pub fn opened(&mut self, rule: RuleId) {
        if let Some(target) = self.target(rule) {
            target.live += 1;
            target.failures = 0;
            target.aside_until = None;
        }
    }

    /// A connection to it has ended.
    pub fn closed(&mut self, rule: RuleId) {
        if let Some(target) = self.target(rule) {
            target.live = target.live.saturating_sub(1);
        }
    }

    /// It refused, or did not answer. For how long it is put aside, unless it is aside already.
    pub fn failed(&mut self, rule: RuleId, now: Instant) -> Option<Duration> {
        let target = self.target(rule)?;
        // Those that were under way together have failed once.
        if target.aside_until.is_some_and(|until| until > now) {
            return None;
        }
        let aside = ASIDE_FIRST.saturating_mul(1 << target.failures.min(8)).min(ASIDE_MOST);
        target.failures = target.failures.saturating_add(1);
        target.aside_until = Some(now + aside);
        Some(aside)
    }

    /// Connections of a rule that are live.
    #[must_use]
    pub fn live(&self, rule: RuleId) -> u64 {
        self.targets.iter().find(|target| target.rule == rule).map_or(0, |target| target.live)
    }

    /// Whether a rule is aside.
    #[must_use]
    pub fn is_aside(&self, rule: RuleId, now: Instant) -> bool {
        let found = self.targets.iter().find(|target| target.rule == rule);
        found.is_some_and(|target| target.aside_until.is_some_and(|until| until > now))
    }

    fn target(&mut self, rule: RuleId) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| target.rule == rule)
    }
}

#[cfg(test)]
mod tests {
    use portway_model::{Direction, MeshRule};

    use super::*;

    fn rules(count: u16) -> Vec<RuleId> {
        let rule = |port| format!("tcp:80:10.0.0.1:{port}");
        let parse = |text: String| MeshRule::parse(Direction::Ingress, &text).expect("a rule");
        (1..=count).map(|port| RuleId::of(&parse(rule(port)))).collect()
    }

    fn balancer(policy: Policy, rules: &[RuleId]) -> Balancer {
        let mut balancer = Balancer::new(policy);
        rules.iter().for_each(|rule| balancer.add(*rule));
        balancer
    }

    fn take(balancer: &mut Balancer, now: Instant) -> Option<RuleId> {
        let rule = balancer.choose(now, &[])?;
        balancer.opened(rule);
        Some(rule)
    }

    /// Fails when: the first connection takes the second rule, or counts are only about equal.
    #[test]
    fn ten_connections_and_two_rules_are_five_each() {
        let (now, rules) = (Instant::now(), rules(2));
        let mut balancer = balancer(Policy::RoundRobin, &rules);
        let taken: Vec<_> = (0..10).filter_map(|_| take(&mut balancer, now)).collect();
        assert_eq!(taken, rules.repeat(5));
        assert_eq!((balancer.live(rules[0]), balancer.live(rules[1])), (5, 5));
    }

    /// Fails when: a dead destination takes every second connection, is never tried again, or a try for the same
    /// connection takes a turn of the others.
    #[test]
    fn who_fails_is_put_aside_longer_each_time() {
        let (begin, rules) = (Instant::now(), rules(2));
        let mut balancer = balancer(Policy::RoundRobin, &rules);
        assert_eq!(balancer.choose(begin, &[]), Some(rules[0]));
        balancer.failed(rules[0], begin);
        assert_eq!(balancer.choose(begin, &rules[..1]), Some(rules[1]));
        balancer.opened(rules[1]);
        assert_eq!(balancer.choose(begin, &rules), None);
        for _ in 0..4 {
            assert_eq!(balancer.choose(begin, &[]), Some(rules[1]));
        }
        let mut now = begin;
        for seconds in [1, 2, 4, 8, 16, 30, 30] {
            assert!(
                balancer.is_aside(rules[0], now + Duration::from_millis(seconds * 1000 - 1)),
                "{seconds}"
            );
            now += Duration::from_secs(seconds);
            assert!(!balancer.is_aside(rules[0], now), "{seconds}");
            balancer.failed(rules[0], now);
            balancer.failed(rules[0], now);
        }
        balancer.opened(rules[0]);
        assert!(!balancer.is_aside(rules[0], now));
    }

    /// Fails when: with all of them dead nobody is tried.
    #[test]
    fn when_all_are_aside_they_are_tried_all_the_same() {
        let (now, rules) = (Instant::now(), rules(3));
        let mut balancer = balancer(Policy::RoundRobin, &rules);
        let later = |millis| now + Duration::from_millis(millis);
        balancer.failed(rules[2], now);
        balancer.failed(rules[0], later(10));
        balancer.failed(rules[1], later(20));
        let order = [rules[2], rules[0], rules[1]];
        for tried in 0..3 {
            assert_eq!(balancer.choose(later(30), &order[..tried]), Some(order[tried]));
        }
        assert_eq!(balancer.choose(later(30), &order), None);
    }

    #[test]
    fn least_connections() {
        let (now, rules) = (Instant::now(), rules(3));
        let mut balancer = balancer(Policy::LeastConnections, &rules);
        let first: Vec<_> = (0..3).filter_map(|_| take(&mut balancer, now)).collect();
        assert_eq!(first, rules);
        balancer.closed(rules[1]);
        assert_eq!(take(&mut balancer, now), Some(rules[1]));
        balancer.failed(rules[2], now);
        balancer.closed(rules[2]);
        assert_ne!(take(&mut balancer, now), Some(rules[2]));
        assert_eq!(take(&mut balancer, now + ASIDE_FIRST), Some(rules[2]));
    }

    /// Fails when: a rule that goes takes the turn of another with it, or the last one's going breaks the count.
    #[test]
    fn rules_come_and_go() {
        let (now, rules) = (Instant::now(), rules(3));
        let mut balancer = balancer(Policy::RoundRobin, &rules);
        assert_eq!(take(&mut balancer, now), Some(rules[0]));
        assert_eq!(take(&mut balancer, now), Some(rules[1]));
        balancer.remove(rules[0]);
        assert_eq!(take(&mut balancer, now), Some(rules[2]));
        assert_eq!(take(&mut balancer, now), Some(rules[1]));
        balancer.remove(rules[2]);
        balancer.add(rules[1]);
        assert_eq!((take(&mut balancer, now), balancer.live(rules[1])), (Some(rules[1]), 3));
        balancer.remove(rules[1]);
        assert_eq!(balancer.choose(now, &[]), None);
        balancer.closed(rules[1]);
    }
}
