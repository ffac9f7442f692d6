//! A line that is typed on a terminal: what comes are bytes, what goes are bytes, and in between is no terminal of this
//! host. The keys are those of readline's emacs mode.
//!
//! Why it is not one of the libraries: they read a terminal device, in a process of its own, and what reads a client's
//! bytes here is the process of its connection, which has no devices. A line is shown on one row, moved sideways where it
//! is longer than the terminal is wide (readline(3), `horizontal-scroll-mode`).

use std::fmt::Write as _;
use std::mem;

use unicode_width::UnicodeWidthChar as _;

use super::{LINE_BYTES, redacted};

mod keys;

use keys::{Key, Keys};

/// Lines that are remembered.
const HISTORY: usize = 500;

/// Least room for a line, however narrow the terminal says it is.
const ROOM: usize = 16;

/// What a key has led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Done {
    /// A line is typed.
    Line(String),
    /// What may follow this is asked for.
    Complete(String),
    /// Nobody wants to type any more.
    Leave,
}

/// A line that is typed.
#[derive(Debug)]
pub(crate) struct Editor {
    prompt: String,
    width: usize,
    keys: Keys,
    line: Vec<char>,
    cursor: usize,
    /// The first character that is shown.
    left: usize,
    history: Vec<String>,
    /// Which of them is shown, and what was typed instead.
    at: usize,
    draft: Vec<char>,
    /// What was cut last.
    cut: Vec<char>,
    output: String,
    is_changed: bool,
}

impl Editor {
    /// Nothing is shown before the first [`Editor::output`].
    pub(crate) fn new(prompt: &str, history: Vec<String>, width: u16) -> Self {
        let at = history.len();
        Self {
            prompt: prompt.to_owned(),
            width: width.into(),
            keys: Keys::default(),
            line: Vec::new(),
            cursor: 0,
            left: 0,
            history,
            at,
            draft: Vec::new(),
            cut: Vec::new(),
            output: String::new(),
            is_changed: true,
        }
    }

    /// A new line begins.
    pub(crate) fn begin(&mut self, prompt: &str) {
        prompt.clone_into(&mut self.prompt);
        self.set(Vec::new());
        self.at = self.history.len();
    }

    /// The terminal has another width.
    pub(crate) fn resize(&mut self, width: u16) {
        self.width = width.into();
        self.is_changed = true;
    }

    /// What is typed.
    pub(crate) fn line(&self) -> String {
        self.line.iter().collect()
    }

    /// What is to be shown since the last time.
    pub(crate) fn output(&mut self) -> String {
        if mem::take(&mut self.is_changed) {
            self.draw();
        }
        mem::take(&mut self.output)
    }

    /// A byte has come.
    pub(crate) fn byte(&mut self, byte: u8) -> Option<Done> {
        let key = self.keys.byte(byte)?;
        self.is_changed = true;
        match key {
            Key::Character(c) => self.insert(c),
            Key::Enter => return Some(self.entered()),
            Key::Interrupt if self.line.is_empty() => return Some(self.leave()),
            Key::Interrupt => {
                self.draw();
                self.output.push_str("^C\r\n");
                self.set(Vec::new());
                self.at = self.history.len();
            }
            Key::End if self.line.is_empty() => return Some(self.leave()),
            Key::End | Key::Delete => drop(self.remove(self.cursor, self.cursor + 1)),
            Key::Erase => drop(self.remove(self.cursor.saturating_sub(1), self.cursor)),
            Key::Left => self.cursor = self.cursor.saturating_sub(1),
            Key::Right => self.cursor = (self.cursor + 1).min(self.line.len()),
            Key::Home => self.cursor = 0,
            Key::Last => self.cursor = self.line.len(),
            Key::WordLeft => self.cursor = self.word_left(),
            Key::WordRight => self.cursor = self.word_right(),
            Key::EraseWord => self.kill(self.word_left(), self.cursor),
            Key::DeleteWord => self.kill(self.cursor, self.word_right()),
            Key::EraseAll => self.kill(0, self.cursor),
            Key::DeleteAll => self.kill(self.cursor, self.line.len()),
            Key::Paste => {
                let cut = self.cut.clone();
                cut.into_iter().for_each(|c| self.insert(c));
            }
            Key::Up => self.older(),
            Key::Down => self.newer(),
            Key::Clear => self.output.push_str("\x1b[H\x1b[2J"),
            Key::Complete => {
                return Some(Done::Complete(self.line.iter().take(self.cursor).collect()));
            }
            Key::Nothing => {}
        }
        None
    }

    /// Of what was typed up to the cursor, the part from byte `start` on may be one of these.
    pub(crate) fn complete(&mut self, start: usize, candidates: &[String]) {
        let before: String = self.line.iter().take(self.cursor).collect();
        let Some(typed) = before.get(start..) else { return };
        let Some(common) = common(candidates).filter(|common| common.starts_with(typed)) else { return };
        let more = common.get(typed.len()..).unwrap_or_default();
        more.chars().for_each(|c| self.insert(c));
        match candidates {
            [one] if !one.ends_with(['=', '.', ':']) => self.insert(' '),
            [_] => {}
            // Nothing is decided: this is what there is.
            _ if more.is_empty() => self.show(candidates),
            _ => {}
        }
        self.is_changed = true;
    }

