//! The workloads: what the client does, over which kind of device, and what is compared.

use crate::sample::Metric;
use crate::server::{LARGE, SMALL};

/// The sockets of a device: listen side, connect side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    Tcp,
    Udp,
    UnixToTcp,
    UnixToUnix,
}

impl Path {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::UnixToTcp, Self::UnixToUnix];
}

/// Which way the bytes of a bulk stream go, as the client sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// What the client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Connect, one byte there and back, close; so many under way at all times.
    Connect { in_flight: usize },
    /// 64 bytes there and back on each of so many connections, without pause.
    PingPong { connections: usize },
    /// Streams that send as fast as they may, in writes of so many bytes.
    Bulk { direction: Direction, streams: usize, write: usize },
    /// 64 bytes there and back on one connection, beside a bulk stream towards the client.
    Mixed,
    /// A datagram of 64 bytes there and back for each of so many clients, without pause.
    Datagrams { clients: usize },
    /// Datagrams one way: the highest rate at which at most one in a thousand is lost.
    Flood { bytes: usize },
    /// Connections that are open and still: memory of the peer for each.
    Idle,
}

/// One workload.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    /// What `--only` calls it.
    pub(crate) name: &'static str,
    /// What the documentation calls it.
    pub(crate) title: &'static str,
    pub(crate) kind: Kind,
    pub(crate) path: Path,
}

const fn bulk(direction: Direction, streams: usize, write: usize) -> Kind {
    Kind::Bulk { direction, streams, write }
}

const fn workload(name: &'static str, title: &'static str, kind: Kind, path: Path) -> Workload {
    Workload { name, title, kind, path }
}

/// All of them, in the order they are run and shown.
pub(crate) const WORKLOADS: &[Workload] = {
    use Direction::{Down, Up};
    use Path::{Tcp, Udp, UnixToTcp, UnixToUnix};
    &[
        workload("conn", "new connections, 32 under way", Kind::Connect { in_flight: 32 }, Tcp),
        workload("rtt-1", "round trips, 1 connection", Kind::PingPong { connections: 1 }, Tcp),
        workload("rtt-64", "round trips, 64 connections", Kind::PingPong { connections: 64 }, Tcp),
        workload("rtt-1000", "round trips, 1,000 connections", Kind::PingPong { connections: 1000 }, Tcp),
        workload("up-1", "bulk up, 1 stream, 64 kB writes", bulk(Up, 1, SMALL), Tcp),
        workload("up-8", "bulk up, 8 streams, 64 kB writes", bulk(Up, 8, SMALL), Tcp),
        workload("up-1-large", "bulk up, 1 stream, 1 MB writes", bulk(Up, 1, LARGE), Tcp),
        workload("up-8-large", "bulk up, 8 streams, 1 MB writes", bulk(Up, 8, LARGE), Tcp),
        workload("down-1", "bulk down, 1 stream, 64 kB writes", bulk(Down, 1, SMALL), Tcp),
        workload("down-8", "bulk down, 8 streams, 64 kB writes", bulk(Down, 8, SMALL), Tcp),
        workload("down-1-large", "bulk down, 1 stream, 1 MB writes", bulk(Down, 1, LARGE), Tcp),
        workload("down-8-large", "bulk down, 8 streams, 1 MB writes", bulk(Down, 8, LARGE), Tcp),
        workload("mixed", "round trips beside a bulk stream", Kind::Mixed, Tcp),
        workload("udp-1", "UDP round trips, 1 client", Kind::Datagrams { clients: 1 }, Udp),
        workload("udp-64", "UDP round trips, 64 clients", Kind::Datagrams { clients: 64 }, Udp),
        workload("udp-flood-64", "UDP one way, 64 bytes, loss-free", Kind::Flood { bytes: 64 }, Udp),
        workload("udp-flood-1400", "UDP one way, 1,400 bytes, loss-free", Kind::Flood { bytes: 1400 }, Udp),
        workload("unix-tcp", "unix to tcp, round trips, 64", Kind::PingPong { connections: 64 }, UnixToTcp),
        workload("unix-tcp-down", "unix to tcp, bulk down, 1 stream", bulk(Down, 1, SMALL), UnixToTcp),
        workload(
            "unix-unix",
            "unix to unix, round trips, 64",
            Kind::PingPong { connections: 64 },
            UnixToUnix,
        ),
        workload("unix-unix-down", "unix to unix, bulk down, 1 stream", bulk(Down, 1, SMALL), UnixToUnix),
        workload("idle", "idle connections", Kind::Idle, Tcp),
    ]
};

impl Workload {
    /// The one of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        WORKLOADS.iter().find(|workload| workload.name == name)
    }

    /// What its peers are compared by; the first is the one of the plot.
    pub(crate) fn metrics(&self) -> &'static [Metric] {
        match self.kind {
            Kind::Connect { .. } => &[Metric::Rate, Metric::P99],
            Kind::PingPong { connections: 1 } | Kind::Datagrams { clients: 1 } => &[Metric::P50, Metric::P99],
            Kind::PingPong { .. } | Kind::Datagrams { .. } => &[Metric::Rate, Metric::P50, Metric::P99],
            Kind::Bulk { .. } => &[Metric::Gbps],
            Kind::Mixed => &[Metric::P99, Metric::P50, Metric::Gbps],
            Kind::Flood { .. } => &[Metric::Rate],
            Kind::Idle => &[],
        }
    }

    /// What its costs are per.
    pub(crate) fn work(&self) -> &'static str {
        match self.kind {
            Kind::Bulk { .. } | Kind::Mixed => "GB",
            Kind::Connect { .. } => "100k connections",
            Kind::PingPong { .. } | Kind::Datagrams { .. } => "100k round trips",
            Kind::Flood { .. } => "100k datagrams",
            Kind::Idle => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_different() {
        for workload in WORKLOADS {
            let same = WORKLOADS.iter().filter(|other| other.name == workload.name).count();
            assert_eq!(same, 1, "{}", workload.name);
        }
    }
}
