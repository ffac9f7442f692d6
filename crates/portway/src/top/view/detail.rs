//! The page of one device and its connections.

use super::{
    Canvas, Lines, Model, Modifier, Row, Style, Tone, bars, human, per_second, printable, state_of, tenths,
    tone_of,
};
use crate::device::{client, tone};
use crate::top::model::{Detail, Talk};

/// With so many lines there is one of bars.
const BARS_LINES: u16 = 12;

pub(super) fn draw(canvas: &mut Canvas<'_>, model: &mut Model, body: Lines) {
    let Some(row) = model.shown_row() else { return };
    let mut line = body.first;
    for parts in facts(canvas, row) {
        if line < body.end {
            canvas.put_parts(line, canvas.width(), &parts);
        }
        line += 1;
    }
    if body.count() >= BARS_LINES {
        let width = canvas.width();
        let drawn = bars(row.history.iter().copied(), width);
        canvas.put(0, line, width, &drawn, canvas.accent());
        line += 2;
    }
    connections(canvas, &model.detail, Lines { first: line, end: body.end });
}

/// What is known of the device, line by line.
fn facts(canvas: &Canvas<'_>, row: &Row) -> Vec<Vec<(String, Style)>> {
    let device = &row.device;
    let (plain, bold) = (Style::new(), Style::new().add_modifier(Modifier::BOLD));
    let mut lines = vec![vec![
        (format!("{} {}", row.instance, row.name), bold),
        (state_of(row).to_owned(), canvas.tone(tone_of(device.state))),
        (format!("{} → {}", printable(&device.listen), printable(&device.connect)), plain),
    ]];
    for (what, why) in [("because", &device.reason), ("last error:", &device.last_error)] {
        if let Some(why) = why {
            lines.push(vec![(format!("{what} {}", printable(why)), canvas.tone(Tone::Warn))]);
        }
    }
    let total =
        |bytes: Option<u64>| bytes.map_or_else(String::new, |bytes| format!(" ({})", human::bytes(bytes)));
    lines.push(vec![
        (format!("{} open", device.connections_now), plain),
        (format!("{} new/s ({})", tenths(row.rate.new_tenths), device.connections_total), plain),
        (
            format!(
                "in {}{}",
                per_second(device.bytes_in.map(|_| row.rate.bytes_in)),
                total(device.bytes_in)
            ),
            plain,
        ),
        (
            format!(
                "out {}{}",
                per_second(device.bytes_out.map(|_| row.rate.bytes_out)),
                total(device.bytes_out)
            ),
            plain,
        ),
    ]);
    let refused = device.denied
        + device.over_connections
        + device.over_rate
        + device.over_per_source
        + device.bad_headers;
    lines.push(vec![
        (format!("{} dials failed", device.dials_failed), plain),
        (format!("{} reset", device.resets), plain),
        (format!("{} dropped", device.dropped), plain),
        (format!("{} evicted", device.evicted), plain),
        (format!("{refused} refused"), plain),
    ]);
    let keys = device.keys.iter().filter(|(key, _)| !matches!(key.as_str(), "listen" | "connect"));
    let keys: Vec<(String, Style)> =
        keys.map(|(key, value)| (printable(&format!("{key}={value}")), plain)).collect();
    if !keys.is_empty() {
        lines.push(keys);
    }
    lines
}

/// Columns of the connections: title, width, and whether it is a number. The target gets what is left.
const COLUMNS: [(&str, u16, bool); 8] = [
    ("CLIENT", 22, false),
    ("STATE", 12, false),
    ("AGE", 7, true),
    ("IDLE", 7, true),
    ("IN", 12, true),
    ("OUT", 12, true),
    ("ALL IN", 10, true),
    ("ALL OUT", 10, true),
];

/// Order in which they get room.
const FIRST: [usize; 8] = [0, 4, 5, 1, 2, 3, 6, 7];

