//! Counters in the Prometheus text format, version 0.0.4.

mod own;
mod page;
mod process;
#[cfg(test)]
mod tests;

use portway_control::api;

pub(crate) use self::own::{of_devices, page as own};
pub(crate) use self::page::labels;
use self::page::{Page, seconds};
pub(crate) use self::process::{Watched, page as processes};

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

/// All metrics of all devices.
pub(crate) fn render(devices: &[api::Device]) -> String {
    let mut page = Page::default();
    let named: Vec<(&api::Device, String)> = devices.iter().map(|device| (device, label(device))).collect();
    for (name, kind, help, value) in METRICS {
        page.family(name, kind, help);
        for (device, labels) in &named {
            // What is not counted is left out: 0 would be a number.
            if let Some(value) = value(device) {
                page.sample(name, labels, value);
            }
        }
    }
    errors(&mut page, &named);
    dial_times(&mut page, &named);
    page.into_text()
}

fn label(device: &api::Device) -> String {
    labels([("instance", &device.instance.to_string()), ("device", device.name.as_str())])
}

/// What went wrong for clients, by kind. A kind that has not happened is left out: most never do.
fn errors(page: &mut Page, devices: &[(&api::Device, String)]) {
    let name = "portway_device_errors_total";
    page.family(name, "counter", "Clients that were not served, or not to their end, by kind.");
    for (device, labels) in devices {
        let limits = [device.over_connections, device.over_rate, device.over_per_source];
        let others = [
            ("denied", device.denied),
            ("limits", limits.into_iter().fold(0, u64::saturating_add)),
            ("bad_header", device.bad_headers),
        ];
        for (kind, count) in device.failures.named().into_iter().chain(others) {
            let count = if kind == "reset" { count.saturating_add(device.resets) } else { count };
            if count > 0 {
                page.sample(name, &format!("{labels},kind=\"{kind}\""), count);
            }
        }
    }
}

/// How long dials took. A device that has dialled nobody is left out.
fn dial_times(page: &mut Page, devices: &[(&api::Device, String)]) {
    let name = "portway_device_dial_seconds";
    page.family(name, "histogram", "Time until a dial was answered; failed dials are not in it.");
    for (device, labels) in devices.iter().filter(|(device, _)| device.dial_time.count > 0) {
        let time = &device.dial_time;
        let mut below: u64 = 0;
        for (count, bound) in time.buckets.iter().zip(api::DIAL_BOUNDS_MICROS) {
            below = below.saturating_add(*count);
            let bound =
                format!("{labels},le=\"{}\"", seconds(bound).trim_end_matches('0').trim_end_matches('.'));
            page.sample(&format!("{name}_bucket"), &bound, below);
        }
        page.sample(&format!("{name}_bucket"), &format!("{labels},le=\"+Inf\""), time.count);
        page.sample(&format!("{name}_sum"), labels, seconds(time.micros));
        page.sample(&format!("{name}_count"), labels, time.count);
    }
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
    let mut page = Page::default();
    for (name, kind, help, value) in HEALTH {
        page.family(name, kind, help);
        for one in all {
            let Some(value) = value(one) else { continue };
            let instance = one.instance.to_string();
            let labels =
                labels([("instance", &instance), ("project", &one.project), ("service", &one.service)]);
            page.sample(name, &labels, value);
        }
    }
    page.into_text()
}
