//! Standard output: formats, colours, and writes that fail without a panic.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write as _};

use clap::ValueEnum;
use serde::Serialize;

use crate::failure::{Outcome, Stop, colour_allowed};

pub(crate) mod csv;
pub(crate) mod human;
pub(crate) mod table;
pub(crate) mod yaml;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs; stable.
    Json,
    /// For people and programs.
    Yaml,
    /// For spreadsheets, with a header line.
    Csv,
}

/// What the place we print to can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Columns of the terminal; `None` when it is no terminal: then nothing is wrapped.
    pub(crate) width: Option<u16>,
    /// Colours are wanted.
    pub(crate) colour: bool,
}

/// Standard output.
pub(crate) struct Out {
    inner: BufWriter<StdoutLock<'static>>,
    /// What it can show.
    pub(crate) look: Look,
}

impl Out {
    /// Takes standard output for the rest of the command.
    pub(crate) fn new() -> Out {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let width = if terminal { table::terminal_width() } else { None };
        let look = Look { width, colour: terminal && colour_allowed() };
        Out { inner: BufWriter::new(stdout.lock()), look }
    }

    /// Writes `text` as it is and passes it on at once.
    pub(crate) fn text(&mut self, text: &str) -> Outcome {
        let written = self.inner.write_all(text.as_bytes()).and_then(|()| self.inner.flush());
        written.map_err(|error| Stop::output(&error))
    }

    /// Writes one line.
    pub(crate) fn line(&mut self, text: &str) -> Outcome {
        self.text(&format!("{text}\n"))
    }

    /// Writes `value` as JSON with line ends, for a whole answer.
    pub(crate) fn json<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
        let text = serde_json::to_string_pretty(value).map_err(unwritable)?;
        self.line(&text)
    }

    /// Writes `value` as JSON on one line, for one of a stream.
    pub(crate) fn json_line(&mut self, value: &impl Serialize) -> Outcome {
        let text = serde_json::to_string(value).map_err(unwritable)?;
        self.line(&text)
    }

    /// Writes an answer in a format: `value` for programs, and what is made of it for people and spreadsheets.
    pub(crate) fn show<T: Serialize + ?Sized>(
        &mut self,
        format: Format,
        value: &T,
        table: impl FnOnce(Look) -> String,
        csv: impl FnOnce() -> String,
    ) -> Outcome {
        match format {
            Format::Table => {
                let text = table(self.look);
                self.text(&text)
            }
            Format::Json => self.json(value),
            Format::Yaml => self.yaml(value),
            Format::Csv => self.text(&csv()),
        }
    }

    /// Writes `value` as YAML.
    pub(crate) fn yaml<T: Serialize + ?Sized>(&mut self, value: &T) -> Outcome {
        let text = yaml::document(value).map_err(unwritable)?;
        self.text(&text)
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn unwritable(error: serde_json::Error) -> Stop {
    Stop::refused(format!("cannot print the answer: {error}"))
}
