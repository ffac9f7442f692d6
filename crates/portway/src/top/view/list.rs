//! The page of all devices.

use unicode_width::UnicodeWidthStr as _;

use super::{
    Canvas, Column, Lines, Model, Modifier, Row, Style, bars, per_second, state_of, tenths, tone_of,
};

/// Columns of names: at least and at most so wide.
const NAME_WIDTHS: (u16, u16) = (8, 28);

/// What the others need, in the order in which they get room.
const WIDTHS: [(Column, u16); 7] = [
    (Column::In, 12),
    (Column::Out, 12),
    (Column::Open, 6),
    (Column::State, 8),
    (Column::New, 7),
    (Column::Failed, 6),
    (Column::Traffic, 10),
];

/// A line of bars needs no more.
const BARS_MAX: u16 = 60;

pub(super) fn draw(canvas: &mut Canvas<'_>, model: &mut Model, body: Lines) {
    model.set_room(body.count().saturating_sub(1));
    let columns = columns(model, canvas.width());
    // Bars stay what they are on the selected line.
    let words: u16 =
        columns.iter().filter(|(column, _)| *column != Column::Traffic).map(|(_, width)| width + 1).sum();
    let mut x = 0;
    for (column, width) in &columns {
        let style = Style::new().add_modifier(Modifier::BOLD);
        let style = if *column == model.sort { style.add_modifier(Modifier::UNDERLINED) } else { style };
        if is_number(*column) {
            canvas.put_right(x, body.first, *width, column.title(), style);
        } else {
            canvas.put(x, body.first, *width, column.title(), style);
        }
        x += width + 1;
    }
    for (line, (selected, row)) in (body.first.saturating_add(1)..body.end).zip(model.shown()) {
        draw_row(canvas, line, row, &columns);
        if selected {
            canvas.restyle(line, words, Style::new().add_modifier(Modifier::REVERSED));
        }
    }
    if model.counts().0 == 0 {
        let text = match (model.is_empty(), model.counts().1) {
            (true, _) => "asking the daemon",
            (false, 0) => "no devices; `portway device add` adds one",
            (false, _) => "no device has this in its names or addresses",
        };
        canvas.put(0, body.first.saturating_add(1), canvas.width(), text, Style::new());
    }
}

fn draw_row(canvas: &mut Canvas<'_>, line: u16, row: &Row, columns: &[(Column, u16)]) {
    let device = &row.device;
    let mut x = 0;
    for (column, width) in columns {
        let plain = Style::new();
        let (text, style) = match column {
            Column::Instance => (row.instance.clone(), plain),
            Column::Name => (row.name.clone(), plain),
            Column::State => (state_of(row).to_owned(), canvas.tone(tone_of(device.state))),
            Column::Open => (device.connections_now.to_string(), plain),
            Column::New => (tenths(row.rate.new_tenths), plain),
            Column::In => (per_second(device.bytes_in.map(|_| row.rate.bytes_in)), plain),
            Column::Out => (per_second(device.bytes_out.map(|_| row.rate.bytes_out)), plain),
            Column::Failed => (device.dials_failed.to_string(), plain),
            Column::Traffic => (bars(row.history.iter().copied(), *width), canvas.accent()),
        };
        if is_number(*column) {
            canvas.put_right(x, line, *width, &text, style);
        } else {
            canvas.put(x, line, *width, &text, style);
        }
        x += width + 1;
    }
}

const fn is_number(column: Column) -> bool {
    matches!(column, Column::Open | Column::New | Column::In | Column::Out | Column::Failed)
}

/// Columns that fit, with their widths, in their order.
fn columns(model: &Model, width: u16) -> Vec<(Column, u16)> {
    let (least, most) = NAME_WIDTHS;
    let most = (width / 5).clamp(least, most);
    let longest = |text: fn(&Row) -> &str| {
        let widths = model.shown().map(|(_, row)| text(row).width());
        u16::try_from(widths.max().unwrap_or(0)).unwrap_or(most).clamp(least, most)
    };
    let (mut instance, mut name) = (longest(|row| &row.instance), longest(|row| &row.name));
    // On a narrow screen both give way to one figure each way.
    let figures = if width >= 44 { 26 } else { 0 };
    let room = width.saturating_sub(figures);
    if instance + 1 + name > room {
        name = name.min(room / 2);
        instance = room.saturating_sub(name + 1);
    }
    let mut columns = vec![(Column::Instance, instance), (Column::Name, name)];
    let mut used = instance + 1 + name;
    for (column, needed) in WIDTHS {
        if used + 1 + needed <= width {
            columns.push((column, needed));
            used += 1 + needed;
        }
    }
    if let Some((Column::Traffic, bars)) = columns.last_mut() {
        *bars = (*bars + width.saturating_sub(used)).min(BARS_MAX);
    }
    columns.sort_by_key(|(column, _)| Column::ALL.iter().position(|other| other == column));
    columns
}
