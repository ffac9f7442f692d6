//! The client of all workloads: one thread (the mixed one: two), no allocation while it measures.

mod bulk;
mod connect;
mod datagram;
mod flood;
mod idle;
mod pingpong;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::net::Target;
use crate::sample::Sample;
use crate::workload::{Kind, Workload};

/// Bytes of a message that goes there and back.
const MESSAGE: usize = 64;

/// How often a loop that waits looks at the clock, at least.
const GLANCE: Duration = Duration::from_millis(100);

/// What is to be measured.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// Where the peer listens.
    pub(crate) target: Target,
    /// Where the service itself counts datagrams.
    pub(crate) counter: Option<SocketAddr>,
    /// Time before the window, which is not counted.
    pub(crate) warm: Duration,
    /// The window.
    pub(crate) span: Duration,
    /// Connections of the idle workload.
    pub(crate) idle: usize,
}

/// Measures.
///
/// # Errors
/// When the peer refuses, or nothing comes back.
pub(crate) fn measure(workload: &Workload, ask: &Ask) -> Result<Sample> {
    let sample = match workload.kind {
        Kind::Connect { in_flight } => connect::run(ask, in_flight)?,
        Kind::PingPong { connections: 1 } => pingpong::run_one(ask)?,
        Kind::PingPong { connections } => pingpong::run(ask, connections)?,
        Kind::Bulk { direction, streams, write } => bulk::run(ask, direction, streams, write)?,
        Kind::Mixed => mixed(ask)?,
        Kind::Datagrams { clients } => datagram::run(ask, clients)?,
        Kind::Flood { bytes } => flood::run(ask, bytes)?,
        Kind::Idle => idle::run(ask)?,
    };
    ensure!(sample.operations + sample.bytes > 0, "nothing came back from {}", ask.target);
    Ok(sample)
}

/// A round trip at a time, beside a stream that has begun before the window and ends after it.
fn mixed(ask: &Ask) -> Result<Sample> {
    use crate::server::SMALL;
    use crate::workload::Direction;
    let longer = Ask { span: ask.span + Duration::from_millis(20), ..ask.clone() };
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| bulk::run(&longer, Direction::Down, 1, SMALL));
        let trips = pingpong::run_one(ask);
        let stream = stream.join().map_err(|_| anyhow::anyhow!("the bulk stream failed"))??;
        Ok(Sample { gbps: stream.gbps, bytes: stream.bytes, ..trips? })
    })
}

/// The window of a measurement.
#[derive(Debug, Clone, Copy)]
struct Window {
    opens: Instant,
    closes: Instant,
}

impl Window {
    /// Opens after the time to warm up.
    fn after_warming(ask: &Ask) -> Self {
        let opens = Instant::now() + ask.warm;
        Self { opens, closes: opens + ask.span }
    }

    fn holds(&self, now: Instant) -> bool {
        now >= self.opens
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.closes
    }

    /// So many of something, per second.
    fn rate(&self, count: u64) -> f64 {
        count as f64 / (self.closes - self.opens).as_secs_f64()
    }
}

/// Nanoseconds between the two.
fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