    fn show(&mut self, candidates: &[String]) {
        self.draw();
        self.output.push_str("\r\n");
        let wide = candidates.iter().map(|word| word.chars().count()).max().unwrap_or_default() + 2;
        let columns = (self.width / wide.max(1)).max(1);
        for row in candidates.chunks(columns) {
            let cells: String = row.iter().map(|word| format!("{word:wide$}")).collect();
            self.output.push_str(cells.trim_end());
            self.output.push_str("\r\n");
        }
    }

    fn leave(&mut self) -> Done {
        self.is_changed = false;
        self.output.push_str("\r\n");
        Done::Leave
    }

    fn entered(&mut self) -> Done {
        self.cursor = self.line.len();
        self.draw();
        self.is_changed = false;
        self.output.push_str("\r\n");
        let line = self.line();
        if is_kept(&line) && self.history.last() != Some(&line) {
            self.history.push(line.clone());
            if self.history.len() > HISTORY {
                self.history.remove(0);
            }
        }
        self.set(Vec::new());
        self.is_changed = false;
        self.at = self.history.len();
        Done::Line(line)
    }

    fn set(&mut self, line: Vec<char>) {
        self.cursor = line.len();
        (self.line, self.left) = (line, 0);
        self.is_changed = true;
    }

    fn insert(&mut self, c: char) {
        let bytes: usize = self.line.iter().map(|c| c.len_utf8()).sum();
        // What does not fit is not heard, as on a terminal (termios(3), MAX_CANON).
        if c.is_control() || bytes + c.len_utf8() > LINE_BYTES {
            return;
        }
        self.line.insert(self.cursor, c);
        self.cursor += 1;
    }

    fn remove(&mut self, from: usize, to: usize) -> Vec<char> {
        let to = to.min(self.line.len());
        if from >= to {
            return Vec::new();
        }
        self.cursor = from;
        self.line.drain(from..to).collect()
    }

    fn kill(&mut self, from: usize, to: usize) {
        let cut = self.remove(from, to);
        if !cut.is_empty() {
            self.cut = cut;
        }
    }

    fn word_left(&self) -> usize {
        let before = self.line.iter().take(self.cursor).collect::<Vec<_>>();
        let end = before.iter().rposition(|c| c.is_alphanumeric()).map_or(0, |at| at + 1);
        before.iter().take(end).rposition(|c| !c.is_alphanumeric()).map_or(0, |at| at + 1)
    }

    fn word_right(&self) -> usize {
        let from = |at: usize, is_word: bool| {
            let found = self.line.iter().skip(at).position(|c| c.is_alphanumeric() == is_word);
            found.map_or(self.line.len(), |more| at + more)
        };
        from(from(self.cursor, true), false)
    }

    fn older(&mut self) {
        if self.at == 0 {
            return;
        }
        if self.at == self.history.len() {
            self.draft = self.line.clone();
        }
        self.at -= 1;
        self.recall();
    }

    fn newer(&mut self) {
        if self.at < self.history.len() {
            self.at += 1;
            self.recall();
        }
    }

    fn recall(&mut self) {
        let line = self.history.get(self.at).map(|line| line.chars().collect());
        let line = line.unwrap_or_else(|| mem::take(&mut self.draft));
        self.set(line);
    }

    /// Shows the line and the cursor, on the row that the cursor is in.
    fn draw(&mut self) {
        let wide = |c: &char| c.width().unwrap_or_default();
        let prompt: usize = self.prompt.chars().map(|c| wide(&c)).sum();
        // The last column stays free: what a terminal does behind it is its own.
        let room = self.width.saturating_sub(prompt + 1).max(ROOM);
        self.left = self.left.min(self.cursor);
        let mut before: usize = self.line.iter().take(self.cursor).skip(self.left).map(wide).sum();
        while before >= room {
            before -= self.line.get(self.left).map(wide).unwrap_or_default();
            self.left += 1;
        }
        let mut shown = String::new();
        let mut used = 0;
        for c in self.line.iter().skip(self.left) {
            used += wide(c);
            if used > room {
                break;
            }
            shown.push(*c);
        }
        // Erase to the end of the row, then forward from its beginning (ECMA-48, EL and CUF).
        let column = prompt + before;
        let _infallible = write!(self.output, "\r{}{shown}\x1b[K\r", self.prompt);
        if column > 0 {
            let _infallible = write!(self.output, "\x1b[{column}C");
        }
    }
}

/// Whether a line is remembered: not one that begins with a blank, and none that may hold a secret.
pub(crate) fn is_kept(line: &str) -> bool {
    !line.trim().is_empty() && !line.starts_with([' ', '\t']) && !redacted(line).has_secret
}

/// What all of them begin with.
fn common(candidates: &[String]) -> Option<&str> {
    let first = candidates.first()?.as_str();
    let shared = |other: &String| {
        let pairs = first.char_indices().zip(other.chars());
        pairs.take_while(|((_, a), b)| a == b).last().map_or(0, |((at, c), _)| at + c.len_utf8())
    };
    let end = candidates.iter().map(shared).min()?;
    first.get(..end)
}

#[cfg(test)]
mod tests;
