//! What the gateway counts, as Prometheus reads it.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Broker, lock};

/// Counters since the gateway was started.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Connections that were taken, and those that were turned away for their source's faults.
    pub(super) connections: AtomicU64,
    pub(super) turned_away: AtomicU64,
    /// Logins that succeeded and that did not; connections whose process asked what it may not.
    pub(super) accepted: AtomicU64,
    pub(super) refused: AtomicU64,
    pub(super) breaches: AtomicU64,
    /// Sessions that live.
    pub(super) sessions: AtomicU64,
    /// Programs that were started and that were not.
    pub(super) started: AtomicU64,
    pub(super) not_started: AtomicU64,
    /// Bytes of programs that have ended, from clients and to them.
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    /// Whether the server answered when it was asked last; 1 until it was asked.
    pub(super) server_down: AtomicU64,
}

/// Name, type, help and values of a metric, each value with its labels.
type Row<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, u64)]);

/// One more.
pub(super) fn bump(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Count {
    /// The text format, version 0.0.4.
    pub(super) fn text(&self, broker: &Broker) -> String {
        let waiting = u64::try_from(lock(&broker.waiting).len()).unwrap_or(u64::MAX);
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let rows: [Row<'_>; 8] = [
            (
                "connections_total",
                "counter",
                "Connections by what became of them at the door.",
                &[
                    ("result=\"taken\"", load(&self.connections)),
                    ("result=\"turned-away\"", load(&self.turned_away)),
                ],
            ),
            ("waiting", "gauge", "Connections that have not logged in.", &[("", waiting)]),
            (
                "logins_total",
                "counter",
                "Logins by their result.",
                &[
                    ("result=\"accepted\"", load(&self.accepted)),
                    ("result=\"refused\"", load(&self.refused)),
                    ("result=\"breach\"", load(&self.breaches)),
                ],
            ),
            ("sessions", "gauge", "Connections that have logged in.", &[("", load(&self.sessions))]),
            (
                "programs_total",
                "counter",
                "Programs by whether they were started.",
                &[
                    ("result=\"started\"", load(&self.started)),
                    ("result=\"not-started\"", load(&self.not_started)),
                ],
            ),
            (
                "in_bytes_total",
                "counter",
                "Bytes from clients to programs that have ended.",
                &[("", load(&self.bytes_in))],
            ),
            (
                "out_bytes_total",
                "counter",
                "Bytes to clients from programs that have ended.",
                &[("", load(&self.bytes_out))],
            ),
            (
                "server_up",
                "gauge",
                "1 while the server answers; asked with --healthcheck only.",
                &[("", 1 - load(&self.server_down).min(1))],
            ),
        ];
        let mut text = String::new();
        for (name, kind, help, values) in rows {
            // Writing to a String cannot fail.
            let _infallible =
                writeln!(text, "# HELP portway_ssh_{name} {help}\n# TYPE portway_ssh_{name} {kind}");
            for (labels, value) in values {
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                let _infallible = writeln!(text, "portway_ssh_{name}{labels} {value}");
            }
        }
        text
    }
}
