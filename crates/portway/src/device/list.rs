//! `portway device list`.

use portway_control::api::{Device, DeviceMode, DeviceState};
use portway_model::{DeviceName, InstanceKey, Provider};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use crate::cli::{keys, target};
use crate::failure::Outcome;
use crate::output::table::{Text, Tone};
use crate::output::{Format, Look, Out, csv, human, table};

/// What programs get for a device. Stable: fields are added, never changed.
#[derive(Serialize)]
struct Row<'a> {
    instance: &'a InstanceKey,
    name: &'a DeviceName,
    listen: &'a str,
    connect: &'a str,
    bind: &'a str,
    state: DeviceState,
    mode: DeviceMode,
    mode_reason: Option<&'a str>,
    connections_now: u64,
    connections_total: u64,
    bytes_in: Option<u64>,
    bytes_out: Option<u64>,
    last_error: Option<&'a str>,
    since: &'a str,
}

/// What is wanted of a device: the two names and its keys, as a declarative file has them.
struct Wanted<'a>(&'a Device);

impl Serialize for Wanted<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Device { instance, name, keys, .. } = self.0;
        let mut map = serializer.serialize_map(Some(keys.len() + 2))?;
        map.serialize_entry("instance", instance)?;
        map.serialize_entry("name", name)?;
        for (key, value) in keys::in_order(keys) {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct WantedList<'a> {
    devices: Vec<Wanted<'a>>,
}

/// Prints `devices` in their order.
pub(super) fn print(out: &mut Out, devices: &[Device], format: Format) -> Outcome {
    match format {
        Format::Table => {
            let text = table_text(devices, target::default_provider(), out.look);
            out.text(&text)
        }
        Format::Json => out.json(&devices.iter().map(row).collect::<Vec<_>>()),
        Format::Yaml => out.yaml(&wanted(devices)),
        Format::Csv => out.text(&csv_text(devices)),
    }
}

fn row(device: &Device) -> Row<'_> {
    Row {
        instance: &device.instance,
        name: &device.name,
        listen: &device.listen,
        connect: &device.connect,
        bind: &device.bind,
        state: device.state,
        mode: device.mode,
        mode_reason: device.mode_reason.as_deref(),
        connections_now: device.connections_now,
        connections_total: device.connections_total,
        bytes_in: device.bytes_in,
        bytes_out: device.bytes_out,
        last_error: device.last_error.as_deref(),
        since: &device.since,
    }
}

fn wanted(devices: &[Device]) -> impl Serialize {
    WantedList { devices: devices.iter().map(Wanted).collect() }
}

/// The word for a state.
pub(crate) fn state_word(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Active => "active",
        DeviceState::Waiting => "waiting",
        DeviceState::Degraded => "degraded",
        DeviceState::Failed => "failed",
    }
}

/// The word for a mode.
pub(super) fn mode_word(mode: DeviceMode) -> &'static str {
    match mode {
        DeviceMode::Relay => "relay",
        DeviceMode::Nat => "nat",
    }
}

/// A count of bytes; `-` where nobody counts.
pub(crate) fn bytes(count: Option<u64>) -> String {
    count.map_or_else(|| "-".to_owned(), human::bytes)
}

fn state_cell(device: &Device) -> Text {
    let word = state_word(device.state);
    let (text, tone) = match (device.state, device.reason.as_deref()) {
        (DeviceState::Active, _) => (word.to_owned(), Tone::Good),
        (DeviceState::Waiting | DeviceState::Degraded, Some(why)) => (format!("{word}: {why}"), Tone::Warn),
        (DeviceState::Waiting | DeviceState::Degraded, None) => (word.to_owned(), Tone::Warn),
        (DeviceState::Failed, Some(why)) => (format!("{word}: {why}"), Tone::Bad),
        (DeviceState::Failed, None) => (word.to_owned(), Tone::Bad),
    };
    Text::new(text).tone(tone)
}

/// The listen address, with the side where it is not the usual one.
fn listen_text(device: &Device) -> String {
    if device.bind == "instance" { format!("{} (instance)", device.listen) } else { device.listen.clone() }
}

/// Who carries it, and why where that was a choice. What the state says already is not said twice.
fn mode_text(device: &Device) -> String {
    let word = mode_word(device.mode);
    let is_new = |why: &&str| device.reason.as_deref().is_none_or(|reason| !reason.contains(*why));
    device
        .mode_reason
        .as_deref()
        .filter(is_new)
        .map_or_else(|| word.to_owned(), |why| format!("{word}: {why}"))
}

fn table_text(devices: &[Device], default: Provider, look: Look) -> String {
    let header =
        ["INSTANCE", "NAME", "LISTEN", "CONNECT", "STATE", "MODE", "NOW/TOTAL", "IN", "OUT", "LAST ERROR"];
    let rows = devices.iter().map(|device| {
        [
            Text::new(target::short(&device.instance, default)),
            Text::new(device.name.as_str()),
            Text::new(listen_text(device)),
            Text::new(&device.connect),
            state_cell(device),
            Text::new(mode_text(device)),
            Text::number(format!("{}/{}", device.connections_now, device.connections_total)),
            Text::number(bytes(device.bytes_in)),
            Text::number(bytes(device.bytes_out)),
            Text::new(device.last_error.as_deref().unwrap_or("-")),
        ]
    });
    table::render(header, rows.collect(), look)
}

fn csv_text(devices: &[Device]) -> String {
    let mut text = csv::line([
        "instance",
        "name",
        "listen",
        "connect",
        "bind",
        "state",
        "mode",
        "mode_reason",
        "connections_now",
        "connections_total",
        "bytes_in",
        "bytes_out",
        "last_error",
        "since",
    ]);
    let number = |count: Option<u64>| count.map(|count| count.to_string()).unwrap_or_default();
    for device in devices {
        text.push_str(&csv::line([
            device.instance.to_string().as_str(),
            device.name.as_str(),
            &device.listen,
            &device.connect,
            &device.bind,
            state_word(device.state),
            mode_word(device.mode),
            device.mode_reason.as_deref().unwrap_or_default(),
            &device.connections_now.to_string(),
            &device.connections_total.to_string(),
            &number(device.bytes_in),
            &number(device.bytes_out),
            device.last_error.as_deref().unwrap_or_default(),
            &device.since,
        ]));
    }
    text
}

/// The same devices as spreadsheets get them.
pub(super) fn print_csv(out: &mut Out, devices: &[Device]) -> Outcome {
    out.text(&csv_text(devices))
}

#[cfg(test)]
pub(super) mod tests;
