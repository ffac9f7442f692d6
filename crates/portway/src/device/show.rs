//! `portway device show`: everything the daemon knows of a device.

use std::fmt::Write as _;

use portway_control::api::Device;

use super::list;
use crate::cli::keys;
use crate::failure::{Outcome, printable};
use crate::output::{Format, Out, human, yaml};

/// Prints one device.
pub(super) fn one(out: &mut Out, device: &Device, format: Format) -> Outcome {
    match format {
        Format::Table => out.text(&detail(device)),
        Format::Json => out.json(device),
        Format::Yaml => out.yaml(device),
        Format::Csv => list::print_csv(out, std::slice::from_ref(device)),
    }
}

/// Prints several, for people with an empty line between them.
pub(super) fn many(out: &mut Out, devices: &[Device], format: Format) -> Outcome {
    match format {
        Format::Table => out.text(&devices.iter().map(detail).collect::<Vec<_>>().join("\n")),
        Format::Json => out.json(&devices),
        Format::Yaml => out.yaml(&devices),
        Format::Csv => list::print_csv(out, devices),
    }
}

/// Writes one `key: value` line.
fn put(text: &mut String, depth: usize, key: &str, value: &str) {
    let indent = "  ".repeat(depth);
    // Writing to a String cannot fail.
    let _infallible = writeln!(text, "{indent}{key}: {value}");
}

fn detail(device: &Device) -> String {
    let mut text = String::new();
    put(&mut text, 0, "instance", &yaml::scalar(&device.instance.to_string()));
    put(&mut text, 0, "name", &yaml::scalar(device.name.as_str()));
    put(&mut text, 0, "state", list::state_word(device.state));
    let mut sentence = |key: &str, value: Option<&str>| {
        if let Some(value) = value {
            put(&mut text, 0, key, &yaml::scalar(&printable(value)));
        }
    };
    sentence("reason", device.reason.as_deref());
    sentence("last_error", device.last_error.as_deref());
    put(&mut text, 0, "since", &yaml::scalar(&device.since));
    put(&mut text, 0, "mode", list::mode_word(device.mode));
    if let Some(why) = &device.mode_reason {
        put(&mut text, 0, "mode_reason", &yaml::scalar(&printable(why)));
    }
    text.push_str("keys:\n");
    for (key, value) in keys::in_order(&device.keys) {
        put(&mut text, 1, &yaml::scalar(key), &yaml::scalar(value));
    }
    text.push_str("connections:\n");
    put(&mut text, 1, "now", &device.connections_now.to_string());
    put(&mut text, 1, "total", &device.connections_total.to_string());
    dials(&mut text, device);
    put(&mut text, 1, "resets", &device.resets.to_string());
    put(&mut text, 1, "evicted", &device.evicted.to_string());
    text.push_str("traffic:\n");
    let bytes =
        |count: Option<u64>| count.map_or_else(|| "not counted by the kernel".to_owned(), human::bytes);
    put(&mut text, 1, "in", &bytes(device.bytes_in));
    put(&mut text, 1, "out", &bytes(device.bytes_out));
    put(&mut text, 1, "dropped", &device.dropped.to_string());
    refused(&mut text, device);
    if let Some(pid) = device.worker_pid {
        put(&mut text, 0, "worker_pid", &pid.to_string());
    }
    if let Some(uuid) = &device.instance_uuid {
        put(&mut text, 0, "instance_uuid", &yaml::scalar(uuid));
    }
    text
}

/// Dials: how long those took that were answered, and why the others failed.
fn dials(text: &mut String, device: &Device) {
    let time = &device.dial_time;
    if let Some(average) = time.micros.checked_div(time.count) {
        let within = time.within(95).map_or_else(
            || "more than 5 % above 4096 ms".to_owned(),
            |bound| format!("95 % within {}", millis(bound)),
        );
        put(text, 1, "dial_time", &format!("{} on average, {within}", millis(average)));
    }
    put(text, 1, "dials_failed", &device.dials_failed.to_string());
    for (name, count) in device.failures.named().into_iter().filter(|(_, count)| *count > 0) {
        put(text, 2, name, &count.to_string());
    }
}

/// `1.5 ms`, to a hundredth where it is short.
fn millis(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{}.{:02} ms", micros / 1000, micros % 1000 / 10),
        _ => format!("{} ms", micros / 1000),
    }
}

/// Clients that were not let in, where there can be any.
fn refused(text: &mut String, device: &Device) {
    let counts = [
        ("accept_proxy", "bad_headers", device.bad_headers),
        ("allow", "denied", device.denied),
        ("limits.connections", "over_connections", device.over_connections),
        ("limits.per_source", "over_per_source", device.over_per_source),
        ("limits.rate", "over_rate", device.over_rate),
    ];
    let can =
        |key: &str| device.keys.contains_key(key) || (key == "allow" && device.keys.contains_key("deny"));
    let mut first = true;
    for (_, name, count) in counts.into_iter().filter(|(key, _, count)| can(key) || *count > 0) {
        if std::mem::take(&mut first) {
            text.push_str("refused:\n");
        }
        put(text, 1, name, &count.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_and_a_waiting_device() {
        let [active, waiting, ..] = list::tests::devices();
        insta::assert_snapshot!("active", detail(&active));
        insta::assert_snapshot!("waiting", detail(&waiting));
    }

    #[test]
    fn dials_say_how_long_they_took_and_why_they_failed() {
        let [mut device, ..] = list::tests::devices();
        device.dials_failed = 3;
        device.failures.refused = 2;
        device.failures.timed_out = 1;
        device.dial_time.count = 100;
        device.dial_time.micros = 123_456;
        device.dial_time.buckets = vec![10, 85, 5, 0, 0, 0, 0, 0, 0];
        let text = detail(&device);
        assert!(text.contains("  dial_time: 1.23 ms on average, 95 % within 1.00 ms\n"), "{text}");
        assert!(text.contains("  dials_failed: 3\n    refused: 2\n    timed_out: 1\n"), "{text}");
    }
}
