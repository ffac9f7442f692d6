//! The shell of Incus commands: what a line means, and how it comes to be typed. Pure: whoever runs it is the broker.
//!
//! A line is split into words, and these are read against a table of verbs. What is in no table is not there: the shell
//! runs no program, so it has no flag that names a file of the host, no editor and no pager.
//!
//! - `words`: from a line to words; `verbs`: the table; `order`: from words to what is asked for;
//! - `keys`: which keys of a configuration can be set;
//! - `complete`: what may follow what is typed; `editor`: a line on a terminal;
//! - `table`: answers in columns.

mod complete;
mod editor;
mod keys;
mod order;
mod table;
mod verbs;
mod words;

pub(crate) use complete::{Names, candidates, expected};
pub(crate) use editor::{Done, Editor, is_kept};
pub(crate) use keys::redacted;
pub(crate) use order::{Change, ConfigOrder, Instance, Order, Place, SnapshotOrder};
pub(crate) use table::{Format, Table, calm};
pub(crate) use verbs::help;

/// Longest line, bytes.
pub(crate) const LINE_BYTES: usize = 4096;

/// The project where nobody names one.
pub(crate) const USUAL_PROJECT: &str = "default";

/// Why a line is not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    /// It cannot be split.
    #[error(transparent)]
    Words(#[from] words::WordsError),
    /// It asks for nothing that is there.
    #[error(transparent)]
    Order(#[from] order::OrderError),
}

/// Reads a line; `None`: there is nothing on it.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn read(line: &str) -> Result<Option<Order>, LineError> {
    let words: Vec<String> = words::split(line)?.into_iter().map(|word| word.text).collect();
    Ok(order::read(&words)?)
}

/// For the fuzzer: whatever a line is, it is read or refused, and what is completed is the word at its end.
pub(crate) fn fuzz(line: &str) {
    // What is in a line is in no other order than this one.
    if let Ok(Some(order)) = read(line) {
        assert!(line.len() <= LINE_BYTES, "{order:?}");
    }
    let _ = redacted(line);
    if let Some(expected) = expected(line) {
        let start = expected.start;
        assert!(line.is_char_boundary(start), "{line:?} {start}");
        let _ = candidates(&expected, Vec::new());
    }
    let mut editor = Editor::new("incus> ", Vec::new(), 80);
    for byte in line.bytes() {
        let _ = editor.byte(byte);
        let _ = editor.output();
        assert!(editor.line().len() <= LINE_BYTES);
    }
}
