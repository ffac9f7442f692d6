//! Tables without lines, as wide as their text, or as the terminal when there is one.

use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use crate::failure::printable;
use crate::output::Look;

/// How a cell stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    /// Not at all.
    Plain,
    /// All is well.
    Good,
    /// Worth a look.
    Warn,
    /// Broken.
    Bad,
}

/// A cell: text, tone, and whether it is a number.
#[derive(Debug, Clone)]
pub(crate) struct Text {
    text: String,
    tone: Tone,
    number: bool,
}

impl Text {
    /// Left-aligned text.
    pub(crate) fn new(text: impl AsRef<str>) -> Text {
        Text { text: printable(text.as_ref()), tone: Tone::Plain, number: false }
    }

    /// Right-aligned text.
    pub(crate) fn number(text: impl AsRef<str>) -> Text {
        Text { number: true, ..Text::new(text) }
    }

    /// The same in `tone`.
    pub(crate) fn tone(self, tone: Tone) -> Text {
        Text { tone, ..self }
    }
}

/// Narrower than this nothing can be laid out; a terminal that does not know its size says 0.
const WIDTH_MIN: u16 = 40;

/// Columns of the terminal.
pub(crate) fn terminal_width() -> Option<u16> {
    Table::new().width().filter(|width| *width >= WIDTH_MIN)
}

/// The table, one line per row or more where the terminal is too narrow.
pub(crate) fn render<const N: usize>(header: [&str; N], rows: Vec<[Text; N]>, look: Look) -> String {
    let mut table = Table::new();
    let mut titles = header.map(Cell::new);
    // A title stands over its numbers.
    for (title, text) in titles.iter_mut().zip(rows.first().into_iter().flatten()) {
        if text.number {
            *title = title.clone().set_alignment(CellAlignment::Right);
        }
    }
    table.load_style(presets::NOTHING).set_header(titles);
    match look.width {
        Some(width) => {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        None => {
            table.set_content_arrangement(ContentArrangement::Disabled);
        }
    }
    if look.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for row in rows {
        table.add_row(row.map(cell));
    }
    // The first column begins at the left edge.
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    let text = table.to_string();
    text.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

fn cell(text: Text) -> Cell {
    let cell = Cell::new(text.text);
    let cell = if text.number { cell.set_alignment(CellAlignment::Right) } else { cell };
    match text.tone {
        Tone::Plain => cell,
        Tone::Good => cell.fg(Color::Green),
        Tone::Warn => cell.fg(Color::Yellow),
        Tone::Bad => cell.fg(Color::Red),
    }
}
