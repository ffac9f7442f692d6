//! Counters in the Prometheus text format, version 0.0.4.

use std::fmt::Write;

use portway_control::api;

type Value = fn(&api::Device) -> Option<u64>;

/// Name, type, help and value of each metric.
const METRICS: [(&str, &str, &str, Value); 14] = [
    ("portway_device_up", "gauge", "1 while the device serves.", |device| {
        Some(u64::from(device.state == api::DeviceState::Active))
    }),
    ("portway_device_connections", "gauge", "Live connections or flows.", |device| {
        Some(device.connections_now)
    }),
    ("portway_device_connections_total", "counter", "Connections or flows taken in.", |device| {
        Some(device.connections_total)
    }),
    ("portway_device_in_bytes_total", "counter", "Payload bytes from clients to the target.", |device| {
        device.bytes_in
    }),
    ("portway_device_out_bytes_total", "counter", "Payload bytes from the target to clients.", |device| {
        device.bytes_out
    }),
    ("portway_device_dials_failed_total", "counter", "Dials that failed.", |device| {
        Some(device.dials_failed)
    }),
    ("portway_device_resets_total", "counter", "Connections ended by a reset.", |device| Some(device.resets)),
    ("portway_device_dropped_total", "counter", "Datagrams or descriptors dropped.", |device| {
        Some(device.dropped)
    }),
    ("portway_device_evicted_total", "counter", "Flows evicted because the table was full.", |device| {
        Some(device.evicted)
    }),
    ("portway_device_denied_total", "counter", "Clients refused by allow or deny.", |device| {
        Some(device.denied)
    }),
    (
        "portway_device_over_connections_total",
        "counter",
        "Clients refused by limits.connections.",
        |device| Some(device.over_connections),
    ),
    ("portway_device_over_rate_total", "counter", "Clients refused by limits.rate.", |device| {
        Some(device.over_rate)
    }),
    ("portway_device_over_per_source_total", "counter", "Clients refused by limits.per_source.", |device| {
        Some(device.over_per_source)
    }),
    ("portway_device_bad_headers_total", "counter", "Clients without a valid PROXY header.", |device| {
        Some(device.bad_headers)
    }),
];

/// All metrics of all devices, and how often the NAT table was put right.
pub(crate) fn render(devices: &[api::Device], nat_repairs: u64) -> String {
    let mut text = format!(
        "# HELP portway_nat_repairs_total Changes of the NAT table by others that were put right.\n\
         # TYPE portway_nat_repairs_total counter\nportway_nat_repairs_total {nat_repairs}\n"
    );
    for (name, kind, help, value) in METRICS {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for device in devices {
            // What is not counted is left out: 0 would be a number.
            let Some(value) = value(device) else { continue };
            let (instance, label) = (escape(&device.instance.to_string()), escape(device.name.as_str()));
            let _ = writeln!(text, "{name}{{instance=\"{instance}\",device=\"{label}\"}} {value}");
        }
    }
    text
}

type OfHealth = fn(&api::Health) -> Option<u64>;

/// The same of instances that are asked for their health.
const HEALTH: [(&str, &str, &str, OfHealth); 3] = [
    ("portway_instance_healthy", "gauge", "1 while the service is healthy, 0 while it is not.", |one| {
        match one.state {
            api::HealthState::Starting => None,
            api::HealthState::Healthy => Some(1),
            api::HealthState::Unhealthy => Some(0),
        }
    }),
    ("portway_health_tests_total", "counter", "Tests of health since the instance is watched.", |one| {
        Some(one.tests_total)
    }),
    ("portway_health_failed_total", "counter", "Tests of health that failed.", |one| Some(one.failed_total)),
];

/// All metrics of instances that are asked for their health.
pub(crate) fn health(all: &[api::Health]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in HEALTH {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for one in all {
            let Some(value) = value(one) else { continue };
            let [instance, project, service] =
                [&one.instance.to_string(), &one.project, &one.service].map(|label| escape(label));
            let labels = format!("instance=\"{instance}\",project=\"{project}\",service=\"{service}\"");
            let _ = writeln!(text, "{name}{{{labels}}} {value}");
        }
    }
    text
}

/// A label value: backslash, quote and line feed escaped.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
