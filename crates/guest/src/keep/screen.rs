//! What a terminal shows, kept without one: the emulator's screens, what has scrolled away, and the modes that the
//! emulator does not know.

use std::collections::VecDeque;

use avt::observer::Observer;
use avt::parser::{Function, Parser};
use avt::{Color, Line, Observation, Pen, Terminal};
use portway_proto::guest::{Size, TITLE_MAX_BYTES};

use super::sift::{Cut, Note, Question, Sieve};

/// Most lines of what has scrolled away, and most bytes of them.
const PAST_MAX_COUNT: usize = 2_000;
const PAST_MAX_BYTES: usize = 1024 * 1024;

/// Largest terminal, columns and rows: two screens of it are the memory of a holder.
const COLUMNS_MAX: u16 = 1_000;
const ROWS_MAX: u16 = 500;

/// How many characters the repetitions (REP) of one piece of output are in all. Those beyond fill a line at most: of
/// who writes nothing else 64 KiB keep the holder from others for a tenth of a second on a usual terminal.
const REPEATED_MAX_COUNT: usize = 1 << 20;

/// Size of a terminal whose viewer does not say.
const USUAL: Size = Size { columns: 80, rows: 24, width: 0, height: 0 };

/// Longest sequence of those that are kept as they came, bytes.
const KEPT_MAX_BYTES: usize = 32;

/// Private modes that the emulator does not know, and what says something to a viewer's terminal: reverse video, blinking
/// cursor, the mouse's, reports of focus, alternate scrolling, bracketed paste, reports of the colour scheme.
const MODES: [u16; 15] =
    [5, 12, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2031, 2048];

/// A viewer's terminal is given back as it is used to being: no modes, the usual charset, the whole of it to scroll.
const CLEAN: &str =
    "\x1b[!p\x1b[?1049l\x1b[?7h\x1b[?25h\x1b[?1l\x1b[?6l\x1b>\x1b[4l\x1b[20l\x1b(B\x1b)B\x0f\x1b[r\x1b[m";

/// What a program is told that it runs on, where nobody else answers: a VT100 with all its options.
const KIND: &[u8] = b"\x1b[?1;2c";

/// The terminal.
pub(super) struct Screen {
    sieve: Sieve,
    /// Reads what the terminal reads, before it.
    parser: Parser,
    terminal: Terminal,
    /// What is left of [`REPEATED_MAX_COUNT`].
    repeats: usize,
    past: Past,
    size: Size,
    modes: Modes,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Screen").field("size", &self.size).finish_non_exhaustive()
    }
}

