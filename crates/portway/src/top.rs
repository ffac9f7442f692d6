//! `portway top`: devices by their traffic, again and again. On a terminal it is a page with keys (`live`); elsewhere, and
//! where a number of rounds is asked for, it is text.

mod canvas;
mod keys;
mod live;
mod model;
mod screen;
mod view;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use portway_control::api::{Device, DeviceState};
use portway_model::{DeviceName, InstanceKey, Provider};

use crate::cli::{TopArgs, target};
use crate::device::state_word;
use crate::failure::{Outcome, colour_allowed};
use crate::output::table::{Text, Tone};
use crate::output::{Look, Out, human, table};
use crate::session::Session;

/// Home, and everything below it cleared: no flicker, and no line of the round before.
const CLEAR: &str = "\x1b[H\x1b[J";

/// Lines that the head of the screen takes.
const HEAD_LINES: usize = 3;

/// Counters of one look.
struct Sample {
    at: Instant,
    devices: BTreeMap<(InstanceKey, DeviceName), Device>,
}

/// What a device does in a second.
struct Rate<'a> {
    device: &'a Device,
    connection_tenths: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// Prints rounds until it is told to end, or as many as asked for.
pub(crate) fn run(args: &TopArgs) -> Outcome {
    let project = args.project.project.as_deref();
    let instance = args.instance.as_deref().map(|text| target::instance(text, project)).transpose()?;
    let session = Session::open()?;
    if args.count.is_none() && io::stdin().is_terminal() && io::stdout().is_terminal() {
        let model = model::Model::new(target::default_provider(), args.interval);
        return session.follow(live::run(session.client.clone(), instance, model, colour_allowed()));
    }
    let mut out = Out::new();
    let screen = out.look.width.is_some();
    let rounds = args.count.or((!screen).then_some(1));
    let pause = Duration::from_secs(args.interval.into());
    session.follow(async {
        let look = async || -> Outcome<Sample> {
            let devices = session.client.devices(instance.as_ref()).await?;
            let named =
                devices.into_iter().map(|device| ((device.instance.clone(), device.name.clone()), device));
            Ok(Sample { at: Instant::now(), devices: named.collect() })
        };
        let mut before = look().await?;
        let mut round = 0_u64;
        loop {
            tokio::time::sleep(pause).await;
            let present = look().await?;
            let text = text(&before, &present, target::default_provider(), out.look);
            let text = if screen { format!("{CLEAR}{}", cut(&text)) } else { text };
            out.text(&text)?;
            before = present;
            round += 1;
            if rounds.is_some_and(|rounds| round >= rounds) {
                return Ok(());
            }
        }
    })
}

/// As many lines as the screen has.
fn cut(text: &str) -> String {
    let height = rustix::termios::tcgetwinsize(io::stdout()).map_or(24, |size| size.ws_row);
    let lines: Vec<&str> = text.lines().take(usize::from(height).saturating_sub(1).max(HEAD_LINES)).collect();
    lines.join("\n") + "\n"
}

fn rates<'a>(before: &Sample, present: &'a Sample) -> Vec<Rate<'a>> {
    let millis = present.at.duration_since(before.at).as_millis().max(1);
    // `parts` is 1 for whole numbers, 10 for tenths.
    let each = |count: u64, parts: u128| {
        u64::try_from(u128::from(count) * 1000 * parts / millis).unwrap_or(u64::MAX)
    };
    let rate = |(key, device): (&(InstanceKey, DeviceName), &'a Device)| {
        let old = before.devices.get(key);
        // A device that was made anew in between begins at nothing.
        let since = |now: u64, of: fn(&Device) -> u64| now.saturating_sub(old.map_or(now, of).min(now));
        let connections = since(device.connections_total, |device| device.connections_total);
        Rate {
            device,
            connection_tenths: each(connections, 10),
            bytes_in: each(since(device.bytes_in.unwrap_or(0), |device| device.bytes_in.unwrap_or(0)), 1),
            bytes_out: each(since(device.bytes_out.unwrap_or(0), |device| device.bytes_out.unwrap_or(0)), 1),
        }
    };
    let mut rates: Vec<Rate<'_>> = present.devices.iter().map(rate).collect();
    rates.sort_by_key(|rate| {
        std::cmp::Reverse((rate.bytes_in.saturating_add(rate.bytes_out), rate.device.connections_now))
    });
    rates
}

fn text(before: &Sample, present: &Sample, default: Provider, look: Look) -> String {
    let rates = rates(before, present);
    let (bytes_in, bytes_out) = rates.iter().fold((0_u64, 0_u64), |(one, other), rate| {
        (one.saturating_add(rate.bytes_in), other.saturating_add(rate.bytes_out))
    });
    let open: u64 = rates.iter().map(|rate| rate.device.connections_now).sum();
    let number = u64::try_from(rates.len()).unwrap_or(u64::MAX);
    let head = format!(
        "{}, {} open, {}/s in, {}/s out\n\n",
        human::count(number, "device"),
        human::count(open, "connection"),
        human::bytes(bytes_in),
        human::bytes(bytes_out)
    );
    let per_second =
        |rate: Option<u64>| rate.map_or_else(|| "-".to_owned(), |rate| format!("{}/s", human::bytes(rate)));
    let rows = rates.iter().map(|rate| {
        let device = rate.device;
        let tone = if device.state == DeviceState::Active { Tone::Good } else { Tone::Warn };
        [
            Text::new(target::short(&device.instance, default)),
            Text::new(device.name.as_str()),
            Text::new(state_word(device.state)).tone(tone),
            Text::number(device.connections_now.to_string()),
            Text::number(format!("{}.{}", rate.connection_tenths / 10, rate.connection_tenths % 10)),
            Text::number(per_second(device.bytes_in.map(|_| rate.bytes_in))),
            Text::number(per_second(device.bytes_out.map(|_| rate.bytes_out))),
            Text::number(device.dials_failed.to_string()),
        ]
    });
    let header = ["INSTANCE", "NAME", "STATE", "OPEN", "NEW/S", "IN", "OUT", "FAILED"];
    head + &table::render(header, rows.collect(), look)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::sample;

    #[test]
    fn rates_are_per_second_and_the_busiest_comes_first() {
        let begin = Instant::now();
        let look = |seconds: u64, counts: [u64; 2]| {
            let devices = counts.iter().zip(["idle", "busy"]).map(|(count, name)| {
                let device = Device {
                    name: name.parse().unwrap(),
                    connections_total: *count,
                    bytes_in: Some(count * 1024),
                    bytes_out: Some(0),
                    ..sample()
                };
                ((device.instance.clone(), device.name.clone()), device)
            });
            Sample { at: begin + Duration::from_secs(seconds), devices: devices.collect() }
        };
        let (before, present) = (look(0, [10, 10]), look(2, [10, 210]));
        let plain = Look { width: None, colour: false };
        insta::assert_snapshot!(text(&before, &present, Provider::Incus, plain));
        let anew = look(4, [0, 0]);
        assert!(rates(&present, &anew).iter().all(|rate| rate.bytes_in == 0));
    }
}