fn connections(canvas: &mut Canvas<'_>, detail: &Detail, lines: Lines) {
    if lines.count() == 0 {
        return;
    }
    let (columns, target) = layout(canvas.width());
    let bold = Style::new().add_modifier(Modifier::BOLD);
    put_line(canvas, lines.first, &columns, target, |at| match at {
        Some(at) => (COLUMNS.get(at).map_or("", |column| column.0).to_owned(), bold),
        None => ("TARGET".to_owned(), bold),
    });
    let rest = rest(detail);
    let end = lines.end.saturating_sub(u16::from(rest.is_some()));
    let mut line = lines.first.saturating_add(1);
    for talk in detail.talks.iter().skip(detail.offset).take(usize::from(end.saturating_sub(line))) {
        let state = canvas.tone(tone(talk.connection.state));
        put_line(canvas, line, &columns, target, |at| cell(talk, at, state));
        line += 1;
    }
    if let Some((text, tone)) = rest {
        let style = canvas.tone(tone);
        canvas.put(0, line.min(lines.end.saturating_sub(1)), canvas.width(), &text, style);
    }
}

/// What is not listed.
fn rest(detail: &Detail) -> Option<(String, Tone)> {
    if let Some(why) = &detail.error {
        return Some((format!("its connections are not available: {}", printable(why)), Tone::Bad));
    }
    let listed = u64::try_from(detail.talks.len()).unwrap_or(u64::MAX);
    match (detail.connections_now.saturating_sub(listed), &detail.unlisted) {
        (0, None) => None,
        (0, Some(why)) => Some((printable(why), Tone::Plain)),
        (more, None) => Some((format!("and {more} more"), Tone::Plain)),
        (more, Some(why)) => Some((format!("and {more} more: {}", printable(why)), Tone::Plain)),
    }
}

fn cell(talk: &Talk, at: Option<usize>, state: Style) -> (String, Style) {
    let (connection, plain) = (&talk.connection, Style::new());
    match at {
        Some(0) => (printable(&client(connection)), plain),
        Some(1) => (connection.state.word().to_owned(), state),
        Some(2) => (human::seconds(connection.age_ms / 1000), plain),
        Some(3) => (human::seconds(connection.idle_ms / 1000), plain),
        Some(4) => (per_second(Some(talk.rate.bytes_in)), plain),
        Some(5) => (per_second(Some(talk.rate.bytes_out)), plain),
        Some(6) => (human::bytes(connection.bytes_in), plain),
        Some(_) => (human::bytes(connection.bytes_out), plain),
        None => (printable(&connection.target), plain),
    }
}

/// Columns that fit, and the width that is left for the target.
fn layout(width: u16) -> (Vec<usize>, u16) {
    let mut columns = Vec::new();
    let mut used = 0;
    for at in FIRST {
        let needed = COLUMNS.get(at).map_or(0, |column| column.1);
        if used + needed <= width || columns.is_empty() {
            columns.push(at);
            used += needed + 1;
        }
    }
    columns.sort_unstable();
    let left = width.saturating_sub(used);
    (columns, if left >= 12 { left } else { 0 })
}

/// Puts the cells of a line; the target stands behind the client.
fn put_line(
    canvas: &mut Canvas<'_>,
    line: u16,
    columns: &[usize],
    target: u16,
    cell: impl Fn(Option<usize>) -> (String, Style),
) {
    let mut x = 0;
    for at in columns {
        let Some((_, width, is_number)) = COLUMNS.get(*at) else { continue };
        let (text, style) = cell(Some(*at));
        if *is_number {
            canvas.put_right(x, line, *width, &text, style);
        } else {
            canvas.put(x, line, *width, &text, style);
        }
        x += width + 1;
        if *at == 0 && target > 0 {
            let (text, style) = cell(None);
            canvas.put(x, line, target, &text, style);
            x += target + 1;
        }
    }
}