/// What of a program's output goes where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To<'a> {
    /// Every viewer.
    All(&'a [u8]),
    /// The one that answers.
    Leader(&'a [u8]),
    /// The program: nobody else is there.
    Program(&'a [u8]),
}

impl Screen {
    pub(super) fn new(size: Size) -> Self {
        let size = bounded(size);
        let terminal = Terminal::new(usize::from(size.columns), usize::from(size.rows));
        let terminal = terminal.unwrap_or_else(|_| unreachable!("neither side is 0"));
        let (sieve, parser, modes) = (Sieve::default(), Parser::new(), Modes::default());
        Self { sieve, parser, terminal, repeats: 0, past: Past::default(), size, modes }
    }

    pub(super) const fn size(&self) -> Size {
        self.size
    }

    pub(super) fn title(&self) -> &str {
        &self.modes.title
    }

    /// Takes what the program has written; `each` gets what is to be handed on, in its order.
    pub(super) fn take(&mut self, bytes: &[u8], is_watched: bool, mut each: impl FnMut(To<'_>)) {
        self.repeats = REPEATED_MAX_COUNT;
        let mut sieve = std::mem::take(&mut self.sieve);
        sieve.sift(bytes, |cut| match cut {
            Cut::Shown(bytes) => {
                self.show(bytes);
                each(To::All(bytes));
            }
            Cut::Noted(bytes, note) => {
                self.note(bytes, note);
                self.show(bytes);
                each(To::All(bytes));
            }
            Cut::Question(bytes, _) if is_watched => each(To::Leader(bytes)),
            Cut::Question(_, question) => match question {
                Question::Kind => each(To::Program(KIND)),
                Question::Health => each(To::Program(b"\x1b[0n")),
                Question::Cursor => {
                    let at = self.terminal.cursor();
                    let column = (at.col + 1).min(usize::from(self.size.columns));
                    each(To::Program(format!("\x1b[{};{column}R", at.row + 1).as_bytes()));
                }
                Question::Other => {}
            },
        });
        self.sieve = sieve;
    }

    /// Gives it another size; whether it is one.
    pub(super) fn resize(&mut self, size: Size) -> bool {
        let size = bounded(size);
        if size == self.size {
            return false;
        }
        self.size = size;
        let (columns, rows) = (usize::from(size.columns), usize::from(size.rows));
        self.terminal.resize_with(columns, rows, &mut self.past);
        true
    }

    /// All of it for a viewer whose terminal has its size, with what has scrolled away or without.
    pub(super) fn picture(&self, with_past: bool) -> Vec<u8> {
        let mut text = CLEAN.to_owned();
        self.modes.forget(&mut text);
        text.push_str("\x1b[H\x1b[2J");
        if with_past && !self.past.lines.is_empty() {
            self.past.write(&mut text);
            // The last of it moves out of sight, so that the screen begins empty.
            text.extend(std::iter::repeat_n('\n', usize::from(self.size.rows)));
            text.push_str("\x1b[m\x1b[H\x1b[2J");
        }
        spell_out(&self.terminal.dump(), &mut text);
        self.modes.write(&mut text);
        text.into_bytes()
    }

    /// A viewer's terminal as it was before all this.
    pub(super) fn farewell(&self) -> Vec<u8> {
        let is_plain = self.terminal.active_screen_kind() == avt::ScreenKind::Primary
            && self.modes.is_plain()
            && self.terminal.cursor().visible;
        if is_plain {
            return Vec::new();
        }
        let mut text = CLEAN.to_owned();
        self.modes.forget(&mut text);
        text.push_str("\r\n");
        text.into_bytes()
    }

    /// Shows it. A character is repeated as often as there are places for it, as by xterm.
    fn show(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let columns = usize::from(self.size.columns);
        let places = columns * usize::from(self.size.rows);
        let mut begin = 0;
        for (at, character) in text.char_indices() {
            let Some(Function::Rep(count)) = self.parser.feed(character) else { continue };
            let most = places.min(self.repeats.max(columns));
            self.repeats = self.repeats.saturating_sub(usize::from(count).min(most));
            if let Ok(most) = u16::try_from(most)
                && most < count
            {
                // Instead of its last character, what breaks the sequence off.
                self.terminal.feed_with(text.get(begin..at).unwrap_or_default(), &mut self.past);
                self.terminal.feed_with("\x18", &mut self.past);
                self.terminal.execute_with(Function::Rep(most), &mut self.past);
                begin = at + character.len_utf8();
            }
        }
        self.terminal.feed_with(text.get(begin..).unwrap_or_default(), &mut self.past);
    }

    fn note(&mut self, sequence: &[u8], note: Note<'_>) {
        match note {
            Note::Forget => self.past = Past::default(),
            other => self.modes.note(sequence, other),
        }
    }
}

/// What no program can make larger than a holder should be.
fn bounded(size: Size) -> Size {
    let or = |value: u16, usual: u16| if value == 0 { usual } else { value };
    Size {
        columns: or(size.columns, USUAL.columns).min(COLUMNS_MAX),
        rows: or(size.rows, USUAL.rows).min(ROWS_MAX),
        ..size
    }
}

/// Not every terminal repeats a character when it is asked to (REP).
fn spell_out(dump: &str, to: &mut String) {
    let mut rest = dump;
    while let Some(at) = rest.find("\x1b[") {
        let (before, after) = rest.split_at(at);
        to.push_str(before);
        let inner = after.get(2..).unwrap_or_default();
        let digits = inner.find(|c: char| !c.is_ascii_digit()).unwrap_or(inner.len());
        let (number, end) = inner.split_at(digits);
        match (end.strip_prefix('b'), before.chars().next_back(), number.parse::<u16>()) {
            (Some(after), Some(last), Ok(count)) => {
                to.extend(std::iter::repeat_n(last, usize::from(count)));
                rest = after;
            }
            _ => {
                to.push_str("\x1b[");
                rest = inner;
            }
        }
    }
    to.push_str(rest);
}

/// What has scrolled away, the oldest first.
#[derive(Debug, Default)]
struct Past {
    lines: VecDeque<String>,
    bytes: usize,
    /// The last line goes on in the next.
    goes_on: bool,
}

impl Past {
    fn push(&mut self, line: &Line) {
        let text = rendered(line);
        self.bytes += text.len();
        match self.lines.back_mut().filter(|last| self.goes_on && last.len() < PAST_MAX_BYTES / 16) {
            Some(last) => last.push_str(&text),
            None => self.lines.push_back(text),
        }
        self.goes_on = line.is_wrapped();
        while self.lines.len() > PAST_MAX_COUNT || self.bytes > PAST_MAX_BYTES {
            let Some(gone) = self.lines.pop_front() else { return };
            self.bytes -= gone.len();
        }
    }

    fn write(&self, to: &mut String) {
        for line in &self.lines {
            to.push_str(line);
            to.push_str("\r\n");
        }
    }
}

impl Observer for Past {
    type Output = ();

    fn evicted(&mut self, _: &mut Observation<'_>, line: &Line) {
        self.push(line);
    }

    fn end(&mut self, _: &mut Observation<'_>) {}
}

/// A line with its colours; what is blank at its end is left out, unless it goes on.
fn rendered(line: &Line) -> String {
    let cells = line.cells();
    let blank = Pen::default();
    let is_seen = |cell: &avt::Cell| cell.char() != ' ' || *cell.pen() != blank;
    let length = if line.is_wrapped() {
        cells.len()
    } else {
        cells.iter().rposition(is_seen).map_or(0, |last| last + 1)
    };
    let mut text = String::new();
    let mut pen = blank;
    for cell in cells.iter().take(length).filter(|cell| cell.width() > 0) {
        if *cell.pen() != pen {
            pen = *cell.pen();
            write_pen(&pen, &mut text);
        }
        text.push(cell.char());
    }
    if pen != blank {
        text.push_str("\x1b[m");
    }
    text
}

/// Selects a pen whatever was selected before (SGR).
fn write_pen(pen: &Pen, to: &mut String) {
    to.push_str("\x1b[0");
    let set = [
        (pen.is_bold(), ";1"),
        (pen.is_faint(), ";2"),
        (pen.is_italic(), ";3"),
        (pen.is_underline(), ";4"),
        (pen.is_blink(), ";5"),
        (pen.is_inverse(), ";7"),
        (pen.is_strikethrough(), ";9"),
    ];
    for (_, code) in set.into_iter().filter(|(is_set, _)| *is_set) {
        to.push_str(code);
    }
    for (colour, base) in [(pen.foreground(), 38), (pen.background(), 48)] {
        match colour {
            Some(Color::Indexed(number)) => to.push_str(&format!(";{base};5;{number}")),
            Some(Color::RGB(colour)) => {
                to.push_str(&format!(";{base};2;{};{};{}", colour.r, colour.g, colour.b));
            }
            None => {}
        }
    }
    to.push('m');
}

/// What a viewer's terminal has to be told beside what it shows.
#[derive(Debug, Default)]
struct Modes {
    /// Of [`MODES`], those that are set.
    set: [bool; MODES.len()],
    keypad: bool,
    shape: String,
    keys: String,
    title: String,
}

impl Modes {
    fn note(&mut self, sequence: &[u8], note: Note<'_>) {
        let kept = |text: &[u8]| {
            let text = text.get(..text.len().min(KEPT_MAX_BYTES + 1)).unwrap_or_default();
            String::from_utf8(text.to_vec()).ok().filter(|text| text.len() <= KEPT_MAX_BYTES)
        };
        match note {
            Note::Modes(numbers, is_set) => {
                for number in numbers.split(|byte| *byte == b';') {
                    let number = str::from_utf8(number).ok().and_then(|number| number.parse().ok());
                    let place = MODES.iter().position(|mode| Some(*mode) == number);
                    if let Some(mode) = place.and_then(|place| self.set.get_mut(place)) {
                        *mode = is_set;
                    }
                }
            }
            Note::Keypad(is_set) => self.keypad = is_set,
            Note::Shape => self.shape = kept(sequence).unwrap_or_default(),
            Note::Keys => self.keys = kept(sequence).unwrap_or_default(),
            Note::Title(title) => {
                let plain: String =
                    String::from_utf8_lossy(title).chars().filter(|c| !c.is_control()).collect();
                let end = (0..=plain.len().min(TITLE_MAX_BYTES)).rev().find(|at| plain.is_char_boundary(*at));
                self.title = plain.get(..end.unwrap_or_default()).unwrap_or_default().to_owned();
            }
            Note::Reset => *self = Self { title: std::mem::take(&mut self.title), ..Self::default() },
            Note::Forget => {}
        }
    }

    fn is_plain(&self) -> bool {
        !self.keypad && self.shape.is_empty() && self.keys.is_empty() && !self.set.contains(&true)
    }

    /// What takes all of it back, whatever a viewer's terminal has.
    fn forget(&self, to: &mut String) {
        for mode in MODES {
            // A cursor blinks or not as its owner likes.
            if mode != 12 {
                to.push_str(&format!("\x1b[?{mode}l"));
            }
        }
        if !self.shape.is_empty() {
            to.push_str("\x1b[0 q");
        }
        if !self.keys.is_empty() {
            to.push_str("\x1b[>4m");
        }
    }

    fn write(&self, to: &mut String) {
        for (mode, _) in MODES.iter().zip(self.set).filter(|(_, is_set)| *is_set) {
            to.push_str(&format!("\x1b[?{mode}h"));
        }
        if self.keypad {
            to.push_str("\x1b=");
        }
        to.push_str(&self.shape);
        to.push_str(&self.keys);
        if !self.title.is_empty() {
            to.push_str(&format!("\x1b]0;{}\x07", self.title));
        }
    }
}

#[cfg(test)]
mod tests;
