//! All that one benchmark measured, as it is written to a file and read again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::arena::Arena;
use crate::peer::Peer;
use crate::process::Memory;
use crate::profile::Profiles;
use crate::sample::{Metric, Sample};
use crate::scale::Scale;
use crate::stats::Median;
use crate::workload::Workload;

/// A benchmark.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Results {
    /// The command that does it again.
    pub(crate) command: String,
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    /// Length of each window.
    pub(crate) seconds: f64,
    /// By workload and peer: a sample of each round, or none when it failed.
    pub(crate) samples: BTreeMap<String, BTreeMap<Peer, Vec<Option<Sample>>>>,
    /// By peer.
    pub(crate) memory: BTreeMap<Peer, MemoryFigures>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) scale: Option<Scale>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) profiles: Profiles,
    /// Parts that could not be measured, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}

/// What it ran on and with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// Load average of the minute before.
    pub(crate) load: String,
    pub(crate) versions: BTreeMap<String, String>,
}

/// Memory of the processes of one peer.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MemoryFigures {
    /// How many processes there are, for one device of each kind the peer serves.
    pub(crate) processes: usize,
    /// All of them, before the first connection.
    pub(crate) fresh: Memory,
    /// The largest that carries bytes.
    pub(crate) worker: Memory,
    /// All of them before the idle connections, and with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idle: Option<IdleFigures>,
}

/// Memory beside connections that are open and still.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct IdleFigures {
    pub(crate) connections: u64,
    /// Processes that hold them, all at once.
    pub(crate) processes: usize,
    pub(crate) before: Memory,
    pub(crate) with: Memory,
}

impl IdleFigures {
    /// Bytes in user space for each connection.
    pub(crate) fn bytes_each(&self) -> f64 {
        self.with.pss_bytes.saturating_sub(self.before.pss_bytes) as f64 / self.connections.max(1) as f64
    }
}

impl Results {
    fn values(&self, workload: &str, peer: Peer, metric: Metric) -> Vec<Option<f64>> {
        let samples = self.samples.get(workload).and_then(|peers| peers.get(&peer));
        samples.into_iter().flatten().map(|sample| metric.of(sample.as_ref()?)).collect()
    }

    /// Median of a metric over the rounds.
    pub(crate) fn median(&self, workload: &Workload, peer: Peer, metric: Metric) -> Option<Median> {
        Median::of(self.values(workload.name, peer, metric).into_iter().flatten())
    }

    /// Median of the ratios of two peers, each of the same round.
    pub(crate) fn ratio(&self, workload: &str, peer: Peer, to: Peer, metric: Metric) -> Option<Median> {
        let (ours, theirs) = (self.values(workload, peer, metric), self.values(workload, to, metric));
        Median::of(ours.into_iter().zip(theirs).filter_map(|(ours, theirs)| Some(ours? / theirs?)))
    }

    /// Takes note of a part that failed: what was measured is worth having without it.
    pub(crate) fn keep<T>(&mut self, part: &str, measured: anyhow::Result<T>) -> Option<T> {
        measured.map_err(|error| self.problems.push(format!("{part}: {error:#}"))).ok()
    }

    /// Measurements and parts that failed.
    pub(crate) fn failed(&self) -> usize {
        let parts = self.problems.len();
        parts
            + self
                .samples
                .values()
                .flat_map(BTreeMap::values)
                .flatten()
                .filter(|sample| sample.is_none())
                .count()
    }
}

impl Machine {
    /// This one. What cannot be asked is shown as unknown: no figure depends on it.
    pub(crate) fn look(arena: &Arena) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let server = arena.bed.incus().get("/1.0").unwrap_or_default();
        let incus = server["environment"]["server_version"].as_str().unwrap_or("unknown").to_owned();
        let portway = arena.daemon.command().arg("--version").output();
        let portway = portway.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        let versions = [
            ("Portway", portway.unwrap_or_default().replace("portway ", "")),
            ("Incus", incus),
            ("nginx", first_version("nginx", "-v")),
            ("HAProxy", first_version("haproxy", "-v")),
            ("socat", first_version("socat", "-V")),
        ];
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: processor.map_or("unknown", |(_, name)| name).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            load: read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            versions: versions.into_iter().map(|(name, version)| (name.to_owned(), version)).collect(),
        }
    }
}

/// The first word with a digit in front and a dot in it that a program says of itself.
fn first_version(program: impl AsRef<Path>, option: &str) -> String {
    let Ok(output) = Command::new(program.as_ref()).arg(option).output() else { return "missing".to_owned() };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let words = said.split(|c: char| c.is_whitespace() || c == '/');
    let mut versions =
        words.filter(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()));
    versions.next().unwrap_or("unknown").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(rates: &[Option<f64>]) -> Vec<Option<Sample>> {
        rates.iter().map(|rate| rate.map(|rate| Sample { rate: Some(rate), ..Sample::default() })).collect()
    }

    /// Fails when: medians are divided in place of the rounds.
    #[test]
    fn ratios_are_of_the_same_round() {
        let mut results = Results::default();
        let peers = results.samples.entry("conn".to_owned()).or_default();
        peers.insert(Peer::Direct, rates(&[Some(10.0), Some(100.0), Some(1.0), None]));
        peers.insert(Peer::Relay, rates(&[Some(5.0), Some(90.0), Some(0.5), Some(7.0)]));
        let ratio = results.ratio("conn", Peer::Relay, Peer::Direct, Metric::Rate).unwrap();
        assert!((ratio.value - 0.5).abs() < 1e-9 && (ratio.high - 0.9).abs() < 1e-9, "{ratio:?}");
        assert_eq!(results.ratio("conn", Peer::Nat, Peer::Direct, Metric::Rate), None);
        assert_eq!(results.failed(), 1);
    }

    #[test]
    fn a_part_that_fails_takes_no_other_along() {
        let mut results = Results::default();
        assert_eq!(results.keep("one", Ok(1)), Some(1));
        assert_eq!(results.keep::<u8>("two", Err(anyhow::anyhow!("no"))), None);
        assert_eq!((results.problems.as_slice(), results.failed()), (&["two: no".to_owned()][..], 1));
    }

    #[test]
    fn results_are_read_as_they_were_written() {
        let mut results = Results { rounds: 9, command: "x".to_owned(), ..Results::default() };
        results
            .samples
            .entry("conn".to_owned())
            .or_default()
            .insert(Peer::IncusNat, rates(&[Some(1.5), None]));
        results.memory.insert(Peer::Relay, MemoryFigures { processes: 3, ..MemoryFigures::default() });
        let text = serde_json::to_string(&results).unwrap();
        let again: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
        assert!(text.contains("incus-nat"), "{text}");
    }
}
