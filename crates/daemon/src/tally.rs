//! What this process has done since it started, for `/metrics` and `status`: passes of reconcile, drift that was mended,
//! workers, events of servers, writes of the state, and caps that were hit. Numbers of one process, so they stand in one
//! place of it; nothing decides by them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portway_control::api::LimitHits;
use portway_model::Provider;

/// Something that is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// A listener was not where clients look for it, and was made anew.
    ListenerMended,
    /// A worker that should serve was gone or hung, and was replaced.
    WorkerLost,
    /// The keeper was gone, and was replaced.
    KeeperLost,
    /// Tracked connections led elsewhere than the table, and were forgotten.
    ConntrackSwept,
    /// A worker was started.
    WorkerStarted,
    /// One could not be.
    WorkerNotStarted,
    /// A worker of an earlier daemon goes on.
    WorkerAdopted,
    /// A worker of another build, or of a run that is over, finishes and has a successor.
    WorkerReplaced,
    /// The state was written.
    StateWritten,
    /// It could not be.
    StateNotWritten,
    /// An event of Incus came.
    IncusEvent,
    /// Events of Incus may have been missed: the stream ended.
    IncusEventsLost,
    /// As of Incus, of LXD.
    LxdEvent,
    /// As of Incus, of LXD.
    LxdEventsLost,
    /// A record of the access log was written.
    AccessWritten,
    /// One was not, and never will be.
    AccessLost,
    /// The file of the access log could not be written.
    AccessFailed,
}

/// How many kinds there are.
const DONE_COUNT: usize = Done::AccessFailed as usize + 1;

/// A cap of the daemon that was hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    /// Connections to the control socket.
    ControlConnections,
    /// Readers of events.
    EventReaders,
    /// News of workers that wait for an instance.
    WorkerNews,
    /// Clients kept for the next worker of a device.
    Orphans,
    /// Descriptors that one worker hands back.
    OrphanDescriptors,
    /// Devices of one worker: the next one gets another.
    WorkerDevices,
    /// Commands that wait for an instance.
    Commands,
    /// Rounds of one pass of reconcile.
    ReconcileRounds,
    /// Size of the state.
    StateBytes,
    /// Records of the access log that wait to be written.
    AccessQueue,
}

impl Hit {
    /// All of them.
    pub(crate) const ALL: [Hit; HIT_COUNT] = [
        Hit::ControlConnections,
        Hit::EventReaders,
        Hit::WorkerNews,
        Hit::Orphans,
        Hit::OrphanDescriptors,
        Hit::WorkerDevices,
        Hit::Commands,
        Hit::ReconcileRounds,
        Hit::StateBytes,
        Hit::AccessQueue,
    ];

    /// Its name in metrics, `status` and `docs/limits.md`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Hit::ControlConnections => "control.connections",
            Hit::EventReaders => "control.event-readers",
            Hit::WorkerNews => "instance.worker-news",
            Hit::Orphans => "instance.waiting-clients",
            Hit::OrphanDescriptors => "worker.returned-clients",
            Hit::WorkerDevices => "worker.devices",
            Hit::Commands => "instance.commands",
            Hit::ReconcileRounds => "instance.reconcile-rounds",
            Hit::StateBytes => "state.bytes",
            Hit::AccessQueue => "access-log.queue",
        }
    }
}

/// How many caps there are.
const HIT_COUNT: usize = Hit::AccessQueue as usize + 1;

static DONE: [AtomicU64; DONE_COUNT] = [const { AtomicU64::new(0) }; DONE_COUNT];
static HITS: [AtomicU64; HIT_COUNT] = [const { AtomicU64::new(0) }; HIT_COUNT];
static PASSES: AtomicU64 = AtomicU64::new(0);
static PASSES_MICROS: AtomicU64 = AtomicU64::new(0);

/// One more of `done`.
pub(crate) fn count(done: Done) {
    add(done, 1);
}

/// So many more of `done`.
pub(crate) fn add(done: Done, count: u64) {
    DONE[done as usize].fetch_add(count, Ordering::Relaxed);
}

/// How many of `done` there were.
pub(crate) fn counted(done: Done) -> u64 {
    DONE[done as usize].load(Ordering::Relaxed)
}

/// A cap was hit.
pub(crate) fn hit(cap: Hit) {
    HITS[cap as usize].fetch_add(1, Ordering::Relaxed);
}

/// How often a cap was hit.
pub(crate) fn hits(cap: Hit) -> u64 {
    HITS[cap as usize].load(Ordering::Relaxed)
}

/// The caps that were hit.
pub(crate) fn all_hits() -> Vec<LimitHits> {
    let all = Hit::ALL.iter().map(|cap| LimitHits { limit: cap.name().to_owned(), hits: hits(*cap) });
    all.filter(|of| of.hits > 0).collect()
}

/// An instance was looked at and what differed was put right.
pub(crate) fn reconciled(took: Duration) {
    PASSES.fetch_add(1, Ordering::Relaxed);
    PASSES_MICROS.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// How many times, and how long that took in all, microseconds.
pub(crate) fn passes() -> (u64, u64) {
    (PASSES.load(Ordering::Relaxed), PASSES_MICROS.load(Ordering::Relaxed))
}

/// An event of a server came.
pub(crate) fn event(provider: Provider) {
    match provider {
        Provider::Incus => count(Done::IncusEvent),
        Provider::Lxd => count(Done::LxdEvent),
        Provider::Netns | Provider::Pid => {}
    }
}

/// Events of a server may have been missed.
pub(crate) fn events_lost(provider: Provider) {
    match provider {
        Provider::Incus => count(Done::IncusEventsLost),
        Provider::Lxd => count(Done::LxdEventsLost),
        Provider::Netns | Provider::Pid => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when: two caps are counted as one, or one has no name of its own.
    #[test]
    fn each_cap_has_its_own_count_and_name() {
        let places: std::collections::BTreeSet<usize> = Hit::ALL.iter().map(|cap| *cap as usize).collect();
        assert_eq!(places, (0..HIT_COUNT).collect());
        let names: std::collections::BTreeSet<&str> = Hit::ALL.iter().map(|cap| cap.name()).collect();
        assert_eq!(names.len(), HIT_COUNT);
        let before = hits(Hit::ReconcileRounds);
        hit(Hit::ReconcileRounds);
        assert_eq!(hits(Hit::ReconcileRounds), before + 1);
        assert!(all_hits().iter().any(|of| of.limit == "instance.reconcile-rounds" && of.hits > before));
    }
}
