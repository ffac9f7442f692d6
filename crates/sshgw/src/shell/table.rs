//! Answers in columns: for people, for other programs as CSV and as JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// How an answer is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns.
    Table,
    /// Comma-separated values, RFC 4180, without a header, as the servers' clients have them.
    Csv,
    /// A list of objects.
    Json,
}

impl Format {
    /// By its name; the clients' other word for a table is one too.
    pub(super) fn find(word: &str) -> Option<Self> {
        Some(match word {
            "table" | "compact" => Self::Table,
            "csv" => Self::Csv,
            "json" => Self::Json,
            _ => return None,
        })
    }

    /// What there is.
    pub(super) const WORDS: [&str; 3] = ["table", "csv", "json"];
}

/// Lines of the same columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    columns: &'static [&'static str],
    lines: Vec<Vec<String>>,
}

impl Table {
    /// Of these columns, by their names in capitals.
    pub(crate) const fn new(columns: &'static [&'static str]) -> Self {
        Self { columns, lines: Vec::new() }
    }

    /// One line more, with a text for each column.
    pub(crate) fn line(&mut self, line: Vec<String>) {
        self.lines.push(line);
    }

    /// All of it.
    pub(crate) fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.columns(),
            Format::Csv => self.lines.iter().map(|line| csv(line)).collect(),
            Format::Json => self.json(),
        }
    }

    fn columns(&self) -> String {
        let header: Vec<String> = self.columns.iter().map(|&column| column.to_owned()).collect();
        let all: Vec<Vec<String>> = std::iter::once(&header)
            .chain(&self.lines)
            .map(|line| line.iter().map(|cell| calm(cell)).collect())
            .collect();
        let width = |column: usize| {
            all.iter()
                .filter_map(|line| line.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or_default()
        };
        let widths: Vec<usize> = (0..header.len()).map(width).collect();
        let mut text = String::new();
        for line in &all {
            let mut row = String::new();
            for (cell, width) in line.iter().zip(&widths) {
                // Writing to a String cannot fail.
                let _infallible = write!(row, "{cell:width$}  ");
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }

    fn json(&self) -> String {
        let object = |line: &Vec<String>| {
            let names = self.columns.iter().map(|column| column.to_lowercase().replace(' ', "_"));
            let pairs = names.zip(line.iter().map(|cell| Value::String(cell.clone())));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let list = Value::Array(self.lines.iter().map(object).collect());
        format!("{list}\n")
    }
}

fn csv(line: &[String]) -> String {
    let cell = |cell: &String| {
        let cell = calm(cell);
        if cell.contains(['"', ',', '\n', '\r']) {
            format!("\"{}\"", cell.replace('"', "\"\""))
        } else {
            cell
        }
    };
    line.iter().map(cell).collect::<Vec<_>>().join(",") + "\n"
}

/// What a server says, so that it does nothing to a terminal.
pub(crate) fn calm(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails when a column is not one, a cell does something to a terminal, or another program reads something else.
    #[test]
    fn columns_are_columns() {
        let mut table = Table::new(&["NAME", "USED BY"]);
        table.line(vec!["a".to_owned(), "1".to_owned()]);
        table.line(vec!["b\u{1b}[2J,\"".to_owned(), String::new()]);
        assert_eq!(table.text(Format::Table), "NAME     USED BY\na        1\nb\u{fffd}[2J,\"\n");
        assert_eq!(table.text(Format::Csv), "a,1\n\"b\u{fffd}[2J,\"\"\",\n");
        let json: Value = serde_json::from_str(&table.text(Format::Json)).expect("JSON");
        assert_eq!(json[0]["used_by"], "1");
        assert_eq!(json[1]["name"], "b\u{1b}[2J,\"");
    }
}
