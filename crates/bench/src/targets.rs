//! What Portway is to reach beside the others, and whether it does.

use crate::peer::Peer;
use crate::report::thousands;
use crate::results::Results;
use crate::sample::Metric;
use crate::stats::Median;
use crate::workload::Workload;

/// A target: the median of the ratios of two peers has to be on one side of a factor.
#[derive(Debug, Clone, Copy)]
struct Target {
    workload: &'static str,
    metric: Metric,
    peer: Peer,
    than: Peer,
    factor: f64,
}

/// A target and what came out; shown whatever it is.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) what: String,
    pub(crate) wanted: String,
    pub(crate) reached: String,
    /// `None` where it was not measured.
    pub(crate) is_met: Option<bool>,
}

/// Workloads of bulk streams.
const BULK: [&str; 8] =
    ["up-1", "up-8", "up-1-large", "up-8-large", "down-1", "down-8", "down-1-large", "down-8-large"];

/// Peers that are processes, but for ours.
const RELAYS: [Peer; 4] = [Peer::Forkproxy, Peer::Nginx, Peer::Haproxy, Peer::Socat];

/// Resident set of a worker with its devices, bytes.
const WORKER_BYTES: f64 = 8e6;

/// Memory for each idle connection, bytes.
const IDLE_BYTES: f64 = 2000.0;

/// Memory of all processes with so many devices on one instance, bytes.
const MANY: u16 = 1000;
const MANY_BYTES: f64 = 60e6;

/// All targets with what came out.
pub(crate) fn outcomes(results: &Results) -> Vec<Outcome> {
    let mut all: Vec<Outcome> = relay_targets().iter().map(|target| target.outcome(results)).collect();
    all.insert(6, fastest_round_trip(results));
    all.extend(memory(results));
    all.extend(nat_targets().iter().map(|target| target.outcome(results)));
    all.extend(many_devices(results));
    all
}

fn relay_targets() -> Vec<Target> {
    let ours = |workload, metric, than, factor| Target { workload, metric, peer: Peer::Relay, than, factor };
    let mut targets = vec![
        ours("conn", Metric::Rate, Peer::Forkproxy, 1.8),
        ours("conn", Metric::Rate, Peer::Nginx, 1.0),
        ours("conn", Metric::Rate, Peer::Direct, 0.85),
        ours("rtt-64", Metric::Rate, Peer::Forkproxy, 1.25),
        ours("rtt-64", Metric::Rate, Peer::Nginx, 1.0),
        ours("rtt-64", Metric::P99, Peer::Forkproxy, 0.5),
    ];
    for workload in BULK {
        let than = [(Peer::Forkproxy, 1.5), (Peer::Nginx, 1.2), (Peer::Haproxy, 1.2), (Peer::Direct, 0.85)];
        targets.extend(than.map(|(than, factor)| ours(workload, Metric::Gbps, than, factor)));
    }
    targets.extend([
        ours("udp-64", Metric::Rate, Peer::Forkproxy, 1.5),
        ours("udp-64", Metric::Rate, Peer::Nginx, 1.2),
        ours("udp-flood-64", Metric::Rate, Peer::Forkproxy, 2.0),
        ours("udp-flood-1400", Metric::Rate, Peer::Forkproxy, 2.0),
    ]);
    targets.extend(RELAYS.map(|peer| ours("mixed", Metric::P99, peer, 1.0)));
    targets
}

fn nat_targets() -> Vec<Target> {
    let ours = |workload, metric, than, factor| Target { workload, metric, peer: Peer::Nat, than, factor };
    let mut targets =
        vec![ours("conn", Metric::Rate, Peer::Direct, 0.9), ours("conn", Metric::Rate, Peer::IncusNat, 0.95)];
    for workload in BULK {
        targets.push(ours(workload, Metric::Gbps, Peer::Direct, 0.97));
        targets.push(ours(workload, Metric::Gbps, Peer::IncusNat, 0.95));
    }
    targets
}

impl Target {
    fn outcome(&self, results: &Results) -> Outcome {
        let ratio = results.ratio(self.workload, self.peer, self.than, self.metric);
        let side = if self.metric.is_cost() { "at most" } else { "at least" };
        let met = |ratio: Median| {
            if self.metric.is_cost() { ratio.value <= self.factor } else { ratio.value >= self.factor }
        };
        let title = Workload::named(self.workload).map_or(self.workload, |workload| workload.title);
        Outcome {
            what: format!("{}: {title}, {}", self.peer.title(), self.metric.unit()),
            wanted: format!("{side} {} × {}", self.factor, self.than.title()),
            reached: ratio.map_or("–".to_owned(), shown),
            is_met: ratio.map(met),
        }
    }
}

