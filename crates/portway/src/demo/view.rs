//! What the demo prints.

use std::time::Duration;

use portway_control::api::{Device, DeviceState};

use crate::device::{bytes, state_word};
use crate::output::table::{Text, Tone};
use crate::output::{Look, human, table};

/// Bytes each way at the last look, by device.
pub(super) type Seen = Vec<(u64, u64)>;

/// The devices with what has gone through.
pub(super) fn totals(devices: &[Device], look: Look) -> String {
    let header = ["NAME", "LISTEN", "CONNECT", "STATE", "NOW/TOTAL", "IN", "OUT"];
    table::render(header, devices.iter().map(cells).collect(), look)
}

/// The same with what went through since `before`.
pub(super) fn rates(devices: &[Device], before: &Seen, since: Duration, look: Look) -> String {
    let rate = |now: u64, before: Option<u64>| {
        let bytes = u128::from(now.saturating_sub(before.unwrap_or(now)));
        let per_second = bytes * 1000 / since.as_millis().max(1);
        format!("{}/s", human::bytes(u64::try_from(per_second).unwrap_or(u64::MAX)))
    };
    let rows = devices.iter().enumerate().map(|(index, device)| {
        let before = before.get(index);
        let [name, listen, connect, state, connections, bytes_in, bytes_out] = cells(device);
        let in_rate = Text::number(rate(device.bytes_in.unwrap_or(0), before.map(|seen| seen.0)));
        let out_rate = Text::number(rate(device.bytes_out.unwrap_or(0), before.map(|seen| seen.1)));
        [name, listen, connect, state, connections, bytes_in, bytes_out, in_rate, out_rate]
    });
    let header = ["NAME", "LISTEN", "CONNECT", "STATE", "NOW/TOTAL", "IN", "OUT", "IN/S", "OUT/S"];
    table::render(header, rows.collect(), look)
}

fn cells(device: &Device) -> [Text; 7] {
    let tone = if device.state == DeviceState::Active { Tone::Good } else { Tone::Warn };
    [
        Text::new(device.name.as_str()),
        Text::new(&device.listen),
        Text::new(&device.connect),
        Text::new(state_word(device.state)).tone(tone),
        Text::number(format!("{}/{}", device.connections_now, device.connections_total)),
        Text::number(bytes(device.bytes_in)),
        Text::number(bytes(device.bytes_out)),
    ]
}

/// What has gone through until now.
pub(super) fn seen(devices: &[Device]) -> Seen {
    devices.iter().map(|device| (device.bytes_in.unwrap_or(0), device.bytes_out.unwrap_or(0))).collect()
}

/// Moves the cursor to the start of `lines` lines further up and clears what follows.
pub(super) fn back(lines: usize) -> String {
    format!("\x1b[{lines}F\x1b[J")
}
