//! What one measurement of one peer came to.

use serde::{Deserialize, Serialize};

/// One measurement. What a workload does not measure is missing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sample {
    /// Operations (connections, round trips, datagrams) per second of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rate: Option<f64>,
    /// Gigabits of payload per second of the window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gbps: Option<f64>,
    /// Median of the latency, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p50_us: Option<f64>,
    /// 99th percentile of the latency, microseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) p99_us: Option<f64>,
    /// Operations from the client's start to its end.
    pub(crate) operations: u64,
    /// Bytes of payload of the bulk streams, from the client's start to its end.
    pub(crate) bytes: u64,
    /// Operations that failed or were lost.
    pub(crate) failures: u64,
    /// Processor seconds of the peer's processes; missing where the kernel does the work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_cpu: Option<f64>,
    /// Processor seconds of the whole machine: client, peer, service and kernel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) machine_cpu: Option<f64>,
}

/// What can be compared between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    Rate,
    Gbps,
    P50,
    P99,
    /// Processor seconds of the peer per unit of work.
    PeerCpu,
    /// Processor seconds of the machine per unit of work.
    MachineCpu,
}

impl Metric {
    /// Whether less is better.
    pub(crate) fn is_cost(self) -> bool {
        !matches!(self, Self::Rate | Self::Gbps)
    }

    /// How it is named in a table.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Rate => "/s",
            Self::Gbps => "Gb/s",
            Self::P50 => "p50, µs",
            Self::P99 => "p99, µs",
            Self::PeerCpu => "CPU s, processes",
            Self::MachineCpu => "CPU s, machine",
        }
    }

    /// Its value in a sample.
    pub(crate) fn of(self, sample: &Sample) -> Option<f64> {
        match self {
            Self::Rate => sample.rate,
            Self::Gbps => sample.gbps,
            Self::P50 => sample.p50_us,
            Self::P99 => sample.p99_us,
            Self::PeerCpu => Some(sample.peer_cpu? / sample.work()?),
            Self::MachineCpu => Some(sample.machine_cpu? / sample.work()?),
        }
    }
}

impl Sample {
    /// Work done: gigabytes of a bulk stream, else hundreds of thousands of operations.
    fn work(&self) -> Option<f64> {
        let work = if self.bytes > 0 { self.bytes as f64 / 1e9 } else { self.operations as f64 / 1e5 };
        (work > 0.0).then_some(work)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cost_is_per_unit_of_work() {
        let bulk = Sample { bytes: 2_000_000_000, peer_cpu: Some(3.0), operations: 7, ..Sample::default() };
        assert_eq!(Metric::PeerCpu.of(&bulk), Some(1.5));
        assert_eq!(Metric::MachineCpu.of(&bulk), None);
        let calls = Sample { operations: 50_000, machine_cpu: Some(1.0), ..Sample::default() };
        assert_eq!(Metric::MachineCpu.of(&calls), Some(2.0));
        assert_eq!(Metric::PeerCpu.of(&Sample { peer_cpu: Some(1.0), ..Sample::default() }), None);
    }
}
