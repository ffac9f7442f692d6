//! What the daemon counts of itself.

use portway_control::api;

use super::page::{Page, labels, seconds};
use crate::tally::{self, Done, Hit};

/// A family: its name, its label, its help, and what is counted by each value of the label.
type Counted = (&'static str, &'static str, &'static str, &'static [(&'static str, Done)]);

/// Families with one label whose values are a list of words.
const BY_KIND: [Counted; 6] = [
    (
        "portway_drift_total",
        "kind",
        "What was found to differ from what is wanted, and was put right.",
        &[
            ("listener", Done::ListenerMended),
            ("worker", Done::WorkerLost),
            ("keeper", Done::KeeperLost),
            ("conntrack", Done::ConntrackSwept),
        ],
    ),
    (
        "portway_workers_total",
        "event",
        "Workers by what became of them.",
        &[
            ("started", Done::WorkerStarted),
            ("not_started", Done::WorkerNotStarted),
            ("adopted", Done::WorkerAdopted),
            ("replaced", Done::WorkerReplaced),
            ("lost", Done::WorkerLost),
        ],
    ),
    (
        "portway_server_events_total",
        "server",
        "Events of servers.",
        &[("incus", Done::IncusEvent), ("lxd", Done::LxdEvent)],
    ),
    (
        "portway_server_event_gaps_total",
        "server",
        "Ends of event streams, in which events may have been missed; every instance is looked at then.",
        &[("incus", Done::IncusEventsLost), ("lxd", Done::LxdEventsLost)],
    ),
    (
        "portway_state_writes_total",
        "result",
        "Writes of the state of devices.",
        &[("written", Done::StateWritten), ("failed", Done::StateNotWritten)],
    ),
    (
        "portway_access_log_records_total",
        "result",
        "Records of the access log.",
        &[("written", Done::AccessWritten), ("lost", Done::AccessLost)],
    ),
];

/// What the daemon has done, which servers answer, and which of its caps were hit.
pub(crate) fn page(nat_repairs: u64, servers: &[(String, bool)], devices: &[api::Device]) -> String {
    let mut page = Page::default();
    page.single(
        "portway_nat_repairs_total",
        "counter",
        "Changes of the NAT table by others that were put right.",
        nat_repairs,
    );
    let (passes, micros) = tally::passes();
    let name = "portway_reconcile_seconds";
    page.family(name, "summary", "Passes over one instance, and how long they took.");
    page.sample(&format!("{name}_sum"), "", seconds(micros));
    page.sample(&format!("{name}_count"), "", passes);
    for (name, label, help, values) in BY_KIND {
        page.family(name, "counter", help);
        for (value, done) in values {
            page.sample(name, &labels([(label, value)]), tally::counted(*done));
        }
        if name == "portway_drift_total" {
            page.sample(name, &labels([(label, "nat_table")]), nat_repairs);
        }
    }
    page.family("portway_server_up", "gauge", "1 while a server answers.");
    for (server, is_up) in servers {
        page.sample("portway_server_up", &labels([("server", server)]), u8::from(*is_up));
    }
    page.single(
        "portway_access_log_failures_total",
        "counter",
        "Times that the file of the access log could not be written.",
        tally::counted(Done::AccessFailed),
    );
    let name = "portway_limit_hits_total";
    page.family(name, "counter", "How often a cap was hit; docs/limits.md says what each is.");
    for cap in Hit::ALL {
        page.sample(name, &labels([("limit", cap.name())]), tally::hits(cap));
    }
    for (limit, hits) in of_devices(devices) {
        page.sample(name, &labels([("limit", limit)]), hits);
    }
    page.into_text()
}

/// Caps of devices, with how often they were hit in all of them.
pub(crate) fn of_devices(devices: &[api::Device]) -> [(&'static str, u64); 5] {
    let sum = |count: fn(&api::Device) -> u64| devices.iter().map(count).fold(0, u64::saturating_add);
    [
        ("device.limits.connections", sum(|device| device.over_connections)),
        ("device.limits.rate", sum(|device| device.over_rate)),
        ("device.limits.per_source", sum(|device| device.over_per_source)),
        ("device.udp.max_flows", sum(|device| device.evicted)),
        ("device.descriptors", sum(|device| device.failures.no_descriptors)),
    ]
}