/// Of one connection at a time: within 5 % of the fastest peer.
fn fastest_round_trip(results: &Results) -> Outcome {
    let ratio = |peer| results.ratio("rtt-1", Peer::Relay, peer, Metric::P50);
    let ratios = RELAYS.into_iter().filter_map(|peer| Some((peer, ratio(peer)?)));
    let hardest = ratios.max_by(|(_, one), (_, other)| one.value.total_cmp(&other.value));
    Outcome {
        what: format!("{}: round trips, 1 connection, {}", Peer::Relay.title(), Metric::P50.unit()),
        wanted: "at most 1.05 × the fastest peer".to_owned(),
        reached: hardest
            .map_or("–".to_owned(), |(peer, ratio)| format!("{} ({})", shown(ratio), peer.title())),
        is_met: hardest.map(|(_, ratio)| ratio.value <= 1.05),
    }
}

fn memory(results: &Results) -> Vec<Outcome> {
    let figures = results.memory.get(&Peer::Relay);
    let worker = figures.map(|figures| figures.worker.rss_bytes as f64);
    let idle = figures.and_then(|figures| figures.idle).map(|idle| idle.bytes_each());
    let outcome = |what: &str, wanted: &str, value: Option<f64>, limit: f64, unit: (f64, &str)| Outcome {
        what: format!("{}: {what}", Peer::Relay.title()),
        wanted: wanted.to_owned(),
        reached: value.map_or("–".to_owned(), |value| format!("{:.2} {}", value / unit.0, unit.1)),
        is_met: value.map(|value| value < limit),
    };
    let all = results.scale.as_ref().filter(|scale| scale.relay_devices >= MANY);
    let all = all.map(|scale| scale.relay.pss_bytes as f64);
    vec![
        outcome("memory of all processes, 1,000 devices (PSS)", "under 60 MB", all, MANY_BYTES, (1e6, "MB")),
        outcome("resident memory of a worker", "under 8 MB", worker, WORKER_BYTES, (1e6, "MB")),
        outcome("memory for an idle connection", "under 2 kB", idle, IDLE_BYTES, (1e3, "kB")),
    ]
}

/// With many devices: as fast as with one, and no burden for others.
fn many_devices(results: &Results) -> Vec<Outcome> {
    let outcome = |what: String, ratio: Option<Median>, factor: f64, than: &str| Outcome {
        what: format!("{}: {what}", Peer::Nat.title()),
        wanted: format!("at least {factor} × with {than}"),
        reached: ratio.map_or("–".to_owned(), shown),
        is_met: ratio.map(|ratio| ratio.value >= factor),
    };
    let pair = |number: String, through, unrelated| {
        [
            outcome(format!("new connections through the last of {number} devices"), through, 0.95, "one"),
            outcome(format!("unrelated connections beside {number} devices"), unrelated, 0.97, "none"),
        ]
    };
    let Some(scale) = &results.scale else { return pair("many".to_owned(), None, None).into() };
    let ours = scale.many.iter().filter(|many| many.peer == Peer::Nat);
    ours.flat_map(|many| pair(thousands(f64::from(many.devices)), scale.through(many), many.unrelated()))
        .collect()
}

/// A ratio with its interval.
pub(crate) fn shown(ratio: Median) -> String {
    format!("{:.2} ({:.2}–{:.2})", ratio.value, ratio.low, ratio.high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Sample;

    /// Fails when: a latency that is higher than wanted, or a rate that is lower, counts as met.
    #[test]
    fn a_target_has_a_side() {
        let mut results = Results::default();
        let one = |rate, p99| vec![Some(Sample { rate: Some(rate), p99_us: Some(p99), ..Sample::default() })];
        let peers = results.samples.entry("rtt-64".to_owned()).or_default();
        peers.insert(Peer::Forkproxy, one(100.0, 100.0));
        peers.insert(Peer::Relay, one(124.0, 51.0));
        let met = |results: &Results| -> Vec<Option<bool>> {
            outcomes(results)
                .into_iter()
                .filter(|outcome| outcome.what.contains("64 connections") && outcome.wanted.contains("Incus"))
                .map(|outcome| outcome.is_met)
                .collect()
        };
        assert_eq!(met(&results), [Some(false), Some(false)]);
        results.samples.entry("rtt-64".to_owned()).or_default().insert(Peer::Relay, one(125.0, 50.0));
        assert_eq!(met(&results), [Some(true), Some(true)]);
        assert_eq!(met(&Results::default()), [None, None]);
    }

    #[test]
    fn targets_name_workloads_that_are() {
        for target in relay_targets().into_iter().chain(nat_targets()) {
            let workload = Workload::named(target.workload).expect("a workload");
            assert!(workload.metrics().contains(&target.metric), "{target:?}");
        }
    }
}
