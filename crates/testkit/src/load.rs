//! A client that makes connections at a rate, or as fast as some allow, and says of each how it
//! ended. One thread, non-blocking: thousands may be under way, as while an instance is held.

mod engine;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{Addr, Site};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Everything came back.
    Ok,
    /// ECONNREFUSED.
    Refused,
    /// ECONNRESET or EPIPE, before or after some bytes.
    Reset,
    /// The stream ended before everything came back.
    Short,
    /// Something else came back than was sent.
    Wrong,
    /// It took too long.
    TimedOut,
    /// Any other failure; the errno.
    Failed(i32),
}

/// One connection.
#[derive(Debug, Clone, Copy)]
pub struct Record {
    /// When it began, from the start of the load.
    pub at: Duration,
    /// From connect to the last byte, or to the failure.
    pub took: Duration,
    /// How it ended.
    pub outcome: Outcome,
}

/// When connections begin.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// So many each second, whatever became of the others. What a slow machine misses by more than
    /// a second is left out, so that a stall of the client is no burst at the server.
    PerSecond(u32),
    /// So many under way at all times.
    InFlight(u32),
}

/// A load to come: each connection sends a payload of its own to a service that echoes, and wants
/// it back.
#[derive(Debug, Clone)]
pub struct Load {
    target: Addr,
    pace: Pace,
    payload_bytes: usize,
    limit: Duration,
    total: Option<u64>,
}

impl Load {
    /// Connections to `target`, 64 bytes each, with 30 s of patience, until stopped.
    #[must_use]
    pub fn new(target: &Addr, pace: Pace) -> Self {
        Self { target: target.clone(), pace, payload_bytes: 64, limit: Duration::from_secs(30), total: None }
    }

    /// The same with this many bytes each way.
    #[must_use]
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// The same with this patience.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The same, ending by itself after this many connections.
    #[must_use]
    pub fn total(mut self, connections: u64) -> Self {
        self.total = Some(connections);
        self
    }

    /// Starts it at a site.
    ///
    /// # Errors
    /// When the site is gone.
    pub fn start(self, site: &Site) -> Result<RunningLoad> {
        let shared = Arc::new(Shared::default());
        let started = Instant::now();
        let (site, for_thread) = (site.clone(), Arc::clone(&shared));
        let thread = std::thread::spawn(move || site.run(|| engine::run(&self, started, &for_thread)));
        Ok(RunningLoad { shared, started, thread })
    }

    /// Starts it and waits for its end, which needs a [`total`](Self::total).
    ///
    /// # Errors
    /// When the site is gone.
    pub fn run(self, site: &Site) -> Result<Report> {
        self.start(site)?.wait()
    }
}

/// What the thread and its owner share.
#[derive(Debug, Default)]
struct Shared {
    stopping: AtomicBool,
    ok: AtomicU64,
    failed: AtomicU64,
}

/// A load under way.
#[derive(Debug)]
pub struct RunningLoad {
    shared: Arc<Shared>,
    started: Instant,
    thread: JoinHandle<Result<Result<Report>>>,
}

impl RunningLoad {
    /// A moment as [`Record::at`] has it.
    #[must_use]
    pub fn at(&self, moment: Instant) -> Duration {
        moment.saturating_duration_since(self.started)
    }

    /// Connections that ended well so far, and all others that ended.
    #[must_use]
    pub fn so_far(&self) -> (u64, u64) {
        (self.shared.ok.load(Ordering::Relaxed), self.shared.failed.load(Ordering::Relaxed))
    }

    /// Waits until so many more have ended well.
    ///
    /// # Errors
    /// When that takes more than a minute.
    pub fn wait_for_ok(&self, more: u64) -> Result<()> {
        let (begin, goal) = (Instant::now(), self.so_far().0 + more);
        while self.so_far().0 < goal {
            anyhow::ensure!(
                begin.elapsed() < Duration::from_secs(60),
                "the load does not get on: {:?}",
                self.so_far()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Begins no more connections, waits for those under way, and reports.
    ///
    /// # Errors
    /// When the load could not run.
    pub fn stop(self) -> Result<Report> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.wait()
    }

    /// Waits for the end by itself and reports.
    ///
    /// # Errors
    /// When the load could not run.
    pub fn wait(self) -> Result<Report> {
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
            .context("the load broke down")
    }
}

/// What became of a load's connections, in the order of their ends.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Every connection.
    pub records: Vec<Record>,
}

impl Report {
    /// How many ended so.
    #[must_use]
    pub fn count(&self, outcome: Outcome) -> usize {
        self.records.iter().filter(|record| record.outcome == outcome).count()
    }

    /// How many did not end well.
    #[must_use]
    pub fn failures(&self) -> usize {
        self.records.len() - self.count(Outcome::Ok)
    }

    /// Those that began in a span of time.
    #[must_use]
    pub fn between(&self, from: Duration, to: Duration) -> Self {
        let records = self.records.iter().filter(|record| record.at >= from && record.at < to).copied();
        Self { records: records.collect() }
    }

    /// The failures that no cut explains. A cut is a span in which connections that were open at some
    /// moment of it could be reset or ended; those that began when it was over could not, and nobody
    /// may be refused or left waiting.
    #[must_use]
    pub fn unexplained(&self, cuts: &[(Duration, Duration)]) -> Self {
        let is_explained = |record: &Record| {
            matches!(record.outcome, Outcome::Reset | Outcome::Short)
                && cuts.iter().any(|(from, to)| record.at < *to && record.at + record.took >= *from)
        };
        let records =
            self.records.iter().filter(|record| record.outcome != Outcome::Ok && !is_explained(record));
        Self { records: records.copied().collect() }
    }

    /// The time that a share of the good connections stayed within: `0.99` for the 99th
    /// percentile. Zero when there are none.
    #[must_use]
    pub fn percentile(&self, share: f64) -> Duration {
        let good = self.records.iter().filter(|record| record.outcome == Outcome::Ok);
        let mut times: Vec<Duration> = good.map(|record| record.took).collect();
        times.sort_unstable();
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index below the length"
        )]
        let index = (times.len() as f64 * share.clamp(0.0, 1.0)) as usize;
        times.get(index.min(times.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    /// The longest time in which no connection ended well, between the first and the last that did.
    #[must_use]
    pub fn longest_gap(&self) -> Duration {
        let good = self.records.iter().filter(|record| record.outcome == Outcome::Ok);
        let mut ends: Vec<Duration> = good.map(|record| record.at + record.took).collect();
        ends.sort_unstable();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let classes = [
            Outcome::Ok,
            Outcome::Refused,
            Outcome::Reset,
            Outcome::Short,
            Outcome::Wrong,
            Outcome::TimedOut,
        ];
        for outcome in classes {
            write!(f, "{outcome:?} {}, ", self.count(outcome))?;
        }
        let others: Vec<Outcome> = self
            .records
            .iter()
            .map(|record| record.outcome)
            .filter(|o| matches!(o, Outcome::Failed(_)))
            .collect();
        write!(f, "failed {}", others.len())?;
        if let Some(first) = others.first() {
            write!(f, " (first: {first:?})")?;
        }
        let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| self.percentile(share));
        write!(f, "; p50 {p50:.1?}, p99 {p99:.1?}, longest {max:.1?}")
    }
}

#[cfg(test)]
mod tests;
